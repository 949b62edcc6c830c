"""Multi-head softmax attention, run by PyTorch's fused kernel: causal, full, or through an explicit mask.

q, k and v are separate matrices, so that Muon can orthogonalise each; they are joined for one product at every pass.
Differs from the published baseline in: no dropout on the attention probabilities in evaluation (there it stayed on).
Legend: B rows, T slots, T_new new slots, D width, H heads.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from palinode.models.cost import LayerCost, attention_cost
from palinode.models.mixers.base import Mixer, MixerConfig, Place, Reading
from palinode.models.parts.exact import exact, exact_products
from palinode.models.parts.linear import Linear, joined
from palinode.models.parts.own_start import OwnStart
from palinode.models.parts.state import JoinedState, KeysValues, MixerState, chunk_mask


class AttentionConfig(MixerConfig):
    """Softmax attention; heads, QK-norm, positions and dropout are the model's options."""

    kind: ClassVar[str] = "attention"
    reads: ClassVar[frozenset[str]] = frozenset({"heads", "qk_norm", "rotary", "attention_scale", "alibi"})

    def build(self, place: Place) -> Mixer:
        return Attention(place)


class Heads(OwnStart):
    """Maps of q, k, v and the output, softmax(scale q k^T) v over H heads of width D / H, and what these cost.

    Attributes:
        scale: attention_scale / sqrt(head width).
    """

    def __init__(self, place: Place):
        super().__init__()
        width = place.width
        self.width = width
        self.heads = place.heads
        self.head_width = width // place.heads
        self.scale = place.attention_scale / math.sqrt(self.head_width)
        self.dropout = place.dropout
        self.q = Linear(width, width, bias=place.bias)
        self.k = Linear(width, width, bias=place.bias)
        self.v = Linear(width, width, bias=place.bias)
        self.out = Linear(width, width, bias=place.bias, role="residual")

    def cost(self, slots: int, pairs: int) -> LayerCost:
        """FLOPs for one slot and elements of state: the four maps, and scores and values of the pairs."""
        return attention_cost(self.width, slots, pairs)

    def empty_state(self, rows: int, slots: int, maps: tuple[Linear, ...]) -> JoinedState:
        """The state before the first slot, with these maps joined."""
        kept = KeysValues.empty(self.k.weight, (rows, self.heads, slots), self.head_width)
        weight, bias = joined(*maps)
        return JoinedState(kept, weight.detach(), bias)

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor:
        """(B, T, D) from (B, H, T, D / H): attention and the output map."""
        return self.out(self._attended(q, k, v, mask, is_causal=is_causal).transpose(1, 2).flatten(2))

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool = False) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, scale=self.scale
        )


class Attention(Heads, Mixer):
    """Self-attention.

    With `qk_norm`, q and k are divided by their root mean square over the head. Turning them (rotary) keeps their length, so
    the order of the two does not matter.
    """

    def __init__(self, place: Place):
        super().__init__(place)
        self.qk_norm = place.qk_norm

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        q, k, v = self._by_head(x, reading, *joined(*self._maps()))
        if reading.bias is not None:
            return self._biased(q, k, v, reading.bias)
        return self._mixed(q, k, v, reading.mask, is_causal=reading.native == "causal")

    def begin(self, rows: int, slots: int) -> MixerState:
        return self.empty_state(rows, slots, self._maps())

    def extend(self, x: Tensor, reading: Reading, state: MixerState) -> tuple[Tensor, MixerState]:
        assert isinstance(state, JoinedState)
        before = state.kept.filled
        q, k, v = self._by_head(x, reading, state.weight, state.bias)
        after = state.with_next(k, v)
        if reading.bias is not None:
            return self._biased(q, *after.kept.seen(), reading.bias), after
        mask = chunk_mask(before, x.shape[1], x.device)
        return self._mixed(q, *after.kept.seen(), mask, is_causal=before == 0), after

    def _maps(self) -> tuple[Linear, ...]:
        return self.q, self.k, self.v

    def _by_head(
        self, x: Tensor, reading: Reading, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v from the joined maps, (B, H, T, D / H) each."""
        qkv = F.linear(x, weight, bias).view(*x.shape[:2], 3 * self.heads, self.head_width)
        if self.qk_norm or reading.rotary is not None:
            q, k, v = self._placed(qkv, reading)
        else:
            q, k, v = qkv.chunk(3, dim=2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _biased(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """`_mixed` with (H, T, T) added to the scores, in float32 or better: bf16 merges scores that differ by 1 in 300."""
        with exact_products(q):
            mixed = self._attended(exact(q), exact(k), exact(v), bias)
        return self.out(mixed.to(q.dtype).transpose(1, 2).flatten(2))

    def _placed(self, qkv: Tensor, reading: Reading) -> tuple[Tensor, Tensor, Tensor]:
        """q and k normalised and turned together, in float32 or better; v unchanged."""
        qk, v = torch.split(qkv, [2 * self.heads, self.heads], dim=2)
        fine = exact(qk)
        if self.qk_norm:
            fine = F.rms_norm(fine, (self.head_width,))
        if reading.rotary is not None:
            fine = reading.rotary.turn(fine)
        q, k = fine.to(v.dtype).chunk(2, dim=2)
        return q, k, v
