"""What each published defect is worth: every one beside its honest twin, at the same tokens, with the same trials.

The arms marked LEAK repeat published code; the audit of each one fails. Their mixers are written here, as the package refuses to
have them.

    rtl-published-mask     the mask of the mask experiments, read right to left only: slots see the token that they predict
    long-conv-uncut        a long convolution whose kernel is longer than the row, transformed at too few points (safari, zoology:
                           a row shorter than l_max): the taps beyond the row wrap around, so slots read later slots
    hyena-blocks           Hyena in two blocks (safari, num_blocks = 2), each with the kernel of the whole row: the same in a block
    dropout-in-evaluation  attention dropout that stays on while the model is scored (the published dropout baseline)
    encdec-mse-published   an embedding loss whose norms can vanish: it falls to zero and says nothing

A choice on the test set, the sixth defect, is measured in `selection.py`.

A difference below 0 is what a defect added to a result. `palinode data get eltec-eng` fetches the novels of `laptop`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from encdec import ENCDEC, MSE, PUBLISHED_NORMS
from encdec import LAPTOP as ENCODER_DECODER
from mask import NOVEL_EVALUATION, ON_NOVELS, tuning
from palinode import (
    Arm,
    Claim,
    DataConfig,
    Decision,
    Experiment,
    FlippedLowerTriangle,
    LtrObjective,
    RtlObjective,
    RunSettings,
    Size,
)
from palinode.base.visibility import Native
from palinode.models.mixers.attention import Attention, AttentionConfig
from palinode.models.mixers.base import Mixer, Place, Reading
from palinode.models.mixers.convolutional import Hyena, HyenaConfig, LongConv, LongConvConfig
from recall import plain

WIDTH = 64
DROPOUT = 0.2
BLOCKS = 2


class UncutConvConfig(LongConvConfig):
    """A long convolution with twice as many taps as the longest row has slots."""

    visibilities: ClassVar[frozenset[Native]] = frozenset({"causal"})


class UncutConv(LongConv, options=UncutConvConfig):
    """The published transform: kernel and row at 2 T points, whatever the length of the kernel."""

    def __init__(self, config: UncutConvConfig, place: Place):
        super().__init__(config, replace(place, max_length=2 * place.max_length))

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        kernel = self._squashed(self.kernel, 2 * x.shape[1])
        return self._read_out(wrapped(x.mT[:, None], kernel), x)


class BlockedHyenaConfig(HyenaConfig):
    """Hyena whose long convolutions work on two blocks of the row, one by one."""

    visibilities: ClassVar[frozenset[Native]] = frozenset({"causal"})


class BlockedHyena(Hyena, options=BlockedHyenaConfig):
    """The published blocks: each is convolved with the kernel of the whole row. A row that does not divide is read whole."""

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        slots = x.shape[1]
        if slots % BLOCKS:
            return super().forward(x, reading)
        *gates, v = self.streams(x, reading.native)
        for gate, kernel, skip in zip(gates[:0:-1], self.kernels(slots), self.skip, strict=True):
            u = gate * v
            blocks = u.mT.unflatten(-1, (BLOCKS, slots // BLOCKS))
            v = wrapped(blocks, kernel[:, None]).flatten(-2).mT + skip * u
        out: Tensor = self.out(gates[0] * v)
        return out


class DroppingAttentionConfig(AttentionConfig):
    """Attention whose dropout never ends."""

    def build(self, place: Place) -> Mixer:
        return DroppingAttention(place)


class DroppingAttention(Attention):
    """As published: attention asks for dropout without asking whether the model is being trained."""

    def train(self, mode: bool = True) -> "DroppingAttention":
        super().train(True)
        return self


def wrapped(u: Tensor, kernel: Tensor) -> Tensor:
    """The circular convolution of (.., T) inputs and a kernel at 2 T points: taps from T on wrap around to earlier slots."""
    slots = u.shape[-1]
    points = 2 * slots
    y: Tensor = torch.fft.irfft(torch.fft.rfft(u, points) * torch.fft.rfft(kernel[..., :points], points), points)
    return y[..., :slots]


def leaky(name: str, note: str, **change: object) -> Arm:
    return Arm(
        name=name,
        note=note,
        change={path.replace("__", "."): value for path, value in change.items()},
        expect_leak=True,
    )


WITH_DROPOUT = ON_NOVELS["model"].with_(dropout=DROPOUT)
ARMS = (
    Arm(name="ltr", note="attention, left to right"),
    Arm(name="rtl", change={"objective": RtlObjective()}, note="attention, right to left"),
    leaky("rtl-published-mask", "through the published mask", objective=RtlObjective(sees=FlippedLowerTriangle())),
    Arm(
        name="long-conv", change={"model": plain(WIDTH).with_(mixer=LongConvConfig())}, note="the kernel cut to the row"
    ),
    leaky("long-conv-uncut", "the kernel longer than the row", model=plain(WIDTH).with_(mixer=UncutConvConfig())),
    Arm(name="hyena", change={"model": plain(WIDTH).with_(mixer=HyenaConfig())}, note="without blocks"),
    leaky("hyena-blocks", "in two blocks", model=plain(WIDTH).with_(mixer=BlockedHyenaConfig())),
    Arm(name="dropout", change={"model": WITH_DROPOUT}, note="dropout .2 in training only"),
    leaky(
        "dropout-in-evaluation",
        "attention dropout stays on in evaluation",
        model=WITH_DROPOUT.with_(mixer=DroppingAttentionConfig()),
    ),
    Arm(name="encdec", change={"model": ENCODER_DECODER.encoder_decoder()}, note=ENCDEC.note),
    Arm(
        name="encdec-mse",
        change={"model": ENCODER_DECODER.encoder_decoder(embedding_loss=MSE)},
        note="embedding loss with norms that cannot vanish",
    ),
    Arm(
        name="encdec-mse-published",
        change={"model": ENCODER_DECODER.encoder_decoder(embedding_loss=MSE.with_(**PUBLISHED_NORMS))},
        note="embedding loss with the published norms",
        expect_collapse=True,
    ),
)
# The defect, its twin, what it is, the predicted difference in nats per byte, and the half-width that 5 seeds promise.
DEFECTS: Sequence[tuple[str, str, str, float, float]] = (
    ("rtl-published-mask", "rtl", "The published mask lowers the loss right to left.", -1.5, 0.05),
    ("long-conv-uncut", "long-conv", "A kernel longer than the row lowers the loss of a long convolution.", -1.0, 0.1),
    ("hyena-blocks", "hyena", "Two blocks with the kernel of the whole row lower the loss of Hyena.", -0.5, 0.2),
    (
        "dropout",
        "dropout-in-evaluation",
        "Dropout that stays on in evaluation makes the loss look higher.",
        -0.03,
        0.01,
    ),
    (
        "encdec-mse-published",
        "encdec",
        "The embedding loss helps with the published norms, which can vanish.",
        0.0,
        0.0105,
    ),
    (
        "encdec-mse-published",
        "encdec-mse",
        "With norms that can vanish the embedding loss gives a lower loss than with norms that cannot.",
        0.0,
        0.0105,
    ),
)

experiment = Experiment(
    name="leaks",
    question="How many nats does each published defect add to a result?",
    about=(
        "Each system that this laboratory repeats had a defect through which a model could see its own answer, or was "
        "scored in a way that flattered it. Here every defect is put back on purpose, beside the same model without "
        "it. The difference is what the defect was worth. The loss says how badly a model guesses the next character: "
        "lower is better. Numbers below 0 are an advantage that nobody earned."
    ),
    base=RunSettings(objective=LtrObjective(), **ON_NOVELS),
    arms=ARMS,
    seeds=(1, 2, 3, 4, 5),
    decision=Decision(
        metric="validation.own.nats_per_token",
        baseline="ltr",
        better="lower",
        equal="tokens_read",
        smallest_effect=0.01,
    ),
    sizes={
        "smoke": Size(
            change={
                "data": DataConfig(corpus="python-docs", tokenizer="byte", window_tokens=64),
                "recipe.steps": 40,
                "recipe.evaluate_every_steps": 20,
                "evaluation": NOVEL_EVALUATION.with_(max_tokens=10_000, curve_tokens=None),
            },
            seeds=(1, 2),
        ),
        # Two arms that see their answers were tuned to .25, the lowest factor of `mask.py`.
        "laptop": Size(tuning=tuning(lower=(0.0625, 0.125))),
    },
    claims=tuple(
        Claim(
            name="leak",
            sentence=sentence,
            measure="difference",
            arm=arm,
            against=(against,),
            needs_bracket=True,
            predicted=predicted,
            half_width=half_width,
        )
        for arm, against, sentence, predicted, half_width in DEFECTS
    ),
)
