"""Attention mixers: softmax attention over all slots or within a window, and linear attention with a Taylor feature map.

Softmax attention runs PyTorch's fused kernel. Its maps of q, k and v are separate matrices, so that Muon can orthogonalise each
matrix; each pass joins the three matrices for one product. Softmax attention differs from the published baseline in one point: in
evaluation there is no dropout on the attention probabilities (published: there is).
Legend: B rows, T slots, T_new new slots, D width, H heads, W window, f features of q and k for each head, h = D / H head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from palinode.base.visibility import Native
from palinode.models.cost import LayerCost, attention_cost, sides_read
from palinode.models.mixers.base import Mixer, MixerConfig, Place, Reading
from palinode.models.parts.exact import exact, exact_products
from palinode.models.parts.linear import Linear, OwnStart, joined
from palinode.models.parts.state import JoinedState, KeysValues, MixerState, chunk_mask


class AttentionConfig(MixerConfig):
    """The config of softmax attention, which has no options: heads, QK-norm, positions and dropout are options of the model."""

    kind: ClassVar[str] = "attention"
    reads: ClassVar[frozenset[str]] = frozenset({"heads", "qk_norm", "rotary", "attention_scale", "alibi"})

    def build(self, place: Place) -> Mixer:
        return Attention(place)


class Heads(OwnStart):
    """Base class of self-attention and cross-attention: maps of q, k, v and the output, and softmax(scale q k^T) v over H heads.

    Attributes:
        scale: the factor attention_scale / sqrt(head width) of the scores.
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
        """The FLOPs for one slot (four maps, and the scores and values of the pairs) and the number of state elements."""
        return attention_cost(8.0 * self.width**2, 2 * self.width, slots, pairs)

    def empty_state(self, rows: int, slots: int, maps: tuple[Linear, ...]) -> JoinedState:
        """The state before the first slot is read; this state holds the joined weights of `maps`."""
        room = KeysValues.empty(self.k.weight, (rows, self.heads, slots), self.head_width)
        weight, bias = joined(*maps)
        return JoinedState(room.keys, room.values, 0, weight.detach(), bias)

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor:
        """Attention and the output map: q, k and v, each (B, H, T, D / H) -> (B, T, D)."""
        return self.out(self._attended(q, k, v, mask, is_causal=is_causal).transpose(1, 2).flatten(2))

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool = False) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, scale=self.scale
        )


