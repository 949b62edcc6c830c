"""Does training right to left as well help or hurt the left-to-right loss, over depth, width and seeds?

This repeats the question and the arms of the mask experiments. Their README claims that p = 5 % is enough to learn the backward
task, and costs nothing in large models. Here no token can see itself as its own target. Every arm gets the same left-to-right
tokens, and what is read right to left is added to them. `mask_total.py` asks the question at the same total of tokens.
`both-05-published-mask` reads through the published mask; the audit detects its leak at every length.

Sizes: `smoke` draws every chart in minutes; `laptop` takes hours on two cores; `long` trains its smallest model ten times as long,
so that one batch in twenty right to left is enough to learn something; `gpu`, `paper` and `published` need an accelerator.
`published` is `paper` with the batches of the published runs; docs/recipes.md lists what differs. All but smoke read WikiText-2 or
-103: `palinode data get wikitext-2`, or name a folder with --set data.corpus=FOLDER.
"""

import math
from typing import Any

from palinode import (
    Arm,
    BothObjective,
    ChooseObjective,
    Claim,
    Constant,
    DataConfig,
    Decision,
    EvaluationConfig,
    Experiment,
    FlippedLowerTriangle,
    LtrObjective,
    RunSettings,
    Scale,
    Size,
)
from palinode.models.latent import LatentConfig
from palinode.train.growth import LengthGrowth, NormAccumulation
from palinode.train.optim import HlbAdamW
from palinode.train.recipe import Hlb
from palinode.train.schedule import PowerDecay, WarmDown

FIVE, TEN, HALF = Constant(p=0.05), Constant(p=0.1), Constant(p=0.5)
STEP_TOKENS = 16 * 128  # tokens of a step in BASE
STEPS = 300
SLACK = 1.12  # more steps than needed, because what a step reads is random: so the token limit always ends the run


def cells(depths: tuple[int, ...], widths: tuple[int, ...]) -> tuple[Scale, ...]:
    """A scale for every depth and width."""
    return tuple(
        Scale(name=f"{depth}x{width}", change={"model.layers": depth, "model.width": width})
        for depth in depths
        for width in widths
    )


