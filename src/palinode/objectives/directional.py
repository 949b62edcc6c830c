"""ltr and rtl: predict every token of the window from those before it, or from those after it.

With a direction token the window's N tokens are all scored (N slots); bare, one of them cannot be (N - 1 slots):

    ltr  in [L] a b c d e   target a b c d e f        rtl  in b c d e f [R]   target a b c d e f
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from torch import Tensor

from palinode.base.config import one_of
from palinode.base.example import NO_SOURCE, Draw, Example, SpecialTokens, one_pass
from palinode.base.objective import Objective
from palinode.base.visibility import VISIBILITIES, Ltr, Rtl, Visibility


class LtrObjective(Objective):
    """Next-token prediction. `direction_token`: start with `[L]`, so that the first token is scored too."""

    kind: ClassVar[str] = "ltr"
    direction_token: bool = True

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        return ltr_pass(windows, specials, self.direction_token)

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        return source < target

    def scorable(self, window_tokens: int) -> Tensor:
        return scored_ltr(window_tokens, self.direction_token)

    def evaluation(self) -> dict[str, Objective]:
        return {"ltr": self, "rtl": RtlObjective(direction_token=self.direction_token)}


class RtlObjective(Objective):
    """Previous-token prediction, reading from the end.

    Attributes:
        direction_token: the text ends with `[R]`, which is the start of the reading.
        sees: the visibility of the pass; anything but `rtl` is there to be caught by the audit.
    """

    kind: ClassVar[str] = "rtl"
    direction_token: bool = True
    sees: Annotated[Visibility, one_of(lambda: VISIBILITIES, "visibility")] = Rtl()

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        return rtl_pass(windows, specials, self.direction_token, sees=self.sees)

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        return source > target

    def scorable(self, window_tokens: int) -> Tensor:
        return scored_rtl(window_tokens, self.direction_token)

    def groups(self) -> tuple[str, ...]:
        return ("rtl",)

    def evaluation(self) -> dict[str, Objective]:
        return {"ltr": LtrObjective(direction_token=self.direction_token), "rtl": self}


def scored_ltr(window_tokens: int, direction_token: bool) -> Tensor:
    """(N,) boolean: the places of a window that an ltr pass scores: bare, all but the first."""
    return torch.arange(window_tokens) >= (0 if direction_token else 1)


def scored_rtl(window_tokens: int, direction_token: bool) -> Tensor:
    """(N,) boolean: the places of a window that an rtl pass scores: bare, all but the last."""
    return scored_ltr(window_tokens, direction_token).flip(0)


def ltr_pass(windows: Tensor, specials: SpecialTokens, direction_token: bool, rows: Tensor | None = None) -> Example:
    """One left-to-right pass over `rows` of the windows (default: all)."""
    index = torch.arange(windows.shape[1])
    sources, targets = (index - 1, index) if direction_token else (index[:-1], index[1:])
    return one_pass(
        windows,
        name="ltr",
        sees=Ltr(),
        input_source=sources,
        target_source=targets,
        special_input=specials["[L]"],
        window_row=rows,
    )


def rtl_pass(
    windows: Tensor,
    specials: SpecialTokens,
    direction_token: bool,
    rows: Tensor | None = None,
    *,
    sees: Visibility,
) -> Example:
    """One right-to-left pass over `rows` of the windows (None: all)."""
    index = torch.arange(windows.shape[1])
    if direction_token:
        targets = index
        sources = torch.where(index + 1 < windows.shape[1], index + 1, NO_SOURCE)
    else:
        sources, targets = index[1:], index[:-1]
    return one_pass(
        windows,
        name="rtl",
        sees=sees,
        input_source=sources,
        target_source=targets,
        special_input=specials["[R]"],
        window_row=rows,
    )
