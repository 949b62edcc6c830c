"""Does reading text right to left as well help a language model that reads left to right? And what does a leak look like?

Three arms are trained on the English documentation that every Python installation contains. The arm `both` reads each batch right
to left as well, with probability p. `both-published-mask` does the same through the mask that was published for it,
tril(ones(1024, 1024)).flip(0) cut to the window. Through this mask a position can see the token that it has to predict. Without
the arm's `expect_leak`, Palinode refuses to run it.
"""

from palinode import (
    Arm,
    BothObjective,
    Claim,
    Constant,
    DataConfig,
    Decision,
    EvaluationConfig,
    Experiment,
    FlippedLowerTriangle,
    LtrObjective,
    RunSettings,
    Size,
    Speedrun,
    modern,
)

P = Constant(p=0.5)  # high enough for the right-to-left loss to change visibly in two hundred steps

experiment = Experiment(
    name="demo",
    question="Does predicting text right to left as well help or hurt the left-to-right loss?",
    about=(
        "A language model learns to guess the next piece of a text. Here one arm learns to read the text backwards as "
        "well. A second arm does the same with a published mistake, through which it sees the very piece that it has "
        "to guess. The page shows what reading backwards costs, and how large a false gain the mistake makes."
    ),
    base=RunSettings(
        data=DataConfig(corpus="python-docs", tokenizer="byte", window_tokens=128),
        model=modern(layers=2, width=64, heads=2),
        objective=LtrObjective(),
        recipe=Speedrun(steps=200, batch_windows=16, evaluate_every_steps=50),
        evaluation=EvaluationConfig(max_tokens=60_000, curve_tokens=15_000),
    ),
    arms=(
        Arm(name="ltr", note="left to right only"),
        Arm(name="both", change={"objective": BothObjective(p=P)}, note="right to left as well"),
        Arm(
            name="both-published-mask",
            change={"objective": BothObjective(p=P, rtl_sees=FlippedLowerTriangle())},
            note="right to left as well, through the published mask",
            expect_leak=True,
        ),
    ),
    seeds=(1, 2, 3),
    decision=Decision(
        metric="validation.ltr.nats_per_token",
        baseline="ltr",
        better="lower",
        equal="window_tokens",
        smallest_effect=0.02,
    ),
    claims=(
        Claim(
            name="cost",
            sentence="Reading right to left as well changes the loss left to right.",
            measure="ratio",
            arm="both",
            against=("ltr",),
            directions=("ltr", "ltr"),
            expect="shown",
        ),
        Claim(
            name="leak",
            sentence="The published mask, which shows the answer, changes the loss right to left.",
            measure="ratio",
            arm="both-published-mask",
            against=("both",),
            directions=("rtl", "rtl"),
            expect="shown",
        ),
    ),
    sizes={
        "smoke": Size(change={"recipe.steps": 20, "recipe.evaluate_every_steps": 10}, seeds=(1, 2)),
        "laptop": Size(
            change={
                "model.layers": 4,
                "model.width": 128,
                "model.heads": 4,
                "recipe.steps": 2000,
                "recipe.evaluate_every_steps": 200,
            },
            seeds=(1, 2, 3, 4, 5),
        ),
    },
)
