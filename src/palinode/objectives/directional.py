"""Objectives that predict each token of a window from the tokens before it (`ltr`), from the tokens after it (`rtl`), or from both.

With a direction token, a pass has one slot for each token of the window, and all tokens are scored. Without a direction token, one
token of the window is not scored. The two passes with direction tokens:

    ltr  in [L] a b c d e   target a b c d e f        rtl  in b c d e f [R]   target a b c d e f

With probability p, `both(p)` reads a window rtl in addition to ltr, and `choose(p)` reads a window rtl instead of ltr. Both
objectives differ from the published code in three points: with p = 0 no window is read rtl (published: in one draw of a thousand,
windows are read rtl); the mask of rtl is the upper triangle at the current length (published: a flipped lower triangle); the
losses are reported for each pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Generator, Tensor

from palinode.base.config import LATER, one_of
from palinode.base.example import NO_SOURCE, Draw, Example, SpecialTokens, joined, one_pass
from palinode.base.measures import Direction
from palinode.base.objective import Objective, Progress
from palinode.base.visibility import VISIBILITIES, Ltr, Rtl, Visibility
from palinode.objectives.probability import PROBABILITIES, Constant, Probability


class OneWay(Objective):
    """Base class of `ltr` and `rtl`: one pass over every window.

    Attributes:
        direction_token: whether a special token marks the place where the reading starts, so that all tokens can be scored.
    """

    direction: ClassVar[Direction]
    direction_token: bool = True

    def visibility(self) -> Visibility:
        """The visibility of the pass: the slots that each slot sees."""
        return Ltr()

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        return self.reading(windows, specials)

    def reading(
        self,
        windows: Tensor,
        specials: SpecialTokens,
        rows: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Example:
        """The inputs and targets of one forward pass over the windows whose indices are in `rows` (None: over all windows).

        Args:
            hidden: (windows, window_tokens) boolean: the tokens that are read as `[MASK]`; None: no token.
        """
        sources, targets = self.shifted(windows.shape[1])
        start: int | Tensor = specials["[L]" if self.direction == "ltr" else "[R]"]
        if hidden is not None:
            of_rows = hidden if rows is None else hidden[rows]
            masked = of_rows[:, sources.clamp_min(0)] & (sources != NO_SOURCE).to(hidden.device)
            start = torch.where(masked, specials["[MASK]"], start)
            sources = torch.where(masked, NO_SOURCE, sources.to(hidden.device))
        return one_pass(
            windows,
            name=self.direction,
            sees=self.visibility(),
            input_source=sources,
            target_source=targets,
            special_input=start,
            window_row=rows,
        )

    def shifted(self, window_tokens: int) -> tuple[Tensor, Tensor]:
        """The (T,) window indices of the tokens that the slots read (direction token: -1), and of the tokens that they predict."""
        targets = torch.arange(window_tokens)
        sources = targets - (1 if self.direction == "ltr" else -1)
        inside = (sources >= 0) & (sources < window_tokens)
        if self.direction_token:
            return torch.where(inside, sources, NO_SOURCE), targets
        return sources[inside], targets[inside]

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        return precedes(self.direction, source, target)

    def scorable(self, window_tokens: int) -> Tensor:
        """Without a direction token, an ltr pass cannot score the first token, and an rtl pass cannot score the last one."""
        if self.direction_token:
            return torch.ones(window_tokens, dtype=torch.bool)
        places = torch.zeros(window_tokens, dtype=torch.bool)
        places[self.shifted(window_tokens)[1]] = True
        return places

    def groups(self) -> tuple[str, ...]:
        return (self.direction,)

    def evaluation(self) -> dict[str, Objective]:
        both = LtrObjective(direction_token=self.direction_token), RtlObjective(direction_token=self.direction_token)
        return {"ltr": both[0], "rtl": both[1], self.direction: self}


class LtrObjective(OneWay):
    """Next-token prediction. With `direction_token` the input starts with `[L]`, so that the first token is scored too."""

    kind: ClassVar[str] = "ltr"
    direction: ClassVar[Direction] = "ltr"


class RtlObjective(OneWay):
    """Previous-token prediction: the window is read from its end.

    Attributes:
        direction_token: whether the input ends with `[R]`, where the reading starts.
        sees: the visibility of the pass. Any visibility except `rtl` is a mistake; a test sets another visibility to check that the
            audit finds the mistake.
    """

    kind: ClassVar[str] = "rtl"
    direction: ClassVar[Direction] = "rtl"
    sees: Annotated[Visibility, one_of(lambda: VISIBILITIES, "visibility")] = Rtl()

    def visibility(self) -> Visibility:
        return self.sees


def precedes(direction: str, source: Tensor, target: Tensor) -> Tensor:
    """Whether the tokens with the indices `source` are read before the tokens with the indices `target`."""
    return source < target if direction == "ltr" else source > target


Granularity = Literal["batch", "row"]
RTL = "rtl"  # the name of the random decision whether a window is read right to left
HIDDEN = "hidden"  # the name of the random decision which tokens are read as [MASK]


def exactly(count: int, batch: int, window_tokens: int, generator: Generator) -> Tensor:
    """A (B, window_tokens) boolean tensor with `count` True entries in each row, at uniformly random places."""
    order = torch.rand(batch, window_tokens, generator=generator).argsort(1).argsort(1)
    return order < count


class Mixture(Objective):
    """Base class of `both` and `choose`: the random choice, the direction tokens, and the tokens that may inform a prediction.

    Attributes:
        p: the probability of the rtl pass: a number, a schedule, or `adaptive`.
        granularity: whether one choice is made for each batch (`batch`, as published) or for each window (`row`). A step that
            accumulates several batches makes a choice for each.
        direction_token: whether `[L]` and `[R]` mark the direction, so that all tokens can be scored.
        rtl_sees: the visibility of the rtl pass. Any visibility except `rtl` is a mistake; a test sets another visibility to
            check that the audit finds the mistake.
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
        """The tokens that at least one pass scores; with a constant p, a pass with probability 0 does not count."""
        passes = self.evaluation()
        if isinstance(self.p, Constant):
            chances = self.pass_probabilities(Progress())
            passes = {name: one for name, one in passes.items() if chances[name]}
        return torch.stack([one.scorable(window_tokens) for one in passes.values()]).any(0)

    def state(self) -> dict[str, float]:
        return self.p.state()

    def after_step(self, state: Mapping[str, float], nats_by_group: Mapping[str, float]) -> dict[str, float]:
        return self.p.after_step(state, nats_by_group)

    def evaluation(self) -> dict[str, Objective]:
        return {"ltr": self.ltr, "rtl": self.rtl}

    @property
    def ltr(self) -> LtrObjective:
        """The objective that has only the ltr pass."""
        return LtrObjective(direction_token=self.direction_token)

    @property
    def rtl(self) -> RtlObjective:
        """The objective that has only the rtl pass."""
        return RtlObjective(direction_token=self.direction_token, sees=self.rtl_sees)


