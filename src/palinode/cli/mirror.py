"""`palinode mirror STORE --to tensorboard|wandb`: the numbers of runs for a tracker, from a process of its own beside the runs."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palinode.base.errors import BadInput, Damaged, EnvironmentProblem, nearest
from palinode.cli import options
from palinode.cli.stores import experiment_named, open_store

if TYPE_CHECKING:
    from palinode.mirror.mirror import Mirror
    from palinode.results.store import Store

TRACKERS = ("tensorboard", "wandb")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def mirror(
    to: Annotated[str, typer.Option("--to", metavar="tensorboard | wandb", help="The tracker.")],
    store: Annotated[
        Path, typer.Argument(metavar="STORE", help="The results store.", envvar="PALINODE_STORE")
    ] = options.DEFAULT_STORE,
    experiment: Annotated[
        str | None, typer.Option("--experiment", metavar="NAME", help="Only the runs of this experiment.")
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIRECTORY", help="Where the tracker writes. Default: mirror/<tracker>."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what runs write, until Ctrl-C or the experiment's end.")
    ] = False,
    online: Annotated[bool, typer.Option("--online", help="Let W&B send the numbers to its server.")] = False,
    quiet: options.Quiet = False,
) -> int:
    """Write the numbers of runs for a tracker.

    What runs have recorded so far is sent, and the command ends; --follow goes on. The next call sends only what is new. Runs
    are not touched, and need not know of it. Nothing leaves this machine without --online.
    """
    place = open_store(store)
    _refuse(to, online=online)
    entry = experiment_named(place, experiment, "mirror --experiment") if experiment is not None else None
    target = _directory(directory or Path("mirror") / to, place)
    from palinode.mirror.mirror import Mirror
    from palinode.mirror.sender import Sender
    from palinode.mirror.sent import Sent
    from palinode.results.holds import locked

    with locked(target) as is_alone, Sender(to, target, online=online) as sender, _stopped() as stop:
        if not is_alone:
            raise BadInput("another process mirrors into this directory", file=str(target), field="--dir")
        sent = Sent(target / f"sent-to-{to}.jsonl")
        tell = _teller(quiet=quiet)
        mirror = Mirror(place, sender, sent, entry.full_name if entry is not None else None, tell)
        if follow:
            mirror.go_on(stop.event)
        else:
            mirror.look(close=True, should_stop=stop.event.is_set)
        sender.end()
    for damage in (damaged := place.damaged_experiments() if entry is None else []):
        tell(f"left out: {damage}")
    if not quiet:
        _say(mirror, to, target, online=online)
    if stop.signal is not None:
        return 128 + stop.signal
    if mirror.failed:
        return EnvironmentProblem.exit_code
    return Damaged.exit_code if mirror.damaged or damaged else 0


def _teller(*, quiet: bool) -> Callable[[str], None]:
    """A function that prints a line to standard error; if `quiet`, only lines about what was left out."""

    def tell(text: str) -> None:
        if not quiet or text.startswith(("warning: ", "left out: ")):
            typer.echo(text, err=True)

    return tell


def _say(mirror: Mirror, to: str, target: Path, *, online: bool) -> None:
    """Print what was sent, and how to look at it."""
    rows, runs = _counted(mirror.rows, "row"), _counted(len(mirror.runs), "run")
    typer.echo(f"{rows} of {runs} sent to {target}" if mirror.rows else f"nothing new for {target}")
    if to == "tensorboard":
        typer.echo(f"look:  tensorboard --logdir {target}")
    elif not online:
        typer.echo(f"send them to a server:  wandb sync {target}/wandb/offline-run-*")


class _Stop:
    """Whether a signal asked this process to end, and which one."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.signal: int | None = None

    def ask(self, number: int, _: Any) -> None:
        """Ask to end after the present run. A second signal ends at once."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        self.event.set()


@contextlib.contextmanager
def _stopped() -> Iterator[_Stop]:
    """Turn SIGINT and SIGTERM into a request, so that no batch is sent without being written down."""
    stop = _Stop()
    before = {number: signal.signal(number, stop.ask) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refuse(to: str, *, online: bool) -> None:
    """Refuse a tracker that is not known or not installed.

    Raises:
        BadInput, EnvironmentProblem: the error names the option, or the package to install.
    """
    if to not in TRACKERS:
        raise BadInput(f"{to[:40]!r} is none of {', '.join(TRACKERS)}", field="--to", hint=nearest(to, TRACKERS))
    if online and to != "wandb":
        raise BadInput("is an option of --to wandb", field="--online")
    found = importlib.util.find_spec(to) if to not in sys.modules else sys.modules[to].__spec__
    if found is None or found.origin is None:  # a folder of this name, such as what W&B writes, is no package
        raise EnvironmentProblem(f"{to} is not installed", field="--to", hint=f"`pip install 'palinode[{to}]'`")


def _directory(directory: Path, store: Store) -> Path:
    """The directory for the tracker, created if it does not exist.

    Raises:
        BadInput: it is no directory, or lies in the store, whose folders are runs.
        EnvironmentProblem: it cannot be made.
    """
    if directory.exists() and not directory.is_dir():
        raise BadInput("is not a directory", file=str(directory), field="--dir")
    if directory.resolve().is_relative_to(store.root.resolve()):
        raise BadInput("lies in the store", file=str(directory), field="--dir", hint="name a directory outside")
    from palinode.base import fsio

    return fsio.make_directory(directory)


def _counted(count: int, what: str) -> str:
    """A number of things in words, such as `1,200 rows`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
