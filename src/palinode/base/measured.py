"""A measurement, or the reason why there is none. A missing measurement is never written as zero."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """A value with its unit, or the reason why it is missing. Exactly one of `value` and `missing` is set."""

    value: float | None = None
    unit: str = ""
    missing: str | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.missing is None):
            raise ValueError("a Measured has a value or a reason why it is missing, exactly one of them")

    @classmethod
    def of(cls, value: float, unit: str) -> Measured:
        """The value; where it is not finite, that is the reason why it is missing."""
        return cls(value, unit) if math.isfinite(value) else cls(unit=unit, missing=f"not finite: {value}")

    def __str__(self) -> str:
        return f"{self.value:.4g} {self.unit}".strip() if self.value is not None else f"missing ({self.missing})"
