"""`palinode cut RUN`: the scores of a model with only its first blocks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palinode.cli.names import run_named
from palinode.cli.options import (
    DEFAULT_STORE,
    AllowCodeOption,
    CodeOption,
    JsonOption,
    StoreOption,
    as_json,
    must_exist,
)
from palinode.cli.texttable import text_table

if TYPE_CHECKING:
    from palinode.results.layer_cut import LayerCut
    from palinode.results.store import Store

EXAMPLE = "\b\nExample:\n  palinode cut 3f2a\n  palinode cut 3f2a --blocks 2"


def cut(
    run: Annotated[str, typer.Argument(metavar="RUN", help="(The beginning of) a run's id.")],
    blocks: Annotated[int | None, typer.Option(help="Show only the scores with this number of blocks.")] = None,
    store: StoreOption = DEFAULT_STORE,
    code: CodeOption = None,
    allow_code: AllowCodeOption = False,
    json: JsonOption = False,
) -> None:
    """Score a run's model with only its first blocks.

    Scores that the run recorded are shown; those it did not are measured now, on the validation split.
    """
    must_exist(store)
    from palinode.results.store import Store

    place = Store(store)
    run_id = run_named(place, run, "RUN")
    cuts = place.record(run_id).layer_cut or {"validation": _measure(run_id, place, code, allow_code)}
    if blocks is not None:
        cuts = {split: scores.with_blocks(blocks) for split, scores in cuts.items()}
    from palinode.base.config import encode

    typer.echo(as_json({split: encode(scores) for split, scores in cuts.items()}) if json else _text(cuts))


def _measure(run_id: str, store: Store, code: Path | None, allow_code: bool) -> LayerCut:
    from palinode.run.scoring import cut_split
    from palinode.run.trained import load_trained
    from palinode.spec.load import load_run

    spec = load_run(store.run_directory(run_id), code_file=code, allow_code=allow_code)
    return cut_split(load_trained(spec, store), "validation")


def _text(cuts: dict[str, LayerCut]) -> str:
    rows = [
        [split, name, str(item.blocks), readout, f"{item.nats_per_token:.4f}", _share(item.accuracy)]
        for split, scores in cuts.items()
        for readout, curves in (("as trained", scores.scores), ("refitted", scores.refitted))
        for name, curve in curves.items()
        for item in curve
    ]
    header = ("split", "direction", "blocks", "head", "nats per token", "accuracy")
    return text_table(header, rows, right=("blocks", "nats per token", "accuracy"))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
