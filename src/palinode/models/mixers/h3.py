"""H3: keys pass a shift, keys times values pass a diagonal state-space layer, queries read the result: attention without a softmax.

q, k, v = three maps of x; k' = shift(k) + s_k k; for each of G = D / e groups of e channels k' v^T (e x e numbers a slot) is
convolved with the group's kernel, plus s times itself; q sums over the key's index; an output map. The shift is a filter of N
taps kappa_j = sum_i b_i c_(i+j), which starts with b = (1, 0, ..), kappa = c.
Source: Fu et al., Hungry Hungry Hippos (arXiv 2212.14052), in the form of the safari code (02220c6), read, and written anew.
Differs in: the output map starts as every map into the residual stream does (there .02 at any depth); a full form (a second C of
each state-space layer for what comes after, with the same dt, A and b); stepping with e > 1 (there an error).
Legend: B rows, T slots, T_new new slots, D width, N numbers of state, n = N / 2 conjugate pairs, G groups of e channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from palinode.models.cost import LayerCost, sides_read
from palinode.models.mixers.base import Mixer, Place, Reading
from palinode.models.mixers.diagonal import DiagonalMixer, ModesConfig
from palinode.models.parts.exact import exact, exact_dtype
from palinode.models.parts.fft_conv import causal_conv, conv_flops, convolve, sides
from palinode.models.parts.linear import Linear
from palinode.models.parts.modes import Frequencies, Modes, ModeState, complex_of, kernel_flops
from palinode.models.parts.state import MixerState

Discretisation = Literal["bilinear", "zoh"]


class H3Config(ModesConfig):
    """H3. 4 D^2 + 2 D N + D + G (2 + 3 N) parameters, + D N + G N when two-sided, + 4 D with biases.

    The shift has N taps.

    Attributes:
        head_width: e, a divisor of the width.
        discretisation: `bilinear`, or `zoh` (the input held over a step).
    """

    kind: ClassVar[str] = "h3"
    head_width: int = Field(default=1, ge=1)
    frequencies: Frequencies = "linear"
    discretisation: Discretisation = "bilinear"

    def build(self, place: Place) -> Mixer:
        return H3(self, place)

    def check_width(self, width: int) -> None:
        if width % self.head_width:
            raise ValueError(f"h3: head_width {self.head_width} does not divide width {width}")


@dataclass(frozen=True)
class H3State(MixerState):
    """The last N keys (B, D, N), the oldest first, the shift's taps (D, N), and the diagonal layer's state."""

    keys: Tensor
    taps: Tensor
    modes: ModeState


class H3(DiagonalMixer):
    """W (q (diagonal(k' v^T) + s k' v^T))."""

    group_of: ClassVar = {**DiagonalMixer.group_of, "b": "state", "shift_b": "state"}

    def __init__(self, config: H3Config, place: Place):
        super().__init__()
        width, state, pairs = place.width, config.state, config.state // 2
        groups = width // config.head_width
        self.config: H3Config = config
        self.q = Linear(width, width, bias=place.bias)
        self.k = Linear(width, width, bias=place.bias)
        self.v = Linear(width, width, bias=place.bias)
        self.out = Linear(width, width, bias=place.bias, role="residual")
        self.shift_b = nn.Parameter(torch.empty(width, state))
        self.shift_c = nn.Parameter(torch.empty(width, state))
        self.shift_c_future = nn.Parameter(torch.empty(width, state)) if config.two_sided else None
        self.shift_skip = nn.Parameter(torch.empty(width))
        self.log_step = nn.Parameter(torch.empty(groups))
        self.log_decay = nn.Parameter(torch.empty(groups, pairs))
        self.frequency = nn.Parameter(torch.empty(groups, pairs))
        self.b = nn.Parameter(torch.empty(groups, pairs, 2))
        self.c = nn.Parameter(torch.empty(groups, pairs, 2))
        self.c_future = nn.Parameter(torch.empty(groups, pairs, 2)) if config.two_sided else None
        self.skip = nn.Parameter(torch.empty(groups))

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        q, k, v = self.q(x).mT, self.k(x).mT, self.v(x).mT
        pairs = self._pairs(self._shifted(k, reading) + self.shift_skip[:, None] * k, v)
        readers = sides(reading.native, self.c, self.c_future)
        kernels = (self.modes(c).kernel(x.shape[1])[:, None, None] for c in readers)
        return self._read_out(q, convolve(pairs, *kernels), pairs)

    def begin(self, rows: int, slots: int) -> MixerState:
        taps = self.taps(self.shift_c).detach()
        channels = self.config.head_width**2
        return H3State(taps.new_zeros(rows, *taps.shape), taps, ModeState.empty(self.modes(self.c), rows, channels))

    def extend(self, x: Tensor, reading: Reading, state: MixerState) -> tuple[Tensor, MixerState]:
        assert isinstance(state, H3State)
        q, k, v = self.q(x).mT, self.k(x).mT, self.v(x).mT
        shifted, keys = _next_shifted(k, state)
        pairs = self._pairs(shifted.to(k.dtype) + self.shift_skip[:, None] * k, v)
        mixed, modes = state.modes.extend(pairs.flatten(2, 3))
        mixed = torch.unflatten(mixed, 2, pairs.shape[2:4]).to(pairs.dtype)
        return self._read_out(q, mixed, pairs), H3State(keys, state.taps, modes)

    def taps(self, c: Tensor) -> Tensor:
        """(D, N) taps of the shift: b writes an input into a line of N places, which moves by one a slot, and c reads the line."""
        return causal_conv(exact(c).flip(-1), self.shift_b).flip(-1)

    def modes(self, c: Tensor) -> Modes:
        """The diagonal layer's exponents log A' and weights c b', discretised."""
        step, poles, exponent = self.exponents()
        reads = complex_of(c) * complex_of(self.b)
        if self.config.discretisation == "zoh":
            return Modes(exponent, reads * (exponent.exp() - 1) / poles, exact_dtype(c))
        return Modes(((1 + exponent / 2) / (1 - exponent / 2)).log(), reads * step / (1 - exponent / 2), exact_dtype(c))

    def cost(self, slots: int, pairs: int) -> LayerCost:
        width, state, each = self.shift_skip.numel(), self.config.state, self.config.head_width
        once = sides_read(pairs, slots) * kernel_flops(width // each, state, slots)
        return LayerCost.of(
            8.0 * width * width, (1 + each) * width * state, conv_flops(slots) * (1 + each) * width, once
        )

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        if name in ("skip", "shift_skip"):
            parameter.normal_(generator=rng)
        elif name in ("shift_c", "shift_c_future"):
            bound = self.config.state**-0.5
            parameter.uniform_(-bound, bound, generator=rng)
        elif name in ("c", "c_future"):
            parameter.normal_(0.0, 0.5**0.5, generator=rng)
        elif name in ("b", "shift_b"):
            parameter.zero_()
            parameter[..., 0] = 1.0
        else:
            self.start_mode(name, parameter, rng)

    def open_for_audit(self, gain: float, rng: Generator) -> None:
        """As for every diagonal layer, and b = 1."""
        super().open_for_audit(gain, rng)
        self.start("b", self.b, rng)

    def _shifted(self, k: Tensor, reading: Reading) -> Tensor:
        return convolve(k, *(self.taps(c) for c in sides(reading.native, self.shift_c, self.shift_c_future)))

    def _pairs(self, k: Tensor, v: Tensor) -> Tensor:
        """(B, G, e, e, T) products of each group's keys and values, from (B, D, T) each."""
        return self._by_group(k)[:, :, :, None] * self._by_group(v)[:, :, None]

    def _read_out(self, q: Tensor, mixed: Tensor, pairs: Tensor) -> Tensor:
        """(B, T, D): the queries sum over the key's index, then the output map."""
        held = mixed + self.skip[:, None, None, None] * pairs
        return self.out((self._by_group(q)[:, :, :, None] * held).sum(2).flatten(1, 2).mT)

    def _by_group(self, x: Tensor) -> Tensor:
        """(B, D, T) -> (B, G, e, T)."""
        return torch.unflatten(x, 1, (-1, self.config.head_width))


def _next_shifted(k: Tensor, state: H3State) -> tuple[Tensor, Tensor]:
    """(B, D, T_new) shifted keys of the next slots, and the last N keys after them."""
    taps = state.taps
    lined = torch.cat((state.keys, k.to(taps.dtype)), -1)
    slots = k.shape[-1]
    if slots == 1:
        y = (lined[..., 1:] * taps.flip(-1)).sum(-1, keepdim=True)
    else:
        y = causal_conv(lined, taps)[..., -slots:]
    return y, lined[..., slots:]
