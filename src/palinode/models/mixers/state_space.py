"""S4D and H3, two mixers with a diagonal state-space layer: a convolution whose kernel is a sum of decaying oscillations.

kappa_l = 2 Re sum over n of weight_n multiplier_n^l. Each pair of conjugate modes has the state x_t = multiplier x_(t-1) + u_t; the
output 2 Re sum weight x_t is the convolution of u with kappa. The weights contain the input and output maps. Powers are computed in
float64 from the exponents, because the phase of a fast mode grows to thousands of radians, and float32 would have an error of 1e-3
of a turn at slot 100. Sums are computed in float32 or better.
Legend: B rows, T slots, T_new new slots, D width, N state numbers in n = N / 2 conjugate pairs of modes, G systems or groups of e
channels, c channels of a system.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.base.config import LATER
from palinode.models.cost import LayerCost, sides_read
from palinode.models.mixers.base import Mixer, Place, Reading, TwoSidedConfig
from palinode.models.parts.exact import exact, exact_dtype, exact_products
from palinode.models.parts.fft_conv import conv_flops, convolve, sides
from palinode.models.parts.linear import Linear, noise_like, open_near
from palinode.models.parts.state import MixerState

Frequencies = Literal["inverse", "linear"]
START_DECAY = 0.5 + 1e-4  # the published decay at the start
BLOCK_SLOTS = 128  # the number of slots read at once from a state, with tables of G x 2n x 128 numbers


@dataclass(frozen=True)
class Modes:
    """The modes of a layer: `exponent` and `weight`, (G, n) complex128 each; multiplier_n is exp(exponent_n), real part < 0."""

    exponent: Tensor
    weight: Tensor
    dtype: torch.dtype

    def kernel(self, slots: int) -> Tensor:
        """The (G, T) real taps 0..T-1 of the kernel.

        A lag is l = a b + r, where b is about sqrt(T): the code makes the powers for a b and for r, and multiplies them as
        matrices. This takes 4 G n sqrt(T) exponentials instead of 2 G n T, and no memory for T powers of n modes.
        """
        size = math.isqrt(slots - 1) + 1
        starts = self._powers(torch.arange(0, slots, size, device=self.exponent.device), self.weight)
        inside = self._powers(torch.arange(size, device=self.exponent.device))
        with exact_products(starts):
            kernel = _opposed(starts).mT @ inside
        return 2 * kernel.flatten(-2)[..., :slots]

    def answer(self, slots: int) -> Tensor:
        """The (G, 2n, T_new) map from a state, as real and imaginary parts, to its part of the outputs of the next T_new slots."""
        return 2 * _opposed(self._powers(torch.arange(1, slots + 1, device=self.exponent.device), self.weight))

    def arrival(self, slots: int) -> Tensor:
        """The (G, 2n, T_new) map from the inputs of T_new slots to their part of the state after these slots."""
        return self._powers(torch.arange(slots - 1, -1, -1, device=self.exponent.device))

    def over(self, slots: int) -> Tensor:
        """The powers multiplier^slots, (G, n, 2), as pairs of real and imaginary part."""
        return torch.view_as_real(torch.exp(self.exponent * slots)).to(self.dtype)

    def _powers(self, lags: Tensor, weight: Tensor | None = None) -> Tensor:
        """The numbers weight_n * multiplier_n^lag, (G, 2n, len(lags)): first n real parts, then n imaginary parts."""
        powers = torch.exp(self.exponent[..., None] * lags)
        powers = powers if weight is None else powers * weight[..., None]
        return torch.cat((powers.real, powers.imag), -2).to(self.dtype)


@dataclass(frozen=True)
class ModeState(MixerState):
    """The (B, G, c, n, 2) states of c channels of each system, and the discretised layer.

    The state keeps the discretised layer, because computing the layer again costs more than reading a slot. With the (G, 128)
    `kernel`, many slots are read at once.
    """

    state: Tensor
    modes: Modes
    over: Tensor
    weight: Tensor
    kernel: Tensor

    @classmethod
    def empty(cls, modes: Modes, rows: int, channels: int = 1) -> ModeState:
        """The state before the first slot is read."""
        systems, count = modes.exponent.shape
        modes = Modes(modes.exponent.detach(), modes.weight.detach(), modes.dtype)
        state = torch.zeros(rows, systems, channels, count, 2, dtype=modes.dtype, device=modes.exponent.device)
        weight = torch.view_as_real(modes.weight).to(modes.dtype)
        return cls(state, modes, modes.over(1), weight, modes.kernel(BLOCK_SLOTS))

    def extend(self, u: Tensor) -> tuple[Tensor, ModeState]:
        """(B, G, c, T_new) inputs of the next slots -> (B, G, c, T_new) outputs, and the next state."""
        u, outputs, after = u.to(self.state.dtype), [], self
        for block in torch.split(u, BLOCK_SLOTS, -1):
            y, after = after._step(block) if block.shape[-1] == 1 else after._block(block)
            outputs.append(y)
        return outputs[0] if len(outputs) == 1 else torch.cat(tuple(outputs), -1), after

    def _step(self, u: Tensor) -> tuple[Tensor, ModeState]:
        state = _product(self.state, self.over[:, None])
        state = torch.stack((state[..., 0] + u, state[..., 1]), -1)
        y = 2 * (state[..., 0] * self.weight[:, None, :, 0] - state[..., 1] * self.weight[:, None, :, 1]).sum(-1)
        return y[..., None], replace(self, state=state)

    def _block(self, u: Tensor) -> tuple[Tensor, ModeState]:
        slots = u.shape[-1]
        with exact_products(u):
            before = torch.cat((self.state[..., 0], self.state[..., 1]), -1) @ self.modes.answer(slots)
            real, imaginary = (u @ self.modes.arrival(slots).mT).chunk(2, -1)
        state = _product(self.state, self.modes.over(slots)[:, None]) + torch.stack((real, imaginary), -1)
        return convolve(u, self.kernel[:, None, :slots]) + before, replace(self, state=state)


def kernel_flops(systems: int, state: int, slots: int) -> float:
    """The FLOPs of the matrix product of `Modes.kernel`, for systems of N = 2n state numbers."""
    size = math.isqrt(slots - 1) + 1
    return 2.0 * systems * state * size * -(-slots // size)


def complex_of(pair: Tensor) -> Tensor:
    """(.., 2) real pairs, float32 or better, as complex128 (..)."""
    return torch.view_as_complex(pair.to(torch.float64))


def _opposed(parts: Tensor) -> Tensor:
    """A (.., 2n, k) table with its imaginary half negated; its product with another table is the complex product's real part."""
    real, imaginary = parts.chunk(2, -2)
    return torch.cat((real, -imaginary), -2)


