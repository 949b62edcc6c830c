"""Two-valued outcomes: a run learned its task or not, and a run diverged or not. Two arms are compared by their counts.

On a task such as recall, the accuracy of a run jumps from the level of guessing to nearly 1, and some seeds jump while others do
not. Student's t interval of such accuracies contains the true mean in 32 to 70 % of cases at 3 seeds instead of 95 %. Therefore the
runs are counted: a run learned the task if its accuracy is at least midway between the best guess and 1.

Boschloo's test compares two counts (Boschloo 1970). It orders all tables by Fisher's p value, and takes the largest probability,
over all rates that both arms may share, of a table with at most the observed p value. It is exact, and it rejects more often than
Fisher's test when the rates differ: 81 instead of 64 % of the time at rates of .2 and .8 and 10 seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from palinode.analysis.tasks import learned_from
from palinode.base.decision import Decision
from palinode.results.record import ExperimentRecord

SHARED_RATES = 400  # the number of shared rates at which Boschloo's probability is computed
TIE_TOLERANCE = 1e-9  # two of Fisher's p values count as equal if they differ by at most this share (rounding errors)
LEARNED_METRIC = "accuracy"

StabilityWord = Literal["diverges more often", "diverges less often", "no difference shown"]
LearnedOutcome = Literal["better", "worse", "cannot tell"]


def boschloo_p(hits: int, other_hits: int, runs: int) -> float:
    """Boschloo's exact two-sided p value for two arms with the same number of runs.

    Args:
        hits: the number of runs of one arm with the outcome that is counted.
        other_hits: the same number for the other arm.
        runs: the number of runs of each arm.

    Raises:
        ValueError: a count is negative or larger than the number of runs, or there are no runs.
    """
    if not (runs >= 1 and 0 <= hits <= runs and 0 <= other_hits <= runs):
        raise ValueError(f"{hits} and {other_hits} of {runs} runs are no counts")
    return float(_boschloo(runs)[hits, other_hits])


@dataclass(frozen=True)
class Stability:
    """How often the runs of an arm and of the baseline diverged at one scale.

    Attributes:
        diverged: the number of diverged runs of the arm.
        planned: the number of planned runs of the arm.
        p: Boschloo's p value; None if the two arms planned different numbers of runs, or none.
        word: what the p value says about the arm.
    """

    diverged: int
    planned: int
    baseline_diverged: int
    baseline_planned: int
    p: float | None
    word: StabilityWord


def stability(diverged: int, planned: int, baseline_diverged: int, baseline_planned: int, alpha: float) -> Stability:
    """Compare how often the runs of two arms diverged.

    Args:
        alpha: the largest p value at which a difference is shown, such as 0.05.
    """
    p = boschloo_p(diverged, baseline_diverged, planned) if planned == baseline_planned > 0 else None
    word: StabilityWord = "no difference shown"
    if p is not None and p <= alpha:
        word = "diverges more often" if diverged > baseline_diverged else "diverges less often"
    return Stability(diverged, planned, baseline_diverged, baseline_planned, p, word)


@dataclass(frozen=True)
class LearnedCounts:
    """How many finished runs of an arm and of the baseline learned their task at one scale.

    Attributes:
        least_accuracy: the accuracy from which a run counts as one that learned: midway between the best guess and 1.
        learned: the number of finished runs of the arm that learned.
        runs: the number of finished runs of the arm.
        p: Boschloo's p value; None if the two arms have different numbers of finished runs.
    """

    arm: str
    baseline: str
    least_accuracy: float
    learned: int
    runs: int
    baseline_learned: int
    baseline_runs: int
    p: float | None

    def outcome(self, alpha: float) -> LearnedOutcome:
        """The outcome of the comparison: `better` or `worse` if p is at most alpha, otherwise `cannot tell`."""
        if self.p is None or self.p > alpha:
            return "cannot tell"
        return "better" if self.learned > self.baseline_learned else "worse"

    @property
    def shares(self) -> tuple[float, float]:
        """The shares of the runs of the arm, and of the baseline, that learned."""
        return self.learned / self.runs, self.baseline_learned / self.baseline_runs

    @property
    def sentence(self) -> str:
        """The counts and the p value as one sentence."""
        what = f"{self.learned} of {self.runs} runs of {self.arm} learned the task"
        against = f"{self.baseline_learned} of {self.baseline_runs} of {self.baseline}"
        p = "no test: different numbers of runs" if self.p is None else f"p = {self.p:.2g}"
        return f"{what}, {against} (accuracy from {self.least_accuracy:.3g}; {p})"


def learned_counts(record: ExperimentRecord, arm: str, scale: str, rule: Decision) -> LearnedCounts | None:
    """Count the finished runs of an arm and of the rule's baseline that learned their task at one scale.

    Returns:
        The counts; None if the metric of the rule is not an accuracy on a synthetic task, or an arm has no finished run with it.
    """
    least = learned_from(record, rule.score.split, scale) if rule.score.measure == LEARNED_METRIC else None
    if least is None:
        return None
    counts = []
    for name in (arm, rule.baseline):
        scores = (run.result.score(rule.metric) for run in record.finished(name, scale))
        accuracies = [score for score in scores if score is not None]
        if not accuracies:
            return None
        counts.append((sum(accuracy >= least for accuracy in accuracies), len(accuracies)))
    (learned, runs), (baseline_learned, baseline_runs) = counts
    p = boschloo_p(learned, baseline_learned, runs) if runs == baseline_runs else None
    return LearnedCounts(arm, rule.baseline, least, learned, runs, baseline_learned, baseline_runs, p)


def two_valued_applies(counts: LearnedCounts | None) -> bool:
    """Whether the counts are judged instead of the interval: some runs of the two arms learned the task and others did not."""
    return counts is not None and 0 < counts.learned + counts.baseline_learned < counts.runs + counts.baseline_runs


@lru_cache(maxsize=64)
def _boschloo(runs: int) -> NDArray[np.float64]:
    """Boschloo's p values of all tables with `runs` runs in each arm (runs + 1, runs + 1). The indices are the counts of hits."""
    fisher = _fisher(runs)
    order = np.argsort(fisher, axis=None, kind="stable")
    rates = np.arange(1, SHARED_RATES + 1)[:, None] / SHARED_RATES
    hits = np.arange(runs + 1)
    chances = special.binom(runs, hits) * rates**hits * (1 - rates) ** (runs - hits)  # (rates, runs + 1)
    of_tables = (chances[:, :, None] * chances[:, None, :]).reshape(SHARED_RATES, -1)[:, order]
    largest = np.cumsum(of_tables, axis=1).max(axis=0)
    ordered = fisher.ravel()[order]
    last_tied = np.searchsorted(ordered, ordered * (1 + TIE_TOLERANCE), side="right") - 1
    values = np.empty(order.size)
    values[order] = np.minimum(largest[last_tied], 1.0)
    return values.reshape(fisher.shape)


def _fisher(runs: int) -> NDArray[np.float64]:
    """Fisher's two-sided p values of all tables with `runs` runs in each arm (runs + 1, runs + 1).

    With equal numbers of runs, the distribution of one count given the sum of both is symmetric. So the two-sided p value sums the
    probabilities of the tables with the same sum of hits whose two counts differ by at least as much.
    """
    hits = np.arange(runs + 1)
    weights = special.binom(runs, hits)
    p = np.empty((runs + 1, runs + 1))
    for total in range(2 * runs + 1):
        counts = hits[(total - hits >= 0) & (total - hits <= runs)]
        chances = weights[counts] * weights[total - counts]
        apart = np.abs(2 * counts - total)
        p[counts, total - counts] = [chances[apart >= least].sum() for least in apart] / chances.sum()
    return p
