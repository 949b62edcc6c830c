"""Monarch Mixer: Hyena of order 2, with an optional long convolution of the input itself added to it.

[x1, x2, v] = short convolutions of W_in u; y = W_out (x2 (k * (x1 v) + beta (x1 v)) [+ k2 * u + beta2 u]). Full: a second
network of the same frequencies for the lags after a slot; the short convolutions stay causal. Its MLP is `block_diagonal`
(`parts/mlp.py`).
Source: Fu et al., Monarch Mixer (2023), in the form of the M2-BERT code, written anew. Differs in: the block around it is the
pre-norm one with a skip (there none); every network is in the group `filter` (there the one for later lags was in none).
Legend: B rows, T slots, T_new new slots, D width, C longest row.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from palinode.models.cost import LayerCost, sides_read
from palinode.models.mixers.base import Mixer, Place, Reading, TwoSidedConfig
from palinode.models.mixers.hyena import GatedConv, GatedConvState
from palinode.models.parts.fft_conv import KeptInputs, convolve
from palinode.models.parts.linear import Linear
from palinode.models.parts.own_start import OwnStart
from palinode.models.parts.sine_filter import SineFilter, SineFilterConfig
from palinode.models.parts.state import MixerState


class MonarchConfig(TwoSidedConfig):
    """Monarch Mixer. 4 D^2 + 16 D parameters (taps 3) and, for each long convolution, D and those of its filter.

    Attributes:
        taps: of the short convolutions, which are causal in both forms.
        residual_conv: add the long convolution of the input; all published runs have it.
        filter: the networks of the long convolutions; published: features learned, width 16 to 128.
    """

    kind: ClassVar[str] = "monarch"
    taps: int = Field(default=3, ge=1)
    residual_conv: bool = False
    filter: SineFilterConfig = SineFilterConfig(trained_features=True)

    def build(self, place: Place) -> Mixer:
        return Monarch(self, place)


class Monarch(GatedConv):
    """See the top of this file. The filters are trained in the group `filter`, their features in `features`."""

    def __init__(self, config: MonarchConfig, place: Place):
        super().__init__(place, 3, config.taps, causal_only=True)
        width = place.width
        self.conv = FilterConv(config, width, place.max_length)
        self.residual_conv = FilterConv(config, width, place.max_length) if config.residual_conv else None
        self.out = Linear(width, width, bias=place.bias, role="residual")

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        first, second, v = self.streams(x, "causal")
        y = second * self.conv(first * v, reading)
        if self.residual_conv is not None:
            y = y + self.residual_conv(x, reading)
        return self.out(y)

    def begin(self, rows: int, slots: int) -> MixerState:
        short = tuple(short.begin(rows) for short in self.shorts)
        return GatedConvState(short, tuple(conv.begin(rows, slots) for conv in self._convs()))

    def extend(self, x: Tensor, reading: Reading, state: MixerState) -> tuple[Tensor, MixerState]:
        assert isinstance(state, GatedConvState)
        (first, second, v), last = self.next_streams(x, state.short)
        y, kept = self.conv.extend(first * v, state.long[0])
        y, long = second * y, [kept]
        if self.residual_conv is not None:
            residual, kept = self.residual_conv.extend(x, state.long[1])
            y, long = y + residual, [*long, kept]
        return self.out(y), GatedConvState(last, tuple(long))

    def cost(self, slots: int, pairs: int) -> LayerCost:
        convs = self._convs()
        once = sides_read(pairs, slots) * sum(conv.filter.flops(slots) for conv in convs)
        return self.streams_cost(slots, len(convs), 2, once)

    def _convs(self) -> list[FilterConv]:
        return [self.conv] if self.residual_conv is None else [self.conv, self.residual_conv]


class FilterConv(OwnStart):
    """k * u + beta u along the slots of (B, T, D), with k from a network of sines."""

    def __init__(self, config: MonarchConfig, width: int, longest: int):
        super().__init__()
        self.filter = SineFilter(config.filter, width, longest, two_sided=config.two_sided)
        self.skip = nn.Parameter(torch.empty(width))

    def forward(self, u: Tensor, reading: Reading) -> Tensor:
        return convolve(u.mT, *self.filter.kernels(u.shape[1], reading.native)).mT + self.skip * u

    def begin(self, rows: int, slots: int) -> KeptInputs:
        kernel = self.filter.kernel(slots)
        return KeptInputs.empty(kernel, (rows, *kernel.shape))

    def extend(self, u: Tensor, kept: KeptInputs) -> tuple[Tensor, KeptInputs]:
        y, after = kept.extend(u.mT)
        return y.mT + self.skip * u, after

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        parameter.normal_(generator=rng)
