"""Starts workers on this machine. Each is a process of its own, which goes on when the driver ends."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from palinode.base import fsio
from palinode.base.errors import EnvironmentProblem
from palinode.sweep.executors import Value


def option_names() -> list[str]:
    """The options of this engine: none."""
    return []


def executor(options: Mapping[str, Value], folder: Path) -> LocalExecutor:
    """The engine that starts workers here."""
    return LocalExecutor(folder)


class LocalExecutor:
    """Starts commands as processes of this machine. What they print goes into log files."""

    def __init__(self, folder: Path):
        self._folder = folder

    def start(self, command: Sequence[str]) -> LocalHandle:
        """Start a command.

        Raises:
            EnvironmentProblem: the system cannot start a process.
        """
        log = self._folder / f"local-{secrets.token_hex(4)}.log"
        with fsio.log_for_child(log) as stream:
            try:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
                )
            except OSError as error:
                raise EnvironmentProblem(f"cannot start a process: {error.strerror}") from error
        return LocalHandle(process, log)


class LocalHandle:
    """A worker on this machine."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path):
        self._process, self._log = process, log

    def state(self) -> Literal["queued", "running", "ended"]:
        return "running" if self._process.poll() is None else "ended"

    def why(self) -> str:
        """The last line that the worker printed."""
        with contextlib.suppress(OSError):
            lines = self._log.read_text(errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ""

    def stop(self) -> None:
        """Ask the worker to stop."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the worker and what it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
