"""`palinode sample RUN` and `palinode cut RUN`: use a trained model, to continue a text or with only its first blocks."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palinode.base.errors import BadInput
from palinode.cli import options
from palinode.cli.options import as_json
from palinode.cli.stores import open_store, run_named
from palinode.cli.texttable import text_table

if TYPE_CHECKING:
    from palinode.results.layer_cut import LayerCut
    from palinode.results.store import Store
    from palinode.use.generate import Sampling


class Direction(StrEnum):
    """The end of the text at which the model writes."""

    ltr = "ltr"
    rtl = "rtl"


def sample(
    run: options.RunName,
    text: Annotated[str, typer.Option(help="The text to continue; with rtl, the text to write before.")] = "",
    direction: Annotated[
        Direction, typer.Option(help="ltr writes at the right end, rtl at the left end.")
    ] = Direction.ltr,
    tokens: Annotated[int, typer.Option(min=0, max=10**6, help="How many tokens to write.")] = 200,
    rows: Annotated[int, typer.Option(min=1, max=1000, help="How many texts.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the most probable token.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw from the k most probable tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the most probable tokens that reach this probability.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same text.")] = 1,
    store: options.StorePath = options.DEFAULT_STORE,
    code: options.Code = None,
    allow_code: options.AllowCode = False,
    json: options.Json = False,
) -> None:
    """Write text with the model of a run."""
    place = open_store(store)
    directory = place.run_directory(run_named(place, run))
    from palinode.base.memory import keep_memory
    from palinode.run.trained import load_trained
    from palinode.spec.load import load_run
    from palinode.use.generate import generate_text

    keep_memory()
    sampling = _sampling({"temperature": temperature, "top_k": top_k, "top_p": top_p})
    spec = load_run(directory, code_file=code, allow_code=allow_code)
    if not spec.objective.reads_in_a_direction:
        message = f"was trained on {spec.objective.kind_name()!r}, in no reading direction: it cannot continue a text"
        raise BadInput(message, file=run, field="objective")
    trained = load_trained(spec, place)
    written = generate_text(trained, text, tokens, seed, direction=direction.value, sampling=sampling, rows=rows)
    typer.echo(as_json(written) if json else "\n\n".join(written))


def _sampling(values: dict[str, float | None]) -> Sampling:
    """The sampling options that the user set, after a check.

    Raises:
        BadInput: an option is not valid; the error names the option.
    """
    from palinode.base.config import decode
    from palinode.use.generate import Sampling

    try:
        return decode(Sampling, {name: value for name, value in values.items() if value is not None})
    except BadInput as refusal:
        option = f"--{(refusal.field or '').replace('_', '-')}"
        raise BadInput(refusal.message, field=option, hint=refusal.hint) from None


def cut(
    run: options.RunName,
    blocks: Annotated[int | None, typer.Option(help="Show only the scores with this number of blocks.")] = None,
    store: options.StorePath = options.DEFAULT_STORE,
    code: options.Code = None,
    allow_code: options.AllowCode = False,
    json: options.Json = False,
) -> None:
    """Score a run's model with only its first blocks.

    Scores that the run recorded are shown; those it did not are measured now, on the validation split.
    """
    place = open_store(store)
    run_id = run_named(place, run)
    cuts = place.record(run_id).layer_cut or {"validation": _measure(run_id, place, code, allow_code)}
    if blocks is not None:
        cuts = {split: scores.with_blocks(blocks) for split, scores in cuts.items()}
    from palinode.base.config import encode

    typer.echo(as_json({split: encode(scores) for split, scores in cuts.items()}) if json else _cut_text(cuts))


def _measure(run_id: str, store: Store, code: Path | None, allow_code: bool) -> LayerCut:
    from palinode.base.memory import keep_memory
    from palinode.run.scoring import cut_split
    from palinode.run.trained import load_trained
    from palinode.spec.load import load_run

    keep_memory()
    spec = load_run(store.run_directory(run_id), code_file=code, allow_code=allow_code)
    return cut_split(load_trained(spec, store), "validation")


def _cut_text(cuts: dict[str, LayerCut]) -> str:
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