def _product(one: Tensor, other: Tensor) -> Tensor:
    """The complex product of numbers that are (.., 2) pairs of real and imaginary part."""
    real = one[..., 0] * other[..., 0] - one[..., 1] * other[..., 1]
    imaginary = one[..., 0] * other[..., 1] + one[..., 1] * other[..., 0]
    return torch.stack((real, imaginary), -1)


def start_poles(pairs: int, frequencies: Frequencies) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of A, (n,) float64, at the start: -(1/2 + 1e-4) + i frequency."""
    index, state = torch.arange(pairs, dtype=torch.float64), 2 * pairs
    inverse = state / math.pi * (state / (2 * index + 1) - 1)
    chosen = inverse if frequencies == "inverse" else math.pi * index
    return torch.full((pairs,), -START_DECAY, dtype=torch.float64), chosen


class ModesConfig(TwoSidedConfig):
    """Options of a diagonal state-space layer.

    Attributes:
        state: the number N of state numbers of each system, even.
        frequencies: the frequencies of the modes at the start: `inverse` N/pi (N/(2n+1) - 1) or `linear` pi n; each real part
            starts at -1/2.
        least_step, most_step: the smallest and the largest step dt at the start; dt starts log-uniform between them.
    """

    state: int = Field(default=64, ge=2, multiple_of=2)
    frequencies: Frequencies = "inverse"
    least_step: float = Field(default=0.001, gt=0)
    most_step: float = Field(default=0.1, gt=0)


class DiagonalMixer(Mixer):
    """Base class of mixers with a diagonal layer, whose steps and poles are trained in the group `state`; `c` weighs the states."""

    config: ModesConfig
    log_step: Tensor
    log_decay: Tensor
    frequency: Tensor
    c: Tensor
    c_future: Tensor | None
    group_of: ClassVar = {"log_step": "state", "log_decay": "state", "frequency": "state"}

    def exponents(self) -> tuple[Tensor, Tensor, Tensor]:
        """The numbers (dt, A, dt A) in float64, where A = -exp(log decay) + i frequency."""
        step = self.log_step.double().exp()[:, None]
        poles = torch.complex(-self.log_decay.double().exp(), self.frequency.double())
        return step, poles, step * poles

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        """Fill log_step, log_decay or frequency."""
        config = self.config
        if name == "log_step":
            parameter.uniform_(math.log(config.least_step), math.log(config.most_step), generator=rng)
        elif name == "log_decay":
            parameter.fill_(math.log(START_DECAY))
        else:
            parameter.copy_(start_poles(parameter.shape[-1], config.frequencies)[1])

    def open_for_audit(self, gain: float, rng: Generator) -> None:
        """Set steps and decays near .1 to show distant leaks: half of a state is left after 70 slots. C has variance gain^2 / n."""
        open_near(self.log_step, math.log(0.1), rng)
        open_near(self.log_decay, math.log(0.1), rng)
        lines = torch.arange(self.frequency.shape[-1], dtype=self.frequency.dtype, device=self.frequency.device)
        open_near(self.frequency, math.pi * lines, rng)
        for reader in (self.c, self.c_future):
            if reader is not None:
                reader.copy_(gain / math.sqrt(2 * self.log_decay.shape[-1]) * noise_like(reader, rng))


class S4dConfig(ModesConfig):
    """The config of S4D.

    The mixer has D + D N + D + N + D^2 parameters; a two-sided mixer has D N more, `glu` adds D^2, and biases add more.

    Attributes:
        glu: whether the output map makes 2 D numbers, of which one half gates the other half.
    """

    kind: ClassVar[str] = "s4d"
    glu: bool = False


class S4d(DiagonalMixer, options=S4dConfig):
    """S4D, W gelu(kappa * u + s u), with one kernel for each channel; the kernels do not depend on the input.

    kappa_l = 2 Re sum over n of C_n (exp(dt A_n) - 1) / A_n * exp(dt A_n l). All channels share A; each channel has its own dt, C
    and s. The full form has a second C for the slots after a slot, with the same dt and A.
    Source: Gu, Gupta, Goel, Re, On the Parameterization and Initialization of Diagonal State Space Models (arXiv 2206.11893), in
    the form of the safari code (02220c6); this code is new. Differences: the output map starts like every map into the residual
    stream (safari: .02 at any depth); the input map, which only scales the start of C, is drawn again for the second C.
    """

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

    def extend(self, x: Tensor, reading: Reading, state: ModeState) -> tuple[Tensor, MixerState]:
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
            super().start(name, parameter, rng)

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


Discretisation = Literal["bilinear", "zoh"]


class H3Config(ModesConfig):
    """The config of H3, whose shift has N taps.

    The mixer has 4 D^2 + 2 D N + D + G (2 + 3 N) parameters; a two-sided mixer has D N + G N more, and biases add 4 D.

    Attributes:
        head_width: the number e of channels in a group, a divisor of the width.
        discretisation: the method of discretisation: `bilinear`, or `zoh` (the input is constant over a step).
        output_order: the order of the channels that the output map reads, where e > 1. `grouped`: number j of group g is channel
            g e + j, as in q, k and v. `published`: number j of group g is channel j G + g. Both orders give the same model with
            the columns of its output map in another order.
    """

    kind: ClassVar[str] = "h3"
    head_width: int = Field(default=1, ge=1)
    frequencies: Frequencies = "linear"
    discretisation: Discretisation = "bilinear"
    output_order: Annotated[Literal["grouped", "published"], LATER] = "grouped"

    def check_width(self, width: int) -> None:
        if width % self.head_width:
            raise ValueError(f"h3: head_width {self.head_width} does not divide width {width}")


@dataclass(frozen=True)
class H3State(MixerState):
    """The state of H3: the last N keys (B, D, N) with the oldest first, the shift's taps (D, N), and the diagonal layer's state."""

    keys: Tensor
    taps: Tensor
    modes: ModeState


class H3(DiagonalMixer, options=H3Config):
    """H3, W (q (diagonal(k' v^T) + s k' v^T)): attention without a softmax.

    q, k, v = three maps of x; k' = shift(k) + s_k k; for each of G = D / e groups of e channels k' v^T (e x e numbers a slot) is
    convolved with the group's kernel; the output is the sum over the key's index with q as weights. The shift is a filter of N
    taps kappa_j = sum_i b_i c_(i+j), which starts with b = (1, 0, ..), kappa = c.
    Source: Fu et al., Hungry Hungry Hippos (arXiv 2212.14052), in the form of the safari code (02220c6); this code is new.
    Differences: the output map starts like every map into the residual stream (safari: .02 at any depth); there is a full form
    (a second C of each state-space layer for the slots after a slot, with the same dt, A and b); reading slot by slot works with
    e > 1 (safari: an error).
    """

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

    def extend(self, x: Tensor, reading: Reading, state: H3State) -> tuple[Tensor, MixerState]:
        q, k, v = self.q(x).mT, self.k(x).mT, self.v(x).mT
        shifted, keys = _next_shifted(k, state)
        pairs = self._pairs(shifted.to(k.dtype) + self.shift_skip[:, None] * k, v)
        mixed, modes = state.modes.extend(pairs.flatten(2, 3))
        mixed = torch.unflatten(mixed, 2, pairs.shape[2:4]).to(pairs.dtype)
        return self._read_out(q, mixed, pairs), H3State(keys, state.taps, modes)

    def taps(self, c: Tensor) -> Tensor:
        """(D, N) taps of the shift: b writes inputs into a line of N places, which moves a place at each slot; c reads the line."""
        return convolve(exact(c).flip(-1), self.shift_b).flip(-1)

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
        convs = (1 + each) * width
        return LayerCost.of(8.0 * width * width, convs * state, conv_flops(slots) * convs, once)

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
            super().start(name, parameter, rng)

    def open_for_audit(self, gain: float, rng: Generator) -> None:
        """Set steps, decays and C as `DiagonalMixer.open_for_audit` does, and set b to 1."""
        super().open_for_audit(gain, rng)
        self.start("b", self.b, rng)

    def _shifted(self, k: Tensor, reading: Reading) -> Tensor:
        return convolve(k, *(self.taps(c) for c in sides(reading.native, self.shift_c, self.shift_c_future)))

    def _pairs(self, k: Tensor, v: Tensor) -> Tensor:
        """(B, G, e, e, T) products of each group's keys and values, from (B, D, T) each."""
        return self._by_group(k)[:, :, :, None] * self._by_group(v)[:, :, None]

    def _read_out(self, q: Tensor, mixed: Tensor, pairs: Tensor) -> Tensor:
        """The (B, T, D) output: the sum over the key's index with the queries as weights, and then the output map."""
        pairs_read = mixed + self.skip[:, None, None, None] * pairs
        read = (self._by_group(q)[:, :, :, None] * pairs_read).sum(2)  # (B, G, e, T)
        ordered = read.transpose(1, 2) if self.config.output_order == "published" else read
        return self.out(ordered.flatten(1, 2).mT)

    def _by_group(self, x: Tensor) -> Tensor:
        """Split the channels into groups, (B, D, T) -> (B, G, e, T)."""
        return torch.unflatten(x, 1, (-1, self.config.head_width))


def _next_shifted(k: Tensor, state: H3State) -> tuple[Tensor, Tensor]:
    """The (B, D, T_new) shifted keys of the next slots, and the last N keys after these slots."""
    taps = state.taps
    lined = torch.cat((state.keys, k.to(taps.dtype)), -1)
    slots = k.shape[-1]
    if slots == 1:
        y = (lined[..., 1:] * taps.flip(-1)).sum(-1, keepdim=True)
    else:
        y = convolve(lined, taps)[..., -slots:]
    return y, lined[..., slots:]
