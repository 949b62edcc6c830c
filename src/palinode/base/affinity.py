"""How much better a score of pairs is than the same score on shuffled pairs: what is left of it when both sides vanish."""

from __future__ import annotations

LEAST_SHUFFLED = 1e-6  # below it a ratio says nothing


def affinity(value: float, shuffled: float) -> float | None:
    """1 - value / shuffled: 1 where pairs agree fully, 0 where they agree no more than strangers; None where both vanished."""
    return None if shuffled < LEAST_SHUFFLED else 1 - value / shuffled
