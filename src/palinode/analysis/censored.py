"""Times that are known only in part: the number of steps until a run learned its task, of runs that may never have learned it.

A run that did not reach the criterion by its last evaluation is censored: its number of steps is larger than the last step. The
log-rank test compares two arms with such runs (Mantel 1966). Its statistic is the number of runs of one arm that reached the
criterion, minus the number that is expected if both arms learn equally fast. The p value is exact: the same statistic is computed
for all C(2n, n) ways to label n of the 2n runs as runs of the first arm. A test that only swaps the two runs of a seed has a least
p value of 2/32 with 5 seeds, so it could decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from palinode.base.derived_seed import derive

LEAST_RUNS = 4  # with 3 runs in each arm, p is at least 2/20, so no difference could be shown
MOST_EXACT_RUNS = 10  # C(20, 10) = 184,756 labellings; with more runs, labellings are drawn
DRAWS = 100_000  # the number of labellings that are drawn
TIE_TOLERANCE = 1e-9  # two statistics count as equal if they differ by at most this number of runs (rounding errors)
Bound = Literal["", ">=", "<=", "~"]


class Time(NamedTuple):
    """The number of steps of one run: until it reached the criterion, or until its last evaluation if it never did."""

    steps: int
    reached: bool


@dataclass(frozen=True)
class StepsRatio:
    """The steps of an arm divided by the steps of another arm, and the log-rank test of the two arms.

    Attributes:
        ratio: the ratio of the geometric means of the steps; a censored run counts with its last step. None if no run of either
            arm reached the criterion.
        bound: what the ratio is because of censored runs: empty, it is exact; ">=" or "<=", the true ratio is at least or at most
            this; "~", runs of both arms are censored, so the ratio is no bound.
        p: the exact p value; None with fewer than LEAST_RUNS runs in an arm, or different numbers of runs.
        sooner: the sign of the log-rank statistic: 1 if the arm learns faster than the other arm, -1 if slower, 0 if neither.
    """

    ratio: float | None
    bound: Bound
    p: float | None
    sooner: int


def compare_steps(times: Sequence[Time], other_times: Sequence[Time]) -> StepsRatio:
    """Compare the steps of two arms. The runs need not be paired."""
    censored, other_censored = (any(not time.reached for time in of_arm) for of_arm in (times, other_times))
    bound: Bound = "~" if censored and other_censored else ">=" if censored else "<=" if other_censored else ""
    if not times or not other_times or not any(time.reached for time in (*times, *other_times)):
        return StepsRatio(None, bound, None, 0)
    ratio = _geometric_mean(times) / _geometric_mean(other_times)
    observed = log_rank(times, other_times)
    sooner = 0 if abs(observed) <= TIE_TOLERANCE else int(math.copysign(1, observed))
    return StepsRatio(ratio, bound, log_rank_p(times, other_times), sooner)


def log_rank(times: Sequence[Time], other_times: Sequence[Time]) -> float:
    """The log-rank statistic: runs of the first arm that reached the criterion, minus their expected number."""
    return math.fsum(_scores((*times, *other_times))[: len(times)])


def log_rank_p(times: Sequence[Time], other_times: Sequence[Time]) -> float | None:
    """The exact two-sided p value: the share of the labellings whose |statistic| is at least the observed one.

    With more than MOST_EXACT_RUNS runs in each arm, labellings are drawn, and the observed labelling counts as one of them.

    Returns:
        The p value; None with fewer than LEAST_RUNS runs in an arm, or different numbers of runs.
    """
    count = len(times)
    if count != len(other_times) or count < LEAST_RUNS:
        return None
    scores = _scores((*times, *other_times))
    least = abs(math.fsum(scores[:count])) - TIE_TOLERANCE
    if count <= MOST_EXACT_RUNS:
        return float((np.abs(_sums_of_labellings(scores, count)) >= least).mean())
    stream = np.random.default_rng(derive(0, "log_rank", count))
    hits = int((np.abs(_permuted_sums(scores, count, stream)) >= least).sum())
    return (1 + hits) / (1 + DRAWS)


def stratified(strata: Sequence[tuple[Sequence[Time], Sequence[Time]]]) -> tuple[float, int]:
    """The stratified log-rank test: the sum of the statistics of several pairs of arms, against labellings within each pair.

    Each pair has a scale of its own, so a pair that needs more steps than the others says no more than they do. Labellings are
    drawn, and the observed one counts as one of them.

    Returns:
        The two-sided p value, and the sign of the sum: 1 if the first arms learn faster, -1 if slower, 0 if neither.
    """
    observed = math.fsum(log_rank(*pair) for pair in strata)
    stream = np.random.default_rng(derive(0, "stratified_log_rank", len(strata)))
    drawn = np.zeros(DRAWS)
    for ours, theirs in strata:
        drawn += _drawn(_scores((*ours, *theirs)), len(ours), stream)
    hits = int((np.abs(drawn) >= abs(observed) - TIE_TOLERANCE).sum())
    sooner = 0 if abs(observed) <= TIE_TOLERANCE else int(math.copysign(1, observed))
    return (1 + hits) / (1 + DRAWS), sooner


def _drawn(scores: NDArray[np.float64], count: int, stream: np.random.Generator) -> NDArray[np.float64]:
    """The statistics of drawn labellings of one pair of arms (DRAWS,)."""
    if count <= MOST_EXACT_RUNS and 2 * count == len(scores):
        return stream.choice(_sums_of_labellings(scores, count), DRAWS)
    return _permuted_sums(scores, count, stream)


def _permuted_sums(scores: NDArray[np.float64], count: int, stream: np.random.Generator) -> NDArray[np.float64]:
    """The sums of `count` of the scores, in DRAWS drawn orders (DRAWS,)."""
    sums: NDArray[np.float64] = stream.permuted(np.tile(scores, (DRAWS, 1)), axis=1)[:, :count].sum(axis=1)
    return sums


def _scores(times: Sequence[Time]) -> NDArray[np.float64]:
    """The log-rank score of each run. The statistic of a group of runs is the sum of their scores.

    The score is 1 if the run reached the criterion, else 0, minus the cumulative hazard (Nelson-Aalen) at its number of steps.
    """
    steps = np.asarray([time.steps for time in times])
    reached = np.asarray([time.reached for time in times])
    hazard = np.zeros(len(times))
    for step in np.unique(steps[reached]):
        hazard[steps >= step] += (reached & (steps == step)).sum() / (steps >= step).sum()
    values: NDArray[np.float64] = reached - hazard
    return values


def _sums_of_labellings(scores: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The sums of all subsets of `count` scores."""
    sums = [np.zeros(1), *(np.zeros(0) for _ in range(count))]  # index: the size of the subset
    for score in scores:
        sums = [sums[0], *(np.concatenate([sums[size], sums[size - 1] + score]) for size in range(1, count + 1))]
    return sums[count]


def _geometric_mean(times: Sequence[Time]) -> float:
    return math.exp(math.fsum(math.log(time.steps) for time in times) / len(times))
