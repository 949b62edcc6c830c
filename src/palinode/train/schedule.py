"""Schedules of the learning rate: functions of (step, total steps) that give the rate as a share of its peak, in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, model_validator

from palinode.base.config import Part
from palinode.base.errors import Unfinished


class Schedule(Part):
    """Base class of schedules: a linear warm-up over `warmup_steps` to 1, then `decayed(progress)`.

    Step s of the warm-up has the factor (s + 1) / warmup_steps, so that the first step already moves parameters.
    """

    warmup_steps: int = Field(default=0, ge=0)

    def factor(self, step: int, total_steps: int) -> float:
        """The share of the peak rate at optimizer step `step` of `total_steps`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        after_warmup = max(1, total_steps - 1 - self.warmup_steps)
        return self.decayed(min(1.0, (step - self.warmup_steps) / after_warmup))

    def decayed(self, progress: float) -> float:
        """The factor after the warm-up. `progress` starts at 0 and is 1 at the last step."""
        raise Unfinished(self, "must define decayed(progress)")


class Constant(Schedule):
    """The rate stays at its peak."""

    kind: ClassVar[str] = "constant"

    def decayed(self, progress: float) -> float:
        return 1.0


class Cosine(Schedule):
    """The factor follows half a cosine from 1 to `floor`, which it reaches at the last step of the run."""

    kind: ClassVar[str] = "cosine"
    floor: float = Field(default=0.1, ge=0.0, le=1.0)

    def decayed(self, progress: float) -> float:
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))


class WarmDown(Schedule):
    """The factor is constant, then falls linearly to `floor` over the last `share` of the steps after the warm-up."""

    kind: ClassVar[str] = "warm-down"
    share: float = Field(default=0.7, ge=0.0, le=1.0)
    floor: float = Field(default=0.0, ge=0.0, le=1.0)

    def decayed(self, progress: float) -> float:
        if self.share == 0.0 or progress <= 1 - self.share:
            return 1.0
        return self.floor + (1 - self.floor) * (1 - progress) / self.share


class PowerDecay(Schedule):
    """The factor rises linearly from `start` to 1 over the warm-up, then is (steps since the warm-up)^-exponent (hlb-gpt).

    The factor does not depend on the total number of steps, so the run may stop at any step.
    """

    kind: ClassVar[str] = "power-decay"
    warmup_steps: int = Field(default=100, ge=0)
    start: float = Field(default=0.02, ge=0.0, le=1.0)
    exponent: float = Field(default=0.08, ge=0.0)

    def factor(self, step: int, total_steps: int) -> float:
        if step < self.warmup_steps:
            return self.start + (1 - self.start) * step / self.warmup_steps
        return float((step + 1 - self.warmup_steps) ** -self.exponent)


class ExponentialDecay(Schedule):
    """The factor is base^step from the first step on, without a warm-up."""

    kind: ClassVar[str] = "exponential-decay"
    base: float = Field(default=0.995, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _has_no_warm_up(self) -> ExponentialDecay:
        if self.warmup_steps:
            raise ValueError("warmup_steps: exponential-decay starts at its peak, so it has no warm-up")
        return self

    def factor(self, step: int, total_steps: int) -> float:
        return float(self.base**step)


SCHEDULES: Mapping[str, type[Schedule]] = {
    cls.kind: cls for cls in (Constant, Cosine, WarmDown, PowerDecay, ExponentialDecay)
}
