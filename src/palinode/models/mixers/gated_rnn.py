"""A gated linear recurrence: one number of state a channel, kept by a sigmoid of the input and read through a gate.

f = sigmoid(W_f x + bias), v = short conv(W_v x), h_t = f_t h_(t-1) + sqrt(1 - f_t^2) v_t, y = W_o (h silu(W_g x)). The scale of v
keeps the variance of h whatever f is. Full: a second forget map, value map and convolution read the row from its end; both are
added.
Sources: Qin et al., HGRN (arXiv 2311.04823): one sigmoid decides what is kept; De et al., Griffin's RG-LRU (arXiv 2402.19427):
the scale sqrt(1 - f^2), decays that start uniform in .9 .. .999, the short convolution. Written from the papers. Left out: HGRN's
complex state and lower bounds by layer; RG-LRU's second gate, fixed power 8 and block-diagonal gates.
Legend: B rows, T slots, T_new new slots, D width, K taps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.models.cost import LayerCost
from palinode.models.mixers.base import Mixer, Place, Reading, TwoSidedConfig
from palinode.models.parts.exact import exact
from palinode.models.parts.fft_conv import ShortConv
from palinode.models.parts.linear import Linear
from palinode.models.parts.own_start import OwnStart
from palinode.models.parts.scan import linear_scan
from palinode.models.parts.state import MixerState

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


@dataclass(frozen=True)
class GatedState(MixerState):
    """The last K - 1 inputs of the short convolution (B, K - 1, D), and h (B, D)."""

    last: Tensor
    h: Tensor


class GatedRnn(Mixer):
    """W_o (h silu(W_g x)). The forget bias is trained in the group `state`."""

    def __init__(self, config: GatedRnnConfig, place: Place):
        super().__init__()
        width = place.width
        self.gate = Linear(width, width, bias=place.bias)
        self.past = Recurrence(config, place)
        self.future = Recurrence(config, place) if config.two_sided else None
        self.out = Linear(width, width, bias=place.bias, role="residual")

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        h = self.past(x)
        if reading.native == "full":
            assert self.future is not None
            h = h + self.future(x.flip(1)).flip(1)
        return self._read_out(h, x)

    def begin(self, rows: int, slots: int) -> MixerState:
        return self.past.begin(rows)

    def extend(self, x: Tensor, reading: Reading, state: MixerState) -> tuple[Tensor, MixerState]:
        assert isinstance(state, GatedState)
        h, after = self.past.extend(x, state)
        return self._read_out(h, x), after

    def cost(self, slots: int, pairs: int) -> LayerCost:
        width = len(self.past.keep_bias)
        sides = 2 if pairs > slots * (slots + 1) // 2 else 1
        maps = 4.0 * width * width * (1 + sides)
        conv = self.past.conv.flops_per_slot() * sides
        executed, least = (conv + each * width * sides for each in (7.0, 4.0))
        return LayerCost(maps + executed, maps + least, self.past.state_elements(), beside=executed)

    def special_groups(self) -> Mapping[str, str]:
        sides = ("past",) if self.future is None else ("past", "future")
        return {f"{side}.keep_bias": "state" for side in sides}

    def _read_out(self, h: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.out(h.to(x.dtype) * F.silu(self.gate(x)))
        return out


class Recurrence(OwnStart):
    """(B, T, D) -> (B, T, D) float32 or better: the states h. Causal."""

    def __init__(self, config: GatedRnnConfig, place: Place):
        super().__init__()
        width = place.width
        self.keep = Linear(width, width, bias=False)
        self.keep_bias = nn.Parameter(torch.empty(width))
        self.value = Linear(width, width, bias=place.bias)
        self.conv = ShortConv(width, config.taps, causal_only=True)

    def forward(self, x: Tensor) -> Tensor:
        return self._scanned(x, self.conv(self.value(x)), None)

    def begin(self, rows: int) -> GatedState:
        """Nothing read."""
        return GatedState(exact(self.conv.begin(rows)), exact(self.keep_bias).new_zeros(rows, len(self.keep_bias)))

    def extend(self, x: Tensor, state: GatedState) -> tuple[Tensor, GatedState]:
        """The states of the next (B, T_new, D) slots, and what is kept after them."""
        conv, last = self.conv.extend(self.value(x), state.last)
        h = self._scanned(x, conv, state.h)
        return h, GatedState(last, h[:, -1])

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        """Decays uniform in .9 .. .999."""
        parameter.uniform_(LEAST_DECAY_START, MOST_DECAY_START, generator=rng)
        parameter.copy_(torch.logit(parameter))

    def open_for_audit(self, gain: float, rng: Generator) -> None:
        """Decays near .98, so that what leaks at a distance shows: .1 is left after 129 slots."""
        noise = torch.randn(self.keep_bias.shape, generator=rng, dtype=self.keep_bias.dtype)
        self.keep_bias.copy_(AUDIT_KEEPS + 0.1 * noise.to(self.keep_bias.device))

    def state_elements(self) -> int:
        """Elements kept to read one slot more."""
        return self.conv.state_elements() + len(self.keep_bias)

    def _scanned(self, x: Tensor, value: Tensor, first: Tensor | None) -> Tensor:
        raw = exact(self.keep(x)) + exact(self.keep_bias)
        kept, lost = (
            torch.sigmoid(raw),
            torch.sigmoid(-raw),
        )  # 1 - kept would be 0 from raw = 17 on, and its root have no slope
        return linear_scan(kept, (lost * (1 + kept)).sqrt() * exact(value), first)
