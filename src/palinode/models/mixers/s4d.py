"""S4D: one long kernel a channel, a sum of decaying oscillations; GELU; a linear map. The kernel does not depend on the input.

kappa_l = 2 Re sum over n of C_n (exp(dt A_n) - 1) / A_n * exp(dt A_n l); y = W gelu(kappa * u + s u). A is shared by all channels;
dt, C and s are each channel's own. Full: a second C for what comes after, with the same dt and A.
Source: Gu, Gupta, Goel, Re, On the Parameterization and Initialization of Diagonal State Space Models (arXiv 2206.11893), in the
form of the safari code (02220c6), read, and written anew. Differs in: the output map starts as every map into the residual stream
does (there .02 at any depth); the input map, which only scales the start of C, is drawn again for the second C.
Legend: B rows, T slots, T_new new slots, D width, N numbers of state a channel, in n = N / 2 conjugate pairs.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.models.cost import LayerCost, sides_read
from palinode.models.mixers.base import Mixer, Place, Reading
from palinode.models.mixers.diagonal import DiagonalMixer, ModesConfig
from palinode.models.parts.exact import exact_dtype
from palinode.models.parts.fft_conv import conv_flops, convolve, sides
from palinode.models.parts.linear import Linear
from palinode.models.parts.modes import Modes, ModeState, complex_of, kernel_flops, start_poles
from palinode.models.parts.state import MixerState


class S4dConfig(ModesConfig):
    """S4D. D + D N + D + N + D^2 parameters, + D N when two-sided, + D^2 with `glu`, + biases.

    Attributes:
        glu: the output map makes 2 D numbers, one half gates the other.
    """

    kind: ClassVar[str] = "s4d"
    glu: bool = False

    def build(self, place: Place) -> Mixer:
        return S4d(self, place)


class S4d(DiagonalMixer):
    """W gelu(kappa * u + skip u)."""

    def __init__(self, config: S4dConfig, place: Place):
        super().__init__()
        width, pairs = place.width, config.state // 2
        self.config: S4dConfig = config
        self.log_step = nn.Parameter(torch.empty(width))
        self.log_decay = nn.Parameter(torch.empty(pairs))
        self.frequency = nn.Parameter(torch.empty(pairs))
        self.c = nn.Parameter(torch.empty(width, pairs, 2))
        self.c_future = nn.Parameter(torch.empty(width, pairs, 2)) if config.two_sided else None
        self.skip = nn.Parameter(torch.empty(width))
        self.out = Linear(width, width * (2 if config.glu else 1), bias=place.bias, role="residual")

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        kernels = (self.modes(c).kernel(x.shape[1]) for c in sides(reading.native, self.c, self.c_future))
        return self._read_out(convolve(x.mT, *kernels).mT, x)

    def begin(self, rows: int, slots: int) -> MixerState:
        return ModeState.empty(self.modes(self.c), rows)

    def extend(self, x: Tensor, reading: Reading, state: MixerState) -> tuple[Tensor, MixerState]:
        assert isinstance(state, ModeState)
        y, after = state.extend(x.mT[:, :, None])
        return self._read_out(y[:, :, 0].mT.to(x.dtype), x), after

    def modes(self, c: Tensor) -> Modes:
        """The layer's exponents dt A and weights C (exp(dt A) - 1) / A."""
        _, poles, exponent = self.exponents()
        return Modes(exponent, complex_of(c) * (exponent.exp() - 1) / poles, exact_dtype(c))

    def cost(self, slots: int, pairs: int) -> LayerCost:
        width, state = self.skip.numel(), self.config.state
        once = sides_read(pairs, slots) * kernel_flops(width, state, slots)
        return LayerCost.of(2.0 * self.out.weight.numel(), width * state, conv_flops(slots) * width, once)

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        if name == "skip":
            parameter.normal_(generator=rng)
        elif name in ("c", "c_future"):
            parameter.copy_(_scaled_start(parameter, self.config, rng))
        else:
            self.start_mode(name, parameter, rng)

    def _read_out(self, y: Tensor, x: Tensor) -> Tensor:
        out = self.out(F.gelu(y + self.skip * x))
        return F.glu(out, dim=-1) if self.config.glu else out


def _scaled_start(c: Tensor, config: S4dConfig, rng: Generator) -> Tensor:
    """C times the input map b: both complex normal of variance 1, b then scaled so that 2 sum |b / A|^2 = 1."""
    c, b = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in (c.shape, c.shape[1:]))
    poles = torch.complex(*start_poles(c.shape[1], config.frequencies))
    b = torch.view_as_complex(b)
    b = b / (2 * (b / poles).abs().square().sum()).sqrt()
    return torch.view_as_real(torch.view_as_complex(c) * b) / math.sqrt(2)
