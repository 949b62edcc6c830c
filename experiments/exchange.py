"""The exchange rate of backward tokens: what a token read right to left buys in the rtl loss, and what it costs in the ltr loss.

Every arm reads the same tokens left to right. `both-P` reads P % of them right to left as well: with one coin for each batch, or
for each row (`both-P-row`). `rtl-P` reads as many tokens right to left and none left to right. So the rtl loss of `both-P` divided
by that of `rtl-P` says what the ltr tokens gave to the rtl pass, and the ltr loss of `both-P` divided by that of `ltr` says what
the rtl tokens cost. The lines through the five shares say how both change when ten times as many tokens are read right to left.

Data, model and recipe are those of `mask.py --size laptop`; its runs of the same arms are the same runs. There the other two shapes
have these arms at P = 5 (claim X1). `palinode data get eltec-eng` fetches the novels. `wikitext` asks the same of a second text,
with two shares. `exchange_large.py` asks it of 46 million parameters.
"""

from typing import Any, Literal

from mask import (
    BASE,
    DECISION,
    ON_NOVELS,
    SCALES,
    both,
    rtl_alone,
    sizes,
    tuning,
)
from palinode import Arm, Claim, DataConfig, Experiment, Size

SHARES = (0.02, 0.05, 0.1, 0.25, 0.5)
GRANULARITIES: tuple[Literal["row", "batch"], ...] = ("row", "batch")
# Share -> what is predicted for the rtl loss over that of `rtl-P` less 1, by row and by batch. Pilots had +.034 and +.114 at .05.
GAINS = {
    0.02: (0.0, 0.1),
    0.05: (0.034, 0.114),
    0.1: (0.03, 0.09),
    0.25: (0.01, 0.05),
    0.5: (0.0, 0.03),
}
# What is claimed of an arm, by its share and coin.
X1 = "Tokens read left to right help the rtl pass, on equal rtl tokens: {}."
X2 = "Tokens read right to left raise the ltr loss, on equal ltr tokens: {}."
EACH_AT_ITS_RATE = (
    "an arm that reads both ways has the rate that is best for its ltr loss, and one that reads right to left only the rate that "
    "is best for its rtl loss, so a part of the effect may come from the rate"
)
HALF_WIDTHS = {"rtl": 0.03, "ltr": 0.006}
SEEDS = (1, 2, 3, 4, 5)
# A second text for the surprise of the first: ltr tokens did not help the rtl pass. Bytes of WikiText-2, and two shares. With a
# tuning part of 2 %, the audit refuses it: eight of its windows occur in the rest of the text.
WIKITEXT = DataConfig(corpus="wikitext-2", tokenizer="byte", window_tokens=64, split="given", tuning_fraction=0.01)
CHECKED = ("ltr", "both-05-row", "both-05", "both-25-row", "rtl-05", "rtl-25")
SMOKE_SHARES = (0.1, 0.25, 0.5)  # a smaller share of 40 steps may draw no row


def percent(share: float) -> str:
    return f"{share * 100:02.0f}"


def ratio(name: str, sentence: str, arm: str, against: str, way: Literal["rtl", "ltr"], **options: Any) -> Claim:
    options = {"measure": "ratio", "half_width": HALF_WIDTHS[way], "needs_bracket": True, **options}
    return Claim(name=name, sentence=sentence, arm=arm, against=(against,), directions=(way, way), **options)


def claims() -> tuple[Claim, ...]:
    """X1: what ltr tokens give to the rtl pass. X2: what rtl tokens cost left to right. X3: coins for rows and for batches."""
    rows = []
    groups = tuple(map(percent, SHARES))
    for at, granularity in enumerate(GRANULARITIES):
        suffix = "-row" if granularity == "row" else ""
        for share in SHARES:
            arm, of_share = f"both-{percent(share)}{suffix}", f"{share:.0%} by {granularity}"
            predicted = GAINS[share][at]
            rows.append(
                ratio(
                    "X1",
                    X1.format(of_share),
                    arm,
                    f"rtl-{percent(share)}",
                    "rtl",
                    expect="below",
                    predicted=predicted,
                    note=EACH_AT_ITS_RATE,
                )
            )
            rows.append(ratio("X2", X2.format(of_share), arm, "ltr", "ltr", expect="above", predicted=share / 10))
        for name, way, against, what in (("X1", "rtl", "rtl-{}", "gain"), ("X2", "ltr", "ltr", "price")):
            rows.append(
                ratio(
                    name,
                    f"The {what} by {granularity} grows with the tokens read right to left.",
                    f"both-{{}}{suffix}",
                    against,
                    way,
                    measure="ratio_by_tokens",
                    groups=groups,
                    expect="below" if way == "rtl" else "above",
                    needs_bracket=False,
                )
            )
    for share in SHARES:
        sentence = f"Choosing the direction for each row gives a lower rtl loss than choosing it for a whole batch: {share:.0%}."
        sides = f"both-{percent(share)}-row", f"both-{percent(share)}"
        rows.append(ratio("X3", sentence, *sides, "rtl", expect="below", predicted=-0.07, half_width=0.05))
    return tuple(rows)


experiment = Experiment(
    name="exchange",
    question="What does a token read right to left buy in the rtl loss, and what does it cost in the ltr loss?",
    about=(
        "A model that reads forwards guesses the next character; one that reads backwards guesses the previous one. "
        "One model can learn both. This page asks what such a model gains from each way: whether the text that it "
        "reads forwards helps it backwards, and what the text that it reads backwards costs it forwards. The loss "
        "says how badly a model guesses the next character: lower is better. Models that are compared read equally "
        "much in the way that is judged. P in the name of an arm is the share, in percent, that "
        "is read backwards."
    ),
    base=BASE,
    arms=(
        Arm(name="ltr", note="left to right only"),
        *(both(share, granularity) for share in SHARES for granularity in GRANULARITIES),
        *(rtl_alone(share) for share in SHARES),
    ),
    scales=SCALES,
    seeds=(1, 2, 3),
    decision=DECISION,
    sizes={
        "smoke": sizes()["smoke"].with_(
            arms=("ltr", *(f"both-{percent(share)}-row" for share in SMOKE_SHARES)), scales=("2x32",)
        ),
        "laptop": Size(change=ON_NOVELS, scales=("2x64",), seeds=SEEDS, tuning=tuning()),
        "wikitext": Size(
            change={**ON_NOVELS, "data": WIKITEXT}, arms=CHECKED, scales=("2x64",), seeds=SEEDS, tuning=tuning()
        ),
    },
    claims=claims(),
)
