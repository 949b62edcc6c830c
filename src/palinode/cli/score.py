"""`palinode score RUN FILE...`: the nats of the tokens of your own texts, by a trained model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palinode.base.errors import BadInput, printable
from palinode.cli import options
from palinode.cli.options import as_json
from palinode.cli.stores import loaded_model, output_file
from palinode.cli.texttable import terminal_characters, text_table

if TYPE_CHECKING:
    from palinode.use.model import Model, Scored

COLUMNS = ("text", "tokens", "nats/token", "bits/byte")
ALL = "all"
NOTHING = "–"
Named = tuple[str, "Scored"]


class Unit(StrEnum):
    """What is scored as one text."""

    document = "document"
    line = "line"


def score(
    run: options.RunName,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Texts: txt, md, jsonl, csv, parquet, or a folder of these.")
    ],
    direction: options.ReadIn = None,
    stride: options.Stride = None,
    by: Annotated[
        Unit, typer.Option(help="Score whole documents, or each line that is not blank on its own.")
    ] = Unit.document,
    text_field: Annotated[
        str, typer.Option("--text-field", metavar="NAME", help="The column or key that holds a text.")
    ] = "text",
    tokens: Annotated[
        Path | None, typer.Option("--tokens", metavar="OUT.parquet", help="Also write the nats of every token.")
    ] = None,
    store: options.StorePath = options.DEFAULT_STORE,
    allow_code: options.AllowCode = False,
    json: options.Json = False,
) -> None:
    """Score your texts with the model of a run.

    The table has the tokens, nats per token and bits per byte of each text. Long texts are read in overlapping windows. The last
    row divides the sum over all texts by the sum of their tokens or bytes. A model that fills masks is scored in order, each token
    given those before it.
    """
    if tokens is not None and tokens.suffix != ".parquet":
        raise BadInput("must end in .parquet", file=str(tokens), field="--tokens")
    tokens = None if tokens is None else output_file(tokens, "--tokens")
    with loaded_model(run, store, allow_code=allow_code) as model, options.named_as_options("stride"):
        way = options.reading_direction(model, direction)
        names, texts = zip(*_texts(files, by, text_field), strict=True)
        for name, text in zip(names, texts, strict=True):
            _refuse_unwritable(model, name, text)
        scored = list(zip(names, model.nats_of_each(texts, way, stride), strict=True))
    if tokens is not None:
        _write_tokens(tokens, scored)
    for name, one in [pair for pair in scored if pair[1].difference is not None][:1]:
        typer.echo(f"note: bits per byte are missing: {name}: {printable(str(one.difference))}", err=True)
    rows = [_row(name, [one]) for name, one in scored] + [_row(ALL, [one for _, one in scored])]
    if json:
        typer.echo(as_json({"run": model.spec.run_id, "direction": way, "texts": rows[:-1], ALL: rows[-1]}))
        return
    cells = [[row["text"], f"{row['tokens']:,}", *(_number(row[name]) for name in _RATIOS)] for row in rows]
    typer.echo(text_table(COLUMNS, cells, right=COLUMNS[1:], most_characters=terminal_characters()))


_RATIOS = ("nats_per_token", "bits_per_byte")


def _texts(files: Sequence[Path], by: Unit, text_field: str) -> Iterator[tuple[str, Any]]:
    """(name, text) of every document or line that is not blank; the text of a file of token ids is a list of ids.

    Raises:
        BadInput: a file cannot be read, or has no text.
    """
    from palinode.data.readers import Reading, local_corpus

    for file in files:
        try:
            corpus = local_corpus(file, str(file), Reading(text_fields=(text_field,)))
            found = 0
            for document in corpus.documents():
                if corpus.holds == "ids":
                    yield document.name, [int(one) for piece in document.pieces() for one in piece]
                    found += 1
                    continue
                lines = document.text.split("\n") if by == Unit.line else [document.text]
                for number, text in enumerate(lines, 1):
                    if text.strip():
                        yield f"{document.name}:{number}" if by == Unit.line else document.name, text
                        found += 1
        except BadInput as refusal:
            where = None if refusal.field == "data.corpus" else refusal.field
            raise BadInput(refusal.message, file=refusal.file or str(file), field=where, hint=refusal.hint) from None
        if not found:
            raise BadInput("no text", file=str(file))


def _refuse_unwritable(model: Model, name: str, text: Any) -> None:
    """Refuse a text that cannot be written in the model's vocabulary, by its name and before anything is scored."""
    try:
        if isinstance(text, str):
            model.trained.data.tokenizer.encode_array(text)
    except BadInput as refusal:
        raise refusal.at(file=name) from None


def _row(name: str, scored: Sequence[Scored]) -> dict[str, Any]:
    """The tokens and the ratios of one text, or of several together: each ratio is one division of two sums."""
    import math

    nats, tokens = math.fsum(one.nats_sum for one in scored), sum(one.tokens for one in scored)
    sizes = [one.bytes for one in scored]
    size = 0 if None in sizes else sum(one or 0 for one in sizes)
    return {
        "text": name,
        "tokens": tokens,
        "nats_per_token": nats / tokens if tokens else None,
        "bits_per_byte": nats / (math.log(2) * size) if size else None,
    }


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4f}"


def _write_tokens(path: Path, scored: Sequence[Named]) -> None:
    """Write a row for each token: the text's name, the token's index, id and piece, and its nats (null where not scored)."""
    import io

    import numpy as np
    import polars

    from palinode.base import fsio

    parts = [
        polars.DataFrame(
            {
                "text": [name] * len(one.ids),
                "index": np.arange(len(one.ids)),
                "id": one.ids,
                "piece": list(one.pieces),
                "nats": one.nats,
            }
        )
        for name, one in scored
    ]
    buffer = io.BytesIO()
    polars.concat(parts).with_columns(polars.col("nats").fill_nan(None)).write_parquet(buffer)
    fsio.write_bytes(path, buffer.getvalue())
