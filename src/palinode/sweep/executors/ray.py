"""Starts workers as tasks of a Ray cluster. The extra `palinode[ray]` installs Ray.

Ray never repeats a task by itself here: what has to be trained again is decided by the store. Palinode must be installed on the
hosts of the cluster.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import ray

from palinode.base.errors import BadInput, EnvironmentProblem
from palinode.sweep.executors import Value
from palinode.sweep.executors.command import Command

ADDRESS = "address"  # of a running cluster; without it, the cluster of this machine, or a new one
OF_A_TASK = ("num_cpus", "num_gpus", "memory", "accelerator_type")
PASSED_VARIABLES = ("PYTHONPATH", "PALINODE_DATA", "PALINODE_CACHE", "PALINODE_NURSERY")


def option_names() -> list[str]:
    """The options of this engine."""
    return [ADDRESS, *OF_A_TASK]


def executor(options: Mapping[str, Value], folder: Path) -> RayExecutor:
    """The engine that gives tasks to Ray.

    Raises:
        BadInput: an option has a wrong value.
        EnvironmentProblem: the cluster cannot be reached.
    """
    return RayExecutor(options)


class RayExecutor:
    """Runs commands as Ray tasks with these options."""

    def __init__(self, options: Mapping[str, Value]):
        of_task = {name: value for name, value in options.items() if name in OF_A_TASK}
        try:
            if not ray.is_initialized():
                variables = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
                ray.init(
                    address=str(options[ADDRESS]) if ADDRESS in options else None,
                    runtime_env={"env_vars": variables},
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            self._task = ray.remote(run).options(max_retries=0, **of_task)
        except (ConnectionError, RuntimeError) as error:
            raise EnvironmentProblem(f"ray cannot be reached: {error}") from error
        except (ValueError, TypeError) as error:
            raise BadInput(str(error), field="--on-option") from error

    def start(self, command: Sequence[str]) -> RayHandle:
        """Give Ray a task."""
        return RayHandle(self._task.remote(list(command), os.getcwd()))


class RayHandle:
    """A worker that is a task."""

    name = ""  # Ray's commands know a task by an id of 48 digits

    def __init__(self, reference: Any):
        self._reference = reference

    def state(self) -> Literal["queued", "running", "ended"]:
        """A task that waits for a free host counts as running, because Ray tells this only through its dashboard."""
        ended, _ = ray.wait([self._reference], timeout=0)
        return "ended" if ended else "running"

    def why(self) -> str:
        """The last line that the worker printed, or the error of the task."""
        try:
            return str(ray.get(self._reference))
        except ray.exceptions.RayError as error:
            return str(error).strip().split("\n")[0]

    def stop(self) -> None:
        """Cancel the task: it then stops its worker."""
        ray.cancel(self._reference)

    def kill(self) -> None:
        """End the task's process; its worker gets SIGTERM from the system."""
        ray.cancel(self._reference, force=True)


def run(command: list[str], folder: str) -> str:
    """The task: run a command in the folder of the driver, and return the last line that it printed."""
    own_folder = folder if os.path.isdir(folder) else None  # Ray starts a task in a folder of its own
    context: Any = ray.get_runtime_context()
    cores = context.get_assigned_resources().get("CPU")  # None for a task with num_cpus=0
    child = Command(command, own_folder, int(cores) if cores else None)
    try:
        child.wait()
    except KeyboardInterrupt:  # Ray's way to cancel
        child.stop()
    return child.last_line
