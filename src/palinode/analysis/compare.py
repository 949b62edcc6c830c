"""The comparison of two arms at one scale: the differences of their scores, paired by seed, and whether their costs are equal.

On the cost axis that the experiment declares, the costs of both arms may differ by at most 0.1 % at every seed. A cost axis that
the experiment does not declare is reported when the mean costs of the two arms differ by more than 1 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from palinode.analysis import intervals
from palinode.analysis.intervals import Interval
from palinode.base.measures import COST_AXES, EQUAL_WITHIN, PARITY_AXES, REMARKED_ABOVE, ParityAxis
from palinode.results.record import ExperimentRecord, ExperimentRun, Result, differing_items

TWO_KINDS = "its two runs were trained on two kinds of machine"


@dataclass(frozen=True)
class Pair:
    """The scores of the arm and of the baseline with the same seed, in the metric's unit. Both runs are done."""

    seed: int
    arm_value: float
    baseline_value: float

    @property
    def difference(self) -> float:
        """The score of the arm minus the score of the baseline."""
        return self.arm_value - self.baseline_value


@dataclass(frozen=True)
class LeftOut:
    """A planned seed for which the scores of the two arms cannot be compared, and the reason.

    Attributes:
        diverged: the arms whose run with this seed diverged.
        other_kind: whether the seed was left out because its two runs were trained on two kinds of machine.
        lost: whether a run of this seed is missing or did not end for another reason. A second try may then give its score.
    """

    seed: int
    reason: str
    diverged: tuple[str, ...] = ()
    lost: bool = True
    other_kind: bool = False


