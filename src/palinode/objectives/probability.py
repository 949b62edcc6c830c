"""The probability p of the rtl pass: constant, scheduled over the steps, or adapted to the losses of the two passes.

Each p is a pure function of the step; the p of `adaptive` also depends on a state of two floats, which a checkpoint keeps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from palinode.base.config import Part
from palinode.base.errors import Unfinished
from palinode.base.objective import Progress


class Probability(Part):
    """Base class of all schedules of p. With p = 0 the rtl pass is never drawn, with p = 1 always."""

    def at(self, progress: Progress) -> float:
        """The probability p, in [0, 1], at this point of training."""
        raise Unfinished(self, "must define at(progress)")

    def state(self) -> dict[str, float]:
        """The state of the schedule before the first step."""
        return {}

    def after_step(self, state: Mapping[str, float], nats_by_group: Mapping[str, float]) -> dict[str, float]:
        """The state of the schedule after an optimizer step; `nats_by_group` has the loss of each pass, in nats."""
        return dict(state)


class Constant(Probability):
    """The same p at every step."""

    kind: ClassVar[str] = "constant"
    p: float = Field(ge=0.0, le=1.0)

    def at(self, progress: Progress) -> float:
        return self.p


class Linear(Probability):
    """p goes from p_start to p_end in a straight line over the run."""

    kind: ClassVar[str] = "linear"
    p_start: float = Field(ge=0.0, le=1.0)
    p_end: float = Field(ge=0.0, le=1.0)

    def at(self, progress: Progress) -> float:
        return self.p_start + (self.p_end - self.p_start) * progress.share


class Cosine(Probability):
    """p goes from p_start to p_end along half a cosine over the run."""

    kind: ClassVar[str] = "cosine"
    p_start: float = Field(ge=0.0, le=1.0)
    p_end: float = Field(ge=0.0, le=1.0)

    def at(self, progress: Progress) -> float:
        return self.p_end + (self.p_start - self.p_end) * 0.5 * (1 + math.cos(math.pi * progress.share))


class StepAt(Probability):
    """p is p_before until optimizer step `at_step`, then p_after. With `p_before = 0` no step before `at_step` has an rtl pass."""

    kind: ClassVar[str] = "step"
    at_step: int = Field(ge=0)
    p_before: float = Field(ge=0.0, le=1.0)
    p_after: float = Field(ge=0.0, le=1.0)

    def at(self, progress: Progress) -> float:
        return self.p_before if progress.step < self.at_step else self.p_after


class Cooldown(Probability):
    """The probability is p, and falls in a straight line to 0 over the last `share` of the run."""

    kind: ClassVar[str] = "cooldown"
    p: float = Field(ge=0.0, le=1.0)
    share: float = Field(default=0.2, gt=0.0, le=1.0)

    def at(self, progress: Progress) -> float:
        left = (1.0 - progress.share) / self.share
        return self.p * min(1.0, max(0.0, left))


class Adaptive(Probability):
    """p is computed from the smoothed difference of the rtl loss and the ltr loss; p starts at 1.

    Attributes:
        rule: the formula of p. `ratio` (as published): p = clip(exp(rtl - ltr), floor, 1); without a leak the rtl loss is a little
            above the ltr loss, so that p stays at 1. `difference`: p = clip((rtl - ltr) / scale_nats, floor, 1), which can settle
            at a value between floor and 1.
        ema: the weight of earlier steps in the smoothed difference (0: only the last step counts, as published).
        floor: the smallest p.
        scale_nats: the difference of the losses, in nats, at which the rule `difference` gives p = 1.
    """

    kind: ClassVar[str] = "adaptive"
    rule: Literal["ratio", "difference"] = "ratio"
    ema: float = Field(default=0.98, ge=0.0, lt=1.0)
    floor: float = Field(default=0.01, ge=0.0, le=1.0)
    scale_nats: float = Field(default=0.1, gt=0.0)

    def at(self, progress: Progress) -> float:
        return progress.state.get("p", 1.0)

    def state(self) -> dict[str, float]:
        return {"p": 1.0}

    def after_step(self, state: Mapping[str, float], nats_by_group: Mapping[str, float]) -> dict[str, float]:
        if "ltr" not in nats_by_group or "rtl" not in nats_by_group:
            return dict(state)
        now = nats_by_group["rtl"] - nats_by_group["ltr"]
        gap = self.ema * state["gap_nats"] + (1 - self.ema) * now if "gap_nats" in state else now
        raw = math.exp(min(gap, 0.0)) if self.rule == "ratio" else gap / self.scale_nats
        return {"gap_nats": gap, "p": min(1.0, max(self.floor, raw))}


PROBABILITIES: Mapping[str, type[Probability]] = {
    cls.kind: cls for cls in (Constant, Linear, Cosine, StepAt, Cooldown, Adaptive)
}
