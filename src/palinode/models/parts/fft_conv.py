"""Convolutions along the slots, exact at every length: long convolutions by FFT, short convolutions by shifted sums.

This file also has the networks that make long kernels. A long kernel is cut to the T slots of the row, and kernel and input are
padded with zeros to at least 2 T points, so that no slot wraps around to the other end of the row. Published modules transform
the whole kernel, or transform too few points, so that a slot reads later slots. Transforms are float32 or better, also under
autocast; the result has the dtype of the input. A kernel must be made in the time domain, because a kernel in the frequency
domain cannot be cut. Rounding leaves an error of up to 1e-7 (float32) or 1e-16 (float64) of the largest output on slots that must
not depend on this output.
Legend: B rows, T slots, T_new new slots, C longest row, D width, K taps, E position features, F width of the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self, TypeVar

import torch
from pydantic import AfterValidator, Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.base.bounds import MOST_PARTS
from palinode.base.config import Config
from palinode.base.errors import BadInput
from palinode.base.visibility import Native
from palinode.models.parts.exact import exact, exact_dtype, exact_products
from palinode.models.parts.linear import OwnStart, Slotwise
from palinode.models.parts.state import MixerState

Side = TypeVar("Side")


def convolve(u: Tensor, past: Tensor, future: Tensor | None = None) -> Tensor:
    """y_i = sum over j <= i of past_(i-j) u_j [+ sum over j > i of future_(j-i-1) u_j], along the last dimension.

    Slot i itself is counted once, in `past`.

    Args:
        u: the inputs, (.., T), in any real dtype; the result has the same dtype.
        past, future: the taps, (.., K) and (.., K'), which broadcast over the dimensions of `u`; taps from T on are not used,
            missing taps are 0.
    """
    slots, exact = u.shape[-1], exact_dtype(u, past)
    points = fast_length(2 * slots)
    kernel = past[..., :slots].to(exact)
    if future is not None:
        after = future[..., : slots - 1].to(exact)
        between = kernel.new_zeros(()).expand(*kernel.shape[:-1], points - kernel.shape[-1] - after.shape[-1])
        kernel = torch.cat((kernel, between, after.expand(*kernel.shape[:-1], -1).flip(-1)), -1)
    y: Tensor = torch.fft.irfft(torch.fft.rfft(u.to(exact), points) * torch.fft.rfft(kernel, points), points)
    return y[..., :slots].to(u.dtype)


def sides(native: Native, past: Side, future: Side | None) -> list[Side]:
    """The parts that a two-sided mixer uses: its part for the past, and in the full form also its part for the future."""
    if native != "full":
        return [past]
    assert future is not None
    return [past, future]


def conv_flops(slots: int) -> float:
    """The FLOPs for each slot of one channel: two transforms of n = 2 T points (5/2 n log2 n each) and a complex product."""
    return 10.0 * math.log2(2 * slots) + 6.0


def fast_length(least: int) -> int:
    """The smallest even number 2^a 3^b 5^c that is at least `least`.

    A transform of this length takes at most 1.8 times as long as a transform whose length is a power of two.
    """
    return next(length for length in range(least + least % 2, 2 * least + 3, 2) if _is_smooth(length))


@dataclass(frozen=True)
class KeptInputs(MixerState):
    """The state of a long convolution: its inputs, (.., C), of which the first `filled` are set, and its kernel, (.., C).

    The state keeps all inputs: an explicit kernel has no recurrence, so that no constant number of elements is enough.
    """

    inputs: Tensor
    kernel: Tensor
    filled: int = 0

    @classmethod
    def empty(cls, kernel: Tensor, *shape: int) -> Self:
        """A state with room for inputs of this shape, in the dtype and on the device of the kernel (.., C)."""
        return cls(kernel.new_empty(*shape, kernel.shape[-1]), kernel.detach())

    def extend(self, u: Tensor) -> tuple[Tensor, Self]:
        """(.., T_new) new inputs -> the last T_new slots of `convolve` over all inputs so far, and the next state."""
        count = u.shape[-1]
        end = self.filled + count
        self.inputs.narrow(-1, self.filled, count).copy_(u)
        seen = self.inputs.narrow(-1, 0, end)
        if count == 1:
            y = (seen * self.kernel[..., :end].flip(-1)).sum(-1, keepdim=True)
        else:
            y = convolve(seen, self.kernel)[..., self.filled :]
        return y.to(u.dtype), type(self)(self.inputs, self.kernel, end)


class ShortConv(OwnStart):
    """Depthwise convolution with K taps along the slots of (B, T, D): y_i = bias + sum over k < K of taps_k x_(i-k).

    In the causal form the K - 1 slots before the first slot are 0. In the full form K is odd and the taps are centred: they reach
    from (K - 1) / 2 slots before a slot to (K - 1) / 2 slots after it. The code adds shifted tensors (B, T, D), which takes .55 of
    the time of PyTorch's depthwise kernel on one core, forward and backward. In the causal form no later slot changes the output,
    not even by rounding.
    """

    def __init__(self, width: int, taps: int):
        super().__init__()
        self.taps = nn.Parameter(torch.empty(width, taps))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor, native: Native = "causal") -> Tensor:
        count = self.taps.shape[1]
        after = (count - 1) // 2 if native == "full" else 0
        return self._summed(F.pad(x, (0, 0, count - 1 - after, after)), x.shape[1])

    def begin(self, rows: int) -> Tensor:
        """The state before the first slot is read: (B, K - 1, D) zeros."""
        return self.taps.new_zeros(rows, self.taps.shape[1] - 1, self.taps.shape[0])

    def extend(self, x: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T_new, D) inputs of the next slots -> (B, T_new, D) outputs, and the last K - 1 inputs."""
        padded = torch.cat((last.to(x.dtype), x), 1)
        return self._summed(padded, x.shape[1]), padded[:, x.shape[1] :].to(last.dtype)

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        """Start taps and bias uniform in +-1 / sqrt(K)."""
        bound = self.taps.shape[1] ** -0.5
        parameter.uniform_(-bound, bound, generator=rng)

    def flops_per_slot(self) -> float:
        """The forward FLOPs for one slot; a short convolution has no matrix product."""
        return 2.0 * self.taps.numel()

    def state_elements(self) -> int:
        """The number of state elements that are kept to read one more slot."""
        return self.taps.numel() - self.taps.shape[0]

    def _summed(self, padded: Tensor, slots: int) -> Tensor:
        """The shifted sums, (B, T + K - 1, D) -> (B, T, D)."""
        taps = self.taps.to(padded.dtype)
        count = taps.shape[1]
        y = padded[:, count - 1 :] * taps[:, 0] + self.bias.to(padded.dtype)
        for tap in range(1, count):
            first = count - 1 - tap
            y = torch.addcmul(y, padded[:, first : first + slots], taps[:, tap])
        return y


def _is_smooth(length: int) -> bool:
    for prime in (2, 3, 5):
        while length % prime == 0:
            length //= prime
    return length == 1


# Rates of decay of the window: 1 % is left after 1.5 (slowest) or .3 (fastest) of the length of the longest row.
SLOWEST_DECAY, FASTEST_DECAY = math.log(100) / 1.5, math.log(100) / 0.3


def _odd(number: int) -> int:
    if number % 2 == 0:
        raise ValueError(f"{number} is even; it must be odd")
    return number


Odd = Annotated[int, AfterValidator(_odd)]


class SineFilterConfig(Config):
    """The network of an implicit kernel. The defaults are those of the published synthetic runs.

    Attributes:
        features: the number E of position features, odd, at least 5: with 3 features, only the lag itself would vary enough (the
            cosine is about 1, the sine changes by 6e-4).
        width: the width F of the network.
        inner_layers: the number of sine layers after the first sine layer.
        sharpness: the value at which each frequency of the sines starts; the frequencies are learned.
        trained_features: whether the position features are parameters (group `features`) and not constants.
        start_std: the standard deviation of the maps' first weights, with biases that start at 0; None: maps and biases start
            uniform in +-1 / sqrt(fan in). The published runs started at .02, because the language model's init replaced the
            filter's own start; the taps of these runs started five times smaller.
    """

    features: Odd = Field(default=5, ge=5)
    width: int = Field(default=64, ge=1)
    inner_layers: int = Field(default=2, ge=0, le=MOST_PARTS)
    sharpness: float = Field(default=10.0, gt=0)
    trained_features: bool = False
    start_std: float | None = Field(default=None, gt=0)


class FilterMap(OwnStart, Slotwise):
    """A linear map of the network, y = x W^T + b, computed in float32 or better."""

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
    """A network of sines that maps each lag to the taps of all channels; a decaying window multiplies the kernels (channels, T).

    The kernels of past and future share frequencies and features. Lags are absolute: the kernel of a row of T < C slots is the
    first T taps of the kernel for C slots and is never rescaled; rows with more than C slots are refused. Every product is
    computed in float32 or better.
    Source: Poli et al., Hyena Hierarchy (2023), in the form of the safari code, written anew.
    """

    group_of: ClassVar = {"frequency": "filter", "features": "features"}

    def __init__(self, config: SineFilterConfig, channels: int, longest: int, *, two_sided: bool):
        super().__init__()
        self.config, self.channels, self.longest = config, channels, longest
        self.frequency = nn.Parameter(torch.empty(config.width))
        self.past = _maps(config, channels)
        self.future = _maps(config, channels) if two_sided else None
        table = torch.empty(longest, config.features)
        self.features = nn.Parameter(table) if config.trained_features else None

    def kernels(self, slots: int, native: Native = "causal") -> list[Tensor]:
        """The kernel of the past, and in the full form also the kernel of the future: (channels, T) taps at the lags 0..T-1.

        Raises:
            BadInput: the row has more slots than the filter has lags.
        """
        return [self._made(maps, slots) for maps in sides(native, self.past, self.future)]

    def flops(self, slots: int) -> float:
        """The FLOPs of the matrix products that compute the kernels of one direction (past or future)."""
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
        """The window exp(-rate t), (T, channels): rates evenly spaced over the channels, t = 1 at the end of the longest row."""
        rates = torch.linspace(SLOWEST_DECAY, FASTEST_DECAY, self.channels, device=like.device, dtype=like.dtype)
        return torch.exp(-_times(slots, self.longest, like)[:, None] * rates)


def position_features(slots: int, longest: int, count: int, *, like: Tensor) -> Tensor:
    """The (T, E) features: t = i / (C - 1), then cosines and minus sines of 2 pi i / C at frequencies 1e-4 to (E - 1) / 2 - 1."""
    bands = (count - 1) // 2
    turns = torch.linspace(1e-4, bands - 1, bands, device=like.device, dtype=like.dtype)
    angle = 2 * math.pi / longest * torch.arange(slots, device=like.device, dtype=like.dtype)[:, None] * turns
    return torch.cat((_times(slots, longest, like)[:, None], angle.cos(), -angle.sin()), -1)


def check_lags(slots: int, longest: int) -> None:
    """Refuse a row that has more slots than the kernel has lags: the convolution would leave out slots without a warning."""
    if slots > longest:
        raise BadInput(f"a row of {slots} slots is longer than the {longest} lags of its convolutions")


def _times(slots: int, longest: int, like: Tensor) -> Tensor:
    return torch.arange(slots, device=like.device, dtype=like.dtype) / max(longest - 1, 1)


def _maps(config: SineFilterConfig, channels: int) -> nn.ModuleList:
    widths = [config.features, *[config.width] * (1 + config.inner_layers)]
    maps = [FilterMap(one, other, start_std=config.start_std) for one, other in zip(widths, widths[1:], strict=False)]
    return nn.ModuleList([*maps, FilterMap(config.width, channels, bias=False, start_std=config.start_std)])