@dataclass(frozen=True)
class Comparison:
    """The scores of an arm minus the scores of the baseline, on one metric at one scale.

    Attributes:
        pairs: the pairs of scores of all seeds whose runs are done in both arms, in the order of the experiment's entry.
        left_out: the planned seeds for which there is no pair of scores.
        confidence: the confidence of the interval, such as 0.95.
    """

    arm: str
    baseline: str
    scale: str
    metric: str
    confidence: float
    pairs: tuple[Pair, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def planned(self) -> int:
        """The number of planned seeds."""
        return len(self.pairs) + len(self.left_out)

    def diverged(self, arm: str) -> int:
        """The number of seeds with which this arm diverged."""
        return sum(arm in item.diverged for item in self.left_out)

    @property
    def differences(self) -> tuple[float, ...]:
        """The difference (arm minus baseline) of each pair, in the metric's unit."""
        return tuple(pair.difference for pair in self.pairs)

    @property
    def mean(self) -> float | None:
        """The mean difference (arm minus baseline); None if there are no pairs."""
        return intervals.mean(self.differences) if self.pairs else None

    @property
    def spread(self) -> float | None:
        """The standard deviation of the differences; None with fewer than two pairs."""
        return intervals.spread(self.differences)

    @property
    def interval(self) -> Interval | None:
        """Student's t interval of the mean difference; None with fewer than two pairs."""
        return intervals.t_interval(self.differences, self.confidence)

    @property
    def sign_flip_p(self) -> float | None:
        """The exact two-sided p value of the sign-flip test; None if there are no pairs."""
        return intervals.sign_flip_p(self.differences)


def compare(
    record: ExperimentRecord, arm: str, baseline: str, scale: str, metric: str, confidence: float
) -> Comparison:
    """Compare two arms by their scores, paired by seed. A seed is left out if one of the two arms has no score for this seed.

    Raises:
        BadInput: the experiment has no arm of this name.
    """
    record.entry.arm(arm), record.entry.arm(baseline)
    ours = {run.entry.seed: run for run in record.runs_of(arm, scale)}
    theirs = {run.entry.seed: run for run in record.runs_of(baseline, scale)}
    pairs: list[Pair] = []
    left_out: list[LeftOut] = []
    for seed in dict.fromkeys([*theirs, *ours]):
        sides = {arm: ours.get(seed), baseline: theirs.get(seed)}
        values = [_score(name, run, metric) for name, run in sides.items()]
        if problems := [value for value in values if isinstance(value, str)]:
            diverged = tuple(name for name, run in sides.items() if run is not None and run.outcome == "diverged")
            left_out.append(LeftOut(seed, "; ".join(problems), diverged, lost=len(problems) > len(diverged)))
        elif record.one_kind and seed in seeds_on_two_kinds(record, arm, baseline, scale):
            left_out.append(LeftOut(seed, TWO_KINDS, lost=False, other_kind=True))
        else:
            pairs.append(Pair(seed, *map(float, values)))
    return Comparison(arm, baseline, scale, metric, confidence, tuple(pairs), tuple(left_out))


def seeds_on_two_kinds(record: ExperimentRecord, arm: str, baseline: str, scale: str) -> dict[int, list[str]]:
    """seed -> the items of the fingerprints that differ, for each seed whose two runs were trained on two kinds of machine."""
    ours, theirs = (_results(record, name, scale) for name in (arm, baseline))
    items = {seed: differing_items(ours[seed], theirs[seed]) for seed in theirs if seed in ours}
    return {seed: differing for seed, differing in items.items() if differing}


def _score(arm: str, run: ExperimentRun | None, metric: str) -> float | str:
    """The score of a run, or a sentence that says why the run has no score."""
    if run is None:
        return f"{arm} has no run with this seed"
    if run.outcome != "done" or run.result is None:
        damage = run.record.damage if run.record is not None else None
        file = f" ({run.entry.run_id}/{Path(damage.file).name})" if damage is not None and damage.file else ""
        return f"{arm}: {run.outcome}{file}"
    score = run.result.score(metric)
    return f"{arm} has no {metric}" if score is None else score


# --- cost -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """The mean cost of the finished runs of one arm at one scale, on one cost axis.

    Attributes:
        mean: the mean cost; None when no finished run counted this cost.
        ratio: the mean cost of the arm divided by the mean cost of the baseline; None when one of the two means is missing, or the
            mean of the baseline is 0.
        runs: the number of runs over which the mean is taken.
    """

    arm: str
    scale: str
    axis: str
    mean: float | None
    ratio: float | None
    runs: int


@dataclass(frozen=True)
class Parity:
    """Whether an arm and the baseline have equal cost on the cost axis that the experiment declares.

    Attributes:
        deviation: the value (cost of the arm / cost of the baseline - 1) that is farthest from 0 among all seeds; None when a run
            did not count the cost, or a run of the baseline has none.
        holds: whether |deviation| is at most 0.1 %, or the runs of both arms have no such cost; None if a run did not count it.
        others: undeclared cost axis -> (mean cost of the arm / mean cost of the baseline - 1), if this is beyond ±1 %.
        of_means: (mean cost of the arm / mean cost of the baseline - 1) on the declared axis, which the pages print in percent.
    """

    axis: ParityAxis
    deviation: float | None
    holds: bool | None
    others: dict[ParityAxis, float]
    of_means: float | None = None


def costs(record: ExperimentRecord, baseline: str) -> tuple[Cost, ...]:
    """The mean cost of every arm at every scale on every axis, with its ratio to the cost of the baseline."""
    rows = []
    for scale in record.entry.scales:
        reference = {axis: _mean_cost(record, baseline, scale, axis)[0] for axis in COST_AXES}
        for arm in record.entry.arms:
            for axis in COST_AXES:
                mean, runs = _mean_cost(record, arm.name, scale, axis)
                rows.append(Cost(arm.name, scale, axis, mean, _ratio(mean, reference[axis]), runs))
    return tuple(rows)


def parity(record: ExperimentRecord, arm: str, baseline: str, scale: str, axis: ParityAxis) -> Parity:
    """Compare the costs of two arms: on the declared cost axis seed by seed, and on every cost axis by the means over seeds."""
    ours, theirs = _results(record, arm, scale), _results(record, baseline, scale)
    cost = COST_AXES[axis]
    pairs = [(ours[seed].cost(cost), theirs[seed].cost(cost)) for seed in ours if seed in theirs]
    ratios = [_ratio(one, other) for one, other in pairs]
    counted = [ratio - 1 for ratio in ratios if ratio is not None]
    worst = max(counted, key=abs) if counted and len(counted) == len(pairs) else None
    means = {
        name: ratio - 1
        for name in PARITY_AXES
        if (ratio := _ratio(_mean_cost(record, arm, scale, name)[0], _mean_cost(record, baseline, scale, name)[0]))
        is not None
    }
    of_means = means.pop(axis, None)
    others = {name: share for name, share in means.items() if abs(share) > REMARKED_ABOVE}
    return Parity(axis, worst, _are_equal(pairs), others, of_means)


def _are_equal(pairs: Sequence[tuple[float | None, float | None]]) -> bool | None:
    """Whether the costs of all pairs are equal (within 0.1 %); None where a cost was not counted. No cost equals only no cost."""
    counted = [(one, other) for one, other in pairs if one is not None and other is not None]
    if not pairs or len(counted) < len(pairs):
        return None
    return all(abs(one - other) <= EQUAL_WITHIN * other for one, other in counted)


def _results(record: ExperimentRecord, arm: str, scale: str) -> dict[int, Result]:
    """The results of the finished runs of one arm at one scale, as a mapping: seed -> result."""
    return {run.entry.seed: run.result for run in record.finished(arm, scale)}


def _mean_cost(record: ExperimentRecord, arm: str, scale: str, axis: str) -> tuple[float | None, int]:
    costs_of_runs = (result.cost(COST_AXES[axis]) for result in _results(record, arm, scale).values())
    values = [value for value in costs_of_runs if value is not None]
    return (intervals.mean(values) if values else None), len(values)


def _ratio(value: float | None, reference: float | None) -> float | None:
    return None if value is None or not reference else value / reference
