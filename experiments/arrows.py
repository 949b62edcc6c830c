"""Is English harder to predict backwards, and does that grow with context? One model per direction, scored at many context lengths.

Arrows of Time (2401.17505) measured rtl / ltr - 1 for English at .07 / .18 / .48 / .84 / .90 / 1.02 % for contexts of 16 / 32 /
64 / 128 / 256 / 512 tokens, with a model trained for each. Here two arms are trained at the full window, one direction each, and
scored in windows of every length; the report shows the ratio over the length with an interval over seeds. rtl below ltr means
a leak until proven otherwise.
"""

from palinode import (
    Arm,
    DataConfig,
    Decision,
    EvaluationConfig,
    Experiment,
    LtrObjective,
    RtlObjective,
    RunSettings,
    Size,
    Speedrun,
    modern,
)

LENGTHS = (16, 32, 64, 128, 256, 512)

experiment = Experiment(
    name="arrows",
    question="How much higher is the loss right to left than left to right, and how does that change with context?",
    base=RunSettings(
        data=DataConfig(corpus="wikitext-2", tokenizer="bpe:2048", window_tokens=512, split="given"),
        model=modern(layers=4, width=128, heads=4),
        objective=LtrObjective(),
        recipe=Speedrun(steps=600, batch_windows=8, evaluate_every_steps=100),
        evaluation=EvaluationConfig(max_tokens=200_000, context_lengths=LENGTHS),
    ),
    arms=(
        Arm(name="ltr", note="left to right only"),
        Arm(name="rtl", change={"objective": RtlObjective()}, note="right to left only"),
    ),
    seeds=(1, 2, 3),
    decision=Decision(metric="validation.own.nats_per_token", baseline="ltr", better="lower", smallest_effect=0.005),
    sizes={
        "smoke": Size(
            change={
                "data": DataConfig(corpus="python-docs", tokenizer="byte", window_tokens=512),
                "recipe.steps": 20,
                "recipe.evaluate_every_steps": 10,
                "evaluation.max_tokens": 20_000,
            },
            seeds=(1, 2),
        ),
        "laptop": Size(),
    },
)
