"""Long convolution: each channel has a tap for every lag up to the longest row; small taps are squashed to zero.

y_c = softshrink(k_c) * u + s_c u for c channels; GELU; dropout; W (c D -> 2 D); GLU. Full: a second kernel for the lags after a
slot. The kernel is cut to the slots there are: published modules transform all C taps whatever the row, and read the future.
Source: Fu et al., Simple Hardware-Efficient Long Convolutions (2023), in the form of safari (02220c6), read, and written anew.
Differs in: the cut; no smoothing of the kernel (it is off there).
Legend: B rows, T slots, T_new new slots, D width, C longest row.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.base.errors import BadInput
from palinode.models.cost import LayerCost
from palinode.models.mixers.base import Mixer, Place, Reading, TwoSidedConfig
from palinode.models.parts.exact import exact
from palinode.models.parts.fft_conv import KeptInputs, conv_flops, convolve, sides
from palinode.models.parts.linear import Linear
from palinode.models.parts.own_start import noise_like
from palinode.models.parts.sine_filter import check_lags
from palinode.models.parts.state import MixerState

RANDOM_STD, DECAYED_STD = 0.002, 0.02


class LongConvConfig(TwoSidedConfig):
    """Long convolution. c D C + c D + 2 c D^2 + 2 D parameters, + c D C when two-sided.

    Attributes:
        channels: c, convolutions of each of the D inputs.
        squash: every tap is moved towards 0 by this much, and smaller taps are 0. The published class has .1; with it a kernel
            of the usual start is 0 and never learns, which is refused.
        kernel_dropout: share of the taps left out, in training only.
        kernel_start: `double_exp` .02 N(0, 1) exp(-t (D/2)^(d/D)), t from 0 to 1 over the longest row, d the channel; or `random`
            .002 N(0, 1).
    """

    kind: ClassVar[str] = "long_conv"
    channels: int = Field(default=1, ge=1)
    squash: float = Field(default=0.003, ge=0)
    kernel_dropout: float = Field(default=0.0, ge=0, lt=1)
    kernel_start: Literal["double_exp", "random"] = "double_exp"

    def build(self, place: Place) -> Mixer:
        return LongConv(self, place)


class LongConv(Mixer):
    """See the top of this file."""

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
        return KeptInputs.empty(kernel, (rows, 1, *kernel.shape[1:]))

    def extend(self, x: Tensor, reading: Reading, state: MixerState) -> tuple[Tensor, MixerState]:
        assert isinstance(state, KeptInputs)
        y, after = state.extend(x.mT[:, None])
        return self._read_out(y, x), after

    def cost(self, slots: int, pairs: int) -> LayerCost:
        non_matmul = conv_flops(slots) * self.skip.numel()
        return LayerCost.of(2.0 * self.out.weight.numel(), self.skip.shape[1] * slots, non_matmul)

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        """Kernels by `kernel_start`, s N(0, 1).

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
        """Taps above the squash at every lag: as they start, nine of ten are squashed to 0."""
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
