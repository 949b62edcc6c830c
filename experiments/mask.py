"""Does training right to left as well help or hurt the left-to-right loss, over depth, width and seeds?

This repeats the question and the arms of the mask experiments. Their README claims that p = 5 % is enough to learn the backward
task, and costs nothing in large models. Here no token can see itself as its own target. Every arm gets the same left-to-right
tokens, and what is read right to left is added to them. `mask_total.py` asks the question at the same total of tokens.
`both-05-published-mask` reads through the published mask; the audit detects its leak at every length.

Sizes: `smoke` draws every chart in minutes; `laptop` and `long` take hours on two cores and read the bytes of 99 English novels
with `modern` models, because in so few tokens one batch in twenty teaches something there (`palinode data get eltec-eng`).
`laptop` has three shapes, of which two differ in width and two in depth. `long` trains the smallest eight times as long, so it
shows whether a gap closes with tokens. `mask_latent.py` asks the same of the published block and recipe. `gpu`, `paper` and
`published` need an accelerator and read WikiText-103 (`palinode data get wikitext-103`). `published` is `paper` with the batches
of the published runs; docs/recipes.md lists what differs.
"""

import math
from typing import Any, Literal

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
    RtlObjective,
    RunSettings,
    Scale,
    Size,
    Speedrun,
    Tuning,
    modern,
)
from palinode.models.latent import LatentConfig
from palinode.train.growth import LengthGrowth, NormAccumulation
from palinode.train.optim import HlbAdamW
from palinode.train.recipe import Hlb
from palinode.train.schedule import PowerDecay, WarmDown

FIVE, TEN = Constant(p=0.05), Constant(p=0.1)
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


CAMPAIGN = ("2x64", "2x128", "6x64")  # two widths of one depth, two depths of one width
SMOKE = cells((2, 4), (32, 64))
LAPTOP = cells((2, 8), (64, 128, 256))
PAPER = cells((4, 8, 16, 32), (192, 384, 768, 1536))
# Only the deepest shape is cut: with one or two blocks left of two, nothing is learned about layers.
CUT = Scale(
    name="6x64",
    change={
        "model.layers": 6,
        "model.width": 64,
        "evaluation.layer_cut": True,
        "evaluation.layer_cut_refit_steps": 100,
    },
)
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
    # recipe's law of rates was fitted between 20 and 600 million parameters and gives .047 at .3 million. `laptop` and `long`
    # choose their rates by trials.
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

# The bytes of the novels, and the recipe of the laptop's sizes: 2,000 steps read 1.02 million bytes left to right.
NOVELS = DataConfig(
    corpus="eltec-eng",
    tokenizer="byte",
    window_tokens=64,
    split="documents",
    validation_fraction=0.1,
    tuning_fraction=0.01,
)
NOVEL_STEPS, LONG_STEPS = 2000, 15_625
NOVEL_EVALUATION = EvaluationConfig(max_tokens=200_000, windows="spread", curve_tokens=30_000)
ON_NOVELS: dict[str, Any] = {
    "data": NOVELS,
    "model": modern(layers=2, width=64, heads=2),
    "recipe": Speedrun(steps=NOVEL_STEPS, batch_windows=8, evaluate_every_steps=500),
    "evaluation": NOVEL_EVALUATION,
}
RATES = "recipe.optimizer.rate_factor"
LONG_TRIAL = (
    0.5 * NOVEL_STEPS / LONG_STEPS
)  # the trials of `long` take as many steps as those of `laptop`, and are the same runs


def tuning(share: float = 0.5, lower: tuple[float, ...] = ()) -> Tuning:
    """All rates of an arm are multiplied by the best of five factors; a trial takes this share of the arm's steps.

    An arm that reads right to left only is tuned right to left: by its ltr loss, the factor that taught it least was chosen. Arms
    of few steps were best at 2, so 4 is tried too. `lower` are factors to try below these.
    """
    at_the_end = {"recipe.evaluate_every_steps": None}
    values = (*lower, 0.25, 0.5, 1.0, 2.0, 4.0)
    return Tuning(field=RATES, values=values, change=at_the_end, share_of_steps=share, by_own_pass=True)


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

FEW = 0.05
RTL = Arm(name="rtl", change={"objective": RtlObjective(), **UNTIL_LTR_TOKENS}, note="right to left only")


