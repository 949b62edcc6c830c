"""Positional subtraction: the position of slot i + 1, which slot i predicts, is subtracted from the state of slot i.

z_i <- z_i - P[i + 1], then one more norm if set. With a tied head this gives each position a bias on every token, of rank D:
logits = E z_i - E P[i + 1]. P is the model's table of positions, which then has one more row (row 0 is never subtracted, the
last row is never an input), or a separate table: a control that separates the effect of the bias from that of sharing.
Source: yiphei's autoregressive encoder-decoder, as read in its description.
Legend: T slots, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from palinode.base.errors import BadInput
from palinode.models.parts.linear import Table
from palinode.models.parts.norm import Norm

SubtractPosition = Literal["none", "plain", "norm"]
SubtractTable = Literal["shared", "separate"]


class NextPosition(nn.Module):
    """(.., T, D) -> (.., T, D).

    Args:
        rows: of a separate table, whose row i is subtracted from slot i; None: the caller passes the table of positions.
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
            taken = self.table.weight[:slots] if positions is None else self.table.weight[positions]
        else:
            assert shared is not None
            taken = shared.weight[1 : slots + 1] if positions is None else shared.weight[positions + 1]
        out = states - taken
        return out if self.norm is None else self.norm(out)


def next_position_of(
    subtract: SubtractPosition, table: SubtractTable, width: int, longest: int, norm: Callable[[], Norm]
) -> NextPosition | None:
    """The module of these options, if they set one."""
    if subtract == "none":
        return None
    rows = longest if table == "separate" else None
    return NextPosition(width, rows=rows, norm=norm() if subtract == "norm" else None)


def refuse_long_rows(slots: int, longest: int, position: Table | None, next_position: NextPosition | None) -> None:
    """Refuse rows beyond a table of positions, of a model that has one.

    Raises:
        BadInput: naming the field of that table.
    """
    if slots > longest and (position is not None or next_position is not None):
        field = "model.position" if position is not None else "model.subtract_table"
        raise BadInput(f"a row of {slots} slots is longer than the table of {longest} learned positions", field=field)


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
