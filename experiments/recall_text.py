"""The mixers of `recall.py` as causal models of text: does accuracy on recall predict the loss on text (R3)?

The models have two layers of the same width as on recall, and the same optimizer; the rate is chosen for every mixer. R3, a claim
of `recall.py`, compares accuracy and loss. All but smoke read WikiText: `palinode data get wikitext-2`, or --set
data.corpus=FOLDER.
"""

from collections.abc import Mapping
from typing import Any

from palinode import (
    Arm,
    DataConfig,
    Decision,
    EvaluationConfig,
    Experiment,
    LtrObjective,
    MuonAdamW,
    RunSettings,
    Scale,
    Size,
    Speedrun,
    Tuning,
)
from recall import FOR_R3, IN_SMOKE, MIXERS, RATES, VARIANTS, rotary

METRIC = "validation.ltr.nats_per_token"
SMALLEST_EFFECT = 0.01  # nats
WIDTHS = {"smoke": 16, "laptop": 64, "gpu": 64}


def scale(name: str, steps: int, evaluations: int = 10) -> Scale:
    return Scale(name=name, change={"recipe.steps": steps, "recipe.evaluate_every_steps": max(1, steps // evaluations)})


def arm(mixer: str) -> Arm:
    """The arm of one mixer; at each scale its model has the scale's width."""
    return Arm(
        name=mixer, at={name: {"model": {**MIXERS, **VARIANTS}[mixer](width, False)} for name, width in WIDTHS.items()}
    )


BASE = RunSettings(
    data=DataConfig(corpus="wikitext-2", tokenizer="bpe:2048", window_tokens=128, split="given", tuning_fraction=0.02),
    model=rotary(WIDTHS["laptop"]),
    objective=LtrObjective(),
    recipe=Speedrun(
        steps=1000, batch_windows=8, optimizer=MuonAdamW(matrix_learning_rate=0.02), evaluate_every_steps=100
    ),
    evaluation=EvaluationConfig(directions=("ltr",), max_tokens=60_000),
)


def sizes() -> Mapping[str, Size]:
    smoke: dict[str, Any] = {
        "data": DataConfig(corpus="python-docs", tokenizer="byte", window_tokens=64, tuning_fraction=0.02),
        "evaluation.max_tokens": 5_000,
    }
    large: dict[str, Any] = {
        "data": DataConfig(
            corpus="wikitext-103", tokenizer="bpe:16384", window_tokens=512, split="given", tuning_fraction=0.002
        ),
        "recipe.precision": "bfloat16",
        "recipe.batch_windows": 64,
        "evaluation.max_tokens": None,
        "device": "auto",
    }
    factors = (0.5, 1.0, 2.0, 4.0, 8.0)
    at_the_end = {"recipe.evaluate_every_steps": None}
    return {
        "smoke": Size(
            change=smoke,
            arms=IN_SMOKE,
            scales=("smoke",),
            seeds=(1, 2),
            tuning=Tuning(field=RATES, values=(0.5, 2.0), change={"recipe.steps": 12, **at_the_end}),
        ),
        "laptop": Size(
            arms=FOR_R3,
            scales=("laptop",),
            seeds=(1, 2, 3),
            tuning=Tuning(field=RATES, values=factors, change={"recipe.steps": 400, **at_the_end}),
        ),
        "gpu": Size(
            change=large,
            arms=tuple(MIXERS),
            scales=("gpu",),
            seeds=(1, 2, 3),
            tuning=Tuning(field=RATES, values=factors, change={"recipe.steps": 2000, **at_the_end}),
        ),
    }


experiment = Experiment(
    name="recall_text",
    question="How well do the mixers of the recall experiment model text?",
    about=(
        "The kinds of models of the page recall, trained on ordinary text. The two pages together ask whether a model "
        "that is good at looking things up is also good at guessing text. The loss says how badly a model guesses the "
        "next piece of a word: lower is better."
    ),
    base=BASE,
    arms=tuple(arm(mixer) for mixer in (*MIXERS, *VARIANTS)),
    scales=(scale("smoke", 40), scale("laptop", 1000), scale("gpu", 8000, 40)),
    seeds=(1, 2, 3),
    decision=Decision(metric=METRIC, baseline="attention", equal="tokens_read", smallest_effect=SMALLEST_EFFECT),
    sizes=sizes(),
)
