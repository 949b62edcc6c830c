"""S4D: one long kernel a channel, a sum of decaying oscillations; GELU; a linear map. Linear in what it reads, fixed in time.

kappa_l = 2 Re sum over n of C_n (exp(dt A_n) - 1) / A_n * exp(dt A_n l); y = W gelu(kappa * u + s u). A is shared by all channels,
dt and C are each channel's own. Full: a second C for what comes after, with the same dt and A.
Source: Gu, Gupta, Goel, Re, On the Parameterization and Initialization of Diagonal State Space Models (arXiv 2206.11893), in the
form of the safari code (02220c6), read, and written anew. Differs in: the output map starts as every map into the residual stream
does (there .02 at any depth); B, which only scales the start of C, is drawn anew for the second C.
Legend: B rows, T slots, T_new new slots, D width, N numbers of state a channel, in n = N / 2 conjugate pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.models.cost import LayerCost
from palinode.models.mixers.base import Mixer, Place, Reading, TwoSidedConfig
from palinode.models.parts.fft_conv import causal_conv, conv_flops, full_conv
from palinode.models.parts.linear import Linear
from palinode.models.parts.modes import (
    Frequencies,
    Modes,
    ModeState,
    complex_of,
    exact_dtype,
    exponents,
    kernel_flops,
    open_modes,
    start_mode,
    start_poles,
)
from palinode.models.parts.state import MixerState


class S4dConfig(TwoSidedConfig):
    """S4D. D + D N + D + N + D^2 parameters, + D N when two-sided, + D^2 with `glu`, + biases.

    Attributes:
        state: N, even.
        frequencies: `inverse` N/pi (N/(2n+1) - 1) or `linear` pi n; every real part starts at -1/2.
        least_step, most_step: dt starts log-uniform between them.
        glu: the output map makes 2 D numbers, one half gates the other.
    """

    kind: ClassVar[str] = "s4d"
    state: int = Field(default=64, ge=2, multiple_of=2)
    frequencies: Frequencies = "inverse"
    least_step: float = Field(default=0.001, gt=0)
    most_step: float = Field(default=0.1, gt=0)
    glu: bool = False

    def build(self, place: Place) -> Mixer:
        return S4d(self, place)


class S4d(Mixer):
    """W gelu(kappa * u + skip u). dt and A are trained in the group `state`; C and the rest as everything else."""

    def __init__(self, config: S4dConfig, place: Place):
        super().__init__()
        width, pairs = place.width, config.state // 2
        self.config = config
        self.log_step = nn.Parameter(torch.empty(width))
        self.log_decay = nn.Parameter(torch.empty(pairs))
        self.frequency = nn.Parameter(torch.empty(pairs))
        self.c = nn.Parameter(torch.empty(width, pairs, 2))
        self.c_future = nn.Parameter(torch.empty(width, pairs, 2)) if config.two_sided else None
        self.skip = nn.Parameter(torch.empty(width))
        self.out = Linear(width, width * (2 if config.glu else 1), bias=place.bias, role="residual")

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        u, slots = x.mT, x.shape[1]
        kernel = self.modes(self.c).kernel(slots)
        if reading.native == "full":
            assert self.c_future is not None
            return self._read_out(full_conv(u, kernel, self.modes(self.c_future).kernel(slots)).mT, x)
        return self._read_out(causal_conv(u, kernel).mT, x)

    def begin(self, rows: int, slots: int) -> MixerState:
        return ModeState.empty(self.modes(self.c), rows)

    def extend(self, x: Tensor, reading: Reading, state: MixerState) -> tuple[Tensor, MixerState]:
        assert isinstance(state, ModeState)
        y, after = state.extend(x.mT[:, :, None])
        return self._read_out(y[:, :, 0].mT.to(x.dtype), x), after

    def modes(self, c: Tensor) -> Modes:
        """The layer's exponents dt A and weights C (exp(dt A) - 1) / A."""
        _, poles, exponent = exponents(self.log_step, self.log_decay, self.frequency)
        return Modes(exponent, complex_of(c) * (exponent.exp() - 1) / poles, exact_dtype(c))

    def cost(self, slots: int, pairs: int) -> LayerCost:
        width, state = self.skip.numel(), self.config.state
        sides = 2 if pairs > slots * (slots + 1) // 2 else 1
        beside = conv_flops(slots) * width
        flops = 2.0 * self.out.weight.numel() + beside
        return LayerCost(flops, flops, width * state, beside, once=sides * kernel_flops(width, state, slots))

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        if name == "skip":
            parameter.normal_(generator=rng)
        elif name in ("c", "c_future"):
            parameter.copy_(_scaled_start(parameter, self.config, rng))
        else:
            steps = (self.config.least_step, self.config.most_step)
            start_mode(name, parameter, self.config.frequencies, steps, rng)

    def special_groups(self) -> Mapping[str, str]:
        return dict.fromkeys(("log_step", "log_decay", "frequency"), "state")

    def open_for_audit(self, gain: float, rng: Generator) -> None:
        """Slow decay, so that what leaks at a distance shows."""
        readers = [c for c in (self.c, self.c_future) if c is not None]
        open_modes(self.log_step, self.log_decay, self.frequency, readers, gain, rng)

    def _read_out(self, y: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.out(F.gelu(y + self.skip * x))
        return F.glu(out, dim=-1) if self.config.glu else out


def _scaled_start(c: Tensor, config: S4dConfig, rng: Generator) -> Tensor:
    """C times B: both complex normal of variance 1, B then scaled so that 2 sum |B / A|^2 = 1."""
    c, b = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in (c.shape, c.shape[1:]))
    poles = torch.complex(*start_poles(c.shape[1], config.frequencies))
    b = torch.view_as_complex(b)
    b = b / (2 * (b / poles).abs().square().sum()).sqrt()
    return torch.view_as_real(torch.view_as_complex(c) * b) / math.sqrt(2)