def rtl_alone(p: float) -> Arm:
    """Right to left only, on as many tokens as an arm with this p reads right to left."""
    steps = round(p * NOVEL_STEPS)
    change = {"objective": RtlObjective(), "recipe.steps": steps, "recipe.evaluate_every_steps": steps}
    note = f"right to left only, on the tokens that p = {p:g} reads right to left"
    return Arm(name=f"rtl-{p * 100:02.0f}", change=change, note=note)


def both(p: float, granularity: Literal["row", "batch"]) -> Arm:
    """Rtl as well, with one coin for each row or for each batch."""
    objective = BothObjective(p=Constant(p=p), granularity=granularity)
    name = f"both-{p * 100:02.0f}" + ("-row" if granularity == "row" else "")
    note = f"{p:.0%} of all {'rows' if granularity == 'row' else 'batches'} rtl as well"
    return Arm(name=name, change={"objective": objective, **UNTIL_LTR_TOKENS}, note=note)


BY_ROW = tuple(both(p, "row") for p in (0.05, 0.1, 0.25, 0.5))
IN_EVERY_SIZE = (*(arm.name for arm in arms({})), PUBLISHED.name)


ALMOST_PERFECT = (
    0.02  # rtl loss at most 2 % above: twice the difference that Arrows of Time has between the two directions
)
SOURCE = (
    "snimu/mask on hlb-gpt 0.4.1, WikiText-103, 46 to 626 million parameters. There the rtl loss was far below the ltr loss, "
    "because its mask let slots see their own targets; the lowest ratio 1 was about .93, and about 1 at 626 million parameters"
)
ONE_RATE = "all arms train at one rate, and the best rate changes with the width, so a trend over the width may come from the rate"


