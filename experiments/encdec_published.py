"""Every published embedding loss of the encoder-decoder: with the published norms, and with norms that cannot vanish.

Settings and sizes come from `encdec.py`; the runs of its arms are the same in both experiments. There one loss has an arm with the
published norms. Here all three have one: cosine, MSE, and the author's best, MSE times 8 with subtraction.

The published norms learn a gain and a shift, and the two sides are not centred. So the loss can fall to 0 although the states do
not agree; the audit and check C7 detect it. The claims ask what is left of the published improvements in that case.
"""

from encdec import (
    BASE,
    COMBINED,
    COSINE,
    ENCDEC,
    HALF_WIDTH,
    METRIC,
    MSE,
    MSE_PUBLISHED,
    PUBLISHED_NORMS,
    SCALES,
    SMALLEST_EFFECT,
    SOURCE,
    SUBTRACTING,
    TERMS,
    WITH_COSINE,
    WITH_MSE,
    laptop,
    published,
    sizes,
)
from palinode import Arm, Claim, Decision, Experiment

COSINE_PUBLISHED = Arm(
    name="encdec-cosine-published",
    change={"model.embedding_loss": COSINE.with_(**PUBLISHED_NORMS)},
    note="with the cosine embedding loss through the published norms, which can vanish",
    expect_collapse=True,
)
COMBINED_PUBLISHED = Arm(
    name="encdec-mse8-sub-published",
    change={**SUBTRACTING.change, "model.embedding_loss": MSE.with_(coefficient=8.0, **PUBLISHED_NORMS)},
    note="the author's best: subtraction, and the MSE embedding loss times 8, through the published norms",
    expect_collapse=True,
)
# An arm with norms that cannot vanish, and the arm with the published norms.
PAIRS = ((WITH_COSINE, COSINE_PUBLISHED), (WITH_MSE, MSE_PUBLISHED), (COMBINED, COMBINED_PUBLISHED))


def claims() -> tuple[Claim, ...]:
    """For each published loss: its improvement as published, what the norms change, and the value of the loss at the end."""
    improves = [
        Claim(
            name="E2" if arm is not COMBINED_PUBLISHED else "best",
            sentence=f"{arm.name} has a lower loss than the encoder-decoder without additions.",
            measure="difference",
            arm=arm.name,
            against=(ENCDEC.name,),
            needs_learning=True,
            needs_bracket=True,
            **published(ours.name, ENCDEC.name),
            predicted=0.0,
            half_width=HALF_WIDTH,
            source=SOURCE,
        )
        for ours, arm in PAIRS
    ]
    norms = [
        Claim(
            name="norms",
            sentence=f"The published norms give a lower loss than norms that cannot vanish: {arm.name}.",
            measure="difference",
            arm=arm.name,
            against=(ours.name,),
            needs_learning=True,
            needs_bracket=True,
            predicted=0.0,
            half_width=HALF_WIDTH,
        )
        for ours, arm in PAIRS
    ]
    terms = [
        Claim(
            name="embedding loss",
            sentence="The value of the embedding loss at the end of training.",
            measure="term",
            arm=arm.name,
            expect="shown",
            published=TERMS[ours.name],
            source=SOURCE,
        )
        for ours, arm in PAIRS
    ]
    return (*improves, *norms, *terms)


experiment = Experiment(
    name="encdec_published",
    question="Do the published norms of the encoder-decoder's embedding losses give what was published?",
    about=(
        "A published project trains its model with an additional signal: the two parts of the model shall agree. The "
        "published form of the signal can be satisfied by letting it vanish, and then it says nothing. This page asks "
        "what remains of the published gain with that form, and with a form that cannot vanish. The loss says how "
        "badly a model guesses the next character: lower is better."
    ),
    base=BASE,
    arms=(ENCDEC, *(arm for pair in PAIRS for arm in pair)),
    scales=SCALES,
    seeds=(1, 2, 3, 4, 5),
    decision=Decision(metric=METRIC, baseline=ENCDEC.name, equal="tokens_read", smallest_effect=SMALLEST_EFFECT),
    sizes={**sizes(), "laptop": laptop("encdec", *(arm.name for pair in PAIRS[1:] for arm in pair))},
    claims=claims(),
)
