"""Positional subtraction: from the state of slot t the position of slot t + 1, which it predicts, is taken away.

z_t <- z_t - P[t + 1], then one more norm where asked. With a tied head this gives each position a bias on every token, of rank D:
logits = E z_t - E P[t + 1]. P is the model's own table of positions, which then has one row more (row 0 is never subtracted, the
last row is never an input), or a table of its own: the control that tells the bias from the sharing.
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
        rows: of a table of its own, whose row t is taken from slot t; None: the caller hands the table of positions over.
        norm: what follows, if anything.
    """

    def __init__(self, width: int, *, rows: int | None, norm: Norm | None):
        super().__init__()
        self.table = None if rows is None else Table(rows, width, role="position")
        self.norm = norm

    def forward(self, states: Tensor, shared: Table | None, positions: Tensor | None = None) -> Tensor:
        """Args:
        shared: the table of positions where there is no own one: its row t + 1 is taken from slot t.
        positions: (T,) of these slots; default 0..T-1.
        """
        slots = states.shape[-2]
        if self.table is not None:
            taken = self.table.weight[:slots] if positions is None else self.table.weight[positions]
        else:
            assert shared is not None
            taken = shared.weight[1 : slots + 1] if positions is None else shared.weight[positions + 1]
        out: Tensor = states - taken
        return out if self.norm is None else self.norm(out)


def next_position_of(
    subtract: SubtractPosition, table: SubtractTable, width: int, longest: int, norm: Callable[[], Norm]
) -> NextPosition | None:
    """What these options ask for."""
    if subtract == "none":
        return None
    rows = longest if table == "separate" else None
    return NextPosition(width, rows=rows, norm=norm() if subtract == "norm" else None)


def refuse_long_rows(slots: int, longest: int, position: Table | None, next_position: NextPosition | None) -> None:
    """Refuse rows beyond a table of positions, of a model that has one.

    Raises:
        BadInput: naming the field that says so.
    """
    if slots > longest and (position is not None or next_position is not None):
        field = "model.position" if position is not None else "model.subtract_table"
        raise BadInput(f"a row of {slots} slots is longer than the table of {longest} learned positions", field=field)


def refuse_subtraction(subtract: SubtractPosition, table: SubtractTable, learned: bool) -> None:
    """Refuse a table that there is not, or that nothing reads.

    Raises:
        ValueError: naming the field.
    """
    if subtract == "none" and table != "shared":
        raise ValueError(f"subtract_table is {table!r}, but subtract_position is 'none'")
    if subtract != "none" and table == "shared" and not learned:
        raise ValueError(
            'subtract_table: there is no table of learned positions to share; set subtract_table = "separate"'
        )
