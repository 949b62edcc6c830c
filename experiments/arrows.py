"""Is English harder to predict backwards, and does the difference grow with the context? One model for each direction.

Arrows of Time (2401.17505) measured how much higher the loss is right to left, with one model trained for each context length.
Here two arms are trained on whole windows, one arm for each direction, and scored in windows of every length. The report draws the
ratio of the two losses by length, with an interval over seeds. An rtl loss below the ltr loss is taken for a leak until the audits
show that there is none.
"""

from palinode import (
    Arm,
    Claim,
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

# Context length in tokens -> rtl loss / ltr loss - 1.
PUBLISHED = {"16": 0.0007, "32": 0.0018, "64": 0.0048, "128": 0.0084, "256": 0.0090, "512": 0.0102}
LENGTHS = tuple(map(int, PUBLISHED))
SOURCE = "Arrows of Time (arXiv 2401.17505), English, one model trained for each context; read from its figure"
FEW_PERCENT = 0.05
CLAIMS = (
    Claim(
        name="A1",
        sentence="The honest rtl loss lies above the honest ltr loss at the longest context.",
        measure="context",
        arm="rtl",
        longest=True,
        expect="above",
        published=PUBLISHED,
        source=SOURCE,
        note="all rows use the same runs; these were trained at the longest length and are scored in windows of each length",
    ),
    Claim(
        name="A2",
        sentence=f"The two losses differ by at most {FEW_PERCENT:.0%}, at every context length.",
        measure="context",
        arm="rtl",
        expect="within",
        bound=FEW_PERCENT,
        published=PUBLISHED,
        source=SOURCE,
        note="an rtl loss below the ltr loss is taken for a leak until the audits of what each target sees have passed",
    ),
)

experiment = Experiment(
    name="arrows",
    question="How much higher is the loss right to left than left to right, and how does that change with context?",
    about=(
        "Is a text harder to guess from its end to its start than from its start to its end? One model is trained for "
        "each direction and both are scored on the same text. The ratio of their losses says how much harder one "
        "direction is; the page shows how it changes when the models see more of the text."
    ),
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
    claims=CLAIMS,
)