class BothObjective(Mixture):
    """Every window is read ltr; with probability p the window is *also* read rtl, in the same optimizer step.

    Attributes:
        combine: how the two losses are combined. `sum` adds the two mean losses (as published; the gradient is then larger at steps
            with both passes). `mean` divides the sum of all losses by the number of all scored tokens.
    """

    kind: ClassVar[str] = "both"
    combine: Literal["sum", "mean"] = "sum"

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        ltr = self.ltr.reading(windows, specials)
        rows = draw[RTL].to(windows.device).nonzero().flatten()
        if not len(rows):
            return ltr
        denominator = float(ltr.loss_weight.sum()) if self.combine == "sum" else None
        return joined([ltr, self.rtl.reading(windows, specials, rows)], denominator)

    def pass_probabilities(self, progress: Progress) -> dict[str, float]:
        return {"ltr": 1.0, "rtl": self.p.at(progress)}


class ChooseObjective(Mixture):
    """Every window is read once: rtl with probability p, else ltr.

    `choose` costs as much as `ltr`, so that `choose` and `ltr` are compared at equal compute.

    Attributes:
        hide: the share of tokens that both passes read as `[MASK]`, in training only (as in MEAP, arXiv 2502.07490):
            round(hide * window_tokens) tokens of each window. Every token is still scored.
    """

    kind: ClassVar[str] = "choose"
    granularity: Granularity = "row"
    hide: Annotated[float, LATER] = Field(default=0.0, ge=0.0, lt=1.0)

    def draw(self, batch: int, window_tokens: int, generator: Generator, progress: Progress) -> Draw:
        drawn = super().draw(batch, window_tokens, generator, progress)
        if not self.hide:
            return drawn
        hidden = exactly(round(self.hide * window_tokens), batch, window_tokens, generator)
        return Draw({**drawn.decisions, HIDDEN: hidden})

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        is_rtl = draw[RTL].to(windows.device)
        hidden = draw[HIDDEN].to(windows.device) if self.hide else None
        chosen = [(one, rows.nonzero().flatten()) for one, rows in ((self.ltr, ~is_rtl), (self.rtl, is_rtl))]
        return joined([one.reading(windows, specials, rows, hidden) for one, rows in chosen if len(rows)])

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        informs = super().may_inform(source, target, group, draw)
        return informs & ~draw[HIDDEN][source] if self.hide else informs

    def pass_probabilities(self, progress: Progress) -> dict[str, float]:
        p = self.p.at(progress)
        return {"ltr": 1.0 - p, "rtl": p}
