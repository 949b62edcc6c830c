"""One run in one process: `python -m palinode.sweep.worker <run directory>`; or several, their weights stacked.

Each directory's spec.json says what to do. Events go to the driver as JSON lines on standard output, each with its `run_id`;
whatever is printed goes to standard error. Standard input is the lifeline: when it closes, because the driver asks for a stop
or because it died, the runs write a checkpoint and end. An exception becomes a result with outcome `failed` or `oom`; one that
meets several runs says nothing of any of them, so each is handed back to be done alone.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from palinode.base.errors import EnvironmentProblem, PalinodeError, ran_out_of_memory
from palinode.results.record import RESULT_FILE, Result
from palinode.results.store import Store
from palinode.sweep.lease import Lease, acquire

Event = dict[str, Any]
Emit = Callable[[Event], None]
Work = Callable[[Sequence[Path], Emit, Callable[[], bool]], Sequence[Result]]

ORPHAN_SECONDS = 120.0  # a run whose driver is gone and that has not ended by then is ended
LONGEST_REASON_CHARACTERS = 20_000


def train_runs(directories: Sequence[Path], emit: Emit, should_stop: Callable[[], bool]) -> Sequence[Result]:
    """Train the runs of some directories as their specs say (imports torch, so not before it is needed)."""
    from palinode.run.together import run_together
    from palinode.spec.load import load_run

    # The driver has decided whose code may run before it started this process.
    specs = [load_run(directory, allow_code=True) for directory in directories]
    return run_together(specs, Store(directories[0].parent), emit, should_stop)


def main(arguments: Sequence[str] | None = None, work: Work = train_runs) -> int:
    """Work on some runs. Returns the exit code: 0 whenever the driver was told what became of each."""
    parser = argparse.ArgumentParser(prog="python -m palinode.sweep.worker", description=__doc__)
    parser.add_argument("directories", type=Path, nargs="+", help="the runs' directories in one store")
    parser.add_argument("--stale-lease", default=None, help="nonce of another host's dead lease that may be taken over")
    options = parser.parse_args(arguments)
    faulthandler.enable()
    channel = _Channel.open()
    stop = _Stop(nothing_done_yet=lambda: channel.events == 0)
    leases: dict[Path, Lease] = {}
    for directory in options.directories:
        if (lease := acquire(directory, stale_nonce=options.stale_lease)) is None:
            channel.emit({"event": "busy", "run_id": directory.name})
        else:
            leases[directory] = lease

    def should_stop() -> bool:
        return stop.asked or channel.broken or any(lease.lost for lease in leases.values())

    try:
        for event in _work(list(leases), channel.emit, should_stop, work):
            channel.emit(event)
    finally:
        for lease in leases.values():
            lease.release()
    return 0


def _work(directories: Sequence[Path], emit: Emit, should_stop: Callable[[], bool], work: Work) -> list[Event]:
    """The last event of each run: `finished` with the outcome, `alone`, or `problem` when the machine refused."""
    ended = {
        directory: result
        for directory in directories
        if (result := Store(directory.parent).ended(directory.name)) is not None
    }
    left = [directory for directory in directories if directory not in ended]
    for directory in left:
        (directory / RESULT_FILE).unlink(missing_ok=True)
    try:
        results = [*ended.values(), *(work(left, emit, should_stop) if left else ())]
        return [_finished(result) for result in results]
    except EnvironmentProblem as error:  # not the runs' fault: they go on when the disk, say, has room again
        problem = {"event": "problem", "exit_code": error.exit_code, "message": str(error)}
        return [{**problem, "run_id": directory.name} for directory in directories]
    except Exception as error:  # noqa: BLE001 - the one place where any exception is a result
        if len(left) > 1:
            reason = _reason(error).splitlines()[0]
            return [{"event": "alone", "run_id": directory.name, "reason": reason} for directory in directories]
        result = Result(
            run_id=left[0].name, outcome="oom" if ran_out_of_memory(error) else "failed", reason=_reason(error)
        )
        Store(left[0].parent).write_result(result)
        return [*map(_finished, ended.values()), _finished(result)]


def _finished(result: Result) -> Event:
    return {"event": "finished", "run_id": result.run_id, "outcome": result.outcome, "reason": result.reason}


def _reason(error: Exception) -> str:
    """One line first, then where it happened."""
    if isinstance(error, PalinodeError):
        return str(error)
    lines = "".join(traceback.format_exception(error))
    return f"{type(error).__name__}: {error}\n{lines[-LONGEST_REASON_CHARACTERS:]}"


class _Stop:
    """Whether this run was asked to stop: by the end of standard input, or by a signal."""

    def __init__(self, nothing_done_yet: Callable[[], bool]) -> None:
        self.asked = False
        self._nothing_done_yet = nothing_done_yet
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, lambda *_: self._ask())
        threading.Thread(target=self._wait_for_the_end_of_input, daemon=True).start()

    def _wait_for_the_end_of_input(self) -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        self._ask()

    def _ask(self) -> None:
        if self._nothing_done_yet():
            os._exit(0)  # still importing or opening data, which takes seconds: there is nothing to save
        if not self.asked:
            self.asked = True
            ending = threading.Timer(ORPHAN_SECONDS, os._exit, [1])
            ending.daemon = True
            ending.start()


class _Channel:
    """The way to the driver. When nobody reads any more, `broken` asks the run to stop."""

    def __init__(self, stream: TextIO):
        self.broken = False
        self.events = 0
        self._stream = stream

    @classmethod
    def open(cls) -> _Channel:
        """Take standard output for events; what is printed from now on goes to standard error."""
        private = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        return cls(os.fdopen(private, "w", encoding="utf-8", closefd=False))

    def emit(self, event: Event) -> None:
        """Send one event."""
        self.events += 1
        if self.broken:
            return
        try:
            self._stream.write(json.dumps(event, allow_nan=False) + "\n")
            self._stream.flush()
        except (BrokenPipeError, OSError):
            self.broken = True


if __name__ == "__main__":
    sys.exit(main())
