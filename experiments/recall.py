"""Associative recall: mixers, trained on all tokens or on the answer alone, reading left to right or without a direction.

The questions come from an issue thread of the safari repository. R1: does training on all next tokens make recall easier to learn
than training on the answer, though only the answer is scored? R2: does the task need causality at all? R3: does the accuracy here
predict the loss on text? For R3, `recall_text.py` trains the same causal models on text. `palinode findings` judges R1 to R3.

Arms are named `<mixer>-<visibility>-<labels>`.

    causal-all       ltr, every token is a target, as published
    causal-answer    ltr, the answer is the only target
    full-all         every token sees every other; the answer is hidden, and 15 % of all tokens: a masked language model
    full-answer      every token sees every other; only the answer is hidden: a classifier of the answer

All of them are scored on the answer alone, with nothing else hidden, on sequences whose prompts no training sequence has. New
training sequences are drawn all the time; only `paper` trains 200 epochs over 2000 sequences. The learning rate of every arm, or
one factor of all its rates, is chosen by the same number of trials for each arm, on prompts that are used for nothing else.

The blocks are those of `modern` with an untied head. The optimizer is Muon with AdamW; `laptop` and `paper` have the published
AdamW. A run of `laptop` ends when 99 % of the answers are right. Monarch Mixer has its block-diagonal MLP; without a direction it
is the recall model that its authors describe and did not release. Convolutions and recurrences need no positions, because their
result depends on the order of slots. Mixers without a longest row are also scored on sequences 2 and 4 times as long.

Sizes: `smoke` draws every chart in minutes, and tunes nothing; `laptop` takes hours on two cores, at vocabulary 10, and has six
seeds; `laptop-attention` has ten seeds of attention and linear attention; `gpu` and `paper` need an accelerator and have larger
vocabularies. R3 needs the rank of twelve mixers, so `laptop` trains some further ones as published, causal and on all tokens.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palinode import (
    AdamW,
    Arm,
    Claim,
    Decision,
    DecoderConfig,
    EvaluationConfig,
    Experiment,
    Gpt2AdamW,
    LtrObjective,
    MaskedObjective,
    MuonAdamW,
    RunSettings,
    Scale,
    Size,
    Speedrun,
    TaskData,
    Tuning,
    modern,
)
from palinode.data.tasks import AssociativeRecall
from palinode.models.mixers.attention import AttentionConfig, LinearAttentionConfig, SlidingWindowConfig
from palinode.models.mixers.convolutional import BaseConvConfig, HyenaConfig, LongConvConfig, MonarchConfig
from palinode.models.mixers.recurrent import GatedRnnConfig, SelectiveSsmConfig
from palinode.models.mixers.state_space import H3Config, S4dConfig
from palinode.train.schedule import Cosine

METRIC = "validation.own.accuracy"
SMALLEST_EFFECT = 0.02  # about twice the standard error of an accuracy of one half on 2000 answers
HIDDEN = 0.15  # share of all tokens, as in BERT
VISIBILITIES = {"causal": "reads left to right", "full": "reads without a direction"}


@dataclass(frozen=True)
class Shape:
    """One scale: the task, the model's width, and how long it is trained."""

    vocabulary: int
    length: int
    width: int
    steps: int
    batch: int
    evaluations: int = 12

    @property
    def name(self) -> str:
        return f"v{self.vocabulary}-l{self.length}"

    def change(self) -> dict[str, Any]:
        return {
            "data.task": AssociativeRecall(vocabulary=self.vocabulary, length=self.length),
            "recipe.steps": self.steps,
            "recipe.batch_windows": self.batch,
            "recipe.evaluate_every_steps": max(1, self.steps // self.evaluations),
        }


SMOKE = (Shape(10, 12, 16, 48, 16, 6), Shape(20, 16, 16, 48, 16, 6))
# Pilots: H3 98.8 % at step 1,250; Hyena 84 % at 4,000; S4D 79 % at 2,250, still rising.
LAPTOP = (Shape(10, 20, 64, 8000, 32, 32),)
H3_STEPS = 2000
GPU = tuple(Shape(vocabulary, length, 64, 4000, 64, 40) for length in (128, 512) for vocabulary in (10, 20, 30, 40))
# Published: 2 layers of width 64, 2000 sequences in batches of 32, 200 epochs.
EPOCHS, SEQUENCES, BATCH = 200, 2000, 32
PAPER = tuple(Shape(30, length, 64, EPOCHS * SEQUENCES // BATCH, BATCH, 50) for length in (2048, 8192))
SHAPES = (*SMOKE, *LAPTOP, *GPU, *PAPER)


def rotary(width: int) -> DecoderConfig:
    """Blocks of attention."""
    return modern(layers=2, width=width, heads=1)


def plain(width: int) -> DecoderConfig:
    """The same blocks without the options that only attention reads."""
    return rotary(width).with_(position="none", rotary="full", qk_norm=False, attention_scale=1.0)


def of_mixer(make: Callable[[bool], Any]) -> Callable[[int, bool], DecoderConfig]:
    """A model whose two layers have the same mixer. A two-sided mixer also has weights for later slots."""
    return lambda width, two_sided: plain(width).with_(mixer=make(two_sided))


def short_then_long(width: int, two_sided: bool) -> DecoderConfig:
    """BaseConv as in Zoology: the first layer convolves over three slots, the second over the whole row."""
    return plain(width).with_(mixers=(BaseConvConfig(), BaseConvConfig(conv="implicit", two_sided=two_sided)))


def monarch(width: int, two_sided: bool) -> DecoderConfig:
    """As published: with a second long convolution in parallel to the products, and a block-diagonal MLP."""
    return plain(width).with_(mixer=MonarchConfig(residual_conv=True, two_sided=two_sided), mlp="block_diagonal")


MIXERS: Mapping[str, Callable[[int, bool], DecoderConfig]] = {
    "attention": lambda width, two_sided: rotary(width),
    "linear_attention": lambda width, two_sided: plain(width).with_(position="learned", mixer=LinearAttentionConfig()),
    "base_conv": short_then_long,
    "hyena": of_mixer(lambda two_sided: HyenaConfig(two_sided=two_sided)),
    "h3": of_mixer(lambda two_sided: H3Config(two_sided=two_sided)),
    "s4d": of_mixer(lambda two_sided: S4dConfig(two_sided=two_sided)),
    "monarch": monarch,
    "gated_rnn": of_mixer(lambda two_sided: GatedRnnConfig(two_sided=two_sided)),
    "selective_ssm": of_mixer(lambda two_sided: SelectiveSsmConfig(two_sided=two_sided)),
}
# Further causal mixers for R3 alone: a rank correlation says more over twelve.
VARIANTS: Mapping[str, Callable[[int, bool], DecoderConfig]] = {
    "attention_learned": lambda width, two_sided: rotary(width).with_(position="learned", rotary="full"),
    "attention_window": lambda width, two_sided: rotary(width).with_(mixer=SlidingWindowConfig(window=4)),
    "long_conv": of_mixer(lambda two_sided: LongConvConfig(two_sided=two_sided)),
    "h3_attention": lambda width, two_sided: rotary(width).with_(
        mixers=(H3Config(two_sided=two_sided), AttentionConfig())
    ),
}
FOR_R3 = (*(name for name in MIXERS if name != "selective_ssm"), *VARIANTS)
IN_SMOKE = ("attention", "linear_attention", "base_conv")
NO_LONGEST_ROW = ("attention", "h3", "s4d", "gated_rnn", "selective_ssm")  # they have no table of lags or positions
LENGTH_FACTORS = (2, 4)  # these mixers are also scored on sequences so many times as long as in training
LONGEST_SCORED_LONGER = 512
# selective_ssm's scan is too slow on a CPU: it is in `gpu` and `paper`.
ON_A_LAPTOP = ("attention", "linear_attention", "base_conv", "hyena", "monarch", "gated_rnn", "h3", "s4d")
ASKED = (("causal", "all"), ("causal", "answer"), ("full", "answer"))


def objective(visibility: str, labels: str) -> Any:
    """The objective of an arm."""
    if visibility == "causal":
        return LtrObjective()
    return MaskedObjective(rate=HIDDEN if labels == "all" else 0.0)


def arm(mixer: str, visibility: str, labels: str, shapes: Sequence[Shape] = SHAPES) -> Arm:
    """One arm; at each scale its model has the scale's width."""
    two_sided = visibility == "full"
    return Arm(
        name=arm_name(mixer, visibility, labels),
        note=f"{mixer}; {VISIBILITIES[visibility]}; trained on {'all tokens' if labels == 'all' else 'the answer alone'}",
        change={"objective": objective(visibility, labels), "labels": labels},
        at={
            shape.name: {
                "model": {**MIXERS, **VARIANTS}[mixer](shape.width, two_sided),
                "evaluation.length_factors": length_factors(mixer, shape),
                **({"recipe.steps": H3_STEPS} if mixer == "h3" and shape in LAPTOP else {}),
            }
            for shape in shapes
        },
    )


def length_factors(mixer: str, shape: Shape) -> tuple[int, ...]:
    """The further lengths at which this mixer is scored, as multiples of the length in training."""
    return LENGTH_FACTORS if mixer in NO_LONGEST_ROW and shape.length <= LONGEST_SCORED_LONGER else ()


def arm_name(mixer: str, visibility: str, labels: str) -> str:
    return f"{mixer}-{visibility}-{labels}"


EVERY_WAY = tuple((visibility, labels) for visibility in VISIBILITIES for labels in ("all", "answer"))


def arm_names(mixers: Iterable[str], ways: Sequence[tuple[str, str]] = EVERY_WAY) -> tuple[str, ...]:
    """The arms of each of these mixers: by default all four."""
    return tuple(arm_name(mixer, *way) for mixer in mixers for way in ways)


BASE = RunSettings(
    data=TaskData(task=AssociativeRecall(vocabulary=10, length=20), validation_sequences=2000, tuning_sequences=2000),
    model=rotary(64),
    objective=LtrObjective(),
    recipe=Speedrun(
        steps=600,
        batch_windows=64,
        optimizer=MuonAdamW(matrix_learning_rate=0.02),
        evaluate_every_steps=50,
    ),
    evaluation=EvaluationConfig(directions=("ltr",), batch_windows=250, labels="answer"),
)


# Published: a linear warm-up over a tenth of the steps.
PUBLISHED_RECIPE = Gpt2AdamW(
    steps=PAPER[0].steps,
    batch_windows=BATCH,
    optimizer=AdamW(learning_rate=5e-4, beta1=0.9, beta2=0.98, weight_decay=0.1),
    schedule=Cosine(warmup_steps=PAPER[0].steps // 10),
    precision="bfloat16",
    evaluate_every_steps=250,
)
# As published but for the rate, which is tuned, and the end.
LAPTOP_RECIPE = Gpt2AdamW(
    steps=LAPTOP[0].steps,
    batch_windows=BATCH,
    optimizer=AdamW(learning_rate=2e-3, beta1=0.9, beta2=0.98, weight_decay=0.1),
    schedule=Cosine(warmup_steps=100),
    evaluate_every_steps=250,
    stop_at_accuracy=0.99,
)
# All rates together, because mixers differ in how many of their parameters are matrices for Muon, filters or states.
RATES = "recipe.optimizer.rate_factor"


def names(shapes: tuple[Shape, ...]) -> tuple[str, ...]:
    return tuple(shape.name for shape in shapes)


def tuning(values: tuple[float, ...], steps: int) -> Tuning:
    """A trial is scored once, at its end."""
    return Tuning(field=RATES, values=values, change={"recipe.steps": steps, "recipe.evaluate_every_steps": None})


def laptop(arms: tuple[str, ...], seeds: int) -> Size:
    """Trials are runs of half the steps, which end at the same accuracy."""
    return Size(
        change={"recipe": LAPTOP_RECIPE},
        arms=arms,
        scales=names(LAPTOP),
        seeds=tuple(range(1, seeds + 1)),
        tuning=Tuning(values=(0.000125, 0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032), share_of_steps=0.5),
    )


def sizes() -> Mapping[str, Size]:
    few = {f"data.{split}_sequences": 300 for split in ("validation", "tuning", "test")}
    published = {
        "data.train_sequences": SEQUENCES,
        "recipe": PUBLISHED_RECIPE,
        "evaluation.batch_windows": 16,
        "device": "auto",
    }
    return {
        "smoke": Size(
            change=few,
            arms=arm_names(IN_SMOKE),
            scales=names(SMOKE),
            seeds=(1, 2),
        ),
        "laptop": laptop((*arm_names(ON_A_LAPTOP, ASKED), *arm_names(VARIANTS, ASKED[:1])), 6),
        "laptop-attention": laptop(arm_names(ON_A_LAPTOP[:2], ASKED), 10),
        "gpu": Size(
            change={"recipe.precision": "bfloat16", "device": "auto"},
            arms=arm_names(MIXERS),
            scales=names(GPU),
            seeds=(1, 2, 3),
            tuning=tuning((0.25, 0.5, 1.0, 2.0), 2000),
        ),
        "paper": Size(
            change=published,
            arms=arm_names(MIXERS),
            scales=names(PAPER),
            seeds=(1, 2, 3),
            tuning=tuning((0.4, 1.0, 2.0, 4.0), PAPER[0].steps // 2),
        ),
    }


# Published accuracies on associative recall: source, published model, our mixer, length of the sequences (None: not published), and
# vocabulary -> accuracy.
HYENA, H3 = (
    "Hyena Hierarchy (arXiv 2302.10866), 2 layers; as transcribed",
    "H3 (arXiv 2212.14052), 2 layers; as transcribed",
)
PUBLISHED = (
    (HYENA, "Transformer", "attention", 2048, {10: 1.0, 20: 1.0, 30: 0.92, 40: 0.82}),
    (HYENA, "Hyena", "hyena", 2048, {10: 1.0, 20: 1.0, 30: 0.98, 40: 0.85}),
    (HYENA, "H3", "h3", 2048, {10: 0.92, 20: 0.6, 30: 0.13, 40: 0.1}),
    (HYENA, "Hyena", "hyena", 131072, {30: 0.972}),
    (H3, "attention", "attention", None, {10: 1.0}),
    (H3, "H3", "h3", None, {10: 0.998}),
    (H3, "S4D", "s4d", None, {10: 0.86}),
)
PUBLISHED_NOTE = (
    "no published table gives its number of seeds, the accuracy of chance, or that without learning; all chose their settings on "
    "the test set; an independent run of S4D had 32.4 % instead of 86.0 %; GSS, 78 % at vocabulary 10, is not run here"
)
R1 = "Training on all tokens makes recall easier to learn than training on the answer alone."
R2 = "Recall needs no causality: a model that reads without a direction learns it as well."
R3 = "Accuracy on recall predicts how well a mixer models text."


def compared(
    name: str,
    sentence: str,
    measure: str,
    sides: tuple[str, str],
    predicted: float,
    half_width: float | None,
    **options: Any,
) -> Claim:
    """A claim about two ways of training, for every mixer and for their mean."""
    options = {**options, "predicted": predicted, "half_width": half_width, "needs_bracket": True}
    arm, other = (arm_name("{}", *side.split("-")) for side in sides)
    return Claim(
        name=name, sentence=sentence, measure=measure, arm=arm, against=(other,), groups=tuple(MIXERS), **options
    )


def published_claims() -> list[Claim]:
    """Our accuracy with the published training (causal, all tokens) against each published one, at scales with its vocabulary.

    At the published length the claim is that the two agree; at other lengths both are shown without a verdict.
    """
    rows = []
    for source, model, mixer, length, accuracies in PUBLISHED:
        for expect, same_length in (("published", True), ("shown", False)):
            published = {
                shape.name: accuracies[shape.vocabulary]
                for shape in SHAPES
                if shape.vocabulary in accuracies and (shape.length == length) == same_length
            }
            if published:
                rows.append(
                    Claim(
                        name="published",
                        sentence=f"{model} in sequences of {length or 'unknown'} tokens.",
                        measure="score",
                        arm=arm_name(mixer, "causal", "all"),
                        expect=expect,
                        published=published,
                        source=source,
                        note=PUBLISHED_NOTE,
                    )
                )
    return rows


def claims() -> tuple[Claim, ...]:
    """The claims R1 to R3, and those about published accuracies."""
    r1 = [(f"{visibility}-all", f"{visibility}-answer") for visibility in VISIBILITIES]
    r2 = [(f"full-{labels}", f"causal-{labels}") for labels in ("answer", "all")]
    sooner, worse = {"expect": "below", "bound": 1.0}, {"expect": "not worse", "needs_learning": True}
    return (
        *(compared("R1", R1, "difference", sides, 0.1, 0.1, needs_learning=True) for sides in r1),
        *(compared("R1", f"{R1} Judged by steps.", "steps_to_learn", s, 0.5, None, **sooner) for s in r1),
        *(compared("R2", R2, "difference", sides, -0.05, 0.1, **worse) for sides in r2),
        *(compared("R2", f"{R2} Steps to learn.", "steps_to_learn", s, 1.0, None, expect="shown") for s in r2),
        Claim(
            name="R3",
            sentence=R3,
            measure="rank_correlation",
            arm=arm_name("{}", "causal", "all"),
            against=("{}",),
            groups=FOR_R3,
            predicted=0.6,
            experiment="recall_text",
            expect="above",
            needs_learning=True,
            needs_bracket=True,
        ),
        *published_claims(),
    )


experiment = Experiment(
    name="recall",
    question="Does training on all tokens beat training on the answer alone, with and without a direction, and for which mixers?",
    about=(
        "In associative recall a model reads pairs of a key and a value, then a key that it has seen, and must name "
        "the value. It is the smallest test of whether a model can look something up. This page compares kinds of "
        "models, and asks whether a model learns it more easily if it is trained to guess every token or the answer "
        "alone, and if it reads in one direction or sees all at once. The accuracy is the share of right answers on "
        "questions that it has never seen."
    ),
    base=BASE,
    arms=(
        *(arm(m, v, labels) for m in MIXERS for v in VISIBILITIES for labels in ("all", "answer")),
        *(arm(mixer, "causal", "all") for mixer in VARIANTS),
    ),
    scales=tuple(Scale(name=shape.name, change=shape.change()) for shape in SHAPES),
    seeds=(1, 2, 3),
    decision=Decision(
        metric=METRIC,
        baseline="attention-causal-all",
        better="higher",
        equal="tokens_read",
        smallest_effect=SMALLEST_EFFECT,
    ),
    sizes=sizes(),
    claims=claims(),
)
