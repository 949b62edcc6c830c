"""Objectives that predict every token of the window from those before it (`ltr`), from those after it (`rtl`), or both in one run.

With a direction token all tokens of the window are scored (as many slots as tokens); bare, one of them cannot be (one slot fewer):

    ltr  in [L] a b c d e   target a b c d e f        rtl  in b c d e f [R]   target a b c d e f

`both(p)` reads rtl as well as ltr, `choose(p)` reads rtl instead of ltr. They differ from the published implementation in: p = 0
never draws rtl (there it was drawn once in a thousand); rtl sees the upper triangle at the current length (there a flipped lower
triangle); the losses are reported for each pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import field_validator
from torch import Generator, Tensor

from palinode.base.config import one_of
from palinode.base.example import NO_SOURCE, Draw, Example, SpecialTokens, joined, one_pass
from palinode.base.measures import Direction
from palinode.base.objective import Objective, Progress
from palinode.base.visibility import VISIBILITIES, Ltr, Rtl, Visibility
from palinode.objectives.probability import PROBABILITIES, Constant, Probability


class OneWay(Objective):
    """Base of `ltr` and `rtl`: one pass over every window.

    Attributes:
        direction_token: a token marks where the reading starts, so that all tokens can be scored.
    """

    direction: ClassVar[Direction]
    direction_token: bool = True

    def visibility(self) -> Visibility:
        """What the slots of the pass see."""
        return Ltr()

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        token = self.direction_token
        return directional_pass(windows, specials, self.direction, self.visibility(), direction_token=token)

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        return precedes(self.direction, source, target)

    def scorable(self, window_tokens: int) -> Tensor:
        return scored(self.direction, window_tokens, self.direction_token)

    def groups(self) -> tuple[str, ...]:
        return (self.direction,)

    def evaluation(self) -> dict[str, Objective]:
        both = LtrObjective(direction_token=self.direction_token), RtlObjective(direction_token=self.direction_token)
        return {"ltr": both[0], "rtl": both[1], self.direction: self}


class LtrObjective(OneWay):
    """Next-token prediction. `direction_token`: start with `[L]`, so that the first token is scored too."""

    kind: ClassVar[str] = "ltr"
    direction: ClassVar[Direction] = "ltr"


class RtlObjective(OneWay):
    """Previous-token prediction, reading from the end.

    Attributes:
        direction_token: the text ends with `[R]`, where the reading starts.
        sees: the visibility of the pass; any but `rtl` is an error for the audit to find.
    """

    kind: ClassVar[str] = "rtl"
    direction: ClassVar[Direction] = "rtl"
    sees: Annotated[Visibility, one_of(lambda: VISIBILITIES, "visibility")] = Rtl()

    def visibility(self) -> Visibility:
        return self.sees


def precedes(direction: str, source: Tensor, target: Tensor) -> Tensor:
    """Whether the tokens `source` are read before the tokens `target`."""
    return source < target if direction == "ltr" else source > target


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


Granularity = Literal["batch", "row"]
RTL = "rtl"  # the name of the decision: does this window read right to left?


class Mixture(Objective):
    """What `both` and `choose` share: the random choice, the tokens, and the contract of each pass.

    Attributes:
        p: probability of the rtl pass: a number, a schedule, or `adaptive`.
        granularity: one choice for each micro-batch (as published) or for each window.
        direction_token: `[L]` / `[R]` mark the direction, so that all tokens can be scored.
        rtl_sees: the visibility of the rtl pass; any but `rtl` is an error for the audit to find.
    """

    p: Annotated[Probability, one_of(lambda: PROBABILITIES, "probability")] = Constant(p=0.05)
    granularity: Granularity = "batch"
    direction_token: bool = True
    rtl_sees: Annotated[Visibility, one_of(lambda: VISIBILITIES, "visibility")] = Rtl()

    @field_validator("p", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return {"kind": Constant.kind, "p": value} if is_number else value

    def draw(self, batch: int, window_tokens: int, generator: Generator, progress: Progress) -> Draw:
        choices = 1 if self.granularity == "batch" else batch
        is_rtl = torch.rand(choices, generator=generator, dtype=torch.float64) < self.p.at(progress)
        return Draw({RTL: is_rtl.expand(batch)})

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        return precedes(group, source, target)

    def groups(self) -> tuple[str, ...]:
        return ("ltr", "rtl")

    def scorable(self, window_tokens: int) -> Tensor:
        """The tokens that either pass scores; with a constant p, a pass whose probability is 0 is left out."""
        passes: tuple[Direction, ...] = ("ltr", "rtl")
        if isinstance(self.p, Constant):
            chances = self.pass_probabilities(Progress())
            passes = tuple(name for name in passes if chances[name])
        return torch.stack([scored(name, window_tokens, self.direction_token) for name in passes]).any(0)

    def state(self) -> dict[str, float]:
        return self.p.state()

    def after_step(self, state: Mapping[str, float], nats_by_group: Mapping[str, float]) -> dict[str, float]:
        return self.p.after_step(state, nats_by_group)

    def evaluation(self) -> dict[str, Objective]:
        rtl = RtlObjective(direction_token=self.direction_token, sees=self.rtl_sees)
        return {"ltr": LtrObjective(direction_token=self.direction_token), "rtl": rtl}

    def _pass(
        self, direction: Direction, windows: Tensor, specials: SpecialTokens, rows: Tensor | None = None
    ) -> Example:
        sees = Ltr() if direction == "ltr" else self.rtl_sees
        return directional_pass(windows, specials, direction, sees, direction_token=self.direction_token, rows=rows)


class BothObjective(Mixture):
    """Every window is read ltr; with probability p it is *also* read rtl, in the same optimizer step.

    Attributes:
        combine: `sum` adds the two mean losses (as published; the gradient is larger at those steps), `mean` divides by all
            scored tokens.
    """

    kind: ClassVar[str] = "both"
    combine: Literal["sum", "mean"] = "sum"

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        ltr = self._pass("ltr", windows, specials)
        rows = draw[RTL].to(windows.device).nonzero().flatten()
        if not len(rows):
            return ltr
        rtl = self._pass("rtl", windows, specials, rows)
        denominator = float(ltr.loss_weight.sum()) if self.combine == "sum" else None
        return joined([ltr, rtl], denominator)

    def pass_probabilities(self, progress: Progress) -> dict[str, float]:
        return {"ltr": 1.0, "rtl": self.p.at(progress)}


class ChooseObjective(Mixture):
    """Every window is read once: rtl with probability p, else ltr. It costs what ltr costs: the comparison is at equal compute."""

    kind: ClassVar[str] = "choose"
    granularity: Granularity = "row"

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        is_rtl = draw[RTL].to(windows.device)
        chosen: tuple[tuple[Direction, Tensor], ...] = (("ltr", ~is_rtl), ("rtl", is_rtl))
        rows_of = [(direction, rows.nonzero().flatten()) for direction, rows in chosen]
        return joined([self._pass(direction, windows, specials, rows) for direction, rows in rows_of if len(rows)])

    def pass_probabilities(self, progress: Progress) -> dict[str, float]:
        p = self.p.at(progress)
        return {"ltr": 1.0 - p, "rtl": p}
