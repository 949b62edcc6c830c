"""Distances between slots, for attention whose scores fall linearly with distance.

The tables are made for each pass in float32 or better, at the length of its rows. (The published table was made in bf16, where
integers above 256 are rounded, and cut from a longer one, so that 32 distances had 9 values.) Legend: T slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from palinode.base.visibility import Native

SLOPE_BITS = 8  # the slopes of a power of two of heads run down to 2^-8


@dataclass(frozen=True)
class DistanceTable:
    """Two tables (T, T), or their last rows: -|i - j|, and the wall, which is 0 where slot i may read slot j and -inf elsewhere."""

    minus_distance: Tensor
    wall: Tensor

    def bias(self, slope: Tensor) -> Tensor:
        """(T, T): -slope |i - j| where slot i may read slot j, else -inf; the slope gets a gradient."""
        return torch.addcmul(self.wall, self.minus_distance, slope)


def alibi_slopes(heads: int) -> list[float]:
    """Fixed slopes of H heads: 2^(-8 h / H), h = 1..H.

    Where H is not a power of two: the slopes of the next lower power, then every other slope of twice that power.

    Source: Press, Smith and Lewis, Train short, test long (2022).
    """
    lower = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-SLOPE_BITS * head / lower) for head in range(1, lower + 1)]
    between = [2 ** (-SLOPE_BITS * head / (2 * lower)) for head in range(1, 2 * lower, 2)]
    return slopes + between[: heads - lower]


def distance_table(
    slots: int, native: Native, mask: Tensor | None, *, device: torch.device, dtype: torch.dtype, first: int = 0
) -> DistanceTable:
    """The table of rows of this length.

    Args:
        mask: (T, T) boolean, when native is `mask`.
        first: the table has the rows of slots first..T-1.
    """
    slot = torch.arange(slots, device=device, dtype=dtype)
    wall = torch.zeros(slots - first, slots, device=device, dtype=dtype)
    if native == "causal":
        hidden = torch.ones(slots - first, slots, device=device, dtype=torch.bool).triu(1 + first)
        wall = wall.masked_fill(hidden, -torch.inf)
    elif mask is not None:
        wall = wall.masked_fill(~mask, -torch.inf)
    return DistanceTable(-(slot[first:, None] - slot).abs(), wall)
