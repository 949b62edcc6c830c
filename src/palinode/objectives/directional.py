"""ltr and rtl: predict every token of the window from those before it, or from those after it.

With a direction token all tokens of the window are scored (as many slots as tokens); bare, one of them cannot be (one slot fewer):

    ltr  in [L] a b c d e   target a b c d e f        rtl  in b c d e f [R]   target a b c d e f
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from palinode.base.config import one_of
from palinode.base.example import NO_SOURCE, Draw, Example, SpecialTokens, one_pass
from palinode.base.objective import Objective
from palinode.base.visibility import VISIBILITIES, Ltr, Rtl, Visibility

Direction = Literal["ltr", "rtl"]


class LtrObjective(Objective):
    """Next-token prediction. `direction_token`: start with `[L]`, so that the first token is scored too."""

    kind: ClassVar[str] = "ltr"
    direction_token: bool = True

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        return directional_pass(windows, specials, "ltr", Ltr(), direction_token=self.direction_token)

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        return source < target

    def scorable(self, window_tokens: int) -> Tensor:
        return scored("ltr", window_tokens, self.direction_token)

    def evaluation(self) -> dict[str, Objective]:
        return {"ltr": self, "rtl": RtlObjective(direction_token=self.direction_token)}


class RtlObjective(Objective):
    """Previous-token prediction, reading from the end.

    Attributes:
        direction_token: the text ends with `[R]`, where the reading starts.
        sees: the visibility of the pass; any but `rtl` is an error for the audit to find.
    """

    kind: ClassVar[str] = "rtl"
    direction_token: bool = True
    sees: Annotated[Visibility, one_of(lambda: VISIBILITIES, "visibility")] = Rtl()

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        return directional_pass(windows, specials, "rtl", self.sees, direction_token=self.direction_token)

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        return source > target

    def scorable(self, window_tokens: int) -> Tensor:
        return scored("rtl", window_tokens, self.direction_token)

    def groups(self) -> tuple[str, ...]:
        return ("rtl",)

    def evaluation(self) -> dict[str, Objective]:
        return {"ltr": LtrObjective(direction_token=self.direction_token), "rtl": self}


def shifted(direction: Direction, window_tokens: int, direction_token: bool) -> tuple[Tensor, Tensor]:
    """(slots,) window indices that the slots read, and those that they predict; the direction token has no source."""
    targets = torch.arange(window_tokens)
    sources = targets - (1 if direction == "ltr" else -1)
    inside = (sources >= 0) & (sources < window_tokens)
    return (torch.where(inside, sources, NO_SOURCE), targets) if direction_token else (sources[inside], targets[inside])


def scored(direction: Direction, window_tokens: int, direction_token: bool) -> Tensor:
    """(window_tokens,) boolean: the tokens that a pass scores. Bare, an ltr pass cannot score the first, an rtl pass the last."""
    places = torch.zeros(window_tokens, dtype=torch.bool)
    places[shifted(direction, window_tokens, direction_token)[1]] = True
    return places


def directional_pass(
    windows: Tensor,
    specials: SpecialTokens,
    direction: Direction,
    sees: Visibility,
    *,
    direction_token: bool,
    rows: Tensor | None = None,
) -> Example:
    """One pass over `rows` of the windows (None: all)."""
    sources, targets = shifted(direction, windows.shape[1], direction_token)
    return one_pass(
        windows,
        name=direction,
        sees=sees,
        input_source=sources,
        target_source=targets,
        special_input=specials["[L]" if direction == "ltr" else "[R]"],
        window_row=rows,
    )
