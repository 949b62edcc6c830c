"""Hyena: products of the input's projections, with an implicit long convolution between each two of them.

[x_0 .. x_(O-1), v] = short convolutions of W_in u. From x_(O-1) down to x_1: v <- h * (x v) + beta (x v). y = W_out (x_0 v).
So order O has O - 1 long convolutions, as in the safari code; its paper's operator has O. Full: a second network for the lags after
a slot, and centred short convolutions.
Source: Poli et al., Hyena Hierarchy (2023), in the form of safari (02220c6), read, and written anew. Differs in: no heads and no
blocks (blocks read the future there); rows beyond the longest are refused (there C outputs came back); the full form (there a flag
without its method); the projections are single matrices, so that Muon may take them.
Legend: B rows, T slots, T_new new slots, D width, O order, K short taps, C longest row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from palinode.base.visibility import Native
from palinode.models.cost import LayerCost, sides_read
from palinode.models.mixers.base import Mixer, Place, Reading, TwoSidedConfig
from palinode.models.parts.fft_conv import KeptInputs, ShortConv, conv_flops, convolve
from palinode.models.parts.linear import Linear
from palinode.models.parts.sine_filter import Odd, SineFilter, SineFilterConfig
from palinode.models.parts.state import MixerState


class HyenaConfig(TwoSidedConfig):
    """Hyena. (O+2)(D^2+D) + (O+1) D (K+1) + D (O-1) parameters and those of the filter: E F + 2 F + 2 (F^2+F) + F D (O-1).

    Attributes:
        order: O.
        taps: K of the short convolutions, odd.
        filter: the network of the long convolutions.
    """

    kind: ClassVar[str] = "hyena"
    order: int = Field(default=2, ge=2)
    taps: Odd = Field(default=3, ge=1)
    filter: SineFilterConfig = SineFilterConfig()

    def build(self, place: Place) -> Mixer:
        return Hyena(self, place)


@dataclass(frozen=True)
class GatedConvState(MixerState):
    """The last K - 1 inputs of each short convolution, and all inputs of each long one."""

    short: tuple[Tensor, ...]
    long: tuple[KeptInputs, ...]


class GatedConv(Mixer):
    """Base of Hyena and Monarch Mixer: streams, each a linear map and a short convolution of the input, and long convolutions."""

    def __init__(self, place: Place, streams: int, taps: int, *, causal_only: bool):
        super().__init__()
        width = place.width
        self.maps = nn.ModuleList(Linear(width, width, bias=place.bias) for _ in range(streams))
        self.short = nn.ModuleList(ShortConv(width, taps, causal_only=causal_only) for _ in range(streams))

    @property
    def shorts(self) -> Sequence[ShortConv]:
        """The short convolutions, one a stream."""
        return cast(Sequence[ShortConv], self.short)

    def streams(self, x: Tensor, native: Native) -> list[Tensor]:
        """(B, T, D) of each stream."""
        return [short(into(x), native) for into, short in zip(self.maps, self.shorts, strict=True)]

    def next_streams(self, x: Tensor, before: Sequence[Tensor]) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """(B, T_new, D) of each stream for the next slots, and the inputs that their short convolutions keep."""
        pairs = zip(self.maps, self.shorts, before, strict=True)
        streams, last = zip(*(short.extend(into(x), kept) for into, short, kept in pairs), strict=True)
        return list(streams), last

    def streams_cost(self, slots: int, convs: int, adds: int, once: float) -> LayerCost:
        """The cost of streams, output map, and `convs` long convolutions with `adds` FLOPs after each, for each channel."""
        width = self.shorts[0].taps.shape[0]
        non_matmul = convs * width * (conv_flops(slots) + adds) + sum(short.flops_per_slot() for short in self.shorts)
        state = convs * width * slots + sum(short.state_elements() for short in self.shorts)
        return LayerCost.of(2.0 * (len(self.maps) + 1) * width**2, state, non_matmul, once)


class Hyena(GatedConv):
    """See the top of this file. The filter is trained in the group `filter`."""

    def __init__(self, config: HyenaConfig, place: Place):
        super().__init__(place, config.order + 1, config.taps, causal_only=False)
        width, convs = place.width, config.order - 1
        self.filter = SineFilter(config.filter, width * convs, place.max_length, two_sided=config.two_sided)
        self.skip = nn.Parameter(torch.empty(convs, width))
        self.out = Linear(width, width, bias=place.bias, role="residual")

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        kernels = zip(*map(self._by_conv, self.filter.kernels(x.shape[1], reading.native)), strict=True)
        *gates, v = self.streams(x, reading.native)
        for gate, of_conv, skip in zip(gates[:0:-1], kernels, self.skip, strict=True):
            u = gate * v
            v = convolve(u.mT, *of_conv).mT + skip * u
        return self.out(gates[0] * v)

    def begin(self, rows: int, slots: int) -> MixerState:
        kernels = self._by_conv(self.filter.kernel(slots))
        long = tuple(KeptInputs.empty(kernel, (rows, *kernel.shape)) for kernel in kernels)
        return GatedConvState(tuple(short.begin(rows) for short in self.shorts), long)

    def extend(self, x: Tensor, reading: Reading, state: MixerState) -> tuple[Tensor, MixerState]:
        assert isinstance(state, GatedConvState)
        kept = []
        (*gates, v), last = self.next_streams(x, state.short)
        for gate, conv, skip in zip(gates[:0:-1], state.long, self.skip, strict=True):
            u = gate * v
            y, inputs = conv.extend(u.mT)
            kept.append(inputs)
            v = y.mT + skip * u
        return self.out(gates[0] * v), GatedConvState(last, tuple(kept))

    def cost(self, slots: int, pairs: int) -> LayerCost:
        once = sides_read(pairs, slots) * self.filter.flops(slots)
        return self.streams_cost(slots, len(self.skip), 3, once)

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        parameter.normal_(generator=rng)

    def _by_conv(self, kernel: Tensor) -> tuple[Tensor, ...]:
        """(D, T) for each long convolution, in the order of use; each has all rates of decay."""
        convs, width = self.skip.shape
        return kernel.view(width, convs, -1).unbind(1)
