"""A worker's process: started, listened to, asked to stop, killed; and the runs it was started for."""

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

LAST_LINES = 40  # of what a worker printed, kept to explain its death


@dataclass(frozen=True)
class Job:
    """One run to do. Its directory holds spec.json (and the code that the spec needs).

    Attributes:
        threads: CPU threads the run computes with, as its spec says.
        stack: jobs with the same key may share a process; None: this one may not.
    """

    run_id: str
    directory: Path
    threads: int = 1
    stack: str | None = None


@dataclass
class Process:
    """A running worker and what it has said so far; `last` has the last word on each run: finished, alone, problem or busy."""

    jobs: Mapping[str, Job]
    process: subprocess.Popen[bytes]
    buffers: dict[str, bytes] = field(default_factory=lambda: {"out": b"", "err": b""})
    printed: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))
    last: dict[str, dict[str, Any]] = field(default_factory=dict)
    killed: bool = False

    @classmethod
    def start(cls, worker: Sequence[str], jobs: Sequence[Job], stale_nonce: str) -> Process:
        """Start a worker for these runs.

        Raises:
            EnvironmentProblem: the machine refused.
        """
        takeover = ("--stale-lease", stale_nonce) if stale_nonce else ()
        threads = {name: str(jobs[0].threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        try:
            started = subprocess.Popen(
                [*worker, *(str(job.directory) for job in jobs), *takeover],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # a terminal's Ctrl-C reaches the driver alone
                env={**os.environ, **threads},
            )
        except OSError as error:
            raise EnvironmentProblem(f"cannot start a process: {error.strerror}") from error
        return cls({job.run_id: job for job in jobs}, started)

    def streams(self) -> Iterator[tuple[str, IO[bytes]]]:
        """What it says (out) and what it prints (err)."""
        for name, stream in (("out", self.process.stdout), ("err", self.process.stderr)):
            assert stream is not None
            yield name, stream

    def ask_to_stop(self) -> None:
        """Close its lifeline: it writes a checkpoint and ends."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    def kill(self) -> None:
        """End it and whatever it started, now."""
        self.killed = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def death(self) -> tuple[str, RunOutcome]:
        """How it ended, in words, and what that makes of a run of which it has said nothing."""
        code = self.process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return how, "oom" if code in (-signal.SIGKILL, 128 + signal.SIGKILL) else "failed"
