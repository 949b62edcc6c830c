"""How soon recall is learned when a model is trained on all tokens, and when it is trained on the answer alone: R1 by steps.

`recall.py` asks the same, and its answer is rough: six seeds, rates that one trial each chose by the steps to 99 % right answers,
and an evaluation every 250 steps, at the first of which some models are half-way. Here a run ends at 80 %, a little after it came
half-way, so that rates are chosen by what is compared. An evaluation comes every 50 steps, and each rate has two trials. The seeds
are others than those of `recall.py`, whose results were known when this file was written.

Each arm has five rates, around the one that took the fewest steps to 80 % in the trials of `recall.py`. Where the highest of the
five took the fewest here, all five were moved up before any run had ended. A trial is as long as a run, because
`s4d-causal-answer` came to 80 % in no trial of half the steps.

The kinds of models are those of which every run of `recall.py` came half-way with both labels. Models, task and recipe are those of
`recall.py`: vocabulary 10, length 20, reading left to right.
"""

from palinode import Arm, Claim, Decision, Experiment, Scale, Size, Tuning
from recall import BASE, LAPTOP, LAPTOP_RECIPE, METRIC, R1, SMALLEST_EFFECT, SMOKE, arm, arm_name

FINER = {"recipe.evaluate_every_steps": 50}  # the scales of `recall.py` set this field, so it is changed in the scales
KINDS = ("base_conv", "hyena", "h3", "s4d", "monarch", "gated_rnn")
STOP_AT_ACCURACY = 0.8  # half-way lies between .75 and .76: midway between the most frequent value in context and 1
SEEDS, TRIAL_SEEDS = tuple(range(101, 117)), (1000, 1001)
# The middle one of the five rates of each arm. It comes from the trials of `recall.py`: the rate with the fewest steps to 80 %, of
# equal ones one in the middle; for s4d on the answer alone, whose trials never came there, the rate of its runs. Five of these were
# then doubled, because the highest of the five rates was best: base_conv and h3 on all tokens, hyena, s4d and gated_rnn on the
# answer alone.
FIRST_RATES = {
    "base_conv": {"all": 0.008, "answer": 0.002},
    "hyena": {"all": 0.001, "answer": 0.001},
    "h3": {"all": 0.008, "answer": 0.002},
    "s4d": {"all": 0.008, "answer": 0.008},
    "monarch": {"all": 0.001, "answer": 0.0005},
    "gated_rnn": {"all": 0.008, "answer": 0.008},
}
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def arm_with_rate(kind: str, labels: str) -> Arm:
    """The causal arm of `recall.py`, which has its first rate at the laptop scale."""
    as_in_recall = arm(kind, "causal", labels, (SMOKE[0], *LAPTOP))
    rate = {"recipe.optimizer.learning_rate": FIRST_RATES[kind][labels]}
    return as_in_recall.with_(
        at={**as_in_recall.at, **{shape.name: {**as_in_recall.at[shape.name], **rate} for shape in LAPTOP}}
    )


experiment = Experiment(
    name="recall_steps",
    question="How soon is recall learned from all tokens, and how soon from the answer alone?",
    about=(
        "In associative recall a model reads pairs of a key and a value, then a key that it has seen, and must name the value. A "
        "model can be trained to guess every token of such a row, or the last one alone, which is the answer. This page measures "
        "which of the two teaches sooner, for six kinds of models: in how many steps of training half of the way is made."
    ),
    base=BASE,
    arms=tuple(arm_with_rate(kind, labels) for kind in KINDS for labels in ("all", "answer")),
    scales=(
        Scale(name=SMOKE[0].name, change=SMOKE[0].change()),
        *(Scale(name=shape.name, change={**shape.change(), **FINER}) for shape in LAPTOP),
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
            change={"recipe": LAPTOP_RECIPE.with_(stop_at_accuracy=STOP_AT_ACCURACY)},
            scales=tuple(shape.name for shape in LAPTOP),
            seeds=SEEDS,
            tuning=Tuning(factors=FACTORS, seeds=TRIAL_SEEDS),
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
