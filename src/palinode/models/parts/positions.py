"""Positions: tables that rotate queries and keys, tables of distances between slots, and the subtraction of next positions.

A table is computed for each pass, for the length of the pass's rows, in float32 or better, so that a cast of the model to another
dtype cannot round a position.
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
HALF_SLOWEST = 1 / 1024  # the radians per slot of the pair that `half` rotates most slowly


@dataclass(frozen=True)
class RotaryTable:
    """The table of rotations: cosines and signed sines of the angles, each (T, 1, D / H), for tensors (..., T, H, D / H)."""

    cos: Tensor
    sin: Tensor

    def turn(self, x: Tensor) -> Tensor:
        """Rotate (..., T, H, D / H) by the positions of the T slots."""
        return torch.addcmul(x * self.cos, x.roll(x.shape[-1] // 2, -1), self.sin)

    def part(self, first: int, end: int) -> RotaryTable:
        """The part of the table that belongs to the positions first..end - 1."""
        return RotaryTable(self.cos[first:end], self.sin[first:end])


def rotary_table(positions: Tensor, head_width: int, kind: RotaryKind, base: float, dtype: torch.dtype) -> RotaryTable:
    """Make the table of rotations for some positions.

    Args:
        positions: the (T,) positions of the slots.
        kind: the pairs of features that are rotated. `full` rotates every pair, pair i by base^(-2i / head_width) radians per
            slot; `half` rotates half of the pairs, by angles that fall geometrically from 1 to 1/1024 radians per slot.
    """
    angles = positions.to(torch.float64)[:, None] * _radians_per_slot(head_width, kind, base, positions.device)
    cos, sin = angles.cos(), angles.sin()
    return RotaryTable(torch.cat((cos, cos), -1)[:, None].to(dtype), torch.cat((sin, -sin), -1)[:, None].to(dtype))


def _radians_per_slot(head_width: int, kind: RotaryKind, base: float, device: torch.device) -> Tensor:
    """The angle by which each pair is rotated per slot, (head_width / 2,) float64, in radians."""
    pairs = head_width // 2
    if kind == "full":
        return base ** -(torch.arange(pairs, device=device, dtype=torch.float64) / pairs)
    turning = HALF_SLOWEST ** torch.linspace(0, 1, pairs // 2, device=device, dtype=torch.float64)
    return torch.cat((turning, torch.zeros_like(turning)))


SLOPE_BITS = 8  # where the number of heads is a power of two, the smallest slope is 2^-8


@dataclass(frozen=True)
class DistanceTable:
    """The two (T, T) tables of linear position biases, or only the last rows of these tables.

    Attributes:
        minus_distance: the table of -|i - j|.
        wall: the table that is 0 where slot i may read slot j, and -inf elsewhere.
    """

    minus_distance: Tensor
    wall: Tensor

    def bias(self, slope: Tensor) -> Tensor:
        """The (T, T) bias: -slope |i - j| where slot i may read slot j, else -inf; the slope gets a gradient."""
        return torch.addcmul(self.wall, self.minus_distance, slope)


def alibi_slopes(heads: int) -> list[float]:
    """The fixed slopes of H heads: 2^(-8 h / H) for h = 1..H.

    If H is not a power of two, the first slopes are those of P heads, where P is the next lower power of two, and the other slopes
    are every second slope of 2 P heads.

    Source: Press, Smith and Lewis, Train short, test long (2022).
    """
    lower = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-SLOPE_BITS * head / lower) for head in range(1, lower + 1)]
    between = [2 ** (-SLOPE_BITS * head / (2 * lower)) for head in range(1, 2 * lower, 2)]
    return slopes + between[: heads - lower]


def distance_table(
    slots: int, native: Native, mask: Tensor | None, *, device: torch.device, dtype: torch.dtype, first: int = 0
) -> DistanceTable:
    """Make the table of distances for rows of T slots.

    Args:
        mask: the (T, T) boolean mask, when native is `mask`.
        first: the first slot that has a row in the table; the rows of the table are those of the slots first..T-1.
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
    """The subtraction of the next slot's position, (.., T, D) -> (.., T, D).

    Args:
        rows: the number of rows of a separate table, whose row i is subtracted from slot i. None: the caller passes the table.
        norm: the norm after the subtraction, or None.
    """

    def __init__(self, width: int, *, rows: int | None, norm: Norm | None):
        super().__init__()
        self.table = None if rows is None else Table(rows, width, role="position")
        self.norm = norm

    def forward(self, states: Tensor, shared: Table | None, positions: Tensor | None = None) -> Tensor:
        """Subtract from each state the position of the next slot.

        Args:
            shared: the table of learned positions, if there is no separate table; its row i + 1 is subtracted from slot i.
            positions: the (T,) positions of the slots; by default 0..T-1.
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
    """The module `NextPosition` for these options, or None if nothing is subtracted."""
    if subtract == "none":
        return None
    rows = longest if table == "separate" else None
    return NextPosition(width, rows=rows, norm=norm() if subtract == "norm" else None)


def refuse_subtraction(subtract: SubtractPosition, table: SubtractTable, learned: bool) -> None:
    """Refuse a shared table if the model has no table of learned positions, and a table option that is set but not used.

    Raises:
        ValueError: the options do not fit; the message names the field.
    """
    if subtract == "none" and table != "shared":
        raise ValueError(f"subtract_table is {table!r}, but subtract_position is 'none'")
    if subtract != "none" and table == "shared" and not learned:
        raise ValueError(
            'subtract_table: the model has no table of learned positions to share; set subtract_table = "separate"'
        )
