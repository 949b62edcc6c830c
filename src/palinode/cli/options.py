"""The arguments and options that several commands share, and the functions that apply their values."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from palinode.base.errors import BadInput, nearest

if TYPE_CHECKING:
    from palinode.base.measures import Direction
    from palinode.spec.experiment import ResolvedExperiment
    from palinode.spec.load import Source
    from palinode.use.model import Model

MEGABYTE = 1e6  # bytes
RUNS_LIMIT = 1000  # a command with more runs than this needs --yes
WAYS_TO_SHARE: tuple[Literal["ddp"], Literal["fsdp2"]] = ("ddp", "fsdp2")
DEFAULT_STORE = Path("runs")

File = Annotated[Path, typer.Argument(metavar="FILE", help="An experiment: .py, .toml, or resolved .json.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="(The beginning of) a run's id, or ARM:SEED.")]
ExperimentName = Annotated[
    str, typer.Argument(metavar="NAME", help="An experiment: <name>--<size>, or <name> if run at one size.")
]
Size = Annotated[
    str | None, typer.Option("--size", metavar="NAME", help="A size that the file defines. A wrong name lists all.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Change a field for all arms, such as recipe.steps=100; null is no value. Repeatable.",
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        "--seeds",
        metavar="1,2,3 | 3",
        help="A list of seeds, or how many seeds: the first ones of the experiment, then new ones. `7,` is seed 7.",
    ),
]
StorePath = Annotated[
    Path, typer.Option("--store", metavar="DIRECTORY", help="The results store.", envvar="PALINODE_STORE")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, max=1024, help="Runs at a time. Default: cores divided by threads per run."),
]
Stack = Annotated[
    str,
    typer.Option(
        "--stack",
        metavar="N | auto",
        help="The most runs of one shape to train together in a process; auto measures it once for each arm.",
    ),
]
Processes = Annotated[
    int,
    typer.Option(
        "--processes", min=1, max=1024, help="Processes that share each run. It must divide recipe.micro_batches."
    ),
]
Parallel = Annotated[
    str | None,
    typer.Option(
        "--parallel",
        metavar="ddp | fsdp2",
        help="How they share it: whole weights in each, or cut weights. Default: ddp, unless the model is too large.",
    ),
]
OneKind = Annotated[
    bool, typer.Option("--one-kind", help="Leave out pairs of runs that were trained on two kinds of machine.")
]
Hours = Annotated[
    float | None,
    typer.Option(
        "--hours", metavar="H", help="The hours that there are. `run` starts no run that would not end in time."
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        "--on", metavar="NAME", help="Train on other hosts: local, slurm, ray, or a name of your configuration."
    ),
]
OnOption = Annotated[
    list[str] | None,
    typer.Option("--on-option", metavar="NAME=VALUE", help="An option of --on, such as partition=gpu. Repeatable."),
]
Detach = Annotated[bool, typer.Option("--detach", help="Write the runs into the store for `palinode worker`, and end.")]
Yes = Annotated[bool, typer.Option("--yes", help=f"Allow more than {RUNS_LIMIT:,} runs.")]
Code = Annotated[
    Path | None,
    typer.Option(
        "--code", metavar="FILE", help="Your Python file with the parts of your own that a stored spec names."
    ),
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Run the code that a stored spec names. Only for a store that you trust.")
]
ReadIn = Annotated[
    str | None,
    typer.Option(
        "--direction", metavar="ltr | rtl", help="The direction of reading. Default: ltr, if the run was trained on it."
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(
        "--stride",
        metavar="TOKENS",
        help="Tokens from window to window; fewer give more context. Default: half a window.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def above_zero(value: float | None, option: str) -> None:
    """Refuse the value of an option that has to be a finite number above 0. None: the option was not given.

    Raises:
        BadInput: the value is not above 0, or not finite. The error names the option.
    """
    if value is not None and not 0 < value < math.inf:
        raise BadInput(f"must be a number above 0, got {value:g}", field=option)


def refuse_options_of_no_engine(on: str | None, on_option: list[str] | None) -> None:
    """Refuse options of an engine where no engine is named.

    Raises:
        BadInput: `--on-option` was given without `--on`.
    """
    if on_option and on is None:
        raise BadInput("is an option of --on", field="--on-option", hint="name the engine: --on slurm")


def sharing(parallel: str | None) -> Literal["ddp", "fsdp2"] | None:
    """The value of `--parallel`.

    Raises:
        BadInput: the value is none of its names.
    """
    for name in WAYS_TO_SHARE:
        if parallel == name:
            return name
    if parallel is None:
        return None
    hint = nearest(parallel, WAYS_TO_SHARE)
    raise BadInput(f"{parallel!r} is none of {', '.join(WAYS_TO_SHARE)}", field="--parallel", hint=hint)


@contextmanager
def named_as_options(*fields: str) -> Iterator[None]:
    """Add the dashes of an option to the field of an error that is one of these options."""
    try:
        yield
    except BadInput as refusal:
        refusal.field = f"--{refusal.field}" if refusal.field in fields else refusal.field
        raise


def reading_direction(model: Model, direction: str | None) -> Direction:
    """The value of `--direction`; by default ltr, or rtl for a run that was trained on rtl alone.

    Raises:
        BadInput: the value is neither ltr nor rtl.
    """
    from palinode.base.measures import DIRECTIONS

    if direction is None:
        return "rtl" if model.directions == ("rtl",) else "ltr"
    for name in DIRECTIONS:
        if direction == name:
            return name
    raise BadInput(f"{direction!r} is neither ltr nor rtl", field="--direction")


def examples(*commands: str) -> str:
    """The end of a help text: command lines without the name of the program."""
    return "\n  palinode ".join(("\b\nExample:", *commands))


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
    """Add the name of the experiment's file to an error that names no file."""
    try:
        yield
    except BadInput as problem:
        raise problem.at(file=str(file)) from None


@contextmanager
def audits_are_kept(then: str) -> Iterator[None]:
    """If Ctrl-C ends a command during the audits, print what the same command will do when it is started again."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"interrupted: the audits that were finished are kept; the same command {then}", err=True)
        raise


def as_json(value: Any) -> str:
    """Indented JSON without NaN. Where the output cannot show every character, JSON's own escapes stand for all but ASCII."""
    import json

    shows_all = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("_", "-") in ("utf-8", "utf8")
    return json.dumps(value, indent=1, ensure_ascii=not shows_all, allow_nan=False, default=str)
