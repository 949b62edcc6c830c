"""The question of `mask.py` with the published block and recipe: does its answer depend on either?

`mask.py --size laptop` trains `modern` models with Speedrun. Here the same tokens, in the same windows, train the published model
with hlb-gpt's recipe, at the smallest of its sizes.
"""

from mask import (
    BASE,
    DECISION,
    NOVEL_EVALUATION,
    NOVEL_STEPS,
    NOVELS,
    SCALES,
    SLACK,
    SOURCE,
    UNTIL_LTR_TOKENS,
    arms,
    limits,
    sizes,
    tuning,
)
from palinode import Claim, Experiment, Size
from palinode.train.growth import LengthGrowth

BATCH_WINDOWS = 8
NOVEL_TOKENS = NOVEL_STEPS * BATCH_WINDOWS * NOVELS.window_tokens
ASKED = ("ltr", "both-05")


def laptop() -> Size:
    """The tokens and windows of `mask.py --size laptop`. Rows grow in the first eighth of the steps.

    With the factors of `mask.py`, `both-05` was tuned to the lowest, .25, so two lower ones are tried.
    """
    change = {
        "data": NOVELS,
        "evaluation": NOVEL_EVALUATION,
        "recipe.steps": round(NOVEL_STEPS * SLACK),
        "recipe.batch_windows": BATCH_WINDOWS,
        "recipe.growth": LengthGrowth(start_tokens=16, double_every_steps=NOVEL_STEPS // 16),
        "recipe.evaluate_every_steps": 500,
        **limits(NOVEL_TOKENS),
    }
    return Size(
        change=change, arms=ASKED, scales=("2x64",), seeds=(1, 2, 3, 4, 5), tuning=tuning(lower=(0.0625, 0.125))
    )


def of_both(name: str, sentence: str, directions: tuple[str, str], against: str, **options: object) -> Claim:
    return Claim(
        name=name,
        sentence=sentence,
        measure="ratio",
        arm="both-05",
        against=(against,),
        directions=directions,
        needs_bracket=True,
        source=SOURCE,
        **options,
    )


experiment = Experiment(
    name="mask_latent",
    question="Does the published block and recipe change what training right to left as well costs left to right?",
    about=(
        "The same question as in mask, with the model and the training method of the published work: does it cost "
        "anything to let a model that guesses the next character also guess the previous one? Two ways to train may "
        "give two answers; this page shows whether they do."
    ),
    base=BASE,
    arms=tuple(arm for arm in arms(UNTIL_LTR_TOKENS) if arm.name in ASKED),
    scales=SCALES,
    seeds=(1, 2, 3),
    decision=DECISION,
    sizes={"smoke": sizes()["smoke"].with_(arms=ASKED, scales=("2x32",)), "laptop": laptop()},
    claims=(
        of_both(
            "M1",
            "Reading one batch in twenty right to left is enough to learn the backward task almost perfectly.",
            ("rtl", "ltr"),
            "both-05",
            expect="below",
            bound=0.02,
            needs_learning=True,
            published=-0.77,
            predicted=0.4,
            half_width=0.06,
        ),
        of_both(
            "X2",
            "Reading one batch in twenty right to left raises the loss left to right.",
            ("ltr", "ltr"),
            "ltr",
            expect="above",
            predicted=0.004,
            half_width=0.006,
        ),
    ),
)
