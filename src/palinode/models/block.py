"""The blocks of a stack of layers, whose residual branches start with a norm; and the MLP and the cross-attention of a block.

`Block` computes x + mixer(norm x), then x + mlp(norm x). `DecoderBlock` also reads an encoder: it has self-attention,
cross-attention and an MLP. In causal rows slot i reads only slots j <= i of the encoder, because later states of the encoder
depend on later tokens.
Legend: B rows, T slots, T_new new slots, D width, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.models.cost import LayerCost
from palinode.models.mixers.attention import Attention, Heads
from palinode.models.mixers.base import Mixer, Place, Reading
from palinode.models.parts.exact import exact
from palinode.models.parts.linear import BlockLinear, Linear, Norm, OwnStart, Slotwise
from palinode.models.parts.state import JoinedState, MixerState, chunk_mask, continues

MlpKind = Literal["gelu", "relu2", "swiglu", "block_diagonal", "none"]
SWIGLU_MULTIPLE = 64  # the hidden width of a SwiGLU MLP is rounded up to a multiple of 64


class Mlp(Slotwise):
    """The MLP of a block, (..., width) -> (..., width).

    `gelu`: W2 gelu(W1 x), the exact erf form. `relu2`: W2 relu(W1 x)^2. `swiglu`: W2 (silu(Wg x) * W1 x), where the hidden width
    is two thirds of the hidden width of the other kinds, so that all kinds have about equally many parameters. `block_diagonal`:
    W2 (gelu(a) * b), where [a, b] = W1 x and both matrices are block-diagonal; there is no shuffle between W1 and W2, so that each
    block of a or b comes from one block of x. W1 of `block_diagonal` has no bias. `none`: the block has no MLP.
    """

    def __init__(self, width: int, kind: MlpKind, mult: float, *, bias: bool, blocks: int = 1):
        super().__init__()
        self.kind: MlpKind = kind
        hidden = hidden_width(width, kind, mult)
        self.up: Linear | BlockLinear
        self.down: Linear | BlockLinear
        if kind == "block_diagonal":
            self.up = BlockLinear(width, 2 * hidden, blocks, bias=False, role="mlp_in")
            self.gate = None
            self.down = BlockLinear(hidden, width, blocks, bias=bias, role="residual")
            return
        self.up = Linear(width, hidden, bias=bias, role="mlp_in")
        self.gate = Linear(width, hidden, bias=bias, role="mlp_in") if kind == "swiglu" else None
        self.down = Linear(hidden, width, bias=bias, role="residual")

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)
        if self.kind == "block_diagonal":
            opened, value = up.chunk(2, dim=-1)
            active = F.gelu(opened) * value
        elif self.gate is not None:
            active = F.silu(self.gate(x)) * up
        else:
            active = F.gelu(up) if self.kind == "gelu" else relu2(up)
        return self.down(active)

    def flops_per_slot(self) -> float:
        """The forward FLOPs of the MLP's matrix products for one slot."""
        matrices = [self.up, self.down] + ([self.gate] if self.gate is not None else [])
        return float(sum(2 * matrix.weight.numel() for matrix in matrices))


def relu2(x: Tensor) -> Tensor:
    """relu(x)^2. For the output's gradient g, the code computes the gradient 2 relu(x) g itself, in place.

    The gradient of autograd reads the data five times and needs five buffers, which costs 2 to 5 % of a whole training step of a
    decoder with 4 layers of width 128 on one core, depending on the allocator (measured on paired steps, standard error 0.5 %).
    """
    if not torch.is_grad_enabled():
        positive = torch.relu(x)
        return positive.mul_(positive)
    squared: Tensor = _Relu2.apply(x)  # type: ignore[no-untyped-call]
    return squared


