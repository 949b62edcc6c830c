"""One block of the decoder that reads an encoder: self-attention, cross-attention and an MLP on one residual stream.

Legend: B rows, T slots, T_new new slots, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from palinode.models.cost import LayerCost
from palinode.models.mixers.attention import Attention
from palinode.models.mixers.base import Reading
from palinode.models.parts.cross_attention import CrossAttention, CrossState, Memory
from palinode.models.parts.mlp import Mlp
from palinode.models.parts.norm import Norm
from palinode.models.parts.state import MixerState, continues


@dataclass(frozen=True)
class Readings:
    """How the stacks read one batch: their own slots, and the encoder's (other heads, so other turning tables)."""

    own: Reading
    across: Reading


@dataclass(frozen=True)
class DecoderBlockState:
    """What a decoder block keeps of its own slots, and of the encoder's."""

    own: MixerState
    across: CrossState


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention and MLP on one residual stream, each behind its norm; the memory has a norm too."""

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
        """(B, T, D) of the decoder and of the encoder after each of its blocks -> (B, T, D)."""
        if self.self_first:
            y = y + self._own(y, readings)
        y = y + self._across(y, encoded, readings)
        if not self.self_first:
            y = y + self._own(y, readings)
        return y + self._dropped(self.mlp(self.mlp_norm(y)))

    def can_step(self) -> bool:
        """Whether `extend` continues what `forward` does: both attentions can, and the MLP is one that reads no other slot."""
        return continues(self, "forward") and self.mixer.can_step() and self.cross.can_step() and type(self.mlp) is Mlp

    def begin(self, rows: int, slots: int) -> DecoderBlockState:
        """What is kept before the first slot."""
        return DecoderBlockState(self.mixer.begin(rows, slots), self.cross.begin(rows, slots))

    def extend(
        self, y: Tensor, encoded: list[Tensor], readings: Readings, state: DecoderBlockState
    ) -> tuple[Tensor, DecoderBlockState]:
        """The next (B, T_new, D) slots, from the same slots of the encoder and what is kept, and the state after them."""
        own, memory = state.own, self.memory_norm(self.memory(encoded))
        if self.self_first:
            out, own = self.mixer.extend(self.mixer_norm(y), readings.own, own)
            y = y + self._dropped(out)
        out, across = self.cross.extend(self.cross_norm(y), memory, readings.across, state.across)
        y = y + self._dropped(out)
        if not self.self_first:
            out, own = self.mixer.extend(self.mixer_norm(y), readings.own, own)
            y = y + self._dropped(out)
        return y + self._dropped(self.mlp(self.mlp_norm(y))), DecoderBlockState(own, across)

    def cost(self, slots: int, pairs: int) -> LayerCost:
        """FLOPs for one slot and state, both attentions and the MLP together."""
        mlp = self.mlp.flops_per_slot()
        return self.mixer.cost(slots, pairs) + self.cross.cost(slots, pairs) + LayerCost(mlp, mlp, 0)

    def _own(self, y: Tensor, readings: Readings) -> Tensor:
        return self._dropped(self.mixer(self.mixer_norm(y), readings.own))

    def _across(self, y: Tensor, encoded: list[Tensor], readings: Readings) -> Tensor:
        memory = self.memory_norm(self.memory(encoded))
        return self._dropped(self.cross(self.cross_norm(y), memory, readings.across))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training and self.dropout else x
