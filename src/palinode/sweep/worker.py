"""One run in one process: `python -m palinode.sweep.worker <run directory>`.

The directory's spec.json says what to do. Events go to the driver as JSON lines on standard output; whatever the run
prints goes to standard error. Standard input is the lifeline: when it closes, because the driver asks for a stop or because
it died, the run writes a checkpoint and ends. An exception becomes a result with outcome `failed` or `oom`.
"""

from __future__ import annotations

import argparse
import contextlib
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

from palinode.base.errors import EnvironmentProblem, PalinodeError
from palinode.results.record import Result, RunOutcome
from palinode.results.store import Store
from palinode.sweep.lease import acquire

Event = dict[str, Any]
Emit = Callable[[Event], None]
Work = Callable[[Path, Emit, Callable[[], bool]], Result]

FINAL_OUTCOMES = frozenset(
    ["done", "diverged"]
)  # the same spec would end the same way again; anything else is tried again
ORPHAN_SECONDS = 120.0  # a run whose driver is gone and that has not ended by then is ended
LONGEST_REASON_CHARACTERS = 20_000
OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")


def train_run(directory: Path, emit: Emit, should_stop: Callable[[], bool]) -> Result:
    """Train the run of a directory as its spec says (imports torch, so not before it is needed)."""
    from palinode.run import run_one
    from palinode.spec.load import load_run

    # The driver has decided whose code may run before it started this process.
    return run_one(load_run(directory, allow_code=True), Store(directory.parent), emit, should_stop)


def main(arguments: Sequence[str] | None = None, work: Work = train_run) -> int:
    """Work on one run. Returns the exit code: 0 whenever the driver was told what became of the run."""
    parser = argparse.ArgumentParser(prog="python -m palinode.sweep.worker", description=__doc__)
    parser.add_argument("directory", type=Path, help="the run's directory in the store")
    parser.add_argument("--stale-lease", default=None, help="nonce of another host's dead lease that may be taken over")
    options = parser.parse_args(arguments)
    faulthandler.enable()
    channel = _Channel.open()
    stop = _Stop(nothing_done_yet=lambda: channel.events == 0)
    lease = acquire(options.directory, stale_nonce=options.stale_lease)
    if lease is None:
        channel.emit({"event": "busy"})
        return 0
    try:
        channel.emit(_work(options.directory, channel.emit, lambda: stop.asked or channel.broken or lease.lost, work))
    finally:
        lease.release()
    return 0


def _work(directory: Path, emit: Emit, should_stop: Callable[[], bool], work: Work) -> Event:
    """The last event of this process: `finished` with the outcome, or `problem` when the machine refused."""
    store = Store(directory.parent)
    with contextlib.suppress(PalinodeError):  # a result that does not decode is replaced
        earlier = store.record(directory.name).result
        if earlier is not None and earlier.outcome in FINAL_OUTCOMES:
            return _finished(earlier)
    (directory / "result.json").unlink(missing_ok=True)
    try:
        return _finished(work(directory, emit, should_stop))
    except EnvironmentProblem as error:  # not the run's fault: it goes on when the disk, say, has room again
        return {"event": "problem", "exit_code": error.exit_code, "message": str(error)}
    except Exception as error:  # noqa: BLE001 - the one place where any exception is a result
        result = Result(run_id=directory.name, outcome=_outcome_of(error), reason=_reason(error))
        store.write_result(result)
        return _finished(result)


def _finished(result: Result) -> Event:
    return {"event": "finished", "outcome": result.outcome, "reason": result.reason}


def _outcome_of(error: BaseException) -> RunOutcome:
    named = any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__)
    told = isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)
    return "oom" if isinstance(error, MemoryError) or named or told else "failed"


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
