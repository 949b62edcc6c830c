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
from palinode.base.errors import BadInput, EnvironmentProblem
from palinode.sweep.executors import Value
from palinode.sweep.executors.command import with_cores

CORES_OPTION = "cores"  # of each worker


def option_names() -> list[str]:
    """The options of this engine."""
    return [CORES_OPTION]


def executor(options: Mapping[str, Value], folder: Path) -> LocalExecutor:
    """The engine that starts workers here.

    Raises:
        BadInput: an option has a wrong value.
    """
    cores = options.get(CORES_OPTION)
    if cores is not None and (not isinstance(cores, int) or isinstance(cores, bool) or cores < 1):
        raise BadInput(f"{cores!r} is no number of cores", field="--on-option", hint="such as cores=2")
    return LocalExecutor(folder, cores)


class LocalExecutor:
    """Starts commands as processes of this machine. What they print goes into log files."""

    def __init__(self, folder: Path, cores: int | None = None):
        self._folder, self._cores = folder, cores

    def start(self, command: Sequence[str]) -> LocalHandle:
        """Start a command.

        Raises:
            EnvironmentProblem: the system cannot start a process.
        """
        log = self._folder / f"local-{secrets.token_hex(4)}.log"
        with fsio.log_for_child(log) as stream:
            try:
                process = subprocess.Popen(
                    command,
                    env=with_cores(self._cores),
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    start_new_session=True,
                )
            except OSError as error:
                raise EnvironmentProblem(f"cannot start a process: {error.strerror}") from error
        return LocalHandle(process, log)


class LocalHandle:
    """A worker on this machine."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path):
        self._process, self._log = process, log
        self.name = f"process {process.pid}"

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
