"""BaseConv: a convolution of the input times a linear map of it, plus the input.

y = conv(u) (W u + b) + u. The convolution is short, or long with an implicit kernel (a small network of the lag, no decay) or an
explicit one; to a long one u is added. Full: short taps are centred; a long kernel has a second one for later lags.
Source: Arora et al., Zoology (2023), in the form of its code (HazyResearch/zoology), written anew. Differs in: explicit kernels are
cut to the slots there are (there they read the future) and start with variance 1 / C (there 1).
Legend: B rows, T slots, T_new new slots, D width, K taps, C longest row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.base.visibility import Native
from palinode.models.cost import LayerCost, sides_read
from palinode.models.mixers.base import Mixer, Place, Reading, TwoSidedConfig
from palinode.models.parts.exact import exact, exact_products
from palinode.models.parts.fft_conv import KeptInputs, ShortConv, conv_flops, convolve, sides
from palinode.models.parts.linear import Linear
from palinode.models.parts.own_start import OwnStart
from palinode.models.parts.sine_filter import FilterMap, Odd, check_lags, position_features
from palinode.models.parts.state import MixerState

FEATURES, FILTER_WIDTH, FILTER_STD = 3, 16, 0.02

KernelKind = Literal["short", "implicit", "explicit"]


class BaseConvConfig(TwoSidedConfig):
    """BaseConv. D^2 + D parameters and those of the convolution: D K + D short, 64 + 17 D implicit, D C explicit.

    Attributes:
        conv: `short` (K taps), `implicit` or `explicit` (a tap for every lag).
        taps: K, odd.
        silu: SiLU on both factors.
    """

    kind: ClassVar[str] = "base_conv"
    conv: KernelKind = "short"
    taps: Odd = Field(default=3, ge=1)
    silu: bool = False

    @model_validator(mode="after")
    def _only_long_kernels_have_sides(self) -> BaseConvConfig:
        if self.two_sided and self.conv == "short":
            raise ValueError("two_sided: short taps are centred in the full form, so they need no second kernel")
        return self

    def refusal(self, native: Native) -> str | None:
        return None if native == "full" and self.conv == "short" else super().refusal(native)

    def build(self, place: Place) -> Mixer:
        return BaseConv(self, place)


class BaseConv(Mixer):
    """See the top of this file. Long kernels are trained in the groups `filter` (implicit) and `kernel` (explicit)."""

    def __init__(self, config: BaseConvConfig, place: Place):
        super().__init__()
        self.config, self.width = config, place.width
        self.gate = Linear(place.width, place.width, bias=place.bias)
        self.short: ShortConv | None = None
        self.past: LongKernel | None = None
        self.future: LongKernel | None = None
        if config.conv == "short":
            self.short = ShortConv(place.width, config.taps)
        else:
            kind = ImplicitKernel if config.conv == "implicit" else ExplicitKernel
            self.past = kind(place.width, place.max_length)
            self.future = kind(place.width, place.max_length) if config.two_sided else None

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        if self.short is not None:
            return self._product(self.short(x, reading.native), x)
        assert self.past is not None
        kernels = (kernel(x.shape[1]) for kernel in sides(reading.native, self.past, self.future))
        return self._product(convolve(x.mT, *kernels).mT + x, x)

    def begin(self, rows: int, slots: int) -> MixerState:
        if self.short is not None:
            return LastInputs(self.short.begin(rows))
        assert self.past is not None
        kernel = self.past(slots)
        return KeptInputs.empty(kernel, (rows, *kernel.shape))

    def extend(self, x: Tensor, reading: Reading, state: MixerState) -> tuple[Tensor, MixerState]:
        if isinstance(state, KeptInputs):
            y, after = state.extend(x.mT)
            return self._product(y.mT + x, x), after
        assert isinstance(state, LastInputs)
        assert self.short is not None
        y, last = self.short.extend(x, state.last)
        return self._product(y, x), LastInputs(last)

    def cost(self, slots: int, pairs: int) -> LayerCost:
        maps = 2.0 * self.width**2
        if self.short is not None:
            return LayerCost.of(maps, self.short.state_elements(), self.short.flops_per_slot())
        assert self.past is not None
        once = sides_read(pairs, slots) * self.past.flops(slots)
        return LayerCost.of(maps, self.width * slots, self.width * conv_flops(slots), once)

    def reach_slots(self, native: Native) -> int | None:
        if self.short is None:
            return None
        return (self.config.taps - 1) // (2 if native == "full" else 1)

    def _product(self, convolution: Tensor, x: Tensor) -> Tensor:
        gate = self.gate(x)
        if self.config.silu:
            convolution, gate = F.silu(convolution), F.silu(gate)
        return convolution * gate + x


@dataclass(frozen=True)
class LastInputs(MixerState):
    """(B, K - 1, D): the inputs that short taps still read."""

    last: Tensor


class LongKernel(OwnStart):
    """Makes a kernel (D, T), in float32 or better."""

    def forward(self, slots: int) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define forward(slots)")

    def flops(self, slots: int) -> float:
        """FLOPs of the matrix products that make the kernel."""
        return 0.0


class ImplicitKernel(LongKernel):
    """W relu(W' z + b') + b of three position features z; both maps start with std .02, so the kernel starts near 0."""

    def __init__(self, width: int, longest: int):
        super().__init__()
        self.longest = longest
        self.inner = FilterMap(FEATURES, FILTER_WIDTH, start_std=FILTER_STD)
        self.outer = FilterMap(FILTER_WIDTH, width, start_std=FILTER_STD)

    def forward(self, slots: int) -> Tensor:
        check_lags(slots, self.longest)
        with exact_products(self.inner.weight):
            z = position_features(slots, self.longest, FEATURES, like=exact(self.inner.weight))
            return self.outer(F.relu(self.inner(z))).mT

    def flops(self, slots: int) -> float:
        return 2.0 * slots * (self.inner.weight.numel() + self.outer.weight.numel())


class ExplicitKernel(LongKernel):
    """A tap for every lag, N(0, 1 / C)."""

    group_of: ClassVar = {"taps": "kernel"}

    def __init__(self, width: int, longest: int):
        super().__init__()
        self.taps = nn.Parameter(torch.empty(width, longest))

    def forward(self, slots: int) -> Tensor:
        check_lags(slots, self.taps.shape[1])
        return exact(self.taps[:, :slots])

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        parameter.normal_(0.0, self.taps.shape[1] ** -0.5, generator=rng)
