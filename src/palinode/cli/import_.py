"""`palinode import mask FILE`: write published results into the store, as records that every command can read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palinode.cli import options
from palinode.cli.options import as_json, examples
from palinode.cli.stores import writable_store
from palinode.cli.texttable import shown

app = typer.Typer(help="Read published results into the store.", no_args_is_help=True)


@app.callback()
def _every_subject() -> None:
    """Read published results into the store."""


@app.command(epilog=examples("import mask results.csv", "import mask other.csv --name mask-other"))
def mask(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The published CSV: a trained model per row.")],
    name: Annotated[str, typer.Option("--name", help="The name of the experiment.")] = "mask-published",
    store: options.StorePath = options.DEFAULT_STORE,
    json: options.Json = False,
) -> None:
    """Read the published results of the mask system.

    Each row becomes a run, and all runs together one experiment. Nothing is trained. A second import of the same file changes
    nothing.
    """
    place = writable_store(store)
    from palinode.published.import_mask import import_mask, leak_lines
    from palinode.results.store import check_name

    check_name(name, "--name")
    imported = import_mask(file, place, name)
    entry = imported.entry
    if json:
        done = {"experiment": entry.full_name, "runs": len(entry.runs), "written": imported.written}
        typer.echo(as_json(done | {"leaking_arms": list(imported.leaking_arms)}))
        return
    typer.echo(f"{entry.full_name}: {len(entry.runs)} runs, {imported.written} of them new in this store")
    for line in leak_lines(imported):
        typer.echo(shown(line))
