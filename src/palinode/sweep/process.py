"""The process of a worker and the runs that it works on: start the worker, read its output, ask it to stop, kill it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, Protocol

from palinode.base.errors import EnvironmentProblem
from palinode.base.event import END_OF_SHARED_RUN
from palinode.base.measures import RunOutcome
from palinode.base.memory import with_huge_pages

# The signals that ask runs to stop. Slurm sends SIGUSR1 or SIGUSR2 before it takes a machine away.
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
PYTHON_MODULE = (sys.executable, "-P", "-m")  # a command that starts a module of this program
STARTED_BY = "PALINODE_STARTED_BY"  # set to `nursery` in a forked process, for the fingerprint of its runs
CORES = "PALINODE_CORES"  # set by an engine: the number of cores that a worker may use
WORKER = (*PYTHON_MODULE, "palinode.sweep.worker")
PR_SET_PDEATHSIG = 1  # an operation of prctl(2)
Parallel = Literal["ddp", "fsdp2"]
# Variables that change what torchrun does, or that a run inside another torchrun inherits.
OF_TORCHRUN = re.compile(r"PET_.*|TORCHELASTIC_.*|MASTER_(ADDR|PORT)|(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME")
# In torchrun's account of the first process that failed.
FIRST_DEATH = re.compile(r"rank *: (\d+) .*?exitcode *: -(\d+) ", re.DOTALL)
LAST_LINES = 40  # the number of a worker's last printed lines that are kept to explain why it ended


def shared_worker(processes: int, parallel: Parallel) -> tuple[str, ...]:
    """The command of a worker that trains one run on several processes of this machine, which torchrun starts."""
    torchrun = (*PYTHON_MODULE, "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1")
    return (*torchrun, f"--nproc-per-node={processes}", "--no-python", *WORKER, f"--parallel={parallel}")


def about_price(price: tuple[float, str] | None, at_a_time: int) -> list[str]:
    """The option of a worker's command that puts the price of an hour into its holds: the price of the machine, which so many
    processes share.
    """
    if price is None:
        return []
    return [f"--about={json.dumps({'price_per_hour': price[0] / at_a_time, 'currency': price[1]})}"]


def end_with_parent() -> None:
    """Let the system kill this process when its parent ends. torchrun's processes are in no group that a driver could kill."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


@dataclass(frozen=True)
class Job:
    """One run to train. Its directory holds spec.json, and the user's code that the spec needs.

    Attributes:
        threads: the number of CPU threads that the run computes with, from its spec.
        stack: the key of the stack. Jobs with the same key may share a process; a job with None shares no process.
        together: the run ids of a fixed stack in the order of their places. The jobs of a fixed stack that can start are in one
            process, however many workers are free. Empty: the run has no fixed stack.
        seconds: the seconds that the run is expected to take; read only when the sweep has a deadline.
        after: the id of the run whose weights this run starts from. The job waits until that run is done; None: it waits for none.
    """

    run_id: str
    directory: Path
    threads: int = 1
    stack: str | None = None
    together: tuple[str, ...] = ()
    seconds: float = 0.0
    after: str | None = None


class Streams(NamedTuple):
    """The descriptors of the standard streams of a process that is started."""

    stdin: int
    stdout: int
    stderr: int


