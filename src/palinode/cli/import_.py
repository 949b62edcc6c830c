"""`palinode import mask FILE`: write published results into the store, as records that every command reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palinode.cli.options import DEFAULT_STORE, JsonOption, StoreOption, as_json, may_be_store, shown

EXAMPLE = "\b\nExample:\n  palinode import mask results.csv\n  palinode report mask-published"
app = typer.Typer(help="Read published results into the store.", no_args_is_help=True)


@app.callback()
def _every_subject() -> None:
    """Read published results into the store."""


@app.command(
    epilog="\b\nExample:\n  palinode import mask results.csv\n  palinode import mask other.csv --name mask-other"
)
def mask(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The published CSV: a trained model per row.")],
    name: Annotated[str, typer.Option("--name", help="The name of the experiment.")] = "mask-published",
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """Read the published results of the mask system.

    Each row becomes a run, and all of them one experiment. Nothing is trained. The same file again changes nothing.
    """
    may_be_store(store)
    from palinode.published.import_mask import import_mask, leak_lines
    from palinode.results.store import Store, check_name

    check_name(name, "--name")
    imported = import_mask(file, Store(store), name)
    entry = imported.entry
    if json:
        done = {"experiment": entry.full_name, "runs": len(entry.runs), "written": imported.written}
        typer.echo(as_json(done | {"leaking_arms": list(imported.leaking_arms)}))
        return
    typer.echo(f"{entry.full_name}: {len(entry.runs)} runs, {imported.written} of them new in this store")
    for line in leak_lines(imported):
        typer.echo(shown(line))
