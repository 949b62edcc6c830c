"""How soon recall is learned when a model is trained on all tokens, and when it is trained on the answer alone: R1 by steps.

`recall.py` asks the same with six seeds, rates that one trial each chose, and an evaluation every 250 steps, of which some kinds
of models need two. Here are the four kinds whose runs are short, twenty seeds that `recall.py` does not have, an evaluation every
100 steps, and two trials for each rate. The rates are those around the ones that the trials of `recall.py` chose.

The models, the task and the recipe are those of `recall.py`: vocabulary 10, length 20, reading left to right. A run ends when 99 %
of the answers are right, and is compared by the steps after which it was half-way there.
"""

from palinode import Claim, Decision, Experiment, Scale, Size, Tuning
from recall import BASE, LAPTOP, LAPTOP_RECIPE, METRIC, R1, SMALLEST_EFFECT, SMOKE, arm, arm_name

EVERY = {"recipe.evaluate_every_steps": 100}  # the scales of `recall.py` set this field, so it is changed in the scales
# A run takes at most 3 minutes. One of monarch takes 3, and s4d never comes to 99 % in 8,000 steps.
KINDS = ("base_conv", "hyena", "h3", "gated_rnn")
FIRST_SEED, SEEDS = 101, 20
RATES = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)

experiment = Experiment(
    name="recall_steps",
    question="How soon is recall learned from all tokens, and how soon from the answer alone?",
    about=(
        "In associative recall a model reads pairs of a key and a value, then a key that it has seen, and must name the value. A "
        "model can be trained to guess every token of such a row, or the last one alone, which is the answer. This page measures "
        "which of the two teaches sooner, for four kinds of models: in how many steps of training half of the way is made."
    ),
    base=BASE,
    arms=tuple(arm(kind, "causal", labels, (SMOKE[0], *LAPTOP)) for kind in KINDS for labels in ("all", "answer")),
    scales=(
        Scale(name=SMOKE[0].name, change=SMOKE[0].change()),
        *(Scale(name=shape.name, change={**shape.change(), **EVERY}) for shape in LAPTOP),
    ),
    decision=Decision(
        metric=METRIC,
        baseline=arm_name(KINDS[0], "causal", "all"),
        better="higher",
        equal="tokens_read",
        family="none",
        smallest_effect=SMALLEST_EFFECT,
    ),
    sizes={
        "smoke": Size(
            change={f"data.{split}_sequences": 300 for split in ("validation", "tuning", "test")},
            arms=tuple(arm_name(kind, "causal", labels) for kind in KINDS[:1] for labels in ("all", "answer")),
            scales=(SMOKE[0].name,),
            seeds=(1, 2),
        ),
        "laptop": Size(
            change={"recipe": LAPTOP_RECIPE},
            scales=tuple(shape.name for shape in LAPTOP),
            seeds=tuple(range(FIRST_SEED, FIRST_SEED + SEEDS)),
            tuning=Tuning(values=RATES, share_of_steps=0.5, seeds=(0, 1000)),
        ),
    },
    claims=(
        Claim(
            name="R1",
            sentence=f"{R1} Judged by steps.",
            measure="steps_to_learn",
            arm=arm_name("{}", "causal", "all"),
            against=(arm_name("{}", "causal", "answer"),),
            groups=KINDS,
            expect="below",
            bound=1.0,
            predicted=0.9,
            needs_bracket=True,
        ),
    ),
)
