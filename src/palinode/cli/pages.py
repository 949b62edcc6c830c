"""`palinode report NAME` and `palinode findings NAME`: one self-contained page for an experiment, and a page for its claims."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from palinode.base.errors import BadInput, printable
from palinode.cli import options
from palinode.cli.options import as_json
from palinode.cli.stores import experiment_named, nearest_place, open_store


def report(
    name: options.ExperimentName,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIRECTORY", help="Where to write. Default: reports/ in the store.")
    ] = None,
    window: Annotated[
        str,
        typer.Option(
            "--window", metavar="FROM..TO", help="The part of training whose evaluations the violin plots show."
        ),
    ] = "0.5..1",
    one_kind: options.OneKind = False,
    store: options.StorePath = options.DEFAULT_STORE,
    json: options.Json = False,
) -> None:
    """Write the report of an experiment: one HTML page.

    The page needs no network and no other file. The same folder gets the figures as SVG and PDF, and all numbers as CSV and
    parquet.
    """
    results = open_store(store)
    share = share_of_training(window)
    if out is not None and out.suffix.lower() in (".html", ".htm"):
        hint = f"such as {shlex.quote(str(out.with_suffix('')))}"
        raise BadInput("name the directory that report.html goes into", file=str(out), field="--out", hint=hint)
    if out is not None:
        _check_directory(out)
    experiment_named(results, name, "report")
    from palinode.report.build import build_report

    page = build_report(results, name, out, share, one_kind=one_kind)
    typer.echo(as_json({"report": str(page)}) if json else str(page))


def findings(
    name: options.ExperimentName,
    store: options.StorePath = options.DEFAULT_STORE,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIRECTORY", help="Where to write the page and the numbers.")
    ] = Path("findings"),
    json: options.Json = False,
) -> None:
    """Judge the claims of an experiment and write their page.

    Writes NAME.md, NAME.json and the figure NAME.svg from the finished runs.

    The page says of each claim whether it holds, does not hold, or cannot be decided, with its effect, its interval, the published
    number and the reason. The claims are those that the experiment's file had at its last run. To update them, call `palinode run`
    again; it trains no finished run again.
    """
    results = open_store(store)
    _check_directory(out)
    full_name = experiment_named(results, name, "findings").full_name
    from palinode.report.findings import write_findings

    written = [str(path) for path in write_findings(results, full_name, out)]
    typer.echo(as_json(dict(zip(("page", "numbers", "figure"), written, strict=False))) if json else "\n".join(written))


def _check_directory(out: Path) -> None:
    if not (place := nearest_place(out)).is_dir():
        raise BadInput("is a file; name a directory", file=str(place), field="--out")


def share_of_training(text: str) -> tuple[float, float]:
    """Read a share of training such as `0.5..1`.

    Raises:
        BadInput: the text is not two numbers between 0 and 1, of which the first number is smaller.
    """
    first, _, last = text.partition("..")
    try:
        share = (float(first), float(last))
    except ValueError:
        share = (1.0, 0.0)
    if not 0 <= share[0] < share[1] <= 1:
        hint = "such as --window 0.5..1, its second half"
        raise BadInput(f"{printable(text, 40)!r} is not a share of training", field="--window", hint=hint)
    return share
