"""Mixers with convolutions along the slots: long convolution, BaseConv, Hyena, Monarch Mixer.

In the full form a long convolution has a second kernel for the slots after a slot. Every kernel is cut to the T slots of the row;
published modules transform all C taps for every row, so that a slot reads later slots.
Legend: B rows, T slots, T_new new slots, D width, K taps, C longest row, c channels of an input, O order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.base.bounds import MOST_PARTS
from palinode.base.errors import BadInput
from palinode.base.visibility import Native
from palinode.models.cost import LayerCost, sides_read
from palinode.models.mixers.base import Mixer, Place, Reading, TwoSidedConfig
from palinode.models.parts.exact import exact, exact_products
from palinode.models.parts.fft_conv import (
    FilterMap,
    KeptInputs,
    Odd,
    ShortConv,
    SineFilter,
    SineFilterConfig,
    check_lags,
    conv_flops,
    convolve,
    position_features,
    sides,
)
from palinode.models.parts.linear import Linear, OwnStart, noise_like
from palinode.models.parts.state import MixerState

RANDOM_STD, DECAYED_STD = 0.002, 0.02


class LongConvConfig(TwoSidedConfig):
    """The config of the long convolution.

    The mixer has c D C + c D + 2 c D^2 + 2 D parameters; a two-sided mixer has c D C more.

    Attributes:
        channels: the number c of convolutions of each of the D inputs.
        squash: the amount by which every tap is moved towards 0; smaller taps become 0. The published class has .1, which is
            refused, because a kernel with the usual start would then be 0 and never learn.
        kernel_dropout: the share of taps that are left out, in training only.
        kernel_start: the start of the kernels: `double_exp` .02 N(0, 1) exp(-t (D/2)^(d/D)), where t goes from 0 to 1 over the
            longest row and d is the channel; or `random` .002 N(0, 1).
    """

    kind: ClassVar[str] = "long_conv"
    channels: int = Field(default=1, ge=1)
    squash: float = Field(default=0.003, ge=0)
    kernel_dropout: float = Field(default=0.0, ge=0, lt=1)
    kernel_start: Literal["double_exp", "random"] = "double_exp"


class LongConv(Mixer, options=LongConvConfig):
    """A convolution in which each channel has a tap for every lag up to the longest row; small taps are squashed to zero.

    y_c = softshrink(k_c) * u + s_c u for c channels; GELU; dropout; W (c D -> 2 D); GLU.
    Source: Fu et al., Simple Hardware-Efficient Long Convolutions (2023), in the form of safari (02220c6); this code is new.
    Differences from safari: the kernel is cut to the row, and there is no smoothing of the kernel (safari has it, switched off).
    """

    group_of: ClassVar = {"kernel": "kernel", "kernel_future": "kernel"}

    def __init__(self, config: LongConvConfig, place: Place):
        super().__init__()
        shape = (config.channels, place.width, place.max_length)
        self.config, self.dropout = config, place.dropout
        self.kernel = nn.Parameter(torch.empty(shape))
        self.kernel_future = nn.Parameter(torch.empty(shape)) if config.two_sided else None
        self.skip = nn.Parameter(torch.empty(shape[:2]))
        self.out = Linear(config.channels * place.width, 2 * place.width, bias=place.bias, role="residual")

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        both = sides(reading.native, self.kernel, self.kernel_future)
        kernels = [self._squashed(kernel, x.shape[1]) for kernel in both]
        return self._read_out(convolve(x.mT[:, None], *kernels), x)

    def begin(self, rows: int, slots: int) -> MixerState:
        kernel = self._squashed(self.kernel, slots)
        return KeptInputs.empty(kernel, rows, 1, kernel.shape[1])

    def extend(self, x: Tensor, reading: Reading, state: KeptInputs) -> tuple[Tensor, MixerState]:
        y, after = state.extend(x.mT[:, None])
        return self._read_out(y, x), after

    def cost(self, slots: int, pairs: int) -> LayerCost:
        non_matmul = conv_flops(slots) * self.skip.numel()
        return LayerCost.of(2.0 * self.out.weight.numel(), self.skip.shape[1] * slots, non_matmul)

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        """Start the kernels as `kernel_start` says, and s as N(0, 1).

        Raises:
            BadInput: no tap is above `squash`, so that the kernel and its gradient would be zero.
        """
        parameter.normal_(generator=rng)
        if name == "skip":
            return
        parameter.mul_(self._start_std(parameter))
        if not bool((parameter.abs() > self.config.squash).any()):
            raise BadInput(
                f"no tap of the long convolution starts above squash = {self.config.squash:g}: it would never learn",
                field="squash",
                hint="published runs had 0.003",
            )

    def open_for_audit(self, gain: float, rng: Generator) -> None:
        """Set the taps at every lag above `squash`; with their usual start, nine of ten taps are squashed to 0."""
        for kernel in (self.kernel, self.kernel_future):
            if kernel is not None:
                noise = noise_like(kernel, rng)
                kernel.copy_(noise * gain / kernel.shape[-1] ** 0.5 + noise.sign() * self.config.squash)

    def _squashed(self, kernel: Tensor, slots: int) -> Tensor:
        """(c, D, T) in float32 or better."""
        check_lags(slots, kernel.shape[-1])
        squashed = F.softshrink(exact(kernel[..., :slots]), self.config.squash)
        return F.dropout(squashed, self.config.kernel_dropout) if self.training else squashed

    def _start_std(self, kernel: Tensor) -> Tensor | float:
        if self.config.kernel_start == "random":
            return RANDOM_STD
        _, width, longest = kernel.shape
        time = torch.arange(longest, dtype=kernel.dtype, device=kernel.device) / longest
        rate = (width / 2) ** (torch.arange(width, dtype=kernel.dtype, device=kernel.device) / width)
        return DECAYED_STD * torch.exp(-rate[:, None] * time)

    def _read_out(self, y: Tensor, x: Tensor) -> Tensor:
        """(B, T, D) from (B, c, D, T)."""
        y = F.gelu(y + self.skip[..., None] * x.mT[:, None]).flatten(1, 2).mT
        dropped = F.dropout(y, self.dropout) if self.training and self.dropout else y
        return F.glu(self.out(dropped), dim=-1)


FEATURES, FILTER_WIDTH, FILTER_STD = 3, 16, 0.02

KernelKind = Literal["short", "implicit", "explicit"]


class BaseConvConfig(TwoSidedConfig):
    """The config of BaseConv.

    The mixer has D^2 + D parameters and those of the convolution: D K + D (short), 64 + 17 D (implicit) or D C (explicit).

    Attributes:
        conv: the kind of the convolution: `short` (K taps), `implicit` or `explicit` (both have a tap for every lag).
        taps: the number K of taps of a short convolution, odd.
        silu: whether SiLU is applied to both factors.
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