class _Relu2(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        positive = F.relu(x)
        return positive.mul_(positive)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # the caller wants second derivatives
            return 2 * F.relu(x) * upstream
        return F.relu(x).mul_(upstream).mul_(2)


def hidden_width(width: int, kind: MlpKind, mult: float) -> int:
    """The width between the two matrices: mult * width; for SwiGLU two thirds of mult * width, rounded up to a multiple of 64."""
    if kind != "swiglu":
        return round(mult * width)
    two_thirds = 2 * mult * width / 3
    return SWIGLU_MULTIPLE * int(-(-two_thirds // SWIGLU_MULTIPLE))


class CrossAttention(Heads):
    """softmax(q k^T / sqrt(head width)) v, where q is a map of x, and k and v are maps of the memory (a state of the encoder).

    If the model has rotary positions, the q and the k of a slot are rotated by the same position.

    Args:
        gated: whether the output is multiplied by tanh(gate), where gate is a learned number that starts at 0.
    """

    def __init__(self, place: Place, *, gated: bool):
        super().__init__(place)
        self.gate = nn.Parameter(torch.empty(1)) if gated else None

    def forward(self, x: Tensor, memory: Tensor, reading: Reading) -> Tensor:
        """(B, T, D) states of the decoder and (B, T, D) states of the memory -> (B, T, D)."""
        k, v = self._by_head(self.k(memory)), self._by_head(self.v(memory))
        q, k, v = self._placed(self._by_head(self.q(x)), k, v, reading)
        return self._gated(self._mixed(q, k, v, reading.mask, is_causal=reading.native == "causal"))

    def can_step(self) -> bool:
        """Whether `extend` computes, slot by slot, the same outputs as `forward`."""
        return continues(self, "forward")

    def begin(self, rows: int, slots: int) -> JoinedState:
        """The state before the first slot of the memory is read."""
        return self.empty_state(rows, slots, (self.k, self.v))

    def extend(self, x: Tensor, memory: Tensor, reading: Reading, state: JoinedState) -> tuple[Tensor, JoinedState]:
        """(B, T_new, D) states of the next slots, of the decoder and of the memory -> (B, T_new, D), and the next state."""
        before = state.filled
        k, v = F.linear(memory, state.weight, state.bias).view(*memory.shape[:2], 2, self.heads, -1).unbind(2)
        q, k, v = self._placed(self._by_head(self.q(x)), k, v, reading)
        after = state.with_next(k, v)
        mask = chunk_mask(before, x.shape[1], x.device)
        return self._gated(self._mixed(q, *after.seen(), mask, is_causal=before == 0)), after

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        parameter.zero_()

    def _placed(self, q: Tensor, k: Tensor, v: Tensor, reading: Reading) -> tuple[Tensor, Tensor, Tensor]:
        """Rotate q and k by their positions, and transpose q, k and v: (B, T, H, D / H) -> (B, H, T, D / H)."""
        if reading.rotary is not None:
            q, k = (reading.rotary.turn(exact(one)).to(v.dtype) for one in (q, k))
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _gated(self, out: Tensor) -> Tensor:
        return out if self.gate is None else out * torch.tanh(self.gate)

    def _by_head(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, H, D / H)."""
        return x.view(*x.shape[:2], self.heads, -1)


class Memory(OwnStart):
    """The state that cross-attention reads: the encoder's last state, or a softmax-weighted mean of the states after each block.

    Args:
        depths: the number of states in the mean; None means that only the last state is read.
    """

    def __init__(self, depths: int | None):
        super().__init__()
        self.logits = None if depths is None else nn.Parameter(torch.empty(depths))

    def forward(self, states: list[Tensor]) -> Tensor:
        """Make the (B, T, D) memory from the list of (B, T, D) states after each block of the encoder."""
        if self.logits is None:
            return states[-1]
        mixed = states[0] * self.logits.softmax(0)[0]
        for weight, state in zip(self.logits.softmax(0)[1:], states[1:], strict=True):
            mixed = mixed + weight * state
        return mixed

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        parameter.zero_()


class Residual(nn.Module):
    """Base class of `Block` and `DecoderBlock`: the MLP branch, which may be absent, and the dropout on each branch in training."""

    mixer: Mixer
    mlp: Mlp | None
    mlp_norm: Norm | None
    dropout: float

    def can_step(self) -> bool:
        """Whether `extend` computes the same as `forward`: the mixer can continue from a state, and no other part mixes slots."""
        slotwise = [part for name, part in self.named_children() if name == "mlp" or name.endswith("_norm")]
        are_own = all(type(part) in (Norm, Mlp) for part in slotwise)
        return continues(self, "forward") and self.mixer.can_step() and are_own

    def cost(self, slots: int, pairs: int) -> LayerCost:
        """The FLOPs for one slot and the number of state elements, of mixer and MLP together."""
        mlp = 0.0 if self.mlp is None else self.mlp.flops_per_slot()
        return self.mixer.cost(slots, pairs) + LayerCost.of(mlp, 0)

    def _through_mlp(self, x: Tensor) -> Tensor:
        if self.mlp is None or self.mlp_norm is None:
            return x
        return x + self._dropped(self.mlp(self.mlp_norm(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training and self.dropout else x


class Block(Residual):
    """A pre-norm block with a mixer and an MLP, (B, T, D) -> (B, T, D)."""

    def __init__(self, mixer: Mixer, mlp: Mlp | None, mixer_norm: Norm, mlp_norm: Norm | None, dropout: float):
        super().__init__()
        self.mixer_norm = mixer_norm
        self.mixer = mixer
        self.mlp_norm = mlp_norm
        self.mlp = mlp
        self.dropout = dropout

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        return self._through_mlp(x + self._dropped(self.mixer(self.mixer_norm(x), reading)))

    def begin(self, rows: int, slots: int) -> MixerState:
        """The state before the first slot is read."""
        return self.mixer.begin(rows, slots)

    def extend(self, x: Tensor, reading: Reading, state: MixerState) -> tuple[Tensor, MixerState]:
        """(B, T_new, D) states of the next slots -> (B, T_new, D), and the mixer's next state."""
        mixed, kept = self.mixer.extend(self.mixer_norm(x), reading, state)
        return self._through_mlp(x + self._dropped(mixed)), kept


@dataclass(frozen=True)
class Readings:
    """How encoder and decoder read one batch.

    Attributes:
        own: the reading of self-attention.
        across: the reading of cross-attention, which may have another number of heads and so another table of rotations.
    """

    own: Reading
    across: Reading


@dataclass(frozen=True)
class DecoderBlockState(MixerState):
    """The state of a decoder block: `own` is the state of self-attention, `across` that of cross-attention."""

    own: MixerState
    across: JoinedState


class DecoderBlock(Residual):
    """A pre-norm block with self-attention, cross-attention and MLP, (B, T, D) -> (B, T, D); the memory has a norm too."""

    def __init__(
        self,
        mixer: Attention,
        cross: CrossAttention,
        memory: Memory,
        mlp: Mlp,
        norms: tuple[Norm, Norm, Norm, Norm],
        *,
        self_first: bool,
        dropout: float,
    ):
        super().__init__()
        self.self_first = self_first
        self.dropout = dropout
        self.mixer_norm, self.cross_norm, self.memory_norm, self.mlp_norm = norms
        self.mixer = mixer
        self.memory = memory
        self.cross = cross
        self.mlp = mlp

    def forward(self, y: Tensor, encoded: list[Tensor], readings: Readings) -> Tensor:
        """(B, T, D) states of the decoder and the (B, T, D) states after each block of the encoder -> (B, T, D)."""
        for is_self in (self.self_first, not self.self_first):
            if is_self:
                y = y + self._dropped(self.mixer(self.mixer_norm(y), readings.own))
            else:
                memory = self.memory_norm(self.memory(encoded))
                y = y + self._dropped(self.cross(self.cross_norm(y), memory, readings.across))
        return self._through_mlp(y)

    def can_step(self) -> bool:
        return super().can_step() and self.cross.can_step()

    def begin(self, rows: int, slots: int) -> DecoderBlockState:
        """The state before the first slot is read."""
        return DecoderBlockState(self.mixer.begin(rows, slots), self.cross.begin(rows, slots))

    def extend(
        self, y: Tensor, encoded: list[Tensor], readings: Readings, state: DecoderBlockState
    ) -> tuple[Tensor, DecoderBlockState]:
        """(B, T_new, D) states of the next slots, of decoder and encoder -> (B, T_new, D), and the block's next state."""
        own, across, memory = state.own, state.across, self.memory_norm(self.memory(encoded))
        for is_self in (self.self_first, not self.self_first):
            if is_self:
                out, own = self.mixer.extend(self.mixer_norm(y), readings.own, own)
            else:
                out, across = self.cross.extend(self.cross_norm(y), memory, readings.across, across)
            y = y + self._dropped(out)
        return self._through_mlp(y), DecoderBlockState(own, across)

    def cost(self, slots: int, pairs: int) -> LayerCost:
        return super().cost(slots, pairs) + self.cross.cost(slots, pairs)
