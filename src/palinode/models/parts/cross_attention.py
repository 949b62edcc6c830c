"""Cross-attention: the slots of one stack read the states of another, at the same positions and with the same visibility.

In causal rows slot i reads slots j <= i of the memory: a later state of the memory has read later tokens.
Legend: B rows, T slots, T_new new slots, D width, H heads.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.models.mixers.attention import Heads
from palinode.models.mixers.base import Place, Reading
from palinode.models.parts.exact import exact
from palinode.models.parts.own_start import OwnStart
from palinode.models.parts.state import JoinedState, chunk_mask, continues


class CrossAttention(Heads):
    """softmax(q k^T / sqrt(head width)) v with q from x and k, v from the memory.

    q and k are turned by the same positions where the model has rotary ones.

    Args:
        gated: the output is multiplied by tanh(gate), a learned number that starts at 0.
    """

    def __init__(self, place: Place, *, gated: bool):
        super().__init__(place)
        self.gate = nn.Parameter(torch.empty(1)) if gated else None

    def forward(self, x: Tensor, memory: Tensor, reading: Reading) -> Tensor:
        """(B, T, D) of the reading stack and (B, T, D) of the memory -> (B, T, D)."""
        k, v = self._by_head(self.k(memory)), self._by_head(self.v(memory))
        q, k, v = self._placed(self._by_head(self.q(x)), k, v, reading)
        return self._gated(self._mixed(q, k, v, reading.mask, is_causal=reading.native == "causal"))

    def can_step(self) -> bool:
        """Whether `extend` continues what `forward` does."""
        return continues(self, "forward")

    def begin(self, rows: int, slots: int) -> JoinedState:
        """The state before the first slot of the memory."""
        return self.empty_state(rows, slots, (self.k, self.v))

    def extend(self, x: Tensor, memory: Tensor, reading: Reading, state: JoinedState) -> tuple[Tensor, JoinedState]:
        """(B, T_new, D) of the next slots of both stacks -> (B, T_new, D), and the next state."""
        before = state.kept.filled
        k, v = F.linear(memory, state.weight, state.bias).view(*memory.shape[:2], 2, self.heads, -1).unbind(2)
        q, k, v = self._placed(self._by_head(self.q(x)), k, v, reading)
        after = state.with_next(k, v)
        mask = chunk_mask(before, x.shape[1], x.device)
        return self._gated(self._mixed(q, *after.kept.seen(), mask, is_causal=before == 0)), after

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        parameter.zero_()

    def _placed(self, q: Tensor, k: Tensor, v: Tensor, reading: Reading) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, H, D / H), with q and k turned by their positions -> (B, H, T, D / H)."""
        if reading.rotary is not None:
            q, k = (reading.rotary.turn(exact(one)).to(v.dtype) for one in (q, k))
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _gated(self, out: Tensor) -> Tensor:
        return out if self.gate is None else out * torch.tanh(self.gate)

    def _by_head(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, H, D / H)."""
        return x.view(*x.shape[:2], self.heads, -1)


class Memory(OwnStart):
    """Which state of the encoder is read: the last one, or a softmax-weighted mean of the states after each of its blocks.

    Args:
        depths: how many states are weighed; None: the last state is read.
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
