"""Hyena: products of the input's projections, with an implicit long convolution between each two of them.

[x_0 .. x_(O-1), v] = short convolutions of W_in u. From x_(O-1) down to x_1: v <- h * (x v) + beta (x v). y = W_out (x_0 v).
So order O has O - 1 long convolutions, as in the safari code; its paper's operator has O. Full: a second network for the lags after
a slot, and centred short convolutions.
Source: Poli et al., Hyena Hierarchy (2023), in the form of safari (02220c6), read, and written anew. Differs in: no heads and no
blocks (blocks read the future there), rows beyond the longest are refused (there C outputs came back), the full form (a flag there,
and a missing method), the projections are single matrices, so that Muon may take them.
Legend: B rows, T slots, T_new new slots, D width, O order, K short taps, C longest row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from palinode.models.cost import LayerCost, sides_read
from palinode.models.mixers.base import Mixer, Place, Reading, TwoSidedConfig
from palinode.models.parts.fft_conv import KeptInputs, ShortConv, conv_flops
from palinode.models.parts.linear import Linear
from palinode.models.parts.sine_filter import Odd, SineFilter, SineFilterConfig, convolved
from palinode.models.parts.state import MixerState


class HyenaConfig(TwoSidedConfig):
    """Hyena. (O+2)(D^2+D) + (O+1) D (K+1) + D (O-1) parameters and those of the filter: E F + 2 F + 2 (F^2+F) + F D (O-1).

    Attributes:
        order: O.
        taps: K of the short convolutions, odd.
        filter: the network of the long ones.
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


class Hyena(Mixer):
    """See the top of this file. The filter is trained in the group `filter`."""

    def __init__(self, config: HyenaConfig, place: Place):
        super().__init__()
        width, streams = place.width, config.order + 1
        self.maps = nn.ModuleList(Linear(width, width, bias=place.bias) for _ in range(streams))
        self.short = nn.ModuleList(ShortConv(width, config.taps) for _ in range(streams))
        convs = config.order - 1
        self.filter = SineFilter(config.filter, width * convs, place.max_length, two_sided=config.two_sided)
        self.skip = nn.Parameter(torch.empty(convs, width))
        self.out = Linear(width, width, bias=place.bias, role="residual")

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        full = reading.native == "full"
        past, future = self.filter.kernels(x.shape[1], full=full)
        after = [None] * len(self.skip) if future is None else list(self._by_conv(future))
        *gates, v = (short(into(x), reading.native) for into, short in zip(self.maps, self.short, strict=True))
        for gate, kernel, other, skip in zip(gates[:0:-1], self._by_conv(past), after, self.skip, strict=True):
            u = gate * v
            v = convolved(u, kernel, other) + skip * u
        out: Tensor = self.out(gates[0] * v)
        return out

    def begin(self, rows: int, slots: int) -> MixerState:
        kernels = self._by_conv(self.filter.kernel(slots))
        long = tuple(KeptInputs.empty(kernel, (rows, *kernel.shape)) for kernel in kernels)
        return GatedConvState(tuple(short.begin(rows) for short in self.short), long)  # type: ignore[operator]

    def extend(self, x: Tensor, reading: Reading, state: MixerState) -> tuple[Tensor, MixerState]:
        assert isinstance(state, GatedConvState)
        streams, last, kept = [], [], []
        for into, short, before in zip(self.maps, self.short, state.short, strict=True):
            stream, after = short.extend(into(x), before)  # type: ignore[operator]
            streams.append(stream)
            last.append(after)
        *gates, v = streams
        for gate, conv, skip in zip(gates[:0:-1], state.long, self.skip, strict=True):
            u = gate * v
            y, inputs = conv.extend(u.mT)
            kept.append(inputs)
            v = y.mT + skip * u
        return self.out(gates[0] * v), GatedConvState(tuple(last), tuple(kept))

    def cost(self, slots: int, pairs: int) -> LayerCost:
        convs, width = self.skip.shape
        beside = convs * width * (conv_flops(slots) + 3) + sum(short.flops_per_slot() for short in self.short)  # type: ignore[operator]
        flops = 2.0 * (len(self.maps) + 1) * width**2 + beside
        state = convs * width * slots + sum(short.state_elements() for short in self.short)  # type: ignore[operator]
        return LayerCost(flops, flops, state, beside, once=sides_read(pairs, slots) * self.filter.flops(slots))

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        parameter.normal_(generator=rng)

    def special_groups(self) -> Mapping[str, str]:
        return self.filter.roles("filter")

    def _by_conv(self, kernel: Tensor) -> tuple[Tensor, ...]:
        """(D, T) for each long convolution, in the order in which they are made; each has all rates of decay."""
        convs, width = self.skip.shape
        return kernel.view(width, convs, -1).unbind(1)
