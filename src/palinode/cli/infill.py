"""`palinode infill RUN --before TEXT --after TEXT --tokens M`: what a trained model puts into a gap."""

from __future__ import annotations

from typing import Annotated

import typer

from palinode.cli import options
from palinode.cli.options import as_json
from palinode.cli.stores import loaded_model
from palinode.cli.texttable import terminal_characters, text_table

OPTIONS = ("tokens", "rows", "candidates", "by")  # fields of the errors of `Model.infill` that are options here


def infill(
    run: options.RunName,
    before: Annotated[str, typer.Option(help="The text before the gap.")] = "",
    after: Annotated[str, typer.Option(help="The text after the gap.")] = "",
    tokens: Annotated[int, typer.Option(min=1, max=10**6, help="The length of the gap in tokens.")] = 8,
    by: Annotated[
        str, typer.Option(metavar="auto | resample | order", help="The method; auto takes the one that the model has.")
    ] = "auto",
    rows: Annotated[int, typer.Option(min=1, max=1000, help="How many middles to show, the most probable first.")] = 5,
    candidates: Annotated[int, typer.Option(min=1, max=10**5, help="How many middles to draw.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same middles.")] = 1,
    store: options.StorePath = options.DEFAULT_STORE,
    allow_code: options.AllowCode = False,
    json: options.Json = False,
) -> None:
    """Fill a gap between two texts with the model of a run.

    A model that reads in a direction writes candidates, and weighs them by the text on the other side. A model that fills masks
    fills the gap from left to right. The nats are those of the middle given both sides; the shares estimate its probability.
    """
    with loaded_model(run, store, allow_code=allow_code) as model, options.named_as_options(*OPTIONS):
        filled = model.infill(before, after, tokens, rows=rows, candidates=candidates, seed=seed, by=by)
    found = filled.found
    if json:
        middles = [{"text": text, "nats_per_byte": nats, "share": share} for text, nats, share in filled.middles[:rows]]
        described = {"by": found.by, "direction": found.direction, "effective_candidates": found.effective}
        typer.echo(as_json({**described, "middles": middles, "drawn": list(filled.drawn)}))
        return
    cells = [[repr(text)[1:-1], f"{nats:.3f}", f"{share:.3f}"] for text, nats, share in filled.middles[:rows]]
    right = ("nats/byte", "share")
    typer.echo(text_table(("middle", *right), cells, right=right, most_characters=terminal_characters()))
