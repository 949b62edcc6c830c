"""The process of a worker and the runs that it works on: start the worker, read its output, ask it to stop, kill it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from palinode.base.errors import EnvironmentProblem
from palinode.base.measures import RunOutcome
from palinode.base.memory import with_huge_pages

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # signals that ask runs to stop
LAST_LINES = 40  # the number of a worker's last printed lines that are kept to explain why it ended


@dataclass(frozen=True)
class Job:
    """One run to train. Its directory holds spec.json, and the user's code that the spec needs.

    Attributes:
        threads: the number of CPU threads that the run computes with, from its spec.
        stack: the key of the stack. Jobs with the same key may share a process; a job with None shares no process.
    """

    run_id: str
    directory: Path
    threads: int = 1
    stack: str | None = None


@dataclass
class Process:
    """A running worker and its output so far.

    Attributes:
        jobs: run id -> job.
        buffers: the unfinished last line of each stream.
        printed_lines: the last lines of standard error.
        last_events: run id -> the event that ended the worker's report on this run: finished, alone, problem, busy or lost.
    """

    jobs: Mapping[str, Job]
    process: subprocess.Popen[bytes]
    buffers: dict[str, bytes] = field(default_factory=lambda: {"out": b"", "err": b""})
    printed_lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))
    last_events: dict[str, dict[str, Any]] = field(default_factory=dict)
    killed: bool = False

    @classmethod
    def start(cls, worker: Sequence[str], jobs: Sequence[Job], stale_hold: int | None) -> Process:
        """Start a worker for these runs.

        Args:
            stale_hold: the number of the stale hold that the worker takes over; None when there is none.

        Raises:
            EnvironmentProblem: the system cannot start a process.
        """
        takeover = ("--stale-hold", str(stale_hold)) if stale_hold is not None else ()
        threads = {name: str(jobs[0].threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        try:
            started = subprocess.Popen(
                [*worker, *(str(job.directory) for job in jobs), *takeover],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C in a terminal reaches only the driver
                env=with_huge_pages({**os.environ, **threads}),
            )
        except OSError as error:
            raise EnvironmentProblem(f"cannot start a process: {error.strerror}") from error
        return cls({job.run_id: job for job in jobs}, started)

    def streams(self) -> Iterator[tuple[str, IO[bytes]]]:
        """The two output streams of the worker: events (`out`) and printed text (`err`)."""
        for name, stream in (("out", self.process.stdout), ("err", self.process.stderr)):
            assert stream is not None
            yield name, stream

    def ask_to_stop(self) -> None:
        """Close the standard input of the worker. The worker then writes a checkpoint and ends."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    def kill(self) -> None:
        """Kill the worker and every process that the worker started."""
        self.killed = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def death(self) -> tuple[str, RunOutcome]:
        """A text that says how the worker ended, and the outcome of a run that the worker did not report on."""
        code = self.process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return how, "oom" if code in (-signal.SIGKILL, 128 + signal.SIGKILL) else "failed"
