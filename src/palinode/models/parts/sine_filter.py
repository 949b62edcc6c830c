"""Implicit kernels: a small network of sines maps each lag to the taps of all channels, under a window that decays.

Lags are absolute: the kernel of a row of T < C slots is the first T taps of the kernel for C slots, never rescaled; longer rows are
refused. Every product is made in float32 or better.
Source: Poli et al., Hyena Hierarchy (2023), in the form of the safari code, written anew.
Legend: C longest row, T slots, D width, E position features, F width of the network.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import AfterValidator, Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.base.config import Config
from palinode.base.errors import BadInput
from palinode.base.visibility import Native
from palinode.models.parts.exact import exact, exact_products
from palinode.models.parts.fft_conv import sides
from palinode.models.parts.linear import Slotwise
from palinode.models.parts.own_start import OwnStart

# Rates over the longest row: 1 % of the window is left at 1.5 or at .3 of that length.
SLOWEST_DECAY, FASTEST_DECAY = math.log(100) / 1.5, math.log(100) / 0.3


def _odd(number: int) -> int:
    if number % 2 == 0:
        raise ValueError(f"{number} is even; it must be odd")
    return number


Odd = Annotated[int, AfterValidator(_odd)]


class SineFilterConfig(Config):
    """The network of an implicit kernel. The defaults are those of the published synthetic runs.

    Attributes:
        features: E, odd, at least 5: 3 features hold little but the lag itself (the cosine is 1, the sine spans 6e-4).
        width: F.
        inner_layers: sine layers after the first.
        sharpness: the start of every frequency of the sines, which are learned.
        trained_features: position features are parameters (group `features`), not constants.
        start_std: maps start N(0, start_std^2) with biases 0; None: uniform within 1 / sqrt(fan in). The published runs started at
            .02, because the language model's init overwrote the filter's own: taps five times smaller.
    """

    features: Odd = Field(default=5, ge=5)
    width: int = Field(default=64, ge=1)
    inner_layers: int = Field(default=2, ge=0)
    sharpness: float = Field(default=10.0, gt=0)
    trained_features: bool = False
    start_std: float | None = Field(default=None, gt=0)


class FilterMap(OwnStart):
    """y = x W^T + b in float32 or better."""

    __call__: Slotwise
    group_of: ClassVar = {"weight": "filter", "bias": "filter"}

    def __init__(self, in_width: int, out_width: int, *, bias: bool = True, start_std: float | None = None):
        super().__init__()
        self.start_std = start_std
        self.weight = nn.Parameter(torch.empty(out_width, in_width))
        self.bias = nn.Parameter(torch.empty(out_width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, exact(self.weight), None if self.bias is None else exact(self.bias))

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        if self.start_std is None:
            bound = self.weight.shape[1] ** -0.5
            parameter.uniform_(-bound, bound, generator=rng)
        elif name == "bias":
            parameter.zero_()
        else:
            parameter.normal_(0.0, self.start_std, generator=rng)


class SineFilter(OwnStart):
    """Kernels (channels, T) for one side or for both; both sides share frequencies and features."""

    group_of: ClassVar = {"frequency": "filter", "features": "features"}

    def __init__(self, config: SineFilterConfig, channels: int, longest: int, *, two_sided: bool):
        super().__init__()
        self.config, self.channels, self.longest = config, channels, longest
        self.frequency = nn.Parameter(torch.empty(config.width))
        self.past = _maps(config, channels)
        self.future = _maps(config, channels) if two_sided else None
        table = torch.empty(longest, config.features)
        self.features = nn.Parameter(table) if config.trained_features else None

    def kernel(self, slots: int) -> Tensor:
        """(channels, T): the taps at lags 0..T-1.

        Raises:
            BadInput: the row is longer than the lags of the filter.
        """
        return self._made(self.past, slots)

    def kernels(self, slots: int, native: Native) -> list[Tensor]:
        """The kernel of the past and, for the full form, that of the future."""
        return [self._made(maps, slots) for maps in sides(native, self.past, self.future)]

    def flops(self, slots: int) -> float:
        """FLOPs of the matrix products that make the kernels of one side."""
        config = self.config
        inner = config.inner_layers * config.width**2
        return 2.0 * slots * (config.features * config.width + inner + config.width * self.channels)

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        if name == "frequency":
            parameter.fill_(self.config.sharpness)
        else:  # the features
            parameter.copy_(position_features(self.longest, self.longest, self.config.features, like=parameter))

    def _made(self, maps: nn.ModuleList, slots: int) -> Tensor:
        check_lags(slots, self.longest)
        with exact_products(self.frequency):
            frequency = exact(self.frequency)
            if self.features is None:
                z = position_features(slots, self.longest, self.config.features, like=frequency)
            else:
                z = exact(self.features[:slots])
            *sines, last = maps
            for layer in sines:
                z = torch.sin(frequency * layer(z))
            taps: Tensor = last(z) * self._window(slots, frequency)
            return taps.mT

    def _window(self, slots: int, like: Tensor) -> Tensor:
        """(T, channels): exp(-rate t), rates evenly spaced over the channels, t from 0 to 1 at the last lag of the longest row."""
        rates = torch.linspace(SLOWEST_DECAY, FASTEST_DECAY, self.channels, device=like.device, dtype=like.dtype)
        return torch.exp(-_times(slots, self.longest, like)[:, None] * rates)


def position_features(slots: int, longest: int, count: int, *, like: Tensor) -> Tensor:
    """(T, E): the lag t = i / (C - 1), then cosines and minus sines of 2 pi i / C at frequencies from 1e-4 to (E - 1) / 2 - 1."""
    bands = (count - 1) // 2
    turns = torch.linspace(1e-4, bands - 1, bands, device=like.device, dtype=like.dtype)
    angle = 2 * math.pi / longest * torch.arange(slots, device=like.device, dtype=like.dtype)[:, None] * turns
    return torch.cat((_times(slots, longest, like)[:, None], angle.cos(), -angle.sin()), -1)


def check_lags(slots: int, longest: int) -> None:
    """Refuse a row that is longer than the lags a kernel was made for: it would read only some of its slots, without a warning."""
    if slots > longest:
        raise BadInput(f"a row of {slots} slots is longer than the {longest} lags of its convolutions")


def _times(slots: int, longest: int, like: Tensor) -> Tensor:
    return torch.arange(slots, device=like.device, dtype=like.dtype) / max(longest - 1, 1)


def _maps(config: SineFilterConfig, channels: int) -> nn.ModuleList:
    widths = [config.features, *[config.width] * (1 + config.inner_layers)]
    maps = [FilterMap(one, other, start_std=config.start_std) for one, other in zip(widths, widths[1:], strict=False)]
    return nn.ModuleList([*maps, FilterMap(config.width, channels, bias=False, start_std=config.start_std)])
