"""`palinode worker`: train open runs of a store that hosts share; `palinode watch` and `palinode stop`: see and end that work."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from palinode.base.errors import BadInput, EnvironmentProblem
from palinode.base.measures import FINAL_OUTCOMES
from palinode.base.stack_size import AUTO, stack_size
from palinode.base.user_settings import user_settings
from palinode.cli import options
from palinode.cli.options import sharing
from palinode.cli.prices import Price, price_here
from palinode.cli.progress import progress
from palinode.cli.stores import experiment_named, open_store, writable_store

if TYPE_CHECKING:
    from palinode.results.record import ExperimentEntry, RunEntry
    from palinode.results.store import Store

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
WATCH_SECONDS = 2.0  # from one look of `palinode watch` to the next
MOST_WATCHED = 24  # runs that `palinode watch --runs` lists: as many fit on a terminal
PROBE_SECONDS = 60.0  # how long a worker waits for the file that its driver wrote


def worker(
    store: options.StorePath = options.DEFAULT_STORE,
    experiment: Annotated[
        str | None, typer.Option("--experiment", metavar="NAME", help="Only the runs of this experiment.")
    ] = None,
    slots: Annotated[
        str, typer.Option("--slots", metavar="N | auto", help="Runs at a time; auto: one for each GPU, else by cores.")
    ] = AUTO,
    stack: Annotated[
        str, typer.Option("--stack", metavar="K", help="The most runs of one shape to train together in a process.")
    ] = "1",
    time_limit: Annotated[
        str | None, typer.Option("--for", metavar="4h", help="The time after which the worker ends.")
    ] = None,
    idle: Annotated[
        str, typer.Option("--idle", metavar="10m", help="How long to wait for new runs after the last one has ended.")
    ] = "0s",
    processes: options.Processes = 1,
    parallel: options.Parallel = None,
    allow_code: options.AllowCode = False,
    price_per_hour: Annotated[float | None, typer.Option("--price-per-hour", hidden=True)] = None,
    currency: Annotated[str, typer.Option("--currency", hidden=True)] = "",
    probe: Annotated[str | None, typer.Option("--probe", hidden=True)] = None,
    quiet: options.Quiet = False,
) -> int:
    """Train open runs of a store that several hosts share.

    Start one worker on each host. The workers take runs one by one until no run is open. A run that a host leaves behind is
    taken over by another host. When all runs have ended, one of the workers looks at the verdicts and adds seeds, or lets the
    trials choose a setting, as `palinode run` would. Exit 1 when a run failed here, and 5 when the store or a device fails.
    """
    limit = _seconds(time_limit, "--for") if time_limit is not None else None
    size = _stack(stack)
    way = sharing(parallel) or ("ddp" if processes > 1 else None)
    command, settings = _command(processes, way, size), user_settings()

    def price(devices: Iterable[str]) -> Price | None:
        return (price_per_hour, currency) if price_per_hour is not None else price_here(settings, devices)

    place = _store_of(store, experiment, probe)
    from palinode.sweep.host import HostOptions, work

    with progress(as_json=False, quiet=quiet) as show:

        def decide(name: str) -> bool:
            # Torch takes a second, and only the host that decides needs it in this process.
            from palinode.experiment.run import decide

            return decide(name, place, show, allow_code=allow_code)

        wait = _seconds(idle, "--idle")
        what = (experiment, _slots(slots), size, limit, wait, allow_code)
        how = HostOptions(*what, decide, probe, command, price, processes, way)
        return work(place, how, show, lambda text: print(text, file=sys.stderr, flush=True))


def _store_of(path: Path, experiment: str | None, probe: str | None) -> Store:
    """The store, after a check that this host sees it as its driver does, and that it has the experiment."""
    if probe is not None:
        _see_store(path, probe)
    place = writable_store(path)
    if not path.is_dir():
        open_store(path)
    if experiment is not None:
        experiment_named(place, experiment, "worker --experiment")
    return place


def _stack(text: str) -> int:
    """The largest number of runs of a stack that a user wrote."""
    size = stack_size(text)
    if size == AUTO:
        raise BadInput("a worker needs a number", field="--stack", hint="`palinode run --stack auto` measures")
    return size


def _command(processes: int, parallel: Literal["ddp", "fsdp2"] | None, stack: int) -> tuple[str, ...]:
    """The command that trains a run."""
    from palinode.sweep.process import WORKER, shared_worker

    if processes == 1:
        if parallel is not None:
            raise BadInput("one process shares no run", field="--parallel", hint="add --processes N")
        return WORKER
    if stack > 1:
        raise BadInput("runs that several processes share are not stacked", field="--stack", hint="leave it out")
    assert parallel is not None
    return shared_worker(processes, parallel)


def watch(
    name: options.ExperimentName,
    store: options.StorePath = options.DEFAULT_STORE,
    once: Annotated[bool, typer.Option("--once", help="Print one line and end.")] = False,
    runs: Annotated[
        bool,
        typer.Option("--runs", help="List the runs at work and the stalled ones, too, as `palinode ls --runs` does."),
    ] = False,
) -> int:
    """Show how far the runs of an experiment are.

    A line is printed at each change, until the last run has ended. On a terminal, the list of --runs is drawn again every two
    seconds. Ctrl-C ends the watching, not the workers. Exit 1 when runs failed or diverged.
    """
    place = open_store(store)
    entry = experiment_named(place, name, "watch")
    from palinode.sweep.watching import Onlooker

    onlooker = Onlooker(place)
    with _lines(live=runs and not once and sys.stdout.isatty()) as show:
        while True:
            entry = place.entry(entry.full_name)  # the process that decides may have added seeds
            entries = place.runs_of_workers(entry)
            seen = onlooker.look(run.run_id for run in entries)
            is_undecided = place.plan_path(entry.full_name).exists()
            words = f"{seen.words}; a worker decides what comes next" if seen.is_over and is_undecided else seen.words
            begun = [*seen.hosts, *(run_id for run_id in seen.open if run_id in onlooker.attempts)] if runs else []
            show(words, f"{onlooker.left_words(seen, entry, entries)}{_at_work(begun, entry, entries, place)}")
            failed = any(outcome not in FINAL_OUTCOMES for outcome in seen.outcomes.values())
            if once or (seen.is_over and (failed or not is_undecided)):
                return int(any(outcome != "done" for outcome in seen.outcomes.values()))
            if place.stop_path(entry.full_name).exists() and not seen.hosts:
                typer.echo(f"{entry.full_name} is stopped; `palinode run` on its file goes on with it", err=True)
                return 0
            time.sleep(WATCH_SECONDS)


def _at_work(run_ids: Sequence[str], entry: ExperimentEntry, runs: Sequence[RunEntry], store: Store) -> str:
    """The table of these runs, on lines of its own; empty without runs."""
    from palinode.cli.ls import listed_run, runs_table
    from palinode.results.index import read_row

    cells = {run.run_id: (entry.full_name, run.arm, run.scale) for run in runs}
    shown = [
        listed_run(read_row(store.run_directory(run_id)), cells[run_id], store) for run_id in run_ids[:MOST_WATCHED]
    ]
    more = f"\nand {len(run_ids) - len(shown)} more" if len(run_ids) > len(shown) else ""
    return f"\n{runs_table(shown)}{more}" if shown else ""


@contextlib.contextmanager
def _lines(*, live: bool) -> Iterator[Callable[[str, str], None]]:
    """A function that shows a line and what follows it: printed when the line has changed, or (`live`) drawn again each time."""
    if live:
        from rich.live import Live
        from rich.text import Text

        with Live(auto_refresh=False) as screen:
            yield lambda words, more: screen.update(Text(f"{words}{more}", no_wrap=True), refresh=True)
        return
    last = ""

    def show(words: str, more: str) -> None:
        nonlocal last
        if words != last:
            typer.echo(f"{words}{more}")
        last = words

    yield show


def stop(name: options.ExperimentName, store: options.StorePath = options.DEFAULT_STORE) -> None:
    """Ask the workers to stop the runs of an experiment.

    Each run writes a checkpoint. `palinode run` on the experiment's file goes on with the runs.
    """
    open_store(store)
    place = writable_store(store)
    entry = experiment_named(place, name, "stop")
    place.ask_to_stop(entry)
    typer.echo(f"workers on {store} stop the runs of {entry.full_name} within a minute")


def _see_store(store: Path, probe: str) -> None:
    """Wait until this host sees the file that the driver wrote into the store.

    Raises:
        EnvironmentProblem: the file does not appear.
    """
    import platform

    from palinode.results.store import Store

    path: Path = Store(store).probe_path(probe)
    end = time.monotonic() + PROBE_SECONDS
    while not path.exists():
        if time.monotonic() > end:
            message = f"{platform.node()} does not see the store {store}: all hosts must share its file system"
            raise EnvironmentProblem(message)
        time.sleep(1.0)


def _slots(text: str) -> int | None:
    """The number of slots that a user wrote; None for `auto`."""
    if text == AUTO:
        return None
    if text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= 1024:
        return int(text)
    raise BadInput(f"{text[:40]!r} is no number of slots", field="--slots", hint=f"a number from 1 to 1024, or {AUTO}")


def _seconds(text: str, option: str) -> float:
    """A time that a user wrote, such as `10m`, in seconds."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd])", text.strip())
    if match is None:
        raise BadInput(f"{text[:40]!r} is no time", field=option, hint="such as 90s, 10m, 4h or 2d")
    return float(match[1]) * SECONDS[match[2]]
