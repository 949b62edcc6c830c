"""`palinode sample RUN`: continue a text with a trained model, to the right or to the left."""

from __future__ import annotations

from enum import StrEnum
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

if TYPE_CHECKING:
    from palinode.use.generate import Sampling

EXAMPLE = (
    '\b\nExample:\n  palinode sample 3f2a --text "Return the "\n'
    '  palinode sample 3f2a --direction rtl --text " and they lived happily ever after."'
)


class Direction(StrEnum):
    """The end of the text at which the model writes."""

    ltr = "ltr"
    rtl = "rtl"


def sample(
    run: Annotated[str, typer.Argument(metavar="RUN", help="(The beginning of) a run's id.")],
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
    store: StoreOption = DEFAULT_STORE,
    code: CodeOption = None,
    allow_code: AllowCodeOption = False,
    json: JsonOption = False,
) -> None:
    """Write text with the model of a run."""
    must_exist(store)
    from palinode.results.store import Store

    place = Store(store)
    directory = place.run_directory(run_named(place, run, "RUN"))
    from palinode.base.errors import BadInput
    from palinode.run.trained import load_trained
    from palinode.spec.load import load_run
    from palinode.use.generate import generate_text

    sampling = _sampling({"temperature": temperature, "top_k": top_k, "top_p": top_p})
    spec = load_run(directory, code_file=code, allow_code=allow_code)
    if not spec.objective.reads_in_a_direction:
        message = f"was trained on {spec.objective.kind_name()!r}, in no reading direction: it cannot continue a text"
        raise BadInput(message, file=run, field="objective")
    trained = load_trained(spec, place)
    written = generate_text(trained, text, tokens, seed, direction=direction.value, sampling=sampling, rows=rows)
    typer.echo(as_json(written) if json else "\n\n".join(written))


def _sampling(options: dict[str, float | None]) -> Sampling:
    """The sampling options that were set, checked.

    Raises:
        BadInput: naming the option.
    """
    from palinode.base.config import decode
    from palinode.base.errors import BadInput
    from palinode.use.generate import Sampling

    try:
        return decode(Sampling, {name: value for name, value in options.items() if value is not None})
    except BadInput as refusal:
        option = f"--{(refusal.field or '').replace('_', '-')}"
        raise BadInput(refusal.message, field=option, hint=refusal.hint) from None
