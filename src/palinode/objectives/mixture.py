"""Both directions in one training run: `both(p)` reads rtl beside ltr, `choose(p)` reads rtl instead of ltr.

Differs from the published implementation in: p = 0 never draws rtl (there it fired once in a thousand); rtl sees the upper
triangle at the current length (there a flipped lower triangle); the losses are kept apart by pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import field_validator
from torch import Generator, Tensor

from palinode.base.config import one_of
from palinode.base.example import Draw, Example, SpecialTokens, joined
from palinode.base.objective import Objective, Progress
from palinode.base.visibility import VISIBILITIES, Rtl, Visibility
from palinode.objectives.directional import (
    LtrObjective,
    RtlObjective,
    ltr_pass,
    rtl_pass,
    scored_ltr,
    scored_rtl,
)
from palinode.objectives.probability import PROBABILITIES, Constant, Probability

Granularity = Literal["batch", "row"]
RTL = "rtl"  # the name of the decision: does this window read right to left?


class Mixture(Objective):
    """What `both` and `choose` share: the coin, the tokens, and the contract of each pass.

    Attributes:
        p: probability of the rtl pass: a number, a schedule, or `adaptive`.
        granularity: one coin per micro-batch (as published) or per window.
        direction_token: `[L]` / `[R]` mark the direction and let all N tokens be scored.
        rtl_sees: the visibility of the rtl pass; anything but `rtl` is there to be caught by the audit.
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
        coins = 1 if self.granularity == "batch" else batch
        heads = torch.rand(coins, generator=generator, dtype=torch.float64) < self.p.at(progress)
        return Draw({RTL: heads.expand(batch)})

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        return source < target if group == "ltr" else source > target

    def groups(self) -> tuple[str, ...]:
        return ("ltr", "rtl")

    def scorable(self, window_tokens: int) -> Tensor:
        """What either pass scores; of a p that never moves, what those that are ever made do."""
        made = (
            self.pass_probabilities(Progress()) if isinstance(self.p, Constant) else dict.fromkeys(self.groups(), 1.0)
        )
        by_pass = {"ltr": scored_ltr, RTL: scored_rtl}
        places = [by_pass[name](window_tokens, self.direction_token) for name, chance in made.items() if chance]
        return torch.stack(places).any(0)

    def state(self) -> dict[str, float]:
        return self.p.state()

    def after_step(self, state: Mapping[str, float], nats_by_group: Mapping[str, float]) -> dict[str, float]:
        return self.p.after_step(state, nats_by_group)

    def evaluation(self) -> dict[str, Objective]:
        rtl = RtlObjective(direction_token=self.direction_token, sees=self.rtl_sees)
        return {"ltr": LtrObjective(direction_token=self.direction_token), "rtl": rtl}

    def _rtl(self, windows: Tensor, rows: Tensor, specials: SpecialTokens) -> Example:
        return rtl_pass(windows, specials, self.direction_token, rows, sees=self.rtl_sees)


class BothObjective(Mixture):
    """Every window is read ltr; with probability p it is *also* read rtl, in the same optimizer step.

    `combine`: `sum` adds the two mean losses (as published; the gradient grows on those steps), `mean` divides by all scored
    tokens.
    """

    kind: ClassVar[str] = "both"
    combine: Literal["sum", "mean"] = "sum"

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        ltr = ltr_pass(windows, specials, self.direction_token)
        rows = draw[RTL].to(windows.device).nonzero().flatten()
        if not len(rows):
            return ltr
        rtl = self._rtl(windows, rows, specials)
        denominator = float(ltr.loss_weight.sum()) if self.combine == "sum" else None
        return joined([ltr, rtl], denominator)

    def pass_probabilities(self, progress: Progress) -> dict[str, float]:
        return {"ltr": 1.0, "rtl": self.p.at(progress)}


class ChooseObjective(Mixture):
    """Every window is read once: rtl with probability p, else ltr. Equal compute with ltr alone, so the clean comparison."""

    kind: ClassVar[str] = "choose"
    granularity: Granularity = "row"

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        reads_rtl = draw[RTL].to(windows.device)
        passes = []
        if len(rows := (~reads_rtl).nonzero().flatten()):
            passes.append(ltr_pass(windows, specials, self.direction_token, rows))
        if len(rows := reads_rtl.nonzero().flatten()):
            passes.append(self._rtl(windows, rows, specials))
        return joined(passes)

    def pass_probabilities(self, progress: Progress) -> dict[str, float]:
        p = self.p.at(progress)
        return {"ltr": 1.0 - p, "rtl": p}
