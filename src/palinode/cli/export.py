"""`palinode export RUN DIR`: a trained model as a folder that other programs read."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from palinode.cli import options
from palinode.cli.options import as_json
from palinode.cli.stores import open_store, run_named


class Form(StrEnum):
    """The form of the folder."""

    hf = "hf"


def export(
    run: options.RunName,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write; it must be new or empty.")],
    to: Annotated[Form, typer.Option(help="The form: `hf` is read by transformers and lm-eval.")] = Form.hf,
    even_if_leaking: Annotated[
        bool, typer.Option("--even-if-leaking", help="Write a run that failed its audit; its card begins with LEAK.")
    ] = False,
    store: options.StorePath = options.DEFAULT_STORE,
    allow_code: options.AllowCode = False,
    json: options.Json = False,
) -> None:
    """Write a run's model for transformers, with a card.

    Models that transformers has no class for come with code that imports palinode. A class of your own is copied into the folder
    with --allow-code.
    """
    place = open_store(store)
    run_id = run_named(place, run)
    from palinode.use.export import export as write

    kept = write(run_id, place, directory, allow_code=allow_code, even_if_leaking=even_if_leaking)
    if json:
        typer.echo(as_json({"run": run_id, "directory": str(directory), "class": kept.architecture}))
        return
    trust = "; load it with trust_remote_code=True" if kept.needs_palinode else ""
    typer.echo(f"{directory}: {kept.architecture}{trust}")
