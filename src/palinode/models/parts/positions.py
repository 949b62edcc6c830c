"""Positions: tables that turn queries and keys, distances between slots, and the subtraction of the next position.

Tables are made for each pass, at the length of its rows, and used in float32 or better, so that no cast of the model can round a
position.
Legend: B rows, T slots, D width, H heads, D / H head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from palinode.base.visibility import Native
from palinode.models.parts.linear import Norm, Table

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


SubtractPosition = Literal["none", "plain", "norm"]
SubtractTable = Literal["shared", "separate"]


class NextPosition(nn.Module):
    """(.., T, D) -> (.., T, D).

    Args:
        rows: the number of rows of a separate table, whose row i is subtracted from slot i. None: the caller passes the table.
        norm: the norm after the subtraction, if any.
    """

    def __init__(self, width: int, *, rows: int | None, norm: Norm | None):
        super().__init__()
        self.table = None if rows is None else Table(rows, width, role="position")
        self.norm = norm

    def forward(self, states: Tensor, shared: Table | None, positions: Tensor | None = None) -> Tensor:
        """The states less the next positions.

        Args:
            shared: the table of positions where there is no separate one: its row i + 1 is subtracted from slot i.
            positions: (T,) of these slots; default 0..T-1.
        """
        slots = states.shape[-2]
        if self.table is not None:
            next_positions = self.table.weight[:slots] if positions is None else self.table.weight[positions]
        else:
            assert shared is not None
            next_positions = shared.weight[1 : slots + 1] if positions is None else shared.weight[positions + 1]
        out = states - next_positions
        return out if self.norm is None else self.norm(out)


def next_position_of(
    subtract: SubtractPosition, table: SubtractTable, width: int, longest: int, norm: Callable[[], Norm]
) -> NextPosition | None:
    """The module of these options, if they set one."""
    if subtract == "none":
        return None
    rows = longest if table == "separate" else None
    return NextPosition(width, rows=rows, norm=norm() if subtract == "norm" else None)


def refuse_subtraction(subtract: SubtractPosition, table: SubtractTable, learned: bool) -> None:
    """Refuse a shared table that does not exist, and a table that nothing reads.

    Raises:
        ValueError: naming the field.
    """
    if subtract == "none" and table != "shared":
        raise ValueError(f"subtract_table is {table!r}, but subtract_position is 'none'")
    if subtract != "none" and table == "shared" and not learned:
        raise ValueError(
            'subtract_table: the model has no table of learned positions to share; set subtract_table = "separate"'
        )