def parameters(depth: int, width: int) -> int:
    """Parameters of a published model: 50,306 ids, its special tokens included."""
    block = (2 * (width // 8) + 4 * width) * width + 2 * width**2 + width + 1
    return 2 * 50_306 * width + width + depth * block


def published_windows(depth: int, width: int, capacity: float = 1.0) -> int:
    """Windows of 1,024 tokens in a published micro-batch, by the law that fits a model's batch into the memory of its GPU.

    Args:
        capacity: the published factor for a GPU of another size. The published tables do not say which value they used.
    """
    size = parameters(depth, width) / 46_009_736
    return math.floor(capacity * 114_688 / (1.52174 + 0.482 * size**0.87)) // 1024


SMOKE = cells((2, 4), (32, 64))
LAPTOP = cells((2, 8), (64, 128, 256))
PAPER = cells((4, 8, 16, 32), (192, 384, 768, 1536))
SCALES = (*SMOKE, *(scale for scale in LAPTOP if scale not in SMOKE), *PAPER)
PUBLISHED_SCALES = tuple(
    Scale(name=f"{scale.name}, {windows} windows", change={**scale.change, "recipe.batch_windows": windows})
    for scale in PAPER
    for windows in [published_windows(scale.change["model.layers"], scale.change["model.width"])]
)


def names(scales: tuple[Scale, ...]) -> tuple[str, ...]:
    return tuple(scale.name for scale in scales)


BASE = RunSettings(
    data=DataConfig(corpus="wikitext-2", tokenizer="bpe:2048", window_tokens=128, split="given"),
    model=LatentConfig(layers=2, width=64),
    objective=LtrObjective(),
    # hlb-gpt's recipe with three changes: a decay that ends, batches that keep their number of tokens, and a rate of its own. The
    # recipe's law of rates was fitted between 20 and 600 million parameters and gives .047 at .3 million; benchmarks/mask_rates.py
    # compares .004 with half and twice of it.
    recipe=Hlb(
        steps=round(STEPS * SLACK),
        max_tokens_read=STEPS * STEP_TOKENS,
        max_ltr_tokens=STEPS * STEP_TOKENS,
        batch_windows=16,
        growth=LengthGrowth(start_tokens=16, double_every_steps=25),
        accumulation=None,
        optimizer=HlbAdamW(learning_rate=0.004),
        schedule=WarmDown(share=0.5, warmup_steps=20),
        evaluate_every_steps=50,
    ),
    evaluation=EvaluationConfig(max_tokens=50_000, layer_cut=True, layer_cut_refit_steps=50),
)

DECISION = Decision(
    metric="validation.ltr.nats_per_token",
    baseline="ltr",
    better="lower",
    equal="tokens_scored_ltr",
    smallest_effect=0.01,
)

PUBLISHED_BATCHES = {
    "recipe.growth": LengthGrowth(late_steps=1),
    "recipe.accumulation": NormAccumulation(most=None, from_first_step=True),
    # The limit of tokens ends the run, also where each step reads one micro-batch of 18 windows.
    "recipe.steps": 60_000,
    # Steps of thousands of windows are slow: a crash loses at most 200 of them.
    "recipe.checkpoint_every_steps": 200,
}

LARGE = {
    "data": DataConfig(corpus="wikitext-103", tokenizer="gpt2", window_tokens=1024, split="given"),
    "recipe.growth": LengthGrowth(),
    "recipe.batch_windows": 55,
    "recipe.optimizer": HlbAdamW(),
    "recipe.schedule": PowerDecay(),
    "recipe.precision": "bfloat16",
    "recipe.evaluate_every_steps": 100,
    "evaluation.max_tokens": None,
    "evaluation.layer_cut_refit_steps": 200,
    "device": "auto",
}


def limits(tokens: int) -> dict[str, int]:
    """The two limits that end a run: so many tokens read in all, so many scored left to right."""
    return {"recipe.max_tokens_read": tokens, "recipe.max_ltr_tokens": tokens}


def sizes() -> dict[str, Size]:
    """The sizes that both questions share."""
    small = {
        "data": DataConfig(corpus="python-docs", tokenizer="byte", window_tokens=64),
        "recipe.steps": 45,
        "recipe.growth.double_every_steps": 10,
        "recipe.schedule.warmup_steps": 5,
        "recipe.evaluate_every_steps": 10,
        "evaluation.max_tokens": 10_000,
        "evaluation.layer_cut_refit_steps": 5,
        **limits(40 * 16 * 64),
    }
    gpu_tokens, paper_tokens = 100_000_000, 1_000_000_000  # paper: ten epochs of WikiText-103
    gpu = {**LARGE, "recipe.steps": 2100, **limits(gpu_tokens)}
    accumulated = {"recipe.accumulation": NormAccumulation(), "recipe.steps": 25_000, **limits(paper_tokens)}
    return {
        "smoke": Size(change=small, scales=names(SMOKE), seeds=(1, 2)),
        "laptop": Size(scales=names(LAPTOP), seeds=(1, 2, 3)),
        "gpu": Size(change=gpu, scales=("8x384", "16x768"), seeds=(1, 2, 3)),
        "paper": Size(change={**LARGE, **accumulated}, scales=names(PAPER), seeds=(1, 2, 3)),
    }


def arms(change: dict[str, Any]) -> tuple[Arm, ...]:
    """The arms without a leak. `change` is applied to those that read right to left."""
    return (
        Arm(name="ltr", note="left to right only"),
        Arm(
            name="both-05",
            change={"objective": BothObjective(p=FIVE), **change},
            note="one batch in twenty rtl as well",
        ),
        Arm(name="both-10", change={"objective": BothObjective(p=TEN), **change}, note="one batch in ten rtl as well"),
        Arm(
            name="choose-05",
            change={"objective": ChooseObjective(p=FIVE, granularity="batch"), **change},
            note="one batch in twenty rtl instead",
        ),
    )


UNTIL_LTR_TOKENS = {"recipe.max_tokens_read": None}  # tokens read right to left do not count towards the end of the run
PUBLISHED = Arm(
    name="both-05-published-mask",
    change={"objective": BothObjective(p=FIVE, rtl_sees=FlippedLowerTriangle()), **UNTIL_LTR_TOKENS},
    note="one batch in twenty rtl as well, through the published mask",
    expect_leak=True,
)

OFTEN = Arm(
    name="both-50",
    change={"objective": BothObjective(p=HALF), **UNTIL_LTR_TOKENS},
    note="every second batch rtl as well, which is enough to learn the rtl task",
)
IN_EVERY_SIZE = (*(arm.name for arm in arms({})), PUBLISHED.name)


ALMOST_PERFECT = 0.02  # rtl loss within 2 % of ltr: twice the difference that Arrows of Time has between the two
SOURCE = (
    "snimu/mask on hlb-gpt 0.4.1, WikiText-103, 46 to 626 million parameters. There the rtl loss was far below the ltr loss, "
    "because its mask let slots see their own targets; the lowest ratio 1 was about .93, and about 1 at 626 million parameters"
)
ONE_RATE = (
    "all arms train at one rate, the first of each size in benchmarks/mask_rates.py, and the best rate changes with the width, so "
    "a trend over the width may come from the rate"
)


def of_ratio_1(name: str, sentence: str, measure: str, **options: Any) -> Claim:
    """A claim about ratio 1: the ltr loss of `ltr` divided by that of `both-05`."""
    return Claim(
        name=name, sentence=sentence, measure=measure, arm="ltr", against=("both-05",), source=SOURCE, **options
    )


def of_ratio_2(name: str, sentence: str, measure: str, over: tuple[str, str], **options: Any) -> Claim:
    """A claim about both losses of `both-05`. It has no verdict before the rtl pass has learned something."""
    sides = {"arm": "both-05", "against": ("both-05",), "directions": over, "needs_learning": True}
    return Claim(name=name, sentence=sentence, measure=measure, source=SOURCE, **sides, **options)


def claims() -> tuple[Claim, ...]:
    """M1 to M5, for both questions. Cut models are scored with refitted heads, and with the trained head as published."""
    claims_in_order = [
        of_ratio_2(
            "M1",
            "Reading one batch in twenty right to left is enough to learn the backward task almost perfectly.",
            "ratio",
            ("rtl", "ltr"),
            expect="below",
            bound=ALMOST_PERFECT,
        ),
        of_ratio_1(
            "M2",
            "With size, models that also read right to left catch up left to right: ratio 1 rises towards 1.",
            "ratio_slope",
            expect="above",
            note=ONE_RATE,
        ),
        of_ratio_1(
            "M3",
            "The effect depends more on width than on depth.",
            "ratio_width_less_depth",
            expect="above",
            note=ONE_RATE,
        ),
    ]
    for head in ("refitted", "trained"):
        claims_in_order.append(
            of_ratio_2(
                "M4",
                "Ratio 2 falls as layers are cut: the later layers do the backward task.",
                "layer_cut",
                ("ltr", "rtl"),
                less_whole=True,
                head=head,
                expect="below",
            )
        )
    for blocks_left, expect, sentence in (
        (0.25, "above", "Early layers of p = .05 models are stronger than those of p = 0 models."),
        (0.5, "below", "Middle layers of p = .05 models are weaker than those of p = 0 models."),
    ):
        for head in ("refitted", "trained"):
            claims_in_order.append(
                of_ratio_1("M5", sentence, "layer_cut", blocks_left=blocks_left, head=head, expect=expect)
            )
    return tuple(claims_in_order)


def own_sizes() -> dict[str, Size]:
    """The sizes that both questions share, and two more.

    `long` trains one small model ten times as long. `published` is `paper` with the published batches.
    """
    longer = {
        "recipe.steps": round(10 * STEPS * SLACK),
        "recipe.growth.double_every_steps": 250,
        "recipe.evaluate_every_steps": 500,
        **limits(10 * STEPS * STEP_TOKENS),
    }
    some = ("ltr", "both-05", OFTEN.name, PUBLISHED.name)
    every = {name: size.with_(arms=IN_EVERY_SIZE) for name, size in sizes().items()}
    return {
        **every,
        "smoke": every["smoke"].with_(arms=tuple(name for name in IN_EVERY_SIZE if name != "both-10")),
        "long": Size(change=longer, arms=some, scales=("2x64",), seeds=(1, 2, 3)),
        "published": every["paper"].with_(
            change={**every["paper"].change, **PUBLISHED_BATCHES}, scales=names(PUBLISHED_SCALES)
        ),
    }


experiment = Experiment(
    name="mask",
    question="Does predicting right to left as well change the left-to-right loss, at equal left-to-right tokens?",
    base=BASE,
    arms=(*arms(UNTIL_LTR_TOKENS), PUBLISHED, OFTEN),
    scales=(*SCALES, *PUBLISHED_SCALES),
    seeds=(1, 2, 3),
    decision=DECISION,
    sizes=own_sizes(),
    claims=claims(),
)
