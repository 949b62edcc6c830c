"""A gated linear recurrence: one number of state a channel, kept by a sigmoid of the input and read through a gate.

f = sigmoid(W_f x + bias), v = short conv(W_v x), h_t = f_t h_(t-1) + sqrt(1 - f_t^2) v_t, y = W_o (h silu(W_g x)). The scale of v
keeps the variance of h the same for every f. Full: a second forget map, value map and convolution read the row from its end; the
two are added.
Sources: Qin et al., HGRN (arXiv 2311.04823): one sigmoid decides what is kept; De et al., Griffin's RG-LRU (arXiv 2402.19427):
the scale sqrt(1 - f^2), decays that start uniform in .9 .. .999, the short convolution. Written from the papers. Left out: HGRN's
complex state and lower bounds by layer; RG-LRU's second gate, fixed power 8 and block-diagonal gates.
Legend: B rows, T slots, T_new new slots, D width, K taps.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from palinode.models.cost import LayerCost, sides_read
from palinode.models.mixers.base import Mixer, Place, TwoSidedConfig
from palinode.models.mixers.two_ways import Recurrence, RecurrentState, TwoWays
from palinode.models.parts.exact import exact
from palinode.models.parts.fft_conv import ShortConv
from palinode.models.parts.linear import Linear
from palinode.models.parts.own_start import open_near
from palinode.models.parts.scan import linear_scan

LEAST_DECAY_START, MOST_DECAY_START = 0.9, 0.999
AUDIT_KEEPS = 4.0  # sigmoid .98


class GatedRnnConfig(TwoSidedConfig):
    """Gated linear recurrence. 4 D^2 + D (K + 2) parameters, + 2 D^2 + D (K + 2) when two-sided, + biases.

    Attributes:
        taps: K of the short convolution.
    """

    kind: ClassVar[str] = "gated_rnn"
    taps: int = Field(default=4, ge=1)

    def build(self, place: Place) -> Mixer:
        return GatedRnn(self, place)


class GatedRnn(TwoWays):
    """W_o (h silu(W_g x)). The forget bias is trained in the group `state`."""

    past: Gated
    future: Gated | None

    def __init__(self, config: GatedRnnConfig, place: Place):
        super().__init__()
        width = place.width
        self.gate = Linear(width, width, bias=place.bias)
        self.past = Gated(config, place)
        self.future = Gated(config, place) if config.two_sided else None
        self.out = Linear(width, width, bias=place.bias, role="residual")

    def cost(self, slots: int, pairs: int) -> LayerCost:
        width, sides = len(self.past.keep_bias), sides_read(pairs, slots)
        maps = 4.0 * width * width * (1 + sides)
        conv = self.past.conv.flops_per_slot() * sides
        executed, least = (conv + each * width * sides for each in (7.0, 4.0))
        return LayerCost(maps + executed, maps + least, self.past.state_elements(), non_matmul=executed)

    def _read_out(self, h: Tensor, x: Tensor) -> Tensor:
        return super()._read_out(h.to(x.dtype), x)


class Gated(Recurrence):
    """(B, T, D) -> (B, T, D) float32 or better: the states h."""

    group_of: ClassVar = {"keep_bias": "state"}

    def __init__(self, config: GatedRnnConfig, place: Place):
        super().__init__()
        width = place.width
        self.keep = Linear(width, width, bias=False)
        self.keep_bias = nn.Parameter(torch.empty(width))
        self.value = Linear(width, width, bias=place.bias)
        self.conv = ShortConv(width, config.taps, causal_only=True)

    @property
    def decay(self) -> Tensor:
        return self.keep_bias

    def forward(self, x: Tensor) -> Tensor:
        return self._scanned(x, self.conv(self.value(x)), None)

    def extend(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        conv, last = self.conv.extend(self.value(x), state.last)
        h = self._scanned(x, conv, state.h)
        return h, RecurrentState(last, h[:, -1])

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        """Decays uniform in .9 .. .999."""
        parameter.uniform_(LEAST_DECAY_START, MOST_DECAY_START, generator=rng)
        parameter.copy_(torch.logit(parameter))

    def open_for_audit(self, gain: float, rng: Generator) -> None:
        """Decays near .98, so that a leak at a distance shows: .1 is left after 129 slots."""
        open_near(self.keep_bias, AUDIT_KEEPS, rng)

    def _scanned(self, x: Tensor, value: Tensor, first: Tensor | None) -> Tensor:
        raw = exact(self.keep(x)) + exact(self.keep_bias)
        # sigmoid(-raw), not 1 - sigmoid(raw): that is 0 from raw = 17 on, where its root has no slope.
        kept, lost = torch.sigmoid(raw), torch.sigmoid(-raw)
        return linear_scan(kept, (lost * (1 + kept)).sqrt() * exact(value), first)