class Started(Protocol):
    """A process that was started. `subprocess.Popen` says what the members mean."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self) -> int: ...
    def kill(self) -> None: ...


Start = Callable[[Sequence[str], Mapping[str, str], Streams], Started]


def start_subprocess(command: Sequence[str], environment: Mapping[str, str], streams: Streams) -> Started:
    """Start a process with these standard streams.

    Raises:
        EnvironmentProblem: the system cannot start a process.
    """
    try:
        return subprocess.Popen(
            command,
            stdin=streams.stdin,
            stdout=streams.stdout,
            stderr=streams.stderr,
            start_new_session=True,  # Ctrl-C in a terminal reaches only the driver
            env=environment,
        )
    except OSError as error:
        raise EnvironmentProblem(f"cannot start a process: {error.strerror}") from error


@dataclass
class Process:
    """A running worker and its output so far.

    Attributes:
        jobs: run id -> job.
        stdin, stdout, stderr: the driver's ends of the pipes to the worker.
        buffers: the unfinished last line of each stream.
        printed_lines: the last lines of standard error.
        last_events: run id -> the event that ended the worker's report on this run: finished, alone, problem, busy or lost.
        asked_to_stop: whether the worker was asked to stop. A worker that ends before it began is then no failure.
        device: the GPUs that the process sees, as `CUDA_VISIBLE_DEVICES` names them; None: those that the driver sees.
    """

    jobs: Mapping[str, Job]
    process: Started
    stdin: IO[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]
    buffers: dict[str, bytes] = field(default_factory=lambda: {"out": b"", "err": b""})
    printed_lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))
    last_events: dict[str, dict[str, Any]] = field(default_factory=dict)
    killed: bool = False
    asked_to_stop: bool = False
    device: str | None = None

    @classmethod
    def start(
        cls,
        worker: Sequence[str],
        jobs: Sequence[Job],
        stale_holds: Mapping[str, int],
        start: Start,
        device: str | None = None,
    ) -> Process:
        """Start a worker for these runs.

        Args:
            start: a function that starts a process.
            stale_holds: run id -> the number of the stale hold that the worker takes over; no item for a run without one.
            device: the GPUs that the worker sees, as `CUDA_VISIBLE_DEVICES` names them; None: those that this process sees.

        Raises:
            EnvironmentProblem: the system cannot start a process.
        """
        options = [f"--stale-hold={run_id}={number}" for run_id, number in stale_holds.items()]
        options += [f"--together={','.join(jobs[0].together)}"] if jobs[0].together else []
        variables = {name: str(jobs[0].threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        variables |= {"CUDA_VISIBLE_DEVICES": device} if device is not None else {}
        try:
            (stdin, input_end), (output_end, stdout), (error_end, stderr) = os.pipe(), os.pipe(), os.pipe()
        except OSError as error:
            raise EnvironmentProblem(f"cannot start a process: {error.strerror}") from error
        ends = ((input_end, "wb"), (output_end, "rb"), (error_end, "rb"))
        files: list[IO[bytes]] = [os.fdopen(end, mode, 0) for end, mode in ends]
        try:
            command = [*worker, *(str(job.directory) for job in jobs), *options]
            own = {name: value for name, value in os.environ.items() if not OF_TORCHRUN.fullmatch(name)}
            environment = with_huge_pages({**own, **variables})
            started = start(command, environment, Streams(stdin, stdout, stderr))
        except BaseException:
            for file in files:
                file.close()
            raise
        finally:
            for descriptor in (stdin, stdout, stderr):
                os.close(descriptor)
        return cls({job.run_id: job for job in jobs}, started, files[0], files[1], files[2], device=device)

    def streams(self) -> Iterator[tuple[str, IO[bytes]]]:
        """The two output streams of the worker: events (`out`) and printed text (`err`)."""
        yield from (("out", self.stdout), ("err", self.stderr))

    def ask_to_stop(self) -> None:
        """Close the standard input of the worker. The worker then writes a checkpoint and ends."""
        self.asked_to_stop = True
        with contextlib.suppress(OSError):
            self.stdin.close()

    def kill(self) -> None:
        """Kill the worker and every process that the worker started."""
        self.killed = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()

    def death(self) -> tuple[str, RunOutcome]:
        """A text that says how the worker ended, and the outcome of a run that the worker did not report on."""
        code = self.process.wait()
        printed = "\n".join(self.printed_lines)
        if code > 0 and END_OF_SHARED_RUN in printed:
            return f"ended: {printed.rpartition(END_OF_SHARED_RUN)[2].splitlines()[0]}", "failed"
        if code > 0 and (first := FIRST_DEATH.search(printed.rpartition("Root Cause")[2])):
            rank, number = map(int, first.groups())
            how = f"{rank} of those that share the run was killed by {signal.Signals(number).name}"
            return how, "oom" if number == signal.SIGKILL else "failed"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return how, "oom" if code in (-signal.SIGKILL, 128 + signal.SIGKILL) else "failed"
