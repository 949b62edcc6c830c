"""Monarch Mixer: Hyena of order 2, with an optional long convolution of the input itself beside it.

[x1, x2, v] = short convolutions of W_in u; y = W_out (x2 (k * (x1 v) + beta (x1 v)) [+ k2 * u + beta2 u]). Full: a second
network of the same frequencies for the lags after a slot; the short convolutions stay causal. Its MLP is `block_diagonal`
(`parts/mlp.py`).
Source: Fu et al., Monarch Mixer (2023), in the form of the M2-BERT code, written anew. Differs in: the block around it is the
pre-norm one with a skip (there none), every network is in the group `filter` (there the one for later lags was in none).
Legend: B rows, T slots, T_new new slots, D width, C longest row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from palinode.models.cost import LayerCost, sides_read
from palinode.models.mixers.base import Mixer, Place, Reading, TwoSidedConfig
from palinode.models.mixers.hyena import GatedConvState
from palinode.models.parts.fft_conv import KeptInputs, ShortConv, conv_flops
from palinode.models.parts.linear import Linear
from palinode.models.parts.own_start import OwnStart
from palinode.models.parts.sine_filter import SineFilter, SineFilterConfig, convolved
from palinode.models.parts.state import MixerState

STREAMS = 3


class MonarchConfig(TwoSidedConfig):
    """Monarch Mixer. 4 D^2 + 16 D parameters (taps 3) and, for each long convolution, D and those of its filter.

    Attributes:
        taps: of the short convolutions, which are causal in both forms.
        residual_conv: the long convolution beside the products; on in all published runs.
        filter: the networks of the long ones; published: features learned, width 16 to 128.
    """

    kind: ClassVar[str] = "monarch"
    taps: int = Field(default=3, ge=1)
    residual_conv: bool = False
    filter: SineFilterConfig = SineFilterConfig(trained_features=True)

    def build(self, place: Place) -> Mixer:
        return Monarch(self, place)


class Monarch(Mixer):
    """See the top of this file. The filters are trained in the group `filter`, their features in `features`."""

    def __init__(self, config: MonarchConfig, place: Place):
        super().__init__()
        width = place.width
        self.maps = nn.ModuleList(Linear(width, width, bias=place.bias) for _ in range(STREAMS))
        self.short = nn.ModuleList(ShortConv(width, config.taps, causal_only=True) for _ in range(STREAMS))
        self.conv = FilterConv(config, width, place.max_length)
        self.residual_conv = FilterConv(config, width, place.max_length) if config.residual_conv else None
        self.out = Linear(width, width, bias=place.bias, role="residual")

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        full = reading.native == "full"
        first, second, v = (short(into(x)) for into, short in zip(self.maps, self.short, strict=True))
        y = second * self.conv(first * v, full=full)
        if self.residual_conv is not None:
            y = y + self.residual_conv(x, full=full)
        out: Tensor = self.out(y)
        return out

    def begin(self, rows: int, slots: int) -> MixerState:
        short = tuple(short.begin(rows) for short in self.short)  # type: ignore[operator]
        return GatedConvState(short, tuple(conv.begin(rows, slots) for conv in self._convs()))

    def extend(self, x: Tensor, reading: Reading, state: MixerState) -> tuple[Tensor, MixerState]:
        assert isinstance(state, GatedConvState)
        streams, last = [], []
        for into, short, before in zip(self.maps, self.short, state.short, strict=True):
            stream, after = short.extend(into(x), before)  # type: ignore[operator]
            streams.append(stream)
            last.append(after)
        first, second, v = streams
        y, kept = self.conv.extend(first * v, state.long[0])
        y, long = second * y, [kept]
        if self.residual_conv is not None:
            beside, kept = self.residual_conv.extend(x, state.long[1])
            y, long = y + beside, [*long, kept]
        return self.out(y), GatedConvState(tuple(last), tuple(long))

    def cost(self, slots: int, pairs: int) -> LayerCost:
        convs = self._convs()
        width = convs[0].filter.channels
        beside = len(convs) * width * (conv_flops(slots) + 2)
        beside += sum(short.flops_per_slot() for short in self.short)  # type: ignore[operator]
        flops = 2.0 * (STREAMS + 1) * width**2 + beside
        state = len(convs) * width * slots + sum(short.state_elements() for short in self.short)  # type: ignore[operator]
        once = sides_read(pairs, slots) * sum(conv.filter.flops(slots) for conv in convs)
        return LayerCost(flops, flops, state, beside, once)

    def special_groups(self) -> Mapping[str, str]:
        named = (("conv", self.conv), ("residual_conv", self.residual_conv))
        return {
            parameter: role
            for name, conv in named
            if conv is not None
            for parameter, role in conv.filter.roles(f"{name}.filter").items()
        }

    def _convs(self) -> list[FilterConv]:
        return [self.conv] if self.residual_conv is None else [self.conv, self.residual_conv]


class FilterConv(OwnStart):
    """k * u + beta u along the slots of (B, T, D), k from a network of sines."""

    def __init__(self, config: MonarchConfig, width: int, longest: int):
        super().__init__()
        self.filter = SineFilter(config.filter, width, longest, two_sided=config.two_sided)
        self.skip = nn.Parameter(torch.empty(width))

    def forward(self, u: Tensor, *, full: bool) -> Tensor:
        return convolved(u, *self.filter.kernels(u.shape[1], full=full)) + self.skip * u

    def begin(self, rows: int, slots: int) -> KeptInputs:
        kernel = self.filter.kernel(slots)
        return KeptInputs.empty(kernel, (rows, *kernel.shape))

    def extend(self, u: Tensor, kept: KeptInputs) -> tuple[Tensor, KeptInputs]:
        y, after = kept.extend(u.mT)
        return y.mT + self.skip * u, after

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        parameter.normal_(generator=rng)
