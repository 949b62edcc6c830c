"""`palinode report NAME`: one self-contained page for an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palinode.cli.options import DEFAULT_STORE, JsonOption, StoreOption, as_json, must_exist

EXAMPLE = "\b\nExample:\n  palinode report demo--default\n  palinode report my_idea --out pages/my_idea"


def report(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="An experiment: <name>--<size>, or <name> if run at one size.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIRECTORY", help="Where to write. Default: reports/ in the store.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """Write report.html (offline, self-contained), with figures as SVG and PDF and all numbers as CSV and parquet."""
    must_exist(store)
    from palinode.report import build_report
    from palinode.results.store import Store

    page = build_report(Store(store), name, out)
    typer.echo(as_json({"report": str(page)}) if json else str(page))
