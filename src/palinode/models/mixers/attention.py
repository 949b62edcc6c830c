"""Multi-head softmax attention, run by PyTorch's fused kernel: causal, full, or through an explicit mask.

q, k and v are separate matrices, so that Muon can orthogonalise each; they are joined for one product at every pass.
Differs from the published baseline in: no dropout on the attention probabilities in evaluation (there it stayed on).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from palinode.models.cost import LayerCost
from palinode.models.mixers.base import Mixer, MixerConfig, Place, Reading
from palinode.models.parts.exact import exact, exact_products
from palinode.models.parts.linear import Linear
from palinode.models.parts.state import KeysValues, MixerState, chunk_mask


class AttentionConfig(MixerConfig):
    """Softmax attention; heads, QK-norm, positions and dropout are the model's options."""

    kind: ClassVar[str] = "attention"
    reads: ClassVar[frozenset[str]] = frozenset({"heads", "qk_norm", "rotary", "attention_scale", "alibi"})

    def build(self, place: Place) -> Mixer:
        return Attention(place)


@dataclass(frozen=True)
class AttentionState(MixerState):
    """Keys and values, (B, heads, C, head width), and the joined maps of q, k and v: joining them costs as much as a slot."""

    kept: KeysValues
    weight: Tensor
    bias: Tensor | None


class Attention(Mixer):
    """softmax(scale q k^T) v over heads of width D / heads; scale is attention_scale / sqrt(head width).

    With `qk_norm`, q and k are divided by their root mean square over the head. Turning them (rotary) keeps their length, so
    the order of the two does not matter.
    """

    def __init__(self, place: Place):
        super().__init__()
        width = place.width
        self.heads = place.heads
        self.head_width = width // place.heads
        self.scale = place.attention_scale / math.sqrt(self.head_width)
        self.qk_norm = place.qk_norm
        self.dropout = place.dropout
        self.q = Linear(width, width, bias=place.bias)
        self.k = Linear(width, width, bias=place.bias)
        self.v = Linear(width, width, bias=place.bias)
        self.out = Linear(width, width, bias=place.bias, role="residual")

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        q, k, v = self._by_head(x, reading, self._weight(), self._bias())
        if reading.bias is not None:
            return self._biased(q, k, v, reading.bias)
        return self._mixed(q, k, v, reading.mask, is_causal=reading.native == "causal")

    def begin(self, rows: int, slots: int) -> MixerState:
        kept = KeysValues.empty(self.k.weight, (rows, self.heads, slots), self.head_width)
        return AttentionState(kept, self._weight().detach(), self._bias())

    def extend(self, x: Tensor, reading: Reading, state: MixerState) -> tuple[Tensor, MixerState]:
        assert isinstance(state, AttentionState)
        before = state.kept.filled
        q, k, v = self._by_head(x, reading, state.weight, state.bias)
        kept = state.kept.with_next(k, v)
        after = AttentionState(kept, state.weight, state.bias)
        if reading.bias is not None:
            return self._biased(q, *kept.seen(), reading.bias), after
        return self._mixed(q, *kept.seen(), chunk_mask(before, x.shape[1], x.device), is_causal=before == 0), after

    def cost(self, slots: int, pairs: int) -> LayerCost:
        width = self.heads * self.head_width
        projections = 8.0 * width * width
        return LayerCost(
            executed=projections + 4.0 * width * slots,
            useful=projections + 4.0 * width * pairs / slots,
            state_elements=2 * width * slots,
        )

    def _by_head(
        self, x: Tensor, reading: Reading, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v from the joined maps, (B, heads, T, head width) each."""
        qkv = F.linear(x, weight, bias).view(*x.shape[:2], 3 * self.heads, self.head_width)
        if self.qk_norm or reading.rotary is not None:
            q, k, v = self._placed(qkv, reading)
        else:
            q, k, v = qkv.chunk(3, dim=2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor:
        """(B, T, D): the values read, and the output map."""
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, scale=self.scale
        )
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def _biased(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """The same with (heads, T, T) added to the scores, in float32 or better: bf16 would make equal what differs by 1 in 300."""
        with exact_products(q):
            dropout = self.dropout if self.training else 0.0
            mixed = F.scaled_dot_product_attention(
                exact(q), exact(k), exact(v), attn_mask=bias, dropout_p=dropout, scale=self.scale
            )
        out: Tensor = self.out(mixed.to(q.dtype).transpose(1, 2).flatten(2))
        return out

    def _placed(self, qkv: Tensor, reading: Reading) -> tuple[Tensor, Tensor, Tensor]:
        """q and k normalised and turned together, in float32 or better; v as it is."""
        qk, v = torch.split(qkv, [2 * self.heads, self.heads], dim=2)
        fine = exact(qk)
        if self.qk_norm:
            fine = F.rms_norm(fine, (self.head_width,))
        if reading.rotary is not None:
            fine = reading.rotary.turn(fine)
        q, k = fine.to(v.dtype).chunk(2, dim=2)
        return q, k, v

    def _weight(self) -> Tensor:
        return torch.cat((self.q.weight, self.k.weight, self.v.weight))

    def _bias(self) -> Tensor | None:
        if self.q.bias is None or self.k.bias is None or self.v.bias is None:
            return None
        return torch.cat((self.q.bias, self.k.bias, self.v.bias))
