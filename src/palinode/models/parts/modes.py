"""Diagonal state-space layers: the kernel is a sum of decaying oscillations, kappa_l = 2 Re sum over n of weight_n multiplier_n^l.

Each pair of conjugate modes has the state x_t = multiplier x_(t-1) + u_t; the output 2 Re sum weight x_t is the convolution of u
with kappa. Input and output maps are folded into the weights. Powers are made in float64 from the exponents: the phase of a fast
mode grows to thousands of radians, and float32 would be wrong by 1e-3 of a turn at slot 100. Sums are float32 or better.
Legend: B rows, T slots, T_new new slots, G systems, N numbers of state, n = N / 2 pairs of modes, c channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from palinode.models.parts.exact import exact_products
from palinode.models.parts.fft_conv import causal_conv
from palinode.models.parts.state import MixerState

Frequencies = Literal["inverse", "linear"]
START_DECAY = 0.5 + 1e-4  # as published
BLOCK_SLOTS = 128  # slots read at once from a state; its tables are G x 2n x 128 numbers


@dataclass(frozen=True)
class Modes:
    """Both (G, n) complex128: multiplier_n = exp(exponent_n), with a real part below 0, and weight_n."""

    exponent: Tensor
    weight: Tensor
    dtype: torch.dtype

    def kernel(self, slots: int) -> Tensor:
        """(G, T) real taps 0..T-1.

        A lag is l = a b + r with b about sqrt(T): the powers for a b and for r are made and multiplied as matrices. That takes
        4 G n sqrt(T) exponentials instead of 2 G n T, and no memory for T powers of n modes.
        """
        size = math.isqrt(slots - 1) + 1
        starts = self._powers(torch.arange(0, slots, size, device=self.exponent.device), self.weight)
        inside = self._powers(torch.arange(size, device=self.exponent.device))
        with exact_products(starts):
            kernel = _opposed(starts).mT @ inside
        return 2 * kernel.flatten(-2)[..., :slots]

    def answer(self, slots: int) -> Tensor:
        """(G, 2n, T_new): (real, imaginary) parts of a state -> the outputs of the next T_new slots, without further input."""
        return 2 * _opposed(self._powers(torch.arange(1, slots + 1, device=self.exponent.device), self.weight))

    def arrival(self, slots: int) -> Tensor:
        """(G, 2n, T_new): the inputs of T_new slots -> their part of the state after these slots."""
        return self._powers(torch.arange(slots - 1, -1, -1, device=self.exponent.device))

    def over(self, slots: int) -> Tensor:
        """(G, n, 2): multiplier^slots, as (real, imaginary) pairs."""
        return torch.view_as_real(torch.exp(self.exponent * slots)).to(self.dtype)

    def _powers(self, lags: Tensor, weight: Tensor | None = None) -> Tensor:
        """(G, 2n, len(lags)): real parts of weight multiplier^lag, then imaginary parts."""
        powers = torch.exp(self.exponent[..., None] * lags)
        powers = powers if weight is None else powers * weight[..., None]
        return torch.cat((powers.real, powers.imag), -2).to(self.dtype)


@dataclass(frozen=True)
class ModeState(MixerState):
    """(B, G, c, n, 2) states of c channels of each system, and the discretised layer: making it again costs more than a slot.

    The kernel (G, 128) serves to read many slots at once.
    """

    state: Tensor
    modes: Modes
    over: Tensor
    weight: Tensor
    kernel: Tensor

    @classmethod
    def empty(cls, modes: Modes, rows: int, channels: int = 1) -> ModeState:
        """The state before the first slot."""
        systems, count = modes.exponent.shape
        modes = Modes(modes.exponent.detach(), modes.weight.detach(), modes.dtype)
        state = torch.zeros(rows, systems, channels, count, 2, dtype=modes.dtype, device=modes.exponent.device)
        weight = torch.view_as_real(modes.weight).to(modes.dtype)
        return cls(state, modes, modes.over(1), weight, modes.kernel(BLOCK_SLOTS))

    def extend(self, u: Tensor) -> tuple[Tensor, ModeState]:
        """(B, G, c, T_new) of the next inputs -> as many outputs, and the next state."""
        u, parts, held = u.to(self.state.dtype), [], self
        for block in torch.split(u, BLOCK_SLOTS, -1):
            y, held = held._step(block) if block.shape[-1] == 1 else held._block(block)
            parts.append(y)
        return parts[0] if len(parts) == 1 else torch.cat(tuple(parts), -1), held

    def _step(self, u: Tensor) -> tuple[Tensor, ModeState]:
        state = _product(self.state, self.over[:, None])
        state = torch.stack((state[..., 0] + u, state[..., 1]), -1)
        y = 2 * (state[..., 0] * self.weight[:, None, :, 0] - state[..., 1] * self.weight[:, None, :, 1]).sum(-1)
        return y[..., None], self._with(state)

    def _block(self, u: Tensor) -> tuple[Tensor, ModeState]:
        slots = u.shape[-1]
        with exact_products(u):
            before = torch.cat((self.state[..., 0], self.state[..., 1]), -1) @ self.modes.answer(slots)
            real, imaginary = (u @ self.modes.arrival(slots).mT).chunk(2, -1)
        state = _product(self.state, self.modes.over(slots)[:, None]) + torch.stack((real, imaginary), -1)
        return causal_conv(u, self.kernel[:, None, :slots]) + before, self._with(state)

    def _with(self, state: Tensor) -> ModeState:
        return ModeState(state, self.modes, self.over, self.weight, self.kernel)


def kernel_flops(systems: int, state: int, slots: int) -> float:
    """FLOPs of the matrix product of `Modes.kernel`, for systems of N = 2n numbers of state."""
    size = math.isqrt(slots - 1) + 1
    return 2.0 * systems * state * size * -(-slots // size)


def complex_of(pair: Tensor) -> Tensor:
    """(.., 2) real pairs, float32 or better, as complex128 (..)."""
    return torch.view_as_complex(pair.to(torch.float64))


def _opposed(parts: Tensor) -> Tensor:
    """(.., 2n, k) with the imaginary half negated: its plain product with another table is the real part of the complex product."""
    real, imaginary = parts.chunk(2, -2)
    return torch.cat((real, -imaginary), -2)


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Complex product of (.., 2) pairs."""
    real = one[..., 0] * other[..., 0] - one[..., 1] * other[..., 1]
    imaginary = one[..., 0] * other[..., 1] + one[..., 1] * other[..., 0]
    return torch.stack((real, imaginary), -1)


def start_poles(pairs: int, frequencies: Frequencies) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of A, (n,) float64, at the start: -(1/2 + 1e-4) + i frequency."""
    index, state = torch.arange(pairs, dtype=torch.float64), 2 * pairs
    inverse = state / math.pi * (state / (2 * index + 1) - 1)
    chosen = inverse if frequencies == "inverse" else math.pi * index
    return torch.full((pairs,), -START_DECAY, dtype=torch.float64), chosen
