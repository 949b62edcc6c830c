"""Starts workers as jobs of a Slurm cluster, through submitit. The extra `palinode[slurm]` installs it.

A job that Slurm preempts or that reaches its time limit gets a signal: its worker writes checkpoints, and the job is queued again.
The cluster sends this signal only if its administrator has set `preempt_send_user_signal`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import submitit
from submitit.slurm.slurm import _make_sbatch_string

from palinode.base.errors import BadInput, EnvironmentProblem
from palinode.sweep.executors import Value
from palinode.sweep.executors.command import Command

CLUSTER = "cluster"  # `slurm`, or `local` for jobs on this machine, for trying out
GENERIC = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")
OWN = ("command", "folder", "map_count", "setup", "teardown", "srun_args", "additional_parameters", "job_name", "time")
MOST_TIMEOUTS = 1000  # how often a job that reached its time limit is queued again; the default of submitit is 3
QUEUED = ("PENDING", "REQUEUED", "CONFIGURING", "UNKNOWN")


def option_names() -> list[str]:
    """The options of this engine: those of every submitit executor, and those of sbatch that take one value."""
    of_slurm = [name for name in inspect.signature(_make_sbatch_string).parameters if name not in OWN]
    return [CLUSTER, *GENERIC, *(name for name in of_slurm if name not in GENERIC)]


def executor(options: Mapping[str, Value], folder: Path) -> SlurmExecutor:
    """The engine that sends jobs to Slurm.

    Raises:
        BadInput: an option has a wrong value.
        EnvironmentProblem: this machine has no Slurm.
    """
    return SlurmExecutor(options, folder)


class SlurmExecutor:
    """Sends commands to Slurm as jobs with these options."""

    def __init__(self, options: Mapping[str, Value], folder: Path):
        cluster = str(options.get(CLUSTER, "slurm"))
        given: dict[str, Any] = {f"{name}_max_num_timeout": MOST_TIMEOUTS for name in ("slurm", "local")}
        try:
            self._executor = submitit.AutoExecutor(folder / "slurm", cluster=cluster, **given)
            self._executor.update_parameters(
                **{
                    name if name in GENERIC else f"slurm_{name}": value
                    for name, value in options.items()
                    if name != CLUSTER
                }
            )
            self._cores: Any = options.get("cpus_per_task")
        except RuntimeError as error:
            raise EnvironmentProblem(f"slurm cannot be used: {error}") from error
        except (AssertionError, ValueError, TypeError, NameError) as error:
            raise BadInput(str(error), field="--on-option") from error

    def start(self, command: Sequence[str]) -> SlurmHandle:
        """Send a job.

        Raises:
            EnvironmentProblem: Slurm refuses the job.
        """
        try:
            return SlurmHandle(self._executor.submit(Task(command, self._cores)))
        except (submitit.core.utils.FailedSubmissionError, OSError) as error:
            raise EnvironmentProblem(f"slurm refuses the job: {error}") from error


class SlurmHandle:
    """A worker that is a job."""

    def __init__(self, job: Any):
        self._job = job

    @property
    def name(self) -> str:
        return f"job {self._job.job_id}"

    def state(self) -> Literal["queued", "running", "ended"]:
        if self._job.done():
            return "ended"
        return "queued" if self._job.state in QUEUED else "running"

    def why(self) -> str:
        """The last line that the worker printed, or the state that Slurm gives."""
        lines = [line.strip() for line in (self._job.stderr() or "").split("\n") if line.strip()]
        printed = [line for line in lines if not line.startswith("submitit ")]
        return printed[-1] if printed else f"job {self._job.job_id} is {self._job.state}"

    def stop(self) -> None:
        """Cancel the job: Slurm sends SIGTERM first."""
        self._job.cancel(check=False)

    kill = stop


class Task:
    """What a job runs: a command. submitit calls `checkpoint` when the job is taken away, and queues the task again."""

    def __init__(self, command: Sequence[str], cores: int | None = None):
        self._command, self._cores = list(command), cores
        self._child: Command | None = None

    def __call__(self) -> int:
        child = self._child = Command(self._command, cores=self._cores)
        return child.wait()

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Stop the worker, and give the task that goes on with its runs."""
        if self._child is not None:
            self._child.stop()
        return submitit.helpers.DelayedSubmission(Task(self._command, self._cores))
