"""Affinity: how much better an auxiliary term scores its true pairs than shuffled pairs."""

from __future__ import annotations

LEAST_SHUFFLED = 1e-6  # below it both sides have vanished, and the ratio is rounding


def affinity(value: float, shuffled: float) -> float | None:
    """1 - value / shuffled: 1 when true pairs agree fully, 0 when no better than shuffled ones, None when both vanished."""
    return None if shuffled < LEAST_SHUFFLED else 1 - value / shuffled
