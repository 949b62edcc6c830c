"""`palinode report NAME`: one self-contained page for an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palinode.base.errors import BadInput, printable
from palinode.cli.options import DEFAULT_STORE, JsonOption, StoreOption, as_json, must_exist

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
        str, typer.Option("--window", metavar="FROM..TO", help="The share of training whose points the violins pool.")
    ] = "0.5..1",
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """Write report.html (offline, self-contained), with figures as SVG and PDF and all numbers as CSV and parquet."""
    must_exist(store)
    share = share_of_training(window)
    from palinode.report import build_report
    from palinode.results.store import Store

    page = build_report(Store(store), name, out, share)
    typer.echo(as_json({"report": str(page)}) if json else str(page))


def share_of_training(text: str) -> tuple[float, float]:
    """`0.5..1` as two shares of training.

    Raises:
        BadInput: not two numbers between 0 and 1, the first below the second.
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
