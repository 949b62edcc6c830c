"""Options that several commands share, and the checks of their values."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palinode.base.errors import BadInput, EnvironmentProblem, printable
from palinode.cli.texttable import with_plain_spaces

if TYPE_CHECKING:
    from palinode.spec.experiment import ResolvedExperiment
    from palinode.spec.load import Source

RUNS_LIMIT = 1000  # more runs than this need a --yes
MOST_WORKERS = 1024
MOST_STACKED = 256

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="An experiment: .py, .toml, or resolved .json.")]
SizeOption = Annotated[
    str | None, typer.Option("--size", metavar="NAME", help="A size that the file defines. A wrong name lists all.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Change a field for all arms, such as recipe.steps=100; null is no value. Repeatable.",
    ),
]
SeedsOption = Annotated[
    str | None,
    typer.Option(
        "--seeds",
        metavar="1,2,3 | 3",
        help="A list of seeds, or how many seeds: the first ones of the experiment, then new ones. `7,` is seed 7.",
    ),
]
StoreOption = Annotated[
    Path, typer.Option("--store", metavar="DIRECTORY", help="The results store.", envvar="PALINODE_STORE")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, max=MOST_WORKERS, help="Runs at a time. Default: cores divided by threads per run."
    ),
]
StackOption = Annotated[
    int,
    typer.Option("--stack", min=1, max=MOST_STACKED, help="The most runs of one shape to train together in a process."),
]
YesOption = Annotated[bool, typer.Option("--yes", help=f"Allow more than {RUNS_LIMIT:,} runs.")]
CodeOption = Annotated[
    Path | None,
    typer.Option(
        "--code", metavar="FILE", help="Your Python file with the parts of your own that a stored spec names."
    ),
]
AllowCodeOption = Annotated[
    bool, typer.Option("--allow-code", help="Run the code that a stored spec names. Only for a store that you trust.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

DEFAULT_STORE = Path("runs")


def resolve(
    file: Path,
    size: str | None,
    changes: list[str] | None,
    seeds: str | None,
    *,
    yes: bool = False,
    code: Path | None = None,
    allow_code: bool = False,
) -> tuple[Source, ResolvedExperiment]:
    """Load an experiment file and resolve it with the options of the command line."""
    from palinode.spec.load import load, parse_overrides

    overrides = parse_overrides(changes or [])
    source = load(file, code_file=code, allow_code=allow_code)
    return source, source.resolve(size, overrides, seeds, runs_limit=None if yes else RUNS_LIMIT)


@contextmanager
def of_file(file: Path) -> Iterator[None]:
    """Add the experiment's file to an error that does not name one."""
    try:
        yield
    except BadInput as problem:
        raise problem.at(file=str(file)) from None


def may_be_store(store: Path) -> Path:
    """Check the store's directory for a command that writes. It need not exist yet.

    Raises:
        BadInput: the path is not a directory.
        EnvironmentProblem: it cannot be written.
    """
    place = nearest_place(store)
    if not place.is_dir():
        raise BadInput("is not a directory, so it cannot hold results", file=str(place), field="--store")
    try:
        tempfile.TemporaryFile(dir=place).close()  # permissions do not tell of a read-only disk
    except OSError as error:
        hint = "name another store with --store"
        raise EnvironmentProblem(
            f"cannot be written: {error.strerror}", file=str(place), field="--store", hint=hint
        ) from None
    return store


@contextmanager
def audits_are_kept(then: str) -> Iterator[None]:
    """Say what the next start will do when Ctrl-C ends a command while it audits."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"interrupted: the audits that were finished are kept; the same command {then}", err=True)
        raise


def nearest_place(path: Path) -> Path:
    """The path itself if it exists, else its nearest parent that does."""
    return next(place for place in (path, *path.absolute().parents) if place.exists() or place.is_symlink())


def must_exist(store: Path) -> Path:
    """Check the store's directory for a command that only reads.

    Raises:
        BadInput: there is no such directory.
    """
    if not store.is_dir():
        raise BadInput(
            "there is no results store here", file=str(store), hint="name one with --store, or `palinode run` first"
        )
    return store


def as_json(value: Any) -> str:
    """Indented JSON without NaN."""
    import json

    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=str)


def shown(text: str, limit_characters: int = 200) -> str:
    """A name or message from a file, safe for a terminal."""
    return printable(with_plain_spaces(text), limit_characters)
