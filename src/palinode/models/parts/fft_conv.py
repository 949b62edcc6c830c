"""Convolutions along the slots, exact at every length: long ones by FFT, short ones by shifted sums.

A long kernel is cut to the T slots of the row, and kernel and input are padded with zeros to at least 2 T points, so that nothing
wraps around: published modules that transform the whole kernel, or too few points, read the future. Transforms are float32 or
better under any autocast; the result has the dtype of the input. Kernels must be made in the time domain: one made in the
frequency domain cannot be cut. Rounding leaves up to 1e-7 (float32) or 1e-16 (float64) of the largest output on slots that must
not depend on it.
Legend: B rows, T slots, T_new new slots, C slots there is room for, D width, K taps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.base.visibility import Native
from palinode.models.parts.exact import exact_dtype
from palinode.models.parts.own_start import OwnStart
from palinode.models.parts.state import MixerState

Side = TypeVar("Side")


def causal_conv(u: Tensor, kernel: Tensor) -> Tensor:
    """y_i = sum over j <= i of kernel_(i-j) u_j, along the last dimension.

    Args:
        u: (.., T), any real dtype; the result has it too.
        kernel: (.., K), broadcast over the dimensions of `u`; taps from T on are not used, missing taps are 0.
    """
    slots, exact = u.shape[-1], exact_dtype(u, kernel)
    points = fast_length(2 * slots)
    spectrum = torch.fft.rfft(kernel[..., :slots].to(exact), points)
    return _filtered(u, spectrum, points, exact)


def full_conv(u: Tensor, past: Tensor, future: Tensor) -> Tensor:
    """y_i = sum over j <= i of past_(i-j) u_j + sum over j > i of future_(j-i-1) u_j: slot i itself is counted once, in `past`.

    Args:
        u: (.., T), any real dtype; the result has it too.
        past, future: (.., K) and (.., K'), cut and extended as in `causal_conv`.
    """
    slots, exact = u.shape[-1], exact_dtype(u, past)
    points = fast_length(2 * slots)
    before, after = past[..., :slots].to(exact), future[..., : slots - 1].to(exact)
    between = before.new_zeros(()).expand(*before.shape[:-1], points - before.shape[-1] - after.shape[-1])
    around = torch.cat((before, between, after.expand(*before.shape[:-1], -1).flip(-1)), -1)
    return _filtered(u, torch.fft.rfft(around), points, exact)


def convolve(u: Tensor, past: Tensor, future: Tensor | None = None) -> Tensor:
    """`causal_conv` with one kernel, `full_conv` with two."""
    return causal_conv(u, past) if future is None else full_conv(u, past, future)


def sides(native: Native, past: Side, future: Side | None) -> list[Side]:
    """What a two-sided mixer reads with: its part for the past, and in the full form its part for the future too."""
    if native != "full":
        return [past]
    assert future is not None
    return [past, future]


def conv_flops(slots: int) -> float:
    """FLOPs for each slot of one channel: two transforms of n = 2 T points, 5/2 n log2 n each, and a complex product."""
    return 10.0 * math.log2(2 * slots) + 6.0


def fast_length(least: int) -> int:
    """The smallest even 2^a 3^b 5^c that is at least `least`. Such transforms take at most 1.8 times as long as powers of two."""
    return next(length for length in range(least + least % 2, 2 * least + 3, 2) if _is_smooth(length))


@dataclass(frozen=True)
class KeptInputs(MixerState):
    """The inputs of a long convolution so far, (.., C), of which the first `filled` are set, and the kernel (.., C).

    All inputs are kept: an explicit kernel has no recurrence, so no constant number of elements is enough.
    """

    inputs: Tensor
    kernel: Tensor
    filled: int = 0

    @classmethod
    def empty(cls, kernel: Tensor, shape: tuple[int, ...]) -> Self:
        """Room for inputs of a shape whose last dimension is C, in the kernel's dtype and on its device."""
        kernel = kernel.detach()
        return cls(kernel.new_empty(shape), F.pad(kernel, (0, shape[-1] - kernel.shape[-1])))

    def extend(self, u: Tensor) -> tuple[Tensor, Self]:
        """(.., T_new) new inputs -> the last T_new slots of `causal_conv` over all inputs so far, and the next state."""
        count = u.shape[-1]
        end = self.filled + count
        self.inputs.narrow(-1, self.filled, count).copy_(u)
        seen = self.inputs.narrow(-1, 0, end)
        if count == 1:
            y = (seen * self.kernel[..., :end].flip(-1)).sum(-1, keepdim=True)
        else:
            y = causal_conv(seen, self.kernel)[..., self.filled :]
        return y.to(u.dtype), type(self)(self.inputs, self.kernel, end)


class ShortConv(OwnStart):
    """Depthwise convolution of K taps along the slots of (B, T, D): y_i = bias + sum over k < K of taps_k x_(i-k).

    Causal: the K - 1 slots before the first are 0. Full: centred, from (K - 1) / 2 slots before to as many after; with
    `causal_only` there is no full form, and K may be even.
    A chain of shifted sums on contiguous (B, T, D) takes .55 of the time of PyTorch's depthwise kernel on one core, forward and
    backward. No later slot enters it, not even by rounding.
    """

    def __init__(self, width: int, taps: int, *, bias: bool = True, causal_only: bool = False):
        super().__init__()
        if taps % 2 == 0 and not causal_only:
            raise ValueError(f"{taps} taps have no centre: give an odd number")
        self.taps = nn.Parameter(torch.empty(width, taps))
        self.bias = nn.Parameter(torch.empty(width)) if bias else None

    def forward(self, x: Tensor, native: Native = "causal") -> Tensor:
        count = self.taps.shape[1]
        after = (count - 1) // 2 if native == "full" else 0
        return self._summed(F.pad(x, (0, 0, count - 1 - after, after)), x.shape[1])

    def begin(self, rows: int) -> Tensor:
        """(B, K - 1, D): the zeros before the first slot."""
        return self.taps.new_zeros(rows, self.taps.shape[1] - 1, self.taps.shape[0])

    def extend(self, x: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T_new, D) of the next slots -> the same shape, and the last K - 1 inputs."""
        padded = torch.cat((last.to(x.dtype), x), 1)
        return self._summed(padded, x.shape[1]), padded[:, x.shape[1] :].to(last.dtype)

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        """Uniform within 1 / sqrt(K), taps and bias."""
        bound = self.taps.shape[1] ** -0.5
        parameter.uniform_(-bound, bound, generator=rng)

    def flops_per_slot(self) -> float:
        """Forward FLOPs for one slot; there is no matrix product."""
        return 2.0 * self.taps.numel()

    def state_elements(self) -> int:
        """Elements kept to read one more slot."""
        return self.taps.numel() - self.taps.shape[0]

    def _summed(self, padded: Tensor, slots: int) -> Tensor:
        """(B, T, D) from (B, T + K - 1, D)."""
        taps = self.taps.to(padded.dtype)
        count = taps.shape[1]
        y = padded[:, count - 1 :] * taps[:, 0]
        if self.bias is not None:
            y = y + self.bias.to(padded.dtype)
        for tap in range(1, count):
            first = count - 1 - tap
            y = torch.addcmul(y, padded[:, first : first + slots], taps[:, tap])
        return y


def _filtered(u: Tensor, spectrum: Tensor, points: int, exact: torch.dtype) -> Tensor:
    y: Tensor = torch.fft.irfft(torch.fft.rfft(u.to(exact), points) * spectrum, points)
    return y[..., : u.shape[-1]].to(u.dtype)


def _is_smooth(length: int) -> bool:
    for prime in (2, 3, 5):
        while length % prime == 0:
            length //= prime
    return length == 1
