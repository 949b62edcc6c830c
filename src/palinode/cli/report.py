"""`palinode report NAME`: one self-contained page for an experiment."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from palinode.base.errors import BadInput, printable
from palinode.cli.names import experiment_named
from palinode.cli.options import DEFAULT_STORE, JsonOption, StoreOption, as_json, must_exist, nearest_place

EXAMPLE = (
    "\b\nExample:\n  palinode report demo--default\n  palinode report my_idea --out pages/my_idea\n"
    "  palinode report mask--laptop --window 0.8..1"
)


def report(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="An experiment: <name>--<size>, or <name> if run at one size.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIRECTORY", help="Where to write. Default: reports/ in the store.")
    ] = None,
    window: Annotated[
        str,
        typer.Option(
            "--window", metavar="FROM..TO", help="The part of training whose evaluations the violin plots show."
        ),
    ] = "0.5..1",
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """Write the report of an experiment: one HTML page.

    The page needs no network and no other file. Figures as SVG and PDF, and all numbers as CSV and parquet, lie beside it.
    """
    must_exist(store)
    share = share_of_training(window)
    if out is not None:
        _check_directory(out)
    from palinode.results.store import Store

    place = Store(store)
    experiment_named(place, name, "report")
    from palinode.report.build import build_report

    page = build_report(place, name, out, share)
    typer.echo(as_json({"report": str(page)}) if json else str(page))


def _check_directory(out: Path) -> None:
    """Refuse a file, and a name that ends like a page."""
    if out.suffix.lower() in (".html", ".htm"):
        message = "name the directory that report.html goes into"
        raise BadInput(message, file=str(out), field="--out", hint=f"such as {shlex.quote(str(out.with_suffix('')))}")
    if not (place := nearest_place(out)).is_dir():
        raise BadInput("is a file; name a directory", file=str(place), field="--out")


def share_of_training(text: str) -> tuple[float, float]:
    """Read a share of training such as `0.5..1`.

    Raises:
        BadInput: these are not two numbers between 0 and 1, the first one smaller.
    """
    first, dots, last = text.partition("..")
    try:
        share = (float(first), float(last))
    except ValueError:
        share = (1.0, 0.0)
    if not dots or not 0 <= share[0] < share[1] <= 1:
        raise BadInput(
            f"{printable(text, 40)!r} is not a share of training",
            field="--window",
            hint="such as --window 0.5..1, its second half",
        )
    return share
