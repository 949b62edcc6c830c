"""Mixers with a gated recurrence: a selective state-space layer like that of Mamba, and a gated linear recurrence.

A mixer computes W_o (h silu(W_g x)), where h is the output of a short convolution followed by a recurrence. In the full form a
second copy of convolution and recurrence reads the row from its end, and h is the sum of the two outputs.
Legend: B rows, T slots, T_new new slots, D width, E width of the recurrence, N state numbers for each channel, K taps, r step rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.models.cost import LayerCost, sides_read
from palinode.models.mixers.base import Mixer, Place, Reading, TwoSidedConfig
from palinode.models.parts.exact import exact, exact_products
from palinode.models.parts.fft_conv import ShortConv, sides
from palinode.models.parts.linear import Linear, OwnStart, open_near
from palinode.models.parts.scan import linear_scan, selective_scan
from palinode.models.parts.state import MixerState


@dataclass(frozen=True)
class RecurrentState(MixerState):
    """The state: the last K - 1 inputs of the short convolution, (B, K - 1, E), and the h of the recurrence, (B, ..)."""

    last: Tensor
    h: Tensor


class Recurrence(OwnStart):
    """Base class of causal recurrences that read the output of a short convolution, (B, T, D or E) -> (B, T, E).

    Attributes:
        conv: the short convolution.
        state_shape: the shape of the state of one row.
    """

    conv: ShortConv
    state_shape: tuple[int, ...]

    def value_of(self, x: Tensor) -> Tensor:
        """The input of the short convolution, computed from the input x of the recurrence."""
        return x

    def scanned(self, x: Tensor, conv: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute the (B, T, E) output and the state after the last slot from the input x and its short convolution `conv`.

        Args:
            first: the state before the first slot; None means a state of zeros.
        """
        raise NotImplementedError(f"{type(self).__name__} must define scanned(x, conv, first)")

    def flops_per_slot(self) -> tuple[float, float, float]:
        """Three counts of FLOPs: matrix products, all other executed work (the scan runs in chunks), and the least other work."""
        raise NotImplementedError(f"{type(self).__name__} must define flops_per_slot()")

    def forward(self, x: Tensor) -> Tensor:
        return self.scanned(x, self.conv(self.value_of(x)), None)[0]

    def begin(self, rows: int) -> RecurrentState:
        """The state before the first slot is read."""
        last = exact(self.conv.begin(rows))
        return RecurrentState(last, last.new_zeros(rows, *self.state_shape))

    def extend(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """(B, T_new, ..) inputs of the next slots -> (B, T_new, E), and the next state."""
        conv, last = self.conv.extend(self.value_of(x), state.last)
        y, h = self.scanned(x, conv, state.h)
        return y, RecurrentState(last, h)

    def state_elements(self) -> int:
        """The number of state elements that are kept to read one more slot."""
        return self.conv.state_elements() + math.prod(self.state_shape)


MakeRecurrence = Callable[[Any, Place], Recurrence]


class TwoWays(Mixer):
    """Base class of mixers W_o (h silu(W_g x)); h is the output of one recurrence (causal form) or the sum of two (full form).

    Args:
        make: the function that makes a recurrence from the config and the place.
        reads_value: whether the recurrences read a map of x with the width E, and not x itself.
    """

    def __init__(self, config: TwoSidedConfig, place: Place, make: MakeRecurrence, *, reads_value: bool):
        super().__init__()
        past, future = make(config, place), make(config, place) if config.two_sided else None
        inner = past.state_shape[0]
        self.value = Linear(place.width, inner, bias=place.bias) if reads_value else None
        self.gate = Linear(place.width, inner, bias=place.bias)
        self.past = past
        self.future = future
        self.out = Linear(inner, place.width, bias=place.bias, role="residual")

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        read = self._read(x)
        past, *from_the_end = sides(reading.native, self.past, self.future)
        h: Tensor = past(read)
        for recurrence in from_the_end:
            h = h + recurrence(read.flip(1)).flip(1)
        return self._read_out(h, x)

    def begin(self, rows: int, slots: int) -> MixerState:
        return self.past.begin(rows)

    def extend(self, x: Tensor, reading: Reading, state: RecurrentState) -> tuple[Tensor, MixerState]:
        h, after = self.past.extend(self._read(x), state)
        return self._read_out(h, x), after

    def cost(self, slots: int, pairs: int) -> LayerCost:
        sides = sides_read(pairs, slots)
        products, executed, least = (sides * flops for flops in self.past.flops_per_slot())
        maps = 2.0 * sum(part.weight.numel() for part in self.children() if isinstance(part, Linear)) + products
        return LayerCost(maps + executed, maps + least, self.past.state_elements(), non_matmul=executed)

    def _read(self, x: Tensor) -> Tensor:
        """The input of the recurrences: x, or a map of x if `reads_value` is set."""
        return x if self.value is None else self.value(x)

    def _read_out(self, h: Tensor, x: Tensor) -> Tensor:
        return self.out(h * F.silu(self.gate(x)))


WIDTHS_PER_RANK = 16  # the rank of the map that makes the steps is a sixteenth of the width
LEAST_STEP_START, MOST_STEP_START = 1e-3, 1e-1
AUDIT_STEP, AUDIT_DECAY = 0.2, 0.02


class SelectiveSsmConfig(TwoSidedConfig):
    """The config of the selective state-space mixer.

    The mixer has 3 D E + E (K + 1) + E (r + 2 N) + E r + E + E N + E parameters, where r = ceil(D / 16). A two-sided mixer has all
    of these parameters twice, except the 3 D E; biases add 2 E + D.

    Attributes:
        state: the number N of state numbers for each channel.
        expand: the width E of the recurrence divided by D.
        taps: the number K of taps of the short convolution.
    """

    kind: ClassVar[str] = "selective_ssm"
    state: int = Field(default=16, ge=1)
    expand: int = Field(default=2, ge=1)
    taps: int = Field(default=4, ge=1)


class SelectiveSsm(TwoWays, options=SelectiveSsmConfig):
    """The selective state-space mixer, W_o (y silu(gate)), whose steps, input weights and output weights depend on the input.

    value, gate = two maps of x, E = expand D wide; u = silu(short conv(value)); (r, i, o) = a map of u; dt = softplus(W r + bias);
    h_t = exp(dt_t A) h_(t-1) + dt_t i_t u_t for the N state numbers of each channel, where A = -exp(log decay) is real;
    y = o_t h_t + s u_t. The paper writes B for i and C for o. A is trained in the group `state`.
    Source: Gu and Dao, Mamba (arXiv 2312.00752), written from the paper. Differences: the scan is `parts/scan.py`, in plain PyTorch
    (Mamba: one GPU kernel); A's learning rate is at most 1e-3 (Mamba: the general rate), and A has no weight decay (as in Mamba);
    linear maps start as the model's option `init` says. The second copy for the other direction follows Vision Mamba (arXiv
    2401.09417).
    """

    def __init__(self, config: SelectiveSsmConfig, place: Place):
        super().__init__(config, place, Selective, reads_value=True)


class Selective(Recurrence):
    """Short convolution, SiLU and the selective recurrence, (B, T, E) -> (B, T, E)."""

    group_of: ClassVar = {"log_decay": "state"}

    def __init__(self, config: SelectiveSsmConfig, place: Place):
        super().__init__()
        inner, rank = config.expand * place.width, -(-place.width // WIDTHS_PER_RANK)
        self.parts = [rank, config.state, config.state]
        self.state_shape = (inner, config.state)
        self.conv = ShortConv(inner, config.taps)
        self.read = Linear(inner, sum(self.parts), bias=False)
        self.step_weight = nn.Parameter(torch.empty(inner, rank))
        self.step_bias = nn.Parameter(torch.empty(inner))
        self.log_decay = nn.Parameter(torch.empty(inner, config.state))
        self.skip = nn.Parameter(torch.empty(inner))

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        """Start A at -1 .. -N in each channel, steps log-uniform in .001 .. .1, and the step's map uniform in +-1 / sqrt(rank)."""
        if name == "log_decay":
            parameter.copy_(torch.arange(1, parameter.shape[1] + 1).log())
        elif name == "skip":
            parameter.fill_(1.0)
        elif name == "step_bias":
            parameter.uniform_(math.log(LEAST_STEP_START), math.log(MOST_STEP_START), generator=rng)
            parameter.copy_(_inverse_softplus(parameter.exp()))
        else:
            bound = parameter.shape[1] ** -0.5
            parameter.uniform_(-bound, bound, generator=rng)

    def open_for_audit(self, gain: float, rng: Generator) -> None:
        """Set steps near .2 and decays near .02, so that a distant leak shows: 60 % of a state is left after 129 slots."""
        open_near(self.log_decay, math.log(AUDIT_DECAY), rng)
        open_near(self.step_bias, float(_inverse_softplus(torch.tensor(AUDIT_STEP))), rng)

    def flops_per_slot(self) -> tuple[float, float, float]:
        inner, state = self.log_decay.shape
        products = 2.0 * (self.read.weight.numel() + self.step_weight.numel() + inner * state)
        non_matmul = self.conv.flops_per_slot() + 2.0 * inner
        return products, non_matmul + 7.0 * inner * state, non_matmul + 4.0 * inner * state

    def scanned(self, x: Tensor, conv: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
        """The (B, T, E) output in the dtype of `conv`, and h after the last slot; dt, A and h are float32 or better."""
        u = F.silu(conv)
        rank, into, out_of = (exact(part) for part in torch.split(self.read(u), self.parts, -1))
        fine = exact(u)
        rate = exact(self.log_decay).exp()
        before = fine.new_zeros(len(fine), *rate.shape) if first is None else first
        with exact_products(fine):
            step = F.softplus(F.linear(rank, exact(self.step_weight), exact(self.step_bias)))
        y, last = selective_scan(fine, step, rate, into, out_of, before)
        return (y + exact(self.skip) * fine).to(conv.dtype), last


LEAST_DECAY_START, MOST_DECAY_START = 0.9, 0.999
AUDIT_KEEPS = 4.0  # the audit's decay is sigmoid(4) = .98


class GatedRnnConfig(TwoSidedConfig):
    """The config of the gated linear recurrence.

    The mixer has 4 D^2 + D (K + 2) parameters; a two-sided mixer has 2 D^2 + D (K + 2) more, and biases add more.

    Attributes:
        taps: the number K of taps of the short convolution.
    """

    kind: ClassVar[str] = "gated_rnn"
    taps: int = Field(default=4, ge=1)


class GatedRnn(TwoWays, options=GatedRnnConfig):
    """A gated linear recurrence of one number for each channel; a sigmoid of the input decides how much of the number is kept.

    f = sigmoid(W_f x + bias), v = short conv(W_v x), h_t = f_t h_(t-1) + sqrt(1 - f_t^2) v_t. The factor sqrt(1 - f_t^2) keeps the
    variance of h the same for every f. The bias of f is trained in the group `state`.
    Sources, written from the papers: Qin et al., HGRN (arXiv 2311.04823), for the single sigmoid; De et al., Griffin's RG-LRU
    (arXiv 2402.19427), for the factor sqrt(1 - f^2), the decays that start uniform in .9 .. .999, and the short convolution.
    This mixer leaves out HGRN's complex state and its lower bounds for each layer, and RG-LRU's second gate, fixed power 8 and
    block-diagonal gates.
    """

    def __init__(self, config: GatedRnnConfig, place: Place):
        super().__init__(config, place, Gated, reads_value=False)

    def _read_out(self, h: Tensor, x: Tensor) -> Tensor:
        return super()._read_out(h.to(x.dtype), x)


class Gated(Recurrence):
    """Short convolution and gated recurrence, (B, T, D) -> (B, T, D) states h, in float32 or better."""

    group_of: ClassVar = {"keep_bias": "state"}

    def __init__(self, config: GatedRnnConfig, place: Place):
        super().__init__()
        width = place.width
        self.keep = Linear(width, width, bias=False)
        self.keep_bias = nn.Parameter(torch.empty(width))
        self.state_shape = (width,)
        self.value = Linear(width, width, bias=place.bias)
        self.conv = ShortConv(width, config.taps)

    def value_of(self, x: Tensor) -> Tensor:
        return self.value(x)

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        """Start the decays uniform in .9 .. .999."""
        parameter.uniform_(LEAST_DECAY_START, MOST_DECAY_START, generator=rng)
        parameter.copy_(torch.logit(parameter))

    def open_for_audit(self, gain: float, rng: Generator) -> None:
        """Set the decays near .98, so that a leak from a distant slot shows: a tenth of a state is left after 129 slots."""
        open_near(self.keep_bias, AUDIT_KEEPS, rng)

    def flops_per_slot(self) -> tuple[float, float, float]:
        width, conv = len(self.keep_bias), self.conv.flops_per_slot()
        return 4.0 * width * width, conv + 7.0 * width, conv + 4.0 * width

    def scanned(self, x: Tensor, conv: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
        raw = exact(self.keep(x)) + exact(self.keep_bias)
        # The code uses sigmoid(-raw), because 1 - sigmoid(raw) is 0 from raw = 17 on, and the root of 0 has no finite slope.
        kept, lost = torch.sigmoid(raw), torch.sigmoid(-raw)
        h = linear_scan(kept, (lost * (1 + kept)).sqrt() * exact(conv), first)
        return h, h[:, -1]


def _inverse_softplus(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))
