"""Runs that diverged, as an outcome of their own: how often in each arm, and what the verdict would be had they ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from palinode.analysis.compare import Comparison
from palinode.analysis.two_valued import stability


@dataclass(frozen=True)
class Divergence:
    """The runs of one comparison that diverged.

    Attributes:
        arm: the number of seeds with which the arm diverged.
        baseline: the number of seeds with which the baseline diverged.
        planned: the number of planned seeds.
        p: Boschloo's p value of the two counts; None if no run diverged.
        words: `diverges more often`, `diverges less often` or `no difference shown`; None if no run diverged.
        outcome_if_ended: the outcome if each pair with one diverged run had the worst observed difference (the arm diverged) or the
            best observed difference (the baseline diverged); None if there is no such pair.
    """

    arm: int
    baseline: int
    planned: int
    p: float | None = None
    words: str | None = None
    outcome_if_ended: str | None = None


def divergence(comparison: Comparison, outcome_of: Callable[[Sequence[float]], str], *, higher: bool) -> Divergence:
    """The divergence of both arms of a comparison.

    Args:
        outcome_of: the function that gives the outcome for differences (arm minus baseline).
        higher: whether a higher value of the metric is better.
    """
    ours, theirs = comparison.diverged(comparison.arm), comparison.diverged(comparison.baseline)
    if not ours + theirs:
        return Divergence(0, 0, comparison.planned)
    test = stability(ours, comparison.planned, theirs, comparison.planned, 1 - comparison.confidence)
    filled = _filled(comparison, higher)
    outcome = outcome_of(filled) if len(filled) > len(comparison.pairs) >= 2 else None
    return Divergence(ours, theirs, comparison.planned, test.p, test.word, outcome)


def _filled(comparison: Comparison, higher: bool) -> list[float]:
    """The differences, with a value for each pair of which one run diverged: the worst one (the arm) or the best (the baseline)."""
    observed = list(comparison.differences)
    if not observed:
        return []
    best, worst = (max(observed), min(observed)) if higher else (min(observed), max(observed))
    value_of = {(comparison.arm,): worst, (comparison.baseline,): best}
    return observed + [
        value_of[item.diverged] for item in comparison.left_out if item.diverged in value_of and not item.lost
    ]
