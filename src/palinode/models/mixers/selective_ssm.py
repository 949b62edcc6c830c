"""A selective state-space layer in the manner of Mamba: steps, inputs and readouts depend on the input. A plain reference.

value, gate = two maps of x, E = expand D wide; u = silu(short conv(value)); (r, i, o) = a map of u; dt = softplus(W r + bias);
h_t = exp(dt_t A) h_(t-1) + dt_t i_t u_t for N numbers a channel, A = -exp(log decay) real; y = o_t h_t + s u_t; the output map of
y silu(gate). (The paper calls i and o B and C.) Full: a second copy of everything between the maps reads the row from its end;
the two are added.
Source: Gu and Dao, Mamba (arXiv 2312.00752), written from the paper. Differs in: the scan is `parts/selective_scan.py`, plain
PyTorch (there one GPU kernel); A's rate is at most 1e-3 (there the general one, both without decay); linear maps start as the
model's scheme says. The second copy for the other direction follows Vision Mamba (arXiv 2401.09417).
Legend: B rows, T slots, T_new new slots, D width, E inner width, N numbers of state a channel, K taps, r step rank.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.models.cost import LayerCost, sides_read
from palinode.models.mixers.base import Mixer, Place, TwoSidedConfig
from palinode.models.mixers.two_ways import Recurrence, RecurrentState, TwoWays
from palinode.models.parts.exact import exact, exact_products
from palinode.models.parts.fft_conv import ShortConv
from palinode.models.parts.linear import Linear
from palinode.models.parts.own_start import open_near
from palinode.models.parts.selective_scan import selective_scan

WIDTHS_PER_RANK = 16  # the step's rank is a sixteenth of the width
LEAST_STEP_START, MOST_STEP_START = 1e-3, 1e-1
AUDIT_STEP, AUDIT_DECAY = 0.2, 0.02


class SelectiveSsmConfig(TwoSidedConfig):
    """Selective SSM. 3 D E + E (K + 1) + E (r + 2 N) + E r + E + E N + E parameters, r = ceil(D / 16).

    Two-sided, all but 3 D E of them are there twice; biases add 2 E + D.

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


class SelectiveSsm(TwoWays):
    """W_o (selective(value) silu(gate)). A is trained in the group `state`."""

    past: Selective
    future: Selective | None

    def __init__(self, config: SelectiveSsmConfig, place: Place):
        super().__init__()
        width, inner = place.width, config.expand * place.width
        self.value = Linear(width, inner, bias=place.bias)
        self.gate = Linear(width, inner, bias=place.bias)
        self.past = Selective(config, width)
        self.future = Selective(config, width) if config.two_sided else None
        self.out = Linear(inner, width, bias=place.bias, role="residual")

    def cost(self, slots: int, pairs: int) -> LayerCost:
        sides = sides_read(pairs, slots)
        products, non_matmul, least = self.past.flops_per_slot()
        maps = 2.0 * sum(part.weight.numel() for part in (self.value, self.gate, self.out)) + sides * products
        return LayerCost(
            maps + sides * non_matmul, maps + sides * least, self.past.state_elements(), non_matmul=sides * non_matmul
        )

    def _read(self, x: Tensor) -> Tensor:
        return self.value(x)


class Selective(Recurrence):
    """(B, T, E) -> (B, T, E): short convolution, SiLU, the selective recurrence."""

    group_of: ClassVar = {"log_decay": "state"}

    def __init__(self, config: SelectiveSsmConfig, width: int):
        super().__init__()
        inner, rank = config.expand * width, -(-width // WIDTHS_PER_RANK)
        self.parts = [rank, config.state, config.state]
        self.conv = ShortConv(inner, config.taps, causal_only=True)
        self.read = Linear(inner, sum(self.parts), bias=False)
        self.step_weight = nn.Parameter(torch.empty(inner, rank))
        self.step_bias = nn.Parameter(torch.empty(inner))
        self.log_decay = nn.Parameter(torch.empty(inner, config.state))
        self.skip = nn.Parameter(torch.empty(inner))

    @property
    def decay(self) -> Tensor:
        return self.log_decay

    def forward(self, value: Tensor) -> Tensor:
        return self._scanned(self.conv(value), None)[0]

    def extend(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        conv, last = self.conv.extend(x, state.last)
        y, h = self._scanned(conv.to(x.dtype), state.h)
        return y, RecurrentState(last, h)

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
        """Steps near .2 and decays near .02, so that a leak at a distance shows: .6 is left after 129 slots."""
        open_near(self.log_decay, math.log(AUDIT_DECAY), rng)
        open_near(self.step_bias, float(_inverse_softplus(torch.tensor(AUDIT_STEP))), rng)

    def flops_per_slot(self) -> tuple[float, float, float]:
        """FLOPs of matrix products, of everything else as executed (recurrence in chunks), and of everything else at the least."""
        inner, state = self.log_decay.shape
        products = 2.0 * (self.read.weight.numel() + self.step_weight.numel() + inner * state)
        non_matmul = self.conv.flops_per_slot() + 2.0 * inner
        return products, non_matmul + 7.0 * inner * state, non_matmul + 4.0 * inner * state

    def _scanned(self, conv: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, E) in the dtype of `conv`, and h after the last slot; dt, A and h are float32 or better."""
        u = F.silu(conv)
        rank, into, out_of = (exact(part) for part in torch.split(self.read(u), self.parts, -1))
        fine = exact(u)
        rate = exact(self.log_decay).exp()
        before = fine.new_zeros(len(fine), *rate.shape) if first is None else first
        with exact_products(fine):
            step = F.softplus(F.linear(rank, exact(self.step_weight), exact(self.step_bias)))
        y, last = selective_scan(fine, step, rate, into, out_of, before)
        return (y + exact(self.skip) * fine).to(conv.dtype), last


def _inverse_softplus(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))
