"""Cross-attention: the slots of one stack read the states of another, at the same positions and with the same visibility.

Slot t reads the memory'T_new slots s <= t in causal rows: the memory was read causally itself, but its later slots know later tokens.
Legend: B rows, T slots, T_new new slots, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.models.cost import LayerCost
from palinode.models.mixers.base import Reading
from palinode.models.parts.linear import Linear
from palinode.models.parts.own_start import OwnStart
from palinode.models.parts.state import KeysValues, chunk_mask, continues


@dataclass(frozen=True)
class CrossState:
    """Keys and values of the memory, (B, heads, C, head width), and the joined maps of k and v: one product a slot, not two."""

    kept: KeysValues
    weight: Tensor
    bias: Tensor | None


class CrossAttention(OwnStart):
    """softmax(q k^T / sqrt(head width)) v with q from x and k, v from the memory, over `heads` heads of width D / heads.

    q and k are turned by the same positions where the model has rotary ones.

    Args:
        gated: what it gives is multiplied by tanh(gate), a learned number that starts at 0.
    """

    def __init__(self, width: int, heads: int, *, bias: bool, dropout: float, gated: bool):
        super().__init__()
        self.heads = heads
        self.width = width
        self.dropout = dropout
        self.q = Linear(width, width, bias=bias)
        self.k = Linear(width, width, bias=bias)
        self.v = Linear(width, width, bias=bias)
        self.out = Linear(width, width, bias=bias, role="residual")
        self.gate = nn.Parameter(torch.empty(1)) if gated else None

    def forward(self, x: Tensor, memory: Tensor, reading: Reading) -> Tensor:
        """(B, T, D) of the reading stack and (B, T, D) of the memory -> (B, T, D)."""
        k, v = self._by_head(self.k(memory)), self._by_head(self.v(memory))
        q, k, v = self._placed(self._by_head(self.q(x)), k, v, reading)
        return self._mixed(q, k, v, reading.mask, is_causal=reading.native == "causal")

    def can_step(self) -> bool:
        """Whether `extend` continues what `forward` does."""
        return continues(self, "forward")

    def begin(self, rows: int, slots: int) -> CrossState:
        """What is kept of the memory before its first slot."""
        kept = KeysValues.empty(self.k.weight, (rows, self.heads, slots), self.width // self.heads)
        weight = torch.cat((self.k.weight, self.v.weight)).detach()
        if self.k.bias is None or self.v.bias is None:
            return CrossState(kept, weight, None)
        return CrossState(kept, weight, torch.cat((self.k.bias, self.v.bias)).detach())

    def extend(self, x: Tensor, memory: Tensor, reading: Reading, state: CrossState) -> tuple[Tensor, CrossState]:
        """The next (B, T_new, D) slots, from the same slots of the memory and those before, and the state after them."""
        before = state.kept.filled
        k, v = F.linear(memory, state.weight, state.bias).view(*memory.shape[:2], 2, self.heads, -1).unbind(2)
        q, k, v = self._placed(self._by_head(self.q(x)), k, v, reading)
        kept = state.kept.with_next(k, v)
        out = self._mixed(q, *kept.seen(), chunk_mask(before, x.shape[1], x.device), is_causal=before == 0)
        return out, CrossState(kept, state.weight, state.bias)

    def cost(self, slots: int, pairs: int) -> LayerCost:
        """As of self-attention: the four maps, and scores and values of the pairs."""
        maps = 8.0 * self.width * self.width
        return LayerCost(
            executed=maps + 4.0 * self.width * slots,
            useful=maps + 4.0 * self.width * pairs / slots,
            state_elements=2 * self.width * slots,
        )

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        parameter.zero_()

    def _placed(self, q: Tensor, k: Tensor, v: Tensor, reading: Reading) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, heads, head width) turned by their positions -> (B, heads, T, head width)."""
        if reading.rotary is not None:
            exact = torch.promote_types(q.dtype, torch.float32)
            q, k = (reading.rotary.turn(one.to(exact)).to(v.dtype) for one in (q, k))
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor:
        """(B, T, D): the values read, the output map and the gate."""
        mixed = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=is_causal,
            scale=1 / math.sqrt(self.width // self.heads),
        )
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out if self.gate is None else out * torch.tanh(self.gate)

    def _by_head(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, heads, D / heads)."""
        return x.view(*x.shape[:2], self.heads, -1)


class Memory(OwnStart):
    """Which state of the encoder is read: the last one, or a softmax-weighted mean of those after each of its blocks.

    Args:
        depths: how many states there are to weigh; None: the last one.
    """

    def __init__(self, depths: int | None):
        super().__init__()
        self.logits = None if depths is None else nn.Parameter(torch.empty(depths))

    def forward(self, states: list[Tensor]) -> Tensor:
        """(B, T, D) from the (B, T, D) after each block of the encoder."""
        if self.logits is None:
            return states[-1]
        mixed = states[0] * self.logits.softmax(0)[0]
        for weight, state in zip(self.logits.softmax(0)[1:], states[1:], strict=True):
            mixed = mixed + weight * state
        return mixed

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        parameter.zero_()
