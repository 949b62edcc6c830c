"""The cost of each arm, and whether two arms have equal cost on the axis that the experiment declares.

On that axis, the two runs of every seed must agree to 0.1 %. Other axes are reported when their means differ by more than 1 %.
"""

from __future__ import annotations

from dataclasses import dataclass

from palinode.analysis import intervals
from palinode.base.measures import COST_AXES, EQUAL_WITHIN, PARITY_AXES, REMARKED_ABOVE, ParityAxis
from palinode.results.record import ExperimentRecord, Result


@dataclass(frozen=True)
class Cost:
    """The mean cost of an arm at a scale on one axis, over its finished runs.

    Attributes:
        mean: None when no finished run counted it.
        ratio: this mean divided by the mean of the baseline; None when one of them is missing, or that of the baseline is 0.
        runs: the number of runs in the mean.
    """

    arm: str
    scale: str
    axis: str
    mean: float | None
    ratio: float | None
    runs: int


@dataclass(frozen=True)
class Parity:
    """Whether an arm and the baseline have equal cost on the declared axis.

    Attributes:
        deviation: arm / baseline - 1 of the seed where it is farthest from 0; None when a run did not count the cost.
        holds: whether |deviation| is at most 0.1 %; None without a deviation.
        others: axis -> arm mean / baseline mean - 1, for the other axes where it exceeds 1 %.
        of_means: arm mean / baseline mean - 1 on the declared axis: the percentage that pages print.
    """

    axis: ParityAxis
    deviation: float | None
    holds: bool | None
    others: dict[ParityAxis, float]
    of_means: float | None = None


def costs(record: ExperimentRecord, baseline: str) -> tuple[Cost, ...]:
    """The cost of every arm at every scale on every axis, with its ratio to that of the baseline."""
    rows = []
    for scale in record.entry.scales:
        reference = {axis: _mean_cost(record, baseline, scale, axis)[0] for axis in COST_AXES}
        for arm in record.entry.arms:
            for axis in COST_AXES:
                mean, runs = _mean_cost(record, arm.name, scale, axis)
                rows.append(Cost(arm.name, scale, axis, mean, _ratio(mean, reference[axis]), runs))
    return tuple(rows)


def parity(record: ExperimentRecord, arm: str, baseline: str, scale: str, axis: ParityAxis) -> Parity:
    """Compare two arms: on the declared axis by pairs of seeds, on the other axes by their means."""
    ours, theirs = _finished(record, arm, scale), _finished(record, baseline, scale)
    cost = COST_AXES[axis]
    pairs = [_ratio(ours[seed].cost(cost), theirs[seed].cost(cost)) for seed in ours if seed in theirs]
    counted = [ratio - 1 for ratio in pairs if ratio is not None]
    worst = max(counted, key=abs) if counted and len(counted) == len(pairs) else None
    means = {
        name: ratio - 1
        for name in PARITY_AXES
        if (ratio := _ratio(_mean_cost(record, arm, scale, name)[0], _mean_cost(record, baseline, scale, name)[0]))
        is not None
    }
    of_means = means.pop(axis, None)
    others = {name: share for name, share in means.items() if abs(share) > REMARKED_ABOVE}
    return Parity(axis, worst, None if worst is None else abs(worst) <= EQUAL_WITHIN, others, of_means)


def _finished(record: ExperimentRecord, arm: str, scale: str) -> dict[int, Result]:
    """Seed -> result of the runs that are done."""
    runs = record.runs_of(arm, scale)
    return {run.entry.seed: run.result for run in runs if run.outcome == "done" and run.result is not None}


def _mean_cost(record: ExperimentRecord, arm: str, scale: str, axis: str) -> tuple[float | None, int]:
    costs_of_runs = (result.cost(COST_AXES[axis]) for result in _finished(record, arm, scale).values())
    values = [value for value in costs_of_runs if value is not None]
    return (intervals.mean(values) if values else None), len(values)


def _ratio(value: float | None, reference: float | None) -> float | None:
    return None if value is None or not reference else value / reference