class BaseConv(Mixer, options=BaseConvConfig):
    """BaseConv, y = conv(u) (W u + b) + u.

    The convolution is short, or long with an implicit kernel (a small network maps each lag to taps, without a decay), or long
    with an explicit kernel; u is added to the output of a long convolution. In the full form short taps are centred. Implicit
    kernels are trained in the group `filter`, explicit kernels in the group `kernel`.
    Source: Arora et al., Zoology (2023), in the form of its code (HazyResearch/zoology), written anew. Differences: kernels are cut
    to the row; explicit kernels start with variance 1 / C (Zoology: 1).
    """

    def __init__(self, config: BaseConvConfig, place: Place):
        super().__init__()
        self.config, self.width = config, place.width
        self.gate = Linear(place.width, place.width, bias=place.bias)
        self.short: ShortConv | None = None
        self.past: ImplicitKernel | ExplicitKernel | None = None
        self.future: ImplicitKernel | ExplicitKernel | None = None
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
        return KeptInputs.empty(self.past(slots), rows, self.width)

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
    """The last inputs, (B, K - 1, D), which the short taps still read."""

    last: Tensor


class ImplicitKernel(nn.Module):
    """A (D, T) kernel W relu(W' z + b') + b of three position features z, in float32 or better. W and W' start as N(0, .02^2)."""

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
        """The FLOPs of the matrix products that make the kernel."""
        return 2.0 * slots * (self.inner.weight.numel() + self.outer.weight.numel())


