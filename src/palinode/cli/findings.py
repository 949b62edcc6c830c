"""`palinode findings NAME`: the claims of an experiment, judged on its finished runs, as a dated page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palinode.base.errors import BadInput
from palinode.cli.names import experiment_named
from palinode.cli.options import DEFAULT_STORE, JsonOption, StoreOption, as_json, must_exist, nearest_place

EXAMPLE = "\b\nExample:\n  palinode findings mask--laptop\n  palinode findings my_idea --store runs -o pages"
DEFAULT_DIRECTORY = Path("findings")


def findings(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="An experiment: <name>--<size>, or <name> if run at one size.")
    ],
    store: StoreOption = DEFAULT_STORE,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIRECTORY", help="Where to write the page and the numbers.")
    ] = DEFAULT_DIRECTORY,
    json: JsonOption = False,
) -> None:
    """Judge the claims of an experiment and write their page.

    Writes NAME.md and NAME.json from the finished runs.

    Each claim holds, does not hold, or cannot be told, with its effect, its interval, the published number and the reason. The
    claims are those in the experiment's file when it was last run: `palinode run` again updates them and trains nothing twice.
    """
    must_exist(store)
    if not (place := nearest_place(out)).is_dir():
        raise BadInput("is a file; name a directory", file=str(place), field="--out")
    from palinode.results.store import Store

    results = Store(store)
    full_name = experiment_named(results, name, "findings").full_name
    from palinode.report.findings import write_findings

    page, numbers = write_findings(results, full_name, out)
    typer.echo(as_json({"page": str(page), "numbers": str(numbers)}) if json else f"{page}\n{numbers}")
