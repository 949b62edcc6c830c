"""Linear attention with a Taylor map: weights 1 + s + s^2 / 2 for s = q k / sqrt(f), the start of exp(s), and always above 1/2.

psi(x) = (1, x / f^(1/4), x x^T / sqrt(2 f)) makes the weight a product of features, psi(q) psi(k), so the past is a sum of Phi =
1 + f + f^2 rows: y_t = psi(q_t) sum psi(k_j) v_j^T / (psi(q_t) sum psi(k_j) + 1e-12). Rows shorter than Phi are read through the
square of weights, which costs less; longer ones in chunks of 128 slots, square inside, sums before. Full: the sums over all slots.
Source: Arora et al., Based (arXiv 2402.18668), in the form of the zoology code (d88d6f5), read, and written anew. Differs in: the
size of the state is counted in full (there: as if the features were symmetric); sums are float32 under autocast.
Legend: B rows, T slots, T_new new slots, H heads, f features of q and k a head, h = D / H numbers of v a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from palinode.base.visibility import Native
from palinode.models.cost import LayerCost
from palinode.models.mixers.base import Mixer, MixerConfig, Place, Reading
from palinode.models.parts.exact import exact, exact_products
from palinode.models.parts.linear import Linear
from palinode.models.parts.state import MixerState

CHUNK_SLOTS = 128
LEAST_NORM = 1e-12


class LinearAttentionConfig(MixerConfig):
    """Linear attention. 2 D f H + 2 D^2 parameters, + 2 f H + 2 D with biases.

    Attributes:
        features: f of q and k of each head; the state has 1 + f + f^2 rows of D + H numbers.
    """

    kind: ClassVar[str] = "linear_attention"
    reads: ClassVar[frozenset[str]] = frozenset({"heads"})
    visibilities: ClassVar[frozenset[Native]] = frozenset({"causal", "full"})
    features: int = Field(default=16, ge=1)

    def build(self, place: Place) -> Mixer:
        return LinearAttention(self, place)


@dataclass(frozen=True)
class Sums(MixerState):
    """(B, H, Phi, h + 1): sums of psi(k) v^T and, in the last column, of psi(k)."""

    sums: Tensor


class LinearAttention(Mixer):
    """W (psi(q) sums / norm)."""

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
        """Phi: how many features psi has."""
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
        """Useful: the cheaper of the square's visible pairs and the recurrence, 4 Phi D + 3 H Phi FLOPs a slot."""
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
        """q and k (B, H, T, f), and v (B, H, T, h + 1) with a column of ones, whose sums are the norm; float32 or better."""
        q, k, v = (
            exact(part(x)).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        return q, k, torch.cat((v, torch.ones_like(v[..., :1])), -1)

    def _nothing(self, v: Tensor) -> Tensor:
        return v.new_zeros(v.shape[0], self.heads, self.rows, v.shape[-1])

    def _chunked(self, q: Tensor, k: Tensor, v: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, T, h) causal, behind the slots already in `sums`; and the sums after these slots."""
        mixed = []
        for queries, keys, values in zip(*(torch.split(part, CHUNK_SLOTS, 2) for part in (q, k, v)), strict=True):
            inside = weights(queries, keys).tril() @ values
            mixed.append(_normed(inside + taylor(queries) @ sums))
            sums = sums + taylor(keys).mT @ values
        return torch.cat(tuple(mixed), 2), sums

    def _read_out(self, mixed: Tensor, x: Tensor) -> Tensor:
        return self.out(mixed.transpose(1, 2).flatten(2).to(x.dtype))


def taylor(x: Tensor) -> Tensor:
    """psi: (.., f) -> (.., 1 + f + f^2)."""
    features = x.shape[-1]
    products = (x[..., :, None] * x[..., None, :]).flatten(-2) / math.sqrt(2 * features)
    return torch.cat((torch.ones_like(x[..., :1]), x / features**0.25, products), -1)


def weights(q: Tensor, k: Tensor) -> Tensor:
    """(.., T, T) psi(q) psi(k) = 1 + s + s^2 / 2, without the features."""
    s = q @ k.mT / math.sqrt(q.shape[-1])
    return 1 + s + s.square() / 2


def _square(q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool) -> Tensor:
    scores = weights(q, k)
    return _normed((scores.tril() if is_causal else scores) @ v)


def _normed(summed: Tensor) -> Tensor:
    return summed[..., :-1] / (summed[..., -1:] + LEAST_NORM)