ENOUGH = "Reading one batch in twenty right to left is enough to learn the backward task almost perfectly."
CATCH_UP = "With size, models that also read right to left catch up left to right: ratio 1 rises towards 1."
PUBLISHED_GAP = -0.77  # rtl loss .756 and ltr loss 3.29 nats of one model with 136 million parameters, p = .05
PUBLISHED_PRICE = -0.07  # ratio 1 is .93 at 53 to 107 million parameters


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
            "M1", ENOUGH, "ratio", ("rtl", "ltr"), expect="below", bound=ALMOST_PERFECT, published=PUBLISHED_GAP
        ),
        of_ratio_1(
            "M2",
            "Reading one batch in twenty right to left as well makes the ltr loss of small models higher: ratio 1 is below 1.",
            "ratio",
            expect="below",
            published=PUBLISHED_PRICE,
        ),
        of_ratio_1(
            "M2",
            CATCH_UP,
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


def rtl_claim(name: str, sentence: str, arm: str, predicted: float, **options: Any) -> Claim:
    """A claim about the rtl loss of an arm, divided by that of the arm that reads right to left only."""
    return Claim(
        name=name,
        sentence=sentence,
        measure="ratio",
        arm=arm,
        directions=("rtl", "rtl"),
        source=SOURCE,
        predicted=predicted,
        **{"against": ("rtl",), "half_width": 0.05, "needs_bracket": True, **options},
    )


# Ratio 1 rose from .93 at 53 to 107 million parameters to 1 at 626 million: by .078 for ten times the parameters. Models whose
# ratio 1 is nearer to 1 have no such gap to close, so this slope is not compared with ours.
NO_SUCH_GAP = (
    "the published slope is +.078 for ten times the parameters, from a ratio 1 of .93; it is not compared, because a model whose "
    "ratio 1 is nearer to 1 has less to catch up"
)
# (name, head of a layer cut, share of the blocks) -> what is predicted, and the half-width that 5 seeds promise. Pilots (one seed a
# cell) gave .005 to .009 nats for the standard deviation of a paired difference: .003 to .005 of a loss of 1.71.
PREDICTED = {
    ("M2", "refitted", 1.0): (0.0, 0.013),
    ("M3", "refitted", 1.0): (0.0, 0.01),
    ("M4", "refitted", 1.0): (0.1, 0.03),
    ("M4", "trained", 1.0): (0.05, 0.05),
    ("M5", "refitted", 0.25): (0.0, 0.006),
    ("M5", "trained", 0.25): (0.0, 0.02),
    ("M5", "refitted", 0.5): (0.0, 0.006),
    ("M5", "trained", 0.5): (0.0, 0.02),
}


def own_claims() -> tuple[Claim, ...]:
    """The claims of both questions with what is predicted, and those that need an arm that reads right to left only."""
    good = "Reading one batch in twenty right to left gives a backward loss at most 2 % above that of reading right to left only."
    row = {"expect": "below", "bound": ALMOST_PERFECT, "needs_learning": True}
    first, *others = map(promised, claims())
    arrow = "The loss right to left lies above the loss left to right, each with a model of its own."
    return (
        first,
        rtl_claim("M1", good, "both-05", 0.41, **row),
        rtl_claim("M1", "The same with one row in twenty.", "both-05-row", 0.31, **row),
        rtl_claim(
            "M1", "The same through the published mask, which shows targets.", PUBLISHED.name, -0.88, expect="shown"
        ),
        first.with_(
            sentence="Through the published mask, which shows targets: the backward loss beside the forward loss of the same "
            "model.",
            arm=PUBLISHED.name,
            against=(PUBLISHED.name,),
            expect="shown",
            bound=0.0,
        ),
        rtl_claim(
            "X1",
            "Tokens read left to right help the rtl pass: its loss is lower than without them, on equal rtl tokens.",
            "both-05-row",
            0.034,
            against=("rtl-05",),
            expect="below",
            half_width=0.03,
        ),
        *others,
        Claim(
            name="A1",
            sentence=arrow,
            measure="ratio",
            arm="rtl",
            against=("ltr",),
            directions=("rtl", "ltr"),
            expect="above",
            needs_learning=True,
            needs_bracket=True,
            published=0.0007,
            predicted=-0.001,
            half_width=0.004,
            source="Arrows of Time (arXiv 2401.17505), English, 16 tokens of context, about 64 bytes; read from its figure",
        ),
    )


def promised(claim: Claim) -> Claim:
    """A claim of both questions with what is predicted and promised for it, judged only where the trials bracket the best rate."""
    planned = PREDICTED.get((claim.name, claim.head, claim.blocks_left)) if claim.measure != "ratio" else None
    note = NO_SUCH_GAP if claim.measure == "ratio_slope" else ""
    if planned is None:
        return claim.with_(needs_bracket=True, note=note)
    predicted, half_width = planned
    return claim.with_(predicted=predicted, half_width=half_width, needs_bracket=True, note=note)


def own_sizes() -> dict[str, Size]:
    """The sizes that both questions share, with the laptop's on novels, and two more.

    `long` trains one small model eight times as long; its trials are those of `laptop`. `published` is `paper` with the published
    batches.
    """
    laptop = ("ltr", RTL.name, "rtl-05", "both-05", *(arm.name for arm in BY_ROW[:3]), PUBLISHED.name)
    some = ("ltr", RTL.name, "both-05", "both-05-row", "both-50-row", PUBLISHED.name)
    longer = {**ON_NOVELS, "recipe": ON_NOVELS["recipe"].with_(steps=LONG_STEPS, evaluate_every_steps=2500)}
    seeds = (1, 2, 3, 4, 5)
    every = {name: size.with_(arms=IN_EVERY_SIZE) for name, size in sizes().items()}
    return {
        **every,
        "smoke": every["smoke"].with_(arms=tuple(name for name in IN_EVERY_SIZE if name != "both-10")),
        "laptop": Size(change=ON_NOVELS, arms=laptop, scales=CAMPAIGN, seeds=seeds, tuning=tuning()),
        "long": Size(change=longer, arms=some, scales=("2x64",), seeds=seeds, tuning=tuning(LONG_TRIAL)),
        "published": every["paper"].with_(
            change={**every["paper"].change, **PUBLISHED_BATCHES}, scales=names(PUBLISHED_SCALES)
        ),
    }


experiment = Experiment(
    name="mask",
    question="Does predicting right to left as well change the left-to-right loss, at equal left-to-right tokens?",
    about=(
        "A language model learns to guess the next character of a text from what stands before it. Some published "
        "work lets the same model also learn, now and then, to guess the previous character from what stands after "
        "it, and claims that a little of this is enough and costs nothing. The published code had a leak: the model "
        "could see the character that it had to guess. Here the same question is asked without the leak. The loss "
        "says how badly a model guesses the next character: lower is better. The arms differ in how much they read "
        "backwards; the same text is read forwards by every arm that reads forwards."
    ),
    base=BASE,
    arms=(*arms(UNTIL_LTR_TOKENS), PUBLISHED, RTL, rtl_alone(FEW), *BY_ROW),
    scales=(*SCALES, *PUBLISHED_SCALES, CUT),
    seeds=(1, 2, 3),
    decision=DECISION,
    sizes=own_sizes(),
    claims=own_claims(),
)
