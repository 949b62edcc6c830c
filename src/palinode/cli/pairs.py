"""`palinode pairs RUN PATH`: how often a trained model finds the good sentence of a minimal pair likelier."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palinode.base.errors import BadInput
from palinode.cli import options
from palinode.cli.options import as_json
from palinode.cli.stores import loaded_model
from palinode.cli.texttable import terminal_characters, text_table

if TYPE_CHECKING:
    from palinode.analysis.pairs import Share

COLUMNS = ("field", "paradigm", "won", "pairs", "accuracy", "95 %")


def pairs(
    run: options.RunName,
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A .jsonl with sentence_good and sentence_bad, or a folder or .zip of them, such as BLiMP.",
        ),
    ],
    direction: options.ReadIn = None,
    store: options.StorePath = options.DEFAULT_STORE,
    allow_code: options.AllowCode = False,
    json: options.Json = False,
) -> None:
    """Count the minimal pairs that a run's model wins.

    A pair is won if the good sentence has fewer nats; a tie counts half. Fields and paradigms have Wilson's interval. The interval
    of all pairs is from a bootstrap of paradigms, then of pairs.
    """
    from palinode.analysis.pairs import pair_shares
    from palinode.data.pairs import read_pairs

    with loaded_model(run, store, allow_code=allow_code) as model:
        way = options.reading_direction(model, direction)
        try:
            read = read_pairs(path)
        except BadInput as refusal:
            raise BadInput(refusal.message, file=refusal.file, hint=refusal.hint) from None
        shares = pair_shares([(pair.field, pair.paradigm) for pair in read], model.won(read, way).tolist())
    if json:
        rows = [_described(share) for share in shares]
        typer.echo(as_json({"run": model.spec.run_id, "direction": way, "all": rows[0], "parts": rows[1:]}))
        return
    cells = [
        [
            share.field or ("" if share.paradigm else "all"),
            share.paradigm,
            f"{share.won:g}",
            str(share.count),
            f"{share.accuracy:.4f}",
            f"{share.interval.low:.3f} to {share.interval.high:.3f}",
        ]
        for share in shares
    ]
    typer.echo(text_table(COLUMNS, cells, right=COLUMNS[2:], most_characters=terminal_characters()))


def _described(share: Share) -> dict[str, Any]:
    return {**asdict(share), "interval": list(share.interval), "accuracy": share.accuracy}
