"""Starts workers as tasks of a Ray cluster. The extra `palinode[ray]` installs Ray.

Ray repeats no task by itself: the store decides what is trained again. The hosts of the cluster need Palinode installed.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import ray
from ray._private.services import canonicalize_bootstrap_address

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
    """The engine that gives tasks to Ray."""
    return RayExecutor(options)


class RayExecutor:
    """Runs commands as Ray tasks with these options.

    Raises:
        BadInput: an option has a wrong value.
        EnvironmentProblem: the cluster cannot be reached.
    """

    def __init__(self, options: Mapping[str, Value]):
        try:
            if not ray.is_initialized():
                variables = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
                ray.init(
                    address=_address(str(options.get(ADDRESS, ""))),
                    runtime_env={"env_vars": variables},
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            of_task = {name: options[name] for name in OF_A_TASK if name in options}
            self._task = ray.remote(run).options(max_retries=0, **of_task)
        except (ConnectionError, RuntimeError) as error:
            raise EnvironmentProblem(f"ray cannot be reached: {error}") from error
        except (ValueError, TypeError) as error:
            raise BadInput(str(error), field="--on-option") from error

    def start(self, command: Sequence[str]) -> RayHandle:
        return RayHandle(self._task.remote(list(command), os.getcwd()))


def _address(given: str) -> str:
    """The address of the cluster to join; `local` for a new one here. Ray asks a dead cluster for a quarter of an hour.

    Raises:
        ConnectionError: nobody answers at the address that the user gave, here or in RAY_ADDRESS.
    """
    if "://" in given or not (found := canonicalize_bootstrap_address(given or None)):  # type: ignore[arg-type]
        return given or "local"
    host, _, port = found.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
    except OSError as error:
        if given or os.environ.get("RAY_ADDRESS"):
            raise ConnectionError(f"nobody answers at {found}") from error
        return "local"  # the address of the last cluster of this machine
    return str(found)


class RayHandle:
    """A worker that is a task."""

    name = ""  # Ray's commands know a task by an id of 48 digits

    def __init__(self, reference: Any):
        self._reference = reference

    def state(self) -> Literal["queued", "running", "ended"]:
        """A task that waits for a free host counts as running, because Ray tells this only through its dashboard."""
        return "ended" if ray.wait([self._reference], timeout=0)[0] else "running"

    def why(self) -> str:
        """The last line that the worker printed, or the error of the task."""
        try:
            return str(ray.get(self._reference))
        except ray.exceptions.RayError as error:
            return str(error).strip().partition("\n")[0]

    def stop(self) -> None:
        ray.cancel(self._reference)  # the task then stops its worker

    def kill(self) -> None:
        ray.cancel(self._reference, force=True)  # the worker gets SIGTERM from the system


def run(command: list[str], folder: str) -> str:
    """The task: run a command in the folder of the driver, not in Ray's own, and return the last line that it printed."""
    context: Any = ray.get_runtime_context()
    cores = context.get_assigned_resources().get("CPU")  # None for a task with num_cpus=0
    child = Command(command, folder if os.path.isdir(folder) else None, int(cores) if cores else None)
    try:
        child.wait()
    except KeyboardInterrupt:  # Ray's way to cancel
        child.stop()
    return child.last_line
