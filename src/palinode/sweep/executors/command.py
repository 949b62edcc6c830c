"""Runs a command inside a process of an engine. The command ends with that process, and its last line says why it ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from palinode.sweep.process import CORES

POLL_SECONDS = 0.1
STOP_SECONDS = 90.0  # how long a command may take to write its checkpoints after it was asked to stop
PR_SET_PDEATHSIG = 1  # of prctl(2): the signal that the system sends when the parent has died


def with_cores(cores: int | None) -> dict[str, str]:
    """The environment of a worker that may use so many cores; None: as many as it finds."""
    return {**os.environ, **({CORES: str(max(1, cores))} if cores is not None else {})}


class Command:
    """A command that runs as a child of this process.

    Args:
        folder: the folder in which it runs; None: that of this process.
        cores: the number of cores that the engine has given it; None: the engine does not say it.

    Attributes:
        last_line: the last line that the command has printed on standard error.
    """

    def __init__(self, command: Sequence[str], folder: str | None = None, cores: int | None = None):
        libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None

        def end_with_the_parent() -> None:
            if libc is not None:
                libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

        self.last_line = ""
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=with_cores(cores),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=end_with_the_parent,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self) -> int:
        """Wait for the end of the command and return its exit code.

        A signal handler may call `stop` meanwhile, so this polls: `Popen.wait` would hold a lock that `stop` needs.
        """
        while self._process.poll() is None:
            time.sleep(POLL_SECONDS)
        self._reader.join(timeout=1.0)
        return int(self._process.returncode)

    def stop(self) -> None:
        """Ask the command to stop, and wait until it has ended. It is killed when it takes too long."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGTERM)
        end = time.monotonic() + STOP_SECONDS
        while not self._has_ended():
            if time.monotonic() > end:
                os.kill(self._process.pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS)

    def _has_ended(self) -> bool:
        """Whether the command has ended; its exit code stays for `wait`."""
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:
            return True

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                text = line.decode(errors="replace")
                sys.stderr.write(text)
                self.last_line = text.strip() or self.last_line
