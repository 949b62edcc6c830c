"""A selective state-space layer in the manner of Mamba: steps, inputs and readouts depend on what is read. A plain reference.

value, gate = two maps of x, E = expand D wide; u = silu(short conv(value)); (r, B, C) = a map of u; dt = softplus(W r + bias);
h_t = exp(dt_t A) h_(t-1) + dt_t B_t u_t for N numbers a channel, A = -exp(log decay) real; y = C_t h_t + s u_t; the output map of
y silu(gate). Full: a second of everything between the maps reads the row from its end; the two are added.
Source: Gu and Dao, Mamba (arXiv 2312.00752), written from the paper. Differs in: the scan is `parts/selective_scan.py`, plain
PyTorch (there one GPU kernel); A's rate is at most 1e-3 (there the general one, both without decay); linear maps start as the
model's scheme says. Each direction's own conv and state space follow Vision Mamba (arXiv 2401.09417).
Legend: B rows, T slots, T_new new slots, D width, E inner width, N numbers of state a channel, K taps, r step rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.models.cost import LayerCost
from palinode.models.mixers.base import Mixer, Place, Reading, TwoSidedConfig
from palinode.models.parts.exact import exact, exact_products
from palinode.models.parts.fft_conv import ShortConv
from palinode.models.parts.linear import Linear
from palinode.models.parts.own_start import OwnStart
from palinode.models.parts.selective_scan import selective_scan
from palinode.models.parts.state import MixerState

WIDTHS_PER_RANK = 16  # the step's rank is a sixteenth of the width
LEAST_STEP_START, MOST_STEP_START = 1e-3, 1e-1
AUDIT_STEP, AUDIT_DECAY = 0.2, 0.02


class SelectiveSsmConfig(TwoSidedConfig):
    """Selective SSM. 3 D E + E (K + 1) + E (r + 2 N) + E r + E + E N + E parameters, r = ceil(D / 16); all but 3 D E twice when
    two-sided; + 2 E + D with biases.

    Attributes:
        state: N.
        expand: E = expand D.
        taps: K of the short convolution.
    """

    kind: ClassVar[str] = "selective_ssm"
    state: int = Field(default=16, ge=1)
    expand: int = Field(default=2, ge=1)
    taps: int = Field(default=4, ge=1)

    def build(self, place: Place) -> Mixer:
        return SelectiveSsm(self, place)


@dataclass(frozen=True)
class SelectiveState(MixerState):
    """The last K - 1 inputs of the short convolution (B, K - 1, E), and h (B, E, N)."""

    last: Tensor
    h: Tensor


class SelectiveSsm(Mixer):
    """W_o (selective(value) silu(gate)). A is trained in the group `state`."""

    def __init__(self, config: SelectiveSsmConfig, place: Place):
        super().__init__()
        width, inner = place.width, config.expand * place.width
        self.value = Linear(width, inner, bias=place.bias)
        self.gate = Linear(width, inner, bias=place.bias)
        self.past = Selective(config, width)
        self.future = Selective(config, width) if config.two_sided else None
        self.out = Linear(inner, width, bias=place.bias, role="residual")

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        value = self.value(x)
        y = self.past(value)
        if reading.native == "full":
            assert self.future is not None
            y = y + self.future(value.flip(1)).flip(1)
        return self._read_out(y, x)

    def begin(self, rows: int, slots: int) -> MixerState:
        return self.past.begin(rows)

    def extend(self, x: Tensor, reading: Reading, state: MixerState) -> tuple[Tensor, MixerState]:
        assert isinstance(state, SelectiveState)
        y, after = self.past.extend(self.value(x), state)
        return self._read_out(y, x), after

    def cost(self, slots: int, pairs: int) -> LayerCost:
        sides = 2 if pairs > slots * (slots + 1) // 2 else 1
        products, beside, least = self.past.flops_per_slot()
        maps = 2.0 * sum(part.weight.numel() for part in (self.value, self.gate, self.out)) + sides * products
        return LayerCost(maps + sides * beside, maps + sides * least, self.past.state_elements(), beside=sides * beside)

    def special_groups(self) -> Mapping[str, str]:
        sides = ("past",) if self.future is None else ("past", "future")
        return {f"{side}.log_decay": "state" for side in sides}

    def _read_out(self, y: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.out(y * F.silu(self.gate(x)))
        return out


class Selective(OwnStart):
    """(B, T, E) -> (B, T, E): short convolution, SiLU, the selective recurrence. Causal."""

    def __init__(self, config: SelectiveSsmConfig, width: int):
        super().__init__()
        inner, rank = config.expand * width, -(-width // WIDTHS_PER_RANK)
        self.parts = (rank, config.state, config.state)
        self.conv = ShortConv(inner, config.taps, causal_only=True)
        self.read = Linear(inner, sum(self.parts), bias=False)
        self.step_weight = nn.Parameter(torch.empty(inner, rank))
        self.step_bias = nn.Parameter(torch.empty(inner))
        self.log_decay = nn.Parameter(torch.empty(inner, config.state))
        self.skip = nn.Parameter(torch.empty(inner))

    def forward(self, value: Tensor) -> Tensor:
        return self._scanned(self.conv(value), None)[0]

    def begin(self, rows: int) -> SelectiveState:
        """Nothing read."""
        return SelectiveState(
            exact(self.conv.begin(rows)), exact(self.log_decay).new_zeros(rows, *self.log_decay.shape)
        )

    def extend(self, value: Tensor, state: SelectiveState) -> tuple[Tensor, SelectiveState]:
        """The next (B, T_new, E) slots, and the state after them."""
        conv, last = self.conv.extend(value, state.last)
        y, h = self._scanned(conv.to(value.dtype), state.h)
        return y, SelectiveState(last, h)

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        """A = -1 .. -N in every channel; steps log-uniform in .001 .. .1; the step's map uniform within 1 / sqrt(rank)."""
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
        """Steps near .2 and decays near .02, so that what leaks at a distance shows: .6 is left after 129 slots."""
        for parameter, value in (
            (self.log_decay, math.log(AUDIT_DECAY)),
            (self.step_bias, float(_inverse_softplus(torch.tensor(AUDIT_STEP)))),
        ):
            noise = torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype).to(parameter.device)
            parameter.copy_(value + 0.1 * noise)

    def flops_per_slot(self) -> tuple[float, float, float]:
        """Matrix products; what else is executed (conv, recurrence in chunks); the least that else would do."""
        inner, state = self.log_decay.shape
        products = 2.0 * (self.read.weight.numel() + self.step_weight.numel() + inner * state)
        beside = self.conv.flops_per_slot() + 2.0 * inner
        return products, beside + 7.0 * inner * state, beside + 4.0 * inner * state

    def state_elements(self) -> int:
        """Elements kept to read one slot more."""
        return self.conv.state_elements() + self.log_decay.numel()

    def _scanned(self, conv: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, E) in the dtype of `conv`, and h after the last slot; dt, A and h are float32 or better."""
        u = F.silu(conv)
        rank, into, out_of = (exact(part) for part in self.read(u).split(self.parts, dim=-1))
        fine = exact(u)
        rate = exact(self.log_decay).exp()
        before = fine.new_zeros(len(fine), *rate.shape) if first is None else first
        with exact_products(fine):
            step = F.softplus(F.linear(rank, exact(self.step_weight), exact(self.step_bias)))
        y, last = selective_scan(fine, step, rate, into, out_of, before)
        return (y + exact(self.skip) * fine).to(conv.dtype), last


def _inverse_softplus(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))