class ExplicitKernel(OwnStart):
    """A (D, T) kernel with a tap for every lag, in float32 or better; the taps start as N(0, 1 / C)."""

    group_of: ClassVar = {"taps": "kernel"}

    def __init__(self, width: int, longest: int):
        super().__init__()
        self.taps = nn.Parameter(torch.empty(width, longest))

    def forward(self, slots: int) -> Tensor:
        check_lags(slots, self.taps.shape[1])
        return exact(self.taps[:, :slots])

    def flops(self, slots: int) -> float:
        return 0.0

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        parameter.normal_(0.0, self.taps.shape[1] ** -0.5, generator=rng)


class HyenaConfig(TwoSidedConfig):
    """The config of Hyena.

    The mixer has (O+2)(D^2+D) + (O+1) D (K+1) + D (O-1) parameters. Its filter, with E features and width F, has
    E F + 2 F + 2 (F^2+F) + F D (O-1) more.

    Attributes:
        order: the order O.
        taps: the number K of taps of the short convolutions, odd.
        filter: the options of the network that makes the long kernels.
    """

    kind: ClassVar[str] = "hyena"
    order: int = Field(default=2, ge=2, le=MOST_PARTS)
    taps: Odd = Field(default=3, ge=1)
    filter: SineFilterConfig = SineFilterConfig()


@dataclass(frozen=True)
class GatedConvState(MixerState):
    """The state: the last K - 1 inputs of each short convolution, and all inputs of each long convolution."""

    short: tuple[Tensor, ...]
    long: tuple[KeptInputs, ...]


class GatedConv(Mixer):
    """Base class of Hyena and Monarch Mixer, with long convolutions and streams.

    A stream is a linear map of the input, followed by a short convolution.
    """

    def __init__(self, place: Place, streams: int, taps: int):
        super().__init__()
        width = place.width
        self.maps = nn.ModuleList(Linear(width, width, bias=place.bias) for _ in range(streams))
        self.short = nn.ModuleList(ShortConv(width, taps) for _ in range(streams))

    @property
    def shorts(self) -> Sequence[ShortConv]:
        """The short convolutions, one for each stream."""
        return cast(Sequence[ShortConv], self.short)

    def kernels(self, slots: int) -> Sequence[Tensor]:
        """The (D, T) kernel of each long convolution for the slots before a slot."""
        raise NotImplementedError(f"{type(self).__name__} must define kernels(slots)")

    def begin(self, rows: int, slots: int) -> MixerState:
        long = tuple(KeptInputs.empty(kernel, rows, len(kernel)) for kernel in self.kernels(slots))
        return GatedConvState(tuple(short.begin(rows) for short in self.shorts), long)

    def streams(self, x: Tensor, native: Native) -> list[Tensor]:
        """The (B, T, D) states of each stream."""
        return [short(into(x), native) for into, short in zip(self.maps, self.shorts, strict=True)]

    def next_streams(self, x: Tensor, before: Sequence[Tensor]) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """The (B, T_new, D) states of each stream for the next slots, and the inputs that the short convolutions keep."""
        pairs = zip(self.maps, self.shorts, before, strict=True)
        streams, last = zip(*(short.extend(into(x), kept) for into, short, kept in pairs), strict=True)
        return list(streams), last

    def streams_cost(self, slots: int, convs: int, adds: int, once: float) -> LayerCost:
        """The cost of streams, output map and `convs` long convolutions, each followed by `adds` FLOPs for each channel."""
        width = self.shorts[0].taps.shape[0]
        non_matmul = convs * width * (conv_flops(slots) + adds) + sum(short.flops_per_slot() for short in self.shorts)
        state = convs * width * slots + sum(short.state_elements() for short in self.shorts)
        return LayerCost.of(2.0 * (len(self.maps) + 1) * width**2, state, non_matmul, once)


