"""Rotary positions: each pair of a head's numbers is turned by an angle that grows with the slot's position.

The pairs are (i, i + half): y1 = x1 cos + x2 sin, y2 = x2 cos - x1 sin. Tables are made in float64 at every pass (a few
microseconds) and used in float32 or better, so that no cast of the model can round a position.
Legend: T slots, H heads, D / H head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

RotaryKind = Literal["full", "half"]
HALF_SLOWEST = 1 / 1024  # radians per slot of the slowest turning pair of `half`


@dataclass(frozen=True)
class RotaryTable:
    """cos and signed sin, each (T, 1, D / H), ready for (..., T, H, D / H)."""

    cos: Tensor
    sin: Tensor

    def turn(self, x: Tensor) -> Tensor:
        """Rotate (..., T, H, D / H) by the positions of the T slots."""
        return torch.addcmul(x * self.cos, x.roll(x.shape[-1] // 2, -1), self.sin)

    def part(self, first: int, end: int) -> RotaryTable:
        """The part of the table for positions first..end - 1."""
        return RotaryTable(self.cos[first:end], self.sin[first:end])


def rotary_table(positions: Tensor, head_width: int, kind: RotaryKind, base: float, dtype: torch.dtype) -> RotaryTable:
    """The table of these positions.

    Args:
        positions: (T,) slot positions.
        kind: `full` turns every pair, by base^(-2i / head_width) radians a slot; `half` turns half of the pairs,
            geometrically from 1 to 1/1024 radians a slot, and not the others.
    """
    angles = positions.to(torch.float64)[:, None] * _radians_per_slot(head_width, kind, base, positions.device)
    cos, sin = angles.cos(), angles.sin()
    return RotaryTable(torch.cat((cos, cos), -1)[:, None].to(dtype), torch.cat((sin, -sin), -1)[:, None].to(dtype))


def _radians_per_slot(head_width: int, kind: RotaryKind, base: float, device: torch.device) -> Tensor:
    """(head_width / 2,) float64."""
    pairs = head_width // 2
    if kind == "full":
        return base ** -(torch.arange(pairs, device=device, dtype=torch.float64) / pairs)
    turning = HALF_SLOWEST ** torch.linspace(0, 1, pairs // 2, device=device, dtype=torch.float64)
    return torch.cat((turning, torch.zeros_like(turning)))
