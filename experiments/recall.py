"""Associative recall: mixers, trained on all tokens or on the answer alone, reading left to right or without a direction.

The question of safari's issue thread: does training on all next tokens make recall easier to learn than training on the answer,
though only the answer is scored (R1), and does the task need causality at all (R2)? `recall_text.py` trains the same causal models
on text: does accuracy here predict the loss there (R3)? `findings/recall.py` gives the verdicts.

Arms are named `<mixer>-<visibility>-<labels>`.

    causal-all       ltr, every token is a target; the published way
    causal-answer    ltr, the answer is the only target
    full-all         every token sees every other; the answer is hidden, and 15 % of all tokens: a masked language model
    full-answer      the same with nothing but the answer hidden: a classifier of the answer

All of them are scored on the answer alone, with nothing else hidden, on sequences whose prompts no training sequence has. Training
sequences never repeat, but for `paper`, which trains 200 epochs over 2000. The learning rate is chosen for every arm by as many
trials on prompts of their own.

The blocks are those of `modern`: with a tied head and learned positions (`gpt2`) attention stayed at the most frequent value of
the sequence for 1500 steps of 64 at every rate. Convolutions and recurrences know the order of slots by themselves.

Sizes: `smoke` shows every chart in minutes; `laptop` takes hours on two cores; `gpu` and `paper` want an accelerator.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from palinode import (
    AdamW,
    Arm,
    Decision,
    DecoderConfig,
    EvaluationConfig,
    Experiment,
    Gpt2AdamW,
    LtrObjective,
    MaskedObjective,
    RunSettings,
    Scale,
    Size,
    TaskData,
    Tuning,
    modern,
)
from palinode.data.tasks import AssociativeRecall
from palinode.models.mixers.base_conv import BaseConvConfig
from palinode.models.mixers.gated_rnn import GatedRnnConfig
from palinode.models.mixers.h3 import H3Config
from palinode.models.mixers.hyena import HyenaConfig
from palinode.models.mixers.linear_attention import LinearAttentionConfig
from palinode.models.mixers.selective_ssm import SelectiveSsmConfig

METRIC = "validation.own.accuracy"
SMALLEST_EFFECT = 0.02  # of 1: twice the standard error of 2000 answers at one half
HIDDEN = 0.15  # of all tokens, as in BERT
VISIBILITIES = {"causal": "reads left to right", "full": "reads without a direction"}


@dataclass(frozen=True)
class Shape:
    """One scale: the task, the model's width, and how long it is trained."""

    vocabulary: int
    length: int
    width: int
    steps: int
    batch: int
    warmup_steps: int = 100
    evaluations: int = 12
    short: str = ""

    @property
    def name(self) -> str:
        return f"v{self.vocabulary}-l{self.length}{self.short}"

    def change(self) -> dict[str, Any]:
        return {
            "data.task": AssociativeRecall(vocabulary=self.vocabulary, length=self.length),
            "recipe.steps": self.steps,
            "recipe.batch_windows": self.batch,
            "recipe.schedule.warmup_steps": self.warmup_steps,
            "recipe.evaluate_every_steps": max(1, self.steps // self.evaluations),
        }


SMOKE = (Shape(10, 12, 16, 48, 16, 5, 6), Shape(20, 16, 16, 48, 16, 5, 6))
LAPTOP = (Shape(10, 20, 64, 1200, 64), Shape(30, 40, 64, 1200, 64))
GPU = tuple(
    Shape(vocabulary, length, 64, 6000, 64, 300, 30) for length in (128, 512) for vocabulary in (10, 20, 30, 40)
)
# Published: 2 layers of width 64, 2000 sequences, batches of 32, 200 epochs, a tenth of them to warm up.
PAPER = tuple(Shape(30, length, 64, 200 * 2000 // 32, 32, 200 * 2000 // 320, 50) for length in (2048, 8192))
SHAPES = (*SMOKE, *LAPTOP, *GPU, *PAPER)


def rotary(width: int) -> DecoderConfig:
    """Blocks of attention."""
    return modern(layers=2, width=width, heads=1)


def plain(width: int) -> DecoderConfig:
    """The same blocks without what only attention reads."""
    return rotary(width).with_(position="none", rotary="full", qk_norm=False, attention_scale=1.0)


def of_mixer(make: Callable[[bool], Any]) -> Callable[[int, bool], DecoderConfig]:
    """Both layers with one mixer, made with or without weights for what comes after a slot."""
    return lambda width, two_sided: plain(width).with_(mixer=make(two_sided))


def short_then_long(width: int, two_sided: bool) -> DecoderConfig:
    """BaseConv as Zoology has it: taps over three slots in the first layer, over the whole row in the second."""
    return plain(width).with_(mixers=(BaseConvConfig(), BaseConvConfig(conv="implicit", two_sided=two_sided)))


MIXERS: Mapping[str, Callable[[int, bool], DecoderConfig]] = {
    "attention": lambda width, two_sided: rotary(width),
    "linear_attention": lambda width, two_sided: plain(width).with_(position="learned", mixer=LinearAttentionConfig()),
    "base_conv": short_then_long,
    "hyena": of_mixer(lambda two_sided: HyenaConfig(two_sided=two_sided)),
    "h3": of_mixer(lambda two_sided: H3Config(two_sided=two_sided)),
    "gated_rnn": of_mixer(lambda two_sided: GatedRnnConfig(two_sided=two_sided)),
    "selective_ssm": of_mixer(lambda two_sided: SelectiveSsmConfig(two_sided=two_sided)),
}
IN_SMOKE = ("attention", "base_conv", "gated_rnn")
ON_A_LAPTOP = tuple(mixer for mixer in MIXERS if mixer != "selective_ssm")  # its scan is ten times as slow on a CPU


def objective(visibility: str, labels: str) -> Any:
    """What an arm is asked for."""
    if visibility == "causal":
        return LtrObjective()
    return MaskedObjective(rate=HIDDEN if labels == "all" else 0.0)


def arm(mixer: str, visibility: str, labels: str) -> Arm:
    """One arm, with a model of the width of every scale."""
    two_sided = visibility == "full"
    return Arm(
        name=arm_name(mixer, visibility, labels),
        note=f"{mixer}; {VISIBILITIES[visibility]}; trained on {'all tokens' if labels == 'all' else 'the answer alone'}",
        change={"objective": objective(visibility, labels), "labels": labels},
        at={shape.name: {"model": MIXERS[mixer](shape.width, two_sided)} for shape in SHAPES},
    )


def arm_name(mixer: str, visibility: str, labels: str) -> str:
    return f"{mixer}-{visibility}-{labels}"


def arm_names(mixers: tuple[str, ...]) -> tuple[str, ...]:
    """The four arms of each of these mixers."""
    return tuple(arm_name(m, v, labels) for m in mixers for v in VISIBILITIES for labels in ("all", "answer"))


BASE = RunSettings(
    data=TaskData(task=AssociativeRecall(vocabulary=10, length=20), validation_sequences=2000, tuning_sequences=2000),
    model=rotary(64),
    objective=LtrObjective(),
    recipe=Gpt2AdamW(
        steps=LAPTOP[0].steps,
        batch_windows=LAPTOP[0].batch,
        optimizer=AdamW(learning_rate=4e-3, beta1=0.9, beta2=0.95, weight_decay=0.1),
        evaluate_every_steps=100,
    ),
    evaluation=EvaluationConfig(directions=("ltr",), batch_windows=250, labels="answer"),
)


def names(shapes: tuple[Shape, ...]) -> tuple[str, ...]:
    return tuple(shape.name for shape in shapes)


def sizes() -> Mapping[str, Size]:
    few = {"data.validation_sequences": 300, "data.tuning_sequences": 300, "data.test_sequences": 300}
    long = {"recipe.precision": "bfloat16", "device": "auto"}
    published = {"data.train_sequences": 2000, "recipe.optimizer.beta2": 0.98, "evaluation.batch_windows": 16, **long}
    return {
        "smoke": Size(
            change=few,
            arms=arm_names(IN_SMOKE),
            scales=names(SMOKE),
            seeds=(1, 2),
            tuning=Tuning(values=(0.004, 0.016), change={"recipe.steps": 12, "recipe.evaluate_every_steps": None}),
        ),
        "laptop": Size(
            arms=arm_names(ON_A_LAPTOP),
            scales=names(LAPTOP),
            seeds=(1, 2, 3, 4, 5),
            tuning=Tuning(
                values=(0.002, 0.004, 0.008), change={"recipe.steps": 600, "recipe.evaluate_every_steps": None}
            ),
        ),
        "gpu": Size(
            change=long,
            scales=names(GPU),
            seeds=(1, 2, 3),
            tuning=Tuning(
                values=(0.0005, 0.001, 0.002, 0.004),
                change={"recipe.steps": 3000, "recipe.evaluate_every_steps": None},
            ),
        ),
        "paper": Size(
            change=published,
            scales=names(PAPER),
            seeds=(1, 2, 3),
            tuning=Tuning(values=(0.0002, 0.0005, 0.001, 0.002), change={"recipe.evaluate_every_steps": None}),
        ),
    }


experiment = Experiment(
    name="recall",
    question="Does training on all tokens beat training on the answer alone, with and without a direction, and for which mixers?",
    base=BASE,
    arms=tuple(arm(m, v, labels) for m in MIXERS for v in VISIBILITIES for labels in ("all", "answer")),
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
)