class Hyena(GatedConv, options=HyenaConfig):
    """A product of projections of the input, with an implicit long convolution between every two factors.

    The network that makes the long kernels is trained in the group `filter`.

    [x_0 .. x_(O-1), v] = short convolutions of W_in u. From x_(O-1) down to x_1: v <- h * (x v) + beta (x v). y = W_out (x_0 v).
    Order O has O - 1 long convolutions, as in the safari code; the paper's operator has O. In the full form the short
    convolutions are centred.
    Source: Poli et al., Hyena Hierarchy (2023), in the form of safari (02220c6); this code is new. Differences from safari: there
    are no heads and no blocks (safari's blocks read the future); rows with more than C slots are refused (safari returns C
    outputs); the full form works (safari has a flag for the full form, but no full form); the projections are single matrices, so
    that Muon may train them.
    """

    def __init__(self, config: HyenaConfig, place: Place):
        super().__init__(place, config.order + 1, config.taps)
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

    def kernels(self, slots: int) -> Sequence[Tensor]:
        return self._by_conv(self.filter.kernels(slots)[0])

    def extend(self, x: Tensor, reading: Reading, state: GatedConvState) -> tuple[Tensor, MixerState]:
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
        """The (D, T) kernel of each long convolution, in the order of use; each kernel has channels of all rates of decay."""
        convs, width = self.skip.shape
        return kernel.view(width, convs, -1).unbind(1)


class MonarchConfig(TwoSidedConfig):
    """The config of Monarch Mixer.

    With 3 taps the mixer has 4 D^2 + 16 D parameters, and for each long convolution D more and those of its filter.

    Attributes:
        taps: the number of taps of the short convolutions, which are causal in both forms.
        residual_conv: whether a long convolution of the input is added; all published runs add it.
        filter: the networks of the long convolutions; published: features learned, width 16 to 128, and a weight decay of .1, which
            is an option of the recipe: `rates = [{role = "filter", weight_decay = 0.1}]`.
    """

    kind: ClassVar[str] = "monarch"
    taps: int = Field(default=3, ge=1)
    residual_conv: bool = False
    filter: SineFilterConfig = SineFilterConfig(trained_features=True)


class Monarch(GatedConv, options=MonarchConfig):
    """Hyena of order 2, plus an optional long convolution of the input; the published model has the MLP `block_diagonal`.

    [x1, x2, v] = short convolutions of W_in u; y = W_out (x2 (k * (x1 v) + beta (x1 v)) [+ k2 * u + beta2 u]). In the full form a
    second network with the same frequencies makes the kernel for the slots after a slot; the short convolutions stay causal. The
    filters are trained in the group `filter`, their features in `features`.
    Source: Fu et al., Monarch Mixer (2023), in the form of the M2-BERT code, written anew. Differences: the block around the
    mixer starts with a norm and has a skip connection (M2-BERT: no skip connection); every network is in the group `filter`
    (M2-BERT: the second one is in no group).
    """

    def __init__(self, config: MonarchConfig, place: Place):
        super().__init__(place, 3, config.taps)
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

    def kernels(self, slots: int) -> Sequence[Tensor]:
        return [conv.filter.kernels(slots)[0] for conv in self._convs()]

    def extend(self, x: Tensor, reading: Reading, state: GatedConvState) -> tuple[Tensor, MixerState]:
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
    """The convolution k * u + beta u along the slots of (B, T, D), where a network of sines makes the kernel k."""

    def __init__(self, config: MonarchConfig, width: int, longest: int):
        super().__init__()
        self.filter = SineFilter(config.filter, width, longest, two_sided=config.two_sided)
        self.skip = nn.Parameter(torch.empty(width))

    def forward(self, u: Tensor, reading: Reading) -> Tensor:
        return convolve(u.mT, *self.filter.kernels(u.shape[1], reading.native)).mT + self.skip * u

    def extend(self, u: Tensor, kept: KeptInputs) -> tuple[Tensor, KeptInputs]:
        y, after = kept.extend(u.mT)
        return y.mT + self.skip * u, after

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        parameter.normal_(generator=rng)