class Attention(Heads, Mixer):
    """Self-attention with softmax.

    With `qk_norm`, q and k are divided by their root mean square over the head. Rotary positions do not change the length of q and
    k, so the order of norm and rotation does not matter.
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

    def extend(self, x: Tensor, reading: Reading, state: Any) -> tuple[Tensor, MixerState]:
        before = state.filled
        q, k, v = self._by_head(x, reading, state.weight, state.bias)
        after: JoinedState = state.with_next(k, v)
        if reading.bias is not None:
            return self._biased(q, *after.seen(), reading.bias), after
        mask = chunk_mask(before, x.shape[1], x.device)
        return self._mixed(q, *after.seen(), mask, is_causal=before == 0), after

    def _maps(self) -> tuple[Linear, ...]:
        return self.q, self.k, self.v

    def _by_head(
        self, x: Tensor, reading: Reading, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute q, k and v with the joined maps, each (B, H, T, D / H)."""
        qkv = F.linear(x, weight, bias).view(*x.shape[:2], 3 * self.heads, self.head_width)
        if self.qk_norm or reading.rotary is not None:
            return self._placed(qkv, reading)
        q, k, v = qkv.transpose(1, 2).chunk(3, dim=1)
        return q, k, v

    def _biased(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Attention with a (H, T, T) bias on its scores, in float32 or better: in bfloat16 the distances 300 and 301 are equal."""
        with exact_products(q):
            mixed = self._attended(exact(q), exact(k), exact(v), bias)
        return self.out(mixed.to(q.dtype).transpose(1, 2).flatten(2))

    def _placed(self, qkv: Tensor, reading: Reading) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise and rotate q and k together, in float32 or better; v does not change. The results are (B, H, T, D / H)."""
        fine, v = exact(qkv.narrow(2, 0, 2 * self.heads)), qkv.narrow(2, 2 * self.heads, self.heads)
        if self.qk_norm:
            fine = torch.rms_norm(fine, (self.head_width,))
        if reading.rotary is not None:
            fine = reading.rotary.turn(fine)
        q, k = fine.to(v.dtype).transpose(1, 2).chunk(2, dim=1)
        return q, k, v.transpose(1, 2)


class SlidingWindowConfig(MixerConfig):
    """The config of softmax attention within a window; heads, QK-norm, positions and dropout are options of the model.

    The mixer has 4 D^2 + 4 D parameters.

    Attributes:
        window: the window W, in slots. In the causal form slot i reads slots i - W + 1 .. i; in the full form it reads slots
            i - W + 1 .. i + W - 1.
    """

    kind: ClassVar[str] = "sliding_window"
    reads: ClassVar[frozenset[str]] = frozenset({"heads", "qk_norm", "rotary", "attention_scale"})
    visibilities: ClassVar[frozenset[Native]] = frozenset({"causal", "full"})
    window: int = Field(default=64, ge=2)

    def build(self, place: Place) -> Mixer:
        return SlidingWindow(place, self.window)


@dataclass(frozen=True)
class WindowState(MixerState):
    """Ring buffers (B, H, W, D / H) of the last W keys and values, where slot i is at place i mod W, and the joined maps."""

    keys: Tensor
    values: Tensor
    read: int
    weight: Tensor
    bias: Tensor | None

    def in_order(self, most: int) -> tuple[Tensor, Tensor]:
        """The last keys and values, at most `most` of each, with the oldest first."""
        window = self.keys.shape[2]
        at = torch.arange(max(0, self.read - min(most, window)), self.read, device=self.keys.device) % window
        return self.keys[:, :, at], self.values[:, :, at]

    def with_next(self, k: Tensor, v: Tensor) -> WindowState:
        """The state after (B, H, T_new, D / H) new keys and values; only the last W keys and values are kept."""
        window, end = self.keys.shape[2], self.read + k.shape[2]
        at = torch.arange(max(self.read, end - window), end, device=k.device) % window
        self.keys[:, :, at] = k[:, :, -len(at) :].to(self.keys.dtype)
        self.values[:, :, at] = v[:, :, -len(at) :].to(self.values.dtype)
        return replace(self, read=end)


class SlidingWindow(Attention):
    """Attention to the last W slots, the slot itself included; in the full form to W - 1 slots on each side.

    The result is that of attention with a mask, but the cost is lower: rows that are longer than the window are read in blocks of W
    slots, and each block reads itself and its neighbours, so that time and memory grow with T W and not with T^2.
    """

    def __init__(self, place: Place, window: int):
        super().__init__(place)
        self.window = window

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        q, k, v = self._by_head(x, reading, *joined(*self._maps()))
        return self._windowed(q, k, v, reading.native)

    def begin(self, rows: int, slots: int) -> MixerState:
        shape = (rows, self.heads, self.window, self.head_width)
        like, (weight, bias) = self.k.weight, joined(*self._maps())
        return WindowState(like.new_zeros(shape), like.new_zeros(shape), 0, weight.detach(), bias)

    def extend(self, x: Tensor, reading: Reading, state: WindowState) -> tuple[Tensor, MixerState]:
        q, k, v = self._by_head(x, reading, state.weight, state.bias)
        if state.read == 0:
            return self._windowed(q, k, v, "causal"), state.with_next(k, v)
        if x.shape[1] == 1:  # the order of keys does not matter to one query
            after = state.with_next(k, v)
            filled = min(after.read, self.window)
            return self._mixed(q, after.keys[:, :, :filled], after.values[:, :, :filled], None, is_causal=False), after
        keys, values = state.in_order(self.window - 1)
        visible = _near(self.window, x.shape[1], keys.shape[2] + x.shape[1], x.device)
        mixed = self._mixed(q, torch.cat((keys, k), 2), torch.cat((values, v), 2), visible, is_causal=False)
        return mixed, state.with_next(k, v)

    def cost(self, slots: int, pairs: int) -> LayerCost:
        sides, blocks = sides_read(pairs, slots), -(-slots // self.window)
        computed = slots * slots if blocks == 1 else blocks * self.window**2 * (1 + sides)
        cut = max(0, slots - self.window)  # the number of slots that the last slot does not see
        unseen = sides * cut * (cut + 1) // 2
        cost = attention_cost(8.0 * self.width**2, 2 * self.width, slots, pairs - unseen, computed)
        return replace(cost, state_elements=2 * self.width * min(slots, self.window))

    def reach_slots(self, native: Native) -> int | None:
        return self.window - 1

    def _windowed(self, q: Tensor, k: Tensor, v: Tensor, native: Native) -> Tensor:
        """Attention in blocks, and the output map: q, k and v, each (B, H, T, D / H) -> (B, T, D)."""
        rows, slots, window = len(q), q.shape[2], self.window
        if slots <= window:
            return self._mixed(q, k, v, None, is_causal=native == "causal")
        blocks, sides = -(-slots // window), (1, 1 if native == "full" else 0)
        visible = _block_mask(window, native, slots, blocks, q.device).repeat(rows, 1, 1, 1)
        q = _blocks(q, window, blocks, (0, 0))
        k, v = _blocks(k, window, blocks, sides), _blocks(v, window, blocks, sides)
        mixed = self._attended(q, k, v, visible)
        return self.out(mixed.transpose(1, 2).reshape(rows, blocks * window, -1)[:, :slots])


def _blocks(x: Tensor, window: int, blocks: int, sides: tuple[int, int]) -> Tensor:
    """(B, H, T, h) -> (B * blocks, H, W n, h): join each block with its neighbours, n blocks together; zeros beyond both ends."""
    before, after = sides
    padded = F.pad(x, (0, 0, before * window, (blocks + after) * window - x.shape[2]))
    own_blocks = torch.unflatten(padded, 2, (-1, window))
    neighbourhoods = torch.cat([own_blocks[:, :, first : first + blocks] for first in range(1 + before + after)], dim=3)
    return neighbourhoods.transpose(1, 2).flatten(0, 1)


def _block_mask(window: int, native: Native, slots: int, blocks: int, device: torch.device) -> Tensor:
    """The mask (blocks, 1, W, 2 W or 3 W): True where a slot may read a slot of its own block or of a neighbour block.

    Every slot may read at least one slot.
    """
    wide = (3 if native == "full" else 2) * window
    first = torch.arange(blocks, device=device)[:, None, None] * window
    key = first - window + torch.arange(wide, device=device)
    distance = first + torch.arange(window, device=device)[:, None] - key
    visible = (distance.abs() if native == "full" else distance) < window
    if native == "causal":
        visible &= distance >= 0
    return (visible & (key >= 0) & (key < slots))[:, None]


def _near(window: int, new: int, slots: int, device: torch.device) -> Tensor:
    """The mask (new, slots): the slots of a row that each of its last `new` slots may read."""
    slot = torch.arange(slots, device=device)
    distance = slot[slots - new :, None] - slot
    return (distance >= 0) & (distance < window)


CHUNK_SLOTS = 128
LEAST_NORM = 1e-12


class LinearAttentionConfig(MixerConfig):
    """The config of linear attention. The mixer has 2 D f H + 2 D^2 parameters; biases add 2 f H + 2 D.

    Attributes:
        features: the number f of features of q and k in each head; the state has 1 + f + f^2 rows of D + H numbers.
    """

    kind: ClassVar[str] = "linear_attention"
    reads: ClassVar[frozenset[str]] = frozenset({"heads"})
    visibilities: ClassVar[frozenset[Native]] = frozenset({"causal", "full"})
    features: int = Field(default=16, ge=1)


@dataclass(frozen=True)
class Sums(MixerState):
    """The (B, H, Phi, h + 1) state of linear attention: sums of psi(k) v^T, and in the last column sums of psi(k)."""

    sums: Tensor


class LinearAttention(Mixer, options=LinearAttentionConfig):
    """Linear attention: the weights are 1 + s + s^2 / 2 for s = q k / sqrt(f), the first terms of exp(s); each is at least 1/2.

    With psi(x) = (1, x / f^(1/4), x x^T / sqrt(2 f)) the weight is a product of features, psi(q) psi(k), so that sums with
    Phi = 1 + f + f^2 rows hold all earlier slots: y_t = psi(q_t) sum psi(k_j) v_j^T / (psi(q_t) sum psi(k_j) + 1e-12). Rows with
    fewer than Phi slots are read with the (T, T) matrix of weights, which costs less. Longer rows are read in chunks of 128 slots:
    with the matrix of weights inside a chunk, and with the sums for the slots before the chunk. In the full form the sums are over
    all slots.
    Source: Arora et al., Based (arXiv 2402.18668), in the form of the zoology code (d88d6f5), which was read; this code is new.
    Differences: the state is counted with all its elements (zoology: as if the features were symmetric); sums are float32 under
    autocast.
    """

    def __init__(self, config: LinearAttentionConfig, place: Place):
        super().__init__()
        width = place.width
        self.heads = place.heads
        self.features = config.features
        self.q = Linear(width, place.heads * config.features, bias=place.bias)
        self.k = Linear(width, place.heads * config.features, bias=place.bias)
        self.v = Linear(width, width, bias=place.bias)
        self.out = Linear(width, width, bias=place.bias, role="residual")

    @property
    def rows(self) -> int:
        """The number Phi of features of psi."""
        return 1 + self.features + self.features**2

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        q, k, v = self._by_head(x)
        with exact_products(q):
            if x.shape[1] < self.rows:
                mixed = _square(q, k, v, is_causal=reading.native == "causal")
            elif reading.native == "causal":
                mixed = self._chunked(q, k, v, self._nothing(v))[0]
            else:
                sums = self._nothing(v)
                for keys, values in zip(*(torch.split(part, CHUNK_SLOTS, 2) for part in (k, v)), strict=True):
                    sums = sums + taylor(keys).mT @ values
                mixed = torch.cat(tuple(_normed(taylor(part) @ sums) for part in torch.split(q, CHUNK_SLOTS, 2)), 2)
        return self._read_out(mixed, x)

    def begin(self, rows: int, slots: int) -> MixerState:
        width = self.out.weight.shape[0] // self.heads + 1
        weight = exact(self.v.weight)
        return Sums(weight.new_zeros(rows, self.heads, self.rows, width))

    def extend(self, x: Tensor, reading: Reading, state: Sums) -> tuple[Tensor, MixerState]:
        q, k, v = self._by_head(x)
        with exact_products(q):
            mixed, sums = self._chunked(q, k, v, state.sums)
        return self._read_out(mixed, x), replace(state, sums=sums)

    def cost(self, slots: int, pairs: int) -> LayerCost:
        """The cost; its useful FLOPs are those of the visible pairs or of the recurrence (4 Phi D + 3 H Phi), whichever is less."""
        width, each, heads = self.out.weight.shape[0], self.features, self.heads
        maps = 4.0 * width * each * heads + 4.0 * width * width
        pair = 2.0 * (heads * each + width + heads)
        recurrence = 4.0 * self.rows * width + 3.0 * heads * self.rows
        if slots < self.rows:
            executed = pair * slots
        else:
            sums = 4.0 * self.rows * (width + heads)
            chunks, rest = divmod(slots, CHUNK_SLOTS)
            inside = (chunks * CHUNK_SLOTS**2 + rest**2) / slots if pairs < slots * slots else 0.0
            executed = sums + pair * inside
        useful = min(pair * pairs / slots, recurrence, executed)
        return LayerCost(maps + executed, maps + useful, heads * self.rows * (width // heads + 1))

    def _by_head(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q and k (B, H, T, f), and v (B, H, T, h + 1), in float32 or better; sums of v's column of ones are the denominator."""
        fine = (exact(part(x)) for part in (self.q, self.k, self.v))
        q, k, v = (part.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for part in fine)
        return q, k, torch.cat((v, torch.ones_like(v[..., :1])), -1)

    def _nothing(self, v: Tensor) -> Tensor:
        return v.new_zeros(v.shape[0], self.heads, self.rows, v.shape[-1])

    def _chunked(self, q: Tensor, k: Tensor, v: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """The (B, H, T, h) causal outputs of slots that follow the slots in `sums`; and the sums after these slots."""
        mixed = []
        for queries, keys, values in zip(*(torch.split(part, CHUNK_SLOTS, 2) for part in (q, k, v)), strict=True):
            inside = weights(queries, keys).tril() @ values
            mixed.append(_normed(inside + taylor(queries) @ sums))
            sums = sums + taylor(keys).mT @ values
        return torch.cat(tuple(mixed), 2), sums

    def _read_out(self, mixed: Tensor, x: Tensor) -> Tensor:
        return self.out(mixed.transpose(1, 2).flatten(2).to(x.dtype))


def taylor(x: Tensor) -> Tensor:
    """The feature map psi, (.., f) -> (.., 1 + f + f^2)."""
    features = x.shape[-1]
    products = (x[..., :, None] * x[..., None, :]).flatten(-2) / math.sqrt(2 * features)
    return torch.cat((torch.ones_like(x[..., :1]), x / features**0.25, products), -1)


def weights(q: Tensor, k: Tensor) -> Tensor:
    """The (.., T, T) weights psi(q) psi(k) = 1 + s + s^2 / 2, computed without the features."""
    s = q @ k.mT / math.sqrt(q.shape[-1])
    return 1 + s + s.square() / 2


def _square(q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool) -> Tensor:
    scores = weights(q, k)
    return _normed((scores.tril() if is_causal else scores) @ v)


def _normed(summed: Tensor) -> Tensor:
    return summed[..., :-1] / (summed[..., -1:] + LEAST_NORM)
