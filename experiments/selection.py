"""What a choice on the test set adds: the best of five learning rates on recall, chosen by the test score or by another split.

The published recall suites use one set of sequences to choose a setting and to report it. Here every rate is an arm, and a run is
scored at its end on two sets that share no prompt: validation and test. For each seed, one rate is chosen by the validation score
and one by the test score. Both are reported on the test set. The difference is what the choice on the reported set adds. It grows
with the number of settings and with the noise of the score, so the sets have the published size: 500 sequences.
"""

from palinode import (
    Arm,
    Claim,
    Decision,
    Experiment,
    LtrObjective,
    RunSettings,
    Size,
    TaskData,
)
from palinode.data.tasks import AssociativeRecall
from recall import BASE, LAPTOP_RECIPE, MIXERS

WIDTH = 64
PUBLISHED_SEQUENCES = 500
RATES = tuple(f"{rate:g}" for rate in (0.0005, 0.001, 0.002, 0.004, 0.008))
# Attention and a state space model. 1,000 steps, as there is nothing to choose from where every run has learned the task.
CHOSEN_FROM = ("attention", "h3")


def arm(mixer: str, rate: str) -> Arm:
    change = {"model": MIXERS[mixer](WIDTH, False), "recipe.optimizer.learning_rate": float(rate)}
    return Arm(name=f"{mixer} at {rate}", note=f"{mixer} at a rate of {rate}", change=change)


experiment = Experiment(
    name="selection",
    question="What does a score gain when the learning rate is chosen on the test set?",
    about=(
        "A model is trained with several learning rates, and the best one is reported. If the set that chooses is also the set "
        "that is reported, luck counts as skill: the rate that happened to fit these questions wins. This page measures how "
        "much that adds to the share of right answers."
    ),
    base=RunSettings(
        objective=LtrObjective(),
        data=TaskData(
            task=AssociativeRecall(vocabulary=10, length=20),
            validation_sequences=PUBLISHED_SEQUENCES,
            test_sequences=PUBLISHED_SEQUENCES,
        ),
        model=BASE.model,
        recipe=LAPTOP_RECIPE.with_(steps=1000, stop_at_accuracy=None),
        evaluation=BASE.evaluation.with_(test=True),
    ),
    arms=tuple(arm(mixer, rate) for mixer in CHOSEN_FROM for rate in RATES),
    seeds=(1, 2, 3, 4, 5, 6, 7, 8),
    decision=Decision(
        metric="validation.own.accuracy",
        baseline=f"attention at {RATES[0]}",
        better="higher",
        smallest_effect=0.02,
    ),
    sizes={
        "smoke": Size(
            change={"recipe.steps": 120, "recipe.evaluate_every_steps": 60},
            arms=tuple(f"attention at {rate}" for rate in RATES[:2]),
            seeds=(1, 2),
        ),
        "laptop": Size(),
    },
    claims=tuple(
        Claim(
            name="leak",
            sentence=f"A rate that is chosen on the test set makes {mixer} look better.",
            measure="selection",
            arm=f"{mixer} at {{}}",
            groups=RATES,
            expect="above",
            predicted=0.01,
            half_width=0.01,
            note="an amount that is smaller than matters counts as does not hold; this was decided after the result was seen",
        )
        for mixer in CHOSEN_FROM
    ),
)
