"""The exchange rate of backward tokens at 46 million parameters: does what `exchange.py` finds at 134,000 hold for larger models?

Model, recipe and data are those of `mask.py --size gpu`: the published block at the smallest published size, WikiText-103, 100
million tokens left to right. `rtl-P` reads as many tokens right to left as `both-P` and none left to right. `gpu` needs an
accelerator and `palinode data get wikitext-103`; `smoke` shows that everything runs.
"""

from typing import Literal

from exchange import X1, X2, percent, ratio
from mask import BASE, DECISION, SCALES, both, sizes
from palinode import Arm, Claim, Experiment
from palinode.objectives import RtlObjective

LTR_TOKENS = 100_000_000
# Share, and whether a coin is thrown for each row or for each batch.
MIXED: tuple[tuple[float, Literal["row", "batch"]], ...] = ((0.05, "row"), (0.05, "batch"), (0.25, "row"))
SHARES = tuple(dict.fromkeys(share for share, _ in MIXED))


def rtl_alone(share: float) -> Arm:
    """Right to left only, on as many tokens as an arm with this share reads right to left."""
    change = {
        "objective": RtlObjective(),
        "recipe.max_tokens_read": round(share * LTR_TOKENS),
        "recipe.max_ltr_tokens": None,
    }
    return Arm(name=f"rtl-{percent(share)}", change=change, note=f"right to left only, on {share:.0%} of the tokens")


def claims() -> tuple[Claim, ...]:
    """X1: what ltr tokens give to the rtl pass. X2: what rtl tokens cost left to right. Predicted is what `exchange.py` found.

    No trials choose a rate, as in the sizes `gpu` and `paper` of `mask.py`.
    """
    rows = []
    for share, granularity in MIXED:
        arm, of_share = both(share, granularity).name, f"{share:.0%} by {granularity}"
        alone = f"rtl-{percent(share)}"
        rows.append(
            ratio("X1", X1.format(of_share), arm, alone, "rtl", expect="below", predicted=0.05, needs_bracket=False)
        )
        rows.append(
            ratio(
                "X2", X2.format(of_share), arm, "ltr", "ltr", expect="above", predicted=share / 10, needs_bracket=False
            )
        )
    return tuple(rows)


experiment = Experiment(
    name="exchange_large",
    question="Do tokens read left to right help the rtl pass of a model with 46 million parameters?",
    about=(
        "The same question as in exchange, for a model that is three hundred times as large: does the text that a model "
        "reads forwards help it to read backwards, and what does the text that it reads backwards cost it forwards?"
    ),
    base=BASE,
    arms=(
        Arm(name="ltr", note="left to right only"),
        *(both(share, granularity) for share, granularity in MIXED),
        *(rtl_alone(share) for share in SHARES),
    ),
    scales=SCALES,
    seeds=(1, 2, 3),
    decision=DECISION,
    sizes={
        "smoke": sizes()["smoke"].with_(arms=("ltr", "both-25-row"), scales=("2x32",)),
        "gpu": sizes()["gpu"].with_(scales=("8x384",)),
    },
    claims=claims(),
)
