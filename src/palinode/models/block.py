"""The blocks of a stack: residual branches, each behind its norm.

`Block`: x + mixer(norm x), then x + mlp(norm x). `DecoderBlock`, which also reads an encoder: self-attention, cross-attention, MLP.
Legend: B rows, T slots, T_new new slots, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from palinode.models.cost import LayerCost
from palinode.models.mixers.attention import Attention
from palinode.models.mixers.base import Mixer, Reading
from palinode.models.parts.cross_attention import CrossAttention, Memory
from palinode.models.parts.mlp import Mlp
from palinode.models.parts.norm import Norm
from palinode.models.parts.state import JoinedState, MixerState, continues


class Residual(nn.Module):
    """Base of both blocks: dropout on the output of every branch, in training only, and the MLP branch, which may be missing."""

    mixer: Mixer
    mlp: Mlp | None
    mlp_norm: Norm | None
    dropout: float

    def can_step(self) -> bool:
        """Whether `extend` continues what `forward` does: the mixer can, and nothing else here can read other slots."""
        slotwise = [part for name, part in self.named_children() if name == "mlp" or name.endswith("_norm")]
        return (
            continues(self, "forward") and self.mixer.can_step() and all(type(part) in (Norm, Mlp) for part in slotwise)
        )

    def cost(self, slots: int, pairs: int) -> LayerCost:
        """FLOPs for one slot and elements of state, mixer and MLP together."""
        mlp = 0.0 if self.mlp is None else self.mlp.flops_per_slot()
        return self.mixer.cost(slots, pairs) + LayerCost.of(mlp, 0)

    def _through_mlp(self, x: Tensor) -> Tensor:
        if self.mlp is None or self.mlp_norm is None:
            return x
        return x + self._dropped(self.mlp(self.mlp_norm(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training and self.dropout else x


class Block(Residual):
    """Pre-norm block, (B, T, D) -> (B, T, D)."""

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
        """The state before the first slot."""
        return self.mixer.begin(rows, slots)

    def extend(self, x: Tensor, reading: Reading, state: MixerState) -> tuple[Tensor, MixerState]:
        """(B, T_new, D) of the next slots -> (B, T_new, D), and the mixer's next state."""
        mixed, kept = self.mixer.extend(self.mixer_norm(x), reading, state)
        return self._through_mlp(x + self._dropped(mixed)), kept


@dataclass(frozen=True)
class Readings:
    """How the stacks read one batch: their own slots, and the encoder's (other heads, so other turning tables)."""

    own: Reading
    across: Reading


@dataclass(frozen=True)
class DecoderBlockState:
    """What a decoder block keeps of its own slots, and of the encoder's."""

    own: MixerState
    across: JoinedState


class DecoderBlock(Residual):
    """Self-attention, cross-attention and MLP, (B, T, D) -> (B, T, D); the memory has a norm too."""

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
        """(B, T, D) of the decoder and the (B, T, D) after each block of the encoder -> (B, T, D)."""
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
        """The state before the first slot."""
        return DecoderBlockState(self.mixer.begin(rows, slots), self.cross.begin(rows, slots))

    def extend(
        self, y: Tensor, encoded: list[Tensor], readings: Readings, state: DecoderBlockState
    ) -> tuple[Tensor, DecoderBlockState]:
        """(B, T_new, D) of the next slots of decoder and encoder -> (B, T_new, D), and the next state."""
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
