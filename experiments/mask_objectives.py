"""Ways to mix the two directions: a fixed, ending or adaptive share; whole batches or rows; with or without direction tokens.

The author of the mask experiments tried several of them and did not compare them. Settings and sizes are those of `mask.py`; every
arm gets the same left-to-right tokens.
"""

from mask import BASE, DECISION, FIVE, SCALES, UNTIL_LTR_TOKENS, sizes
from palinode import Adaptive, Arm, BothObjective, ChooseObjective, Cooldown, Experiment, Objective


def mixing(name: str, note: str, objective: Objective) -> Arm:
    return Arm(name=name, note=note, change={"objective": objective, **UNTIL_LTR_TOKENS})


experiment = Experiment(
    name="mask_objectives",
    question="Does it matter how right-to-left batches are mixed in, at equal left-to-right tokens?",
    base=BASE,
    arms=(
        Arm(name="ltr", note="left to right only"),
        mixing("both-05", "one batch in twenty rtl as well", BothObjective(p=FIVE)),
        mixing("both-05-untold", "the same without direction tokens", BothObjective(p=FIVE, direction_token=False)),
        mixing("both-cooldown", "one batch in ten rtl as well, none at the end", BothObjective(p=Cooldown(p=0.1))),
        mixing("both-adaptive", "rtl as often as the published rule gives", BothObjective(p=Adaptive())),
        mixing(
            "both-adaptive-gap",
            "rtl more often, the further its loss is above the ltr loss",
            BothObjective(p=Adaptive(rule="difference")),
        ),
        mixing("choose-05", "one batch in twenty rtl instead", ChooseObjective(p=FIVE, granularity="batch")),
        mixing("choose-05-rows", "one row in twenty rtl instead", ChooseObjective(p=FIVE, granularity="row")),
    ),
    scales=SCALES,
    seeds=(1, 2, 3),
    decision=DECISION,
    sizes={name: size.with_(scales=("2x32",)) if name == "smoke" else size for name, size in sizes().items()},
)
