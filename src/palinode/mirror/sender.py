"""Starts the process that writes to a tracker, hands it batches, and kills it when it does not answer.

A tracker may hang for ever, for example at a disk or a server that does not answer, and Python cannot end a thread. So the tracker
has a process of its own. Each batch, and the end, has `ANSWER_SECONDS`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from palinode.base import fsio
from palinode.base.errors import EnvironmentProblem, printable
from palinode.sweep.process import PYTHON_MODULE

ANSWER_SECONDS = 120.0  # W&B itself gives up a connection after 90 seconds, and says why
LONGEST_REASON_CHARACTERS = 160


class TrackerFailed(EnvironmentProblem):
    """The tracker raised an error, ended, or did not answer in time."""


class Sender:
    """The process of one tracker. It is started with the first batch, and again with the next batch after a failure.

    The end of a `with` block on the sender kills a process that `end` did not end.

    Attributes:
        log: the file of what the tracker prints.
    """

    def __init__(self, tracker: str, directory: Path, *, online: bool = False):
        self.tracker = tracker
        self.log = directory / f"{tracker}.log"
        self._command = [*PYTHON_MODULE, "palinode.mirror.tracker", tracker, str(directory)]
        self._command += ["--online"] if online else []
        # W&B sends its own errors to its makers unless it is told not to.
        self._environment = {"WANDB_ERROR_REPORTING": "false"} | ({} if online else {"WANDB_MODE": "offline"})
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is not None:
            _kill(process)
            _closed(process)

    def send(self, batch: Mapping[str, Any]) -> None:
        """Hand over a batch, and wait until the tracker has taken it.

        Raises:
            TrackerFailed: the tracker failed, or did not answer in time. Its process is gone then.
            EnvironmentProblem: the system cannot start a process.
        """
        process = self._process = self._process or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        with self._limited(process):
            try:
                process.stdin.write(f"{json.dumps(batch)}\n")
                process.stdin.flush()
                answered = bool(process.stdout.readline())
            except BrokenPipeError:
                answered = False
            if not answered:
                self._process = None
                raise self._failure(process)

    def end(self) -> None:
        """Let the tracker write what is left, and end its process.

        Raises:
            TrackerFailed: the tracker failed, or did not end in time.
        """
        process, self._process = self._process, None
        if process is None:
            return
        with self._limited(process):
            if _closed(process):
                raise self._failure(process)

    @contextlib.contextmanager
    def _limited(self, process: subprocess.Popen[str]) -> Iterator[None]:
        """Kill the process if the block takes too long."""
        watchdog = threading.Timer(ANSWER_SECONDS, _kill, [process])
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()

    def _started(self) -> subprocess.Popen[str]:
        try:
            with fsio.log_for_child(self.log) as log:
                return subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,  # Ctrl-C in a terminal ends the mirror, which then ends the tracker
                    env={**os.environ, **self._environment},
                )
        except OSError as error:
            raise EnvironmentProblem(f"cannot start a process: {error.strerror}") from error

    def _failure(self, process: subprocess.Popen[str]) -> TrackerFailed:
        """The error of a process that has ended or was killed."""
        if (code := _closed(process)) == -signal.SIGKILL:
            return TrackerFailed(f"{self.tracker} has not answered for {ANSWER_SECONDS:g} s")
        lines = [line.strip() for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines()]
        reason = next((line for line in reversed(lines) if line), f"exit code {code}")
        return TrackerFailed(f"{self.tracker} failed: {printable(reason, LONGEST_REASON_CHARACTERS)}")


def _closed(process: subprocess.Popen[str]) -> int:
    """Close the pipes of a process, wait for its end, and return its exit code."""
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
    return process.wait()


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process with all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
