"""A worker is a process that trains one run, or several with stacked weights: `python -m palinode.sweep.worker <run directory>`.

The spec.json of each directory says what to train. Events go to the driver as JSON lines on standard output, each with its
`run_id`. Printed text goes to standard error. When standard input closes, because the driver asks for a stop or has died, the
runs write a checkpoint and end. An exception becomes a result with outcome `failed` or `oom`. An exception in a process of
several runs does not show which run caused it, so the driver then tries each run alone.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from palinode.base.errors import EnvironmentProblem, PalinodeError, ran_out_of_memory
from palinode.base.event import Event
from palinode.base.measures import FAILED_OUTCOMES, RunOutcome
from palinode.base.memory import keep_memory
from palinode.results.holds import Hold, HoldLostError, take
from palinode.results.record import RESULT_FILE, Result
from palinode.results.store import Store
from palinode.sweep.process import INTERRUPTS, STARTED_BY, Parallel, end_with_parent

if TYPE_CHECKING:
    from palinode.run.processes import Leader

Emit = Callable[[Event], None]
Holds = Mapping[str, Hold]
Work = Callable[..., Sequence[Result]]  # the arguments of `train_runs`

ORPHAN_SECONDS = 120.0  # the time after a request to stop at which a run that still works is ended
LONGEST_REASON_CHARACTERS = 20_000


def train_runs(
    directories: Sequence[Path],
    emit: Emit,
    should_stop: Callable[[], bool],
    holds: Holds,
    together: Sequence[str] = (),
) -> Sequence[Result]:
    """Train the runs of these directories as their specs say. This function imports torch, so it is called only when needed.

    Args:
        together: the run ids of a fixed stack in the order of their places; empty without a fixed stack.
    """
    from palinode.run.one import run_together
    from palinode.spec.load import load_run

    process: dict[str, str | bool] = {
        "memory_kept": keep_memory(),
        "started_by": os.environ.pop(STARTED_BY, "subprocess"),
    }
    # The driver has decided which user code may run before it started this process.
    specs = [load_run(directory, allow_code=True) for directory in directories]
    return run_together(specs, Store(directories[0].parent), emit, should_stop, holds, process, together)


def train_shared(
    directories: Sequence[Path], emit: Emit, should_stop: Callable[[], bool], holds: Holds, *, leader: Leader
) -> Sequence[Result]:
    """Train the run of this directory with the other processes of torchrun; this process leads them."""
    from palinode.run.processes import run_shared
    from palinode.spec.load import load_run

    process: dict[str, str | bool] = {"memory_kept": keep_memory(), "started_by": "torchrun"}
    (directory,) = directories
    spec, hold = load_run(directory, allow_code=True), holds[directory.name]

    def on_event(event: Event) -> None:
        emit({**event, "run_id": directory.name})

    return [run_shared(spec, Store(directory.parent), leader, on_event, should_stop, hold, process)]


def prepare_for_forks() -> None:
    """In the nursery: import what workers need, with what torch imports for its first optimizer. No parallel region runs here."""
    import torch

    import palinode.run.one
    import palinode.spec.load  # noqa: F401

    keep_memory()
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], fused=True)


def main(arguments: Sequence[str] | None = None, work: Work = train_runs) -> int:
    """Work on the runs of these directories. The exit code is 0 when the driver got an event for each run."""
    parser = argparse.ArgumentParser(prog="python -m palinode.sweep.worker", description=__doc__)
    parser.add_argument("directories", type=Path, nargs="+", help="the runs' directories in one store")
    parser.add_argument("--stale-hold", action="append", default=[], metavar="RUN=NUMBER", help="a hold to take over")
    parser.add_argument("--about", type=json.loads, default={}, metavar="JSON", help="more items of the holds")
    parser.add_argument("--together", default="", metavar="RUN,RUN", help="all runs of a fixed stack, by their places")
    parser.add_argument(
        "--parallel", choices=("ddp", "fsdp2"), default="", help="share one run over torchrun's processes"
    )
    options = parser.parse_args(arguments)
    if options.parallel:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns of a setting that this program needs
        end_with_parent()
        if os.environ.get("RANK", "0") != "0":
            _follow(options.parallel)
    stale_holds = {run_id: int(number) for run_id, _, number in (one.rpartition("=") for one in options.stale_hold)}
    if options.together:
        work = partial(work, together=options.together.split(","))
    faulthandler.enable()
    channel = _Channel.open()
    stop = _Stop(nothing_done_yet=lambda: channel.events == 0)
    if options.parallel:
        from palinode.run.processes import Leader

        leader = Leader.joined(options.parallel)
        try:
            code = _lead(options, stale_holds, channel, stop, partial(train_shared, leader=leader))
        finally:
            leader.leave()
        sys.stderr.flush()
        os._exit(code)  # see `joined`
    return _lead(options, stale_holds, channel, stop, work)


def _follow(parallel: Parallel) -> NoReturn:
    """Take part in the run that process 0 leads. A request to stop is for the leader, so it only sets a time to end."""
    from palinode.run.processes import follow

    faulthandler.enable()
    _Channel.open()
    stop = _Stop(nothing_done_yet=lambda: False)
    try:
        follow(parallel)
    except Exception as error:  # noqa: BLE001 - the leader has the reason and records it
        if not stop.requested:
            print(_reason(error), file=sys.stderr, flush=True)  # noqa: T201 - standard error goes to the driver
        os._exit(1)


def _lead(
    options: argparse.Namespace, stale_holds: Mapping[str, int], channel: _Channel, stop: _Stop, work: Work
) -> int:
    """Take the holds of the directories, work on their runs, and release the holds."""
    holds: dict[str, Hold] = {}
    seconds: dict[str, float] = {}
    for directory in options.directories:
        stale, began = stale_holds.get(directory.name), time.monotonic()
        hold = take(directory, stale=stale, about=options.about)
        seconds[directory.name] = time.monotonic() - began
        if hold is None:
            channel.emit({"event": "busy", "run_id": directory.name, "hold_seconds": seconds[directory.name]})
        else:
            holds[directory.name] = hold

    def should_stop() -> bool:
        return stop.requested or channel.broken or any(hold.lost for hold in holds.values())

    failures: dict[str, str] = {}
    try:
        for event in _work(holds, channel.emit, should_stop, work, is_fixed_stack=bool(options.together)):
            channel.emit({**event, "hold_seconds": seconds[event["run_id"]]})
            if event.get("outcome") in FAILED_OUTCOMES:
                failures[event["run_id"]] = event["outcome"]
    finally:
        for run_id, hold in holds.items():
            hold.release(failures.get(run_id))
    return 0


def _work(
    holds: Holds, emit: Emit, should_stop: Callable[[], bool], work: Work, *, is_fixed_stack: bool
) -> list[Event]:
    """The last event of each run: `finished` with the outcome, `alone`, `lost`, or `problem` when a disk or a device failed."""
    before = {hold.directory: Store(hold.directory.parent).ended(run_id) for run_id, hold in holds.items()}
    ended = [result for result in before.values() if result is not None]
    left = [directory for directory, result in before.items() if result is None]
    try:
        for directory in left:
            holds[directory.name].check()
            (directory / RESULT_FILE).unlink(missing_ok=True)
        ended += work(left, emit, should_stop, holds) if left else ()
        return [_finished_event(result) for result in ended]
    except EnvironmentProblem as error:  # a run can continue later, for example when the disk has room again
        problem = {"event": "problem", "exit_code": error.exit_code, "message": str(error)}
        return [{**problem, "run_id": run_id} for run_id in holds]
    except HoldLostError as error:
        return [
            {"event": "lost" if hold.lost else "alone", "run_id": run_id, "reason": str(error)}
            for run_id, hold in holds.items()
        ]
    except Exception as error:  # noqa: BLE001 - every exception of a run becomes its result
        if len(left) > 1 or is_fixed_stack:
            reason = _reason(error).splitlines()[0]
            return [{"event": "alone", "run_id": run_id, "reason": reason} for run_id in holds]
        outcome: RunOutcome = "oom" if ran_out_of_memory(error) else "failed"
        result = Result(run_id=left[0].name, outcome=outcome, reason=_reason(error))
        try:
            holds[result.run_id].check()
        except HoldLostError as lost:
            return [{"event": "lost", "run_id": result.run_id, "reason": str(lost)}]
        Store(left[0].parent).write_result(result)
        return [_finished_event(result) for result in (*ended, result)]


def _finished_event(result: Result) -> Event:
    return {"event": "finished", "run_id": result.run_id, "outcome": result.outcome, "reason": result.reason}


def _reason(error: Exception) -> str:
    """The error in one line, and after it the traceback of the error."""
    if isinstance(error, PalinodeError):
        return str(error)
    lines = "".join(traceback.format_exception(error))
    return f"{type(error).__name__}: {error}\n{lines[-LONGEST_REASON_CHARACTERS:]}"


class _Stop:
    """Whether this worker was asked to stop. The end of standard input or a signal asks it to stop."""

    def __init__(self, nothing_done_yet: Callable[[], bool]) -> None:
        self.requested = False
        self._nothing_done_yet = nothing_done_yet
        for number in INTERRUPTS:
            signal.signal(number, lambda *_: self._request())
        threading.Thread(target=self._wait_for_the_end_of_input, daemon=True).start()

    def _wait_for_the_end_of_input(self) -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        self._request()

    def _request(self) -> None:
        if self._nothing_done_yet():
            os._exit(0)  # no step is done yet, so nothing is lost
        if not self.requested:
            self.requested = True
            ending = threading.Timer(ORPHAN_SECONDS, os._exit, [1])
            ending.daemon = True
            ending.start()


class _Channel:
    """Sends events to the driver. When the driver no longer reads, `broken` asks the run to stop."""

    def __init__(self, stream: TextIO):
        self.broken = False
        self.events = 0
        self._stream = stream

    @classmethod
    def open(cls) -> _Channel:
        """Use standard output for events; text that is printed from now on goes to standard error."""
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
