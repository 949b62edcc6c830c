"""What each arm cost, and whether two arms may be compared on the axis that the experiment named.

One axis must be equal to 0.1 % (the worst pair of seeds counts); every other axis that differs by more than 1 % is said.
"""

from __future__ import annotations

from dataclasses import dataclass

from palinode.analysis import intervals
from palinode.base.measures import COST_AXES, EQUAL_WITHIN, PARITY_AXES, REMARKED_ABOVE, ParityAxis
from palinode.results.record import ExperimentRecord


@dataclass(frozen=True)
class Cost:
    """The mean of one axis over the finished runs of an arm at a scale.

    Attributes:
        mean: None when no finished run counted it.
        ratio: mean over the baseline's mean on the same scale; None when either is missing or the baseline's is 0.
        runs: how many runs the mean is over.
    """

    arm: str
    scale: str
    axis: str
    mean: float | None
    ratio: float | None
    runs: int


@dataclass(frozen=True)
class Parity:
    """Whether arm and baseline match on the declared axis, seed by seed.

    Attributes:
        deviation: the largest |arm / baseline - 1| over the pairs, signed; None when it cannot be computed.
        holds: deviation is at most 0.1 %; None when it cannot be computed.
        others: axis -> (arm mean / baseline mean - 1) for the other axes that differ by more than 1 %.
        of_means: the same for the declared axis: the percentage that pages print.
    """

    axis: ParityAxis
    deviation: float | None
    holds: bool | None
    others: dict[ParityAxis, float]
    of_means: float | None = None


def costs(record: ExperimentRecord, baseline: str) -> tuple[Cost, ...]:
    """Every cost axis of every arm and scale, beside the baseline's."""
    found = []
    for scale in record.entry.scales:
        reference = {axis: _mean_cost(record, baseline, scale, axis)[0] for axis in COST_AXES}
        for arm in record.entry.arms:
            for axis in COST_AXES:
                mean, runs = _mean_cost(record, arm.name, scale, axis)
                found.append(Cost(arm.name, scale, axis, mean, _ratio(mean, reference[axis]), runs))
    return tuple(found)


def parity(record: ExperimentRecord, arm: str, baseline: str, scale: str, axis: ParityAxis) -> Parity:
    """Compare two arms on the declared axis pair by pair, and on the other axes by their means."""
    theirs = {run.entry.seed: run.result for run in record.runs_of(baseline, scale) if run.outcome == "done"}
    deviations = []
    for run in record.runs_of(arm, scale):
        other = theirs.get(run.entry.seed)
        if run.outcome == "done" and run.result is not None and other is not None:
            ratio = _ratio(run.result.cost(COST_AXES[axis]), other.cost(COST_AXES[axis]))
            deviations.append(None if ratio is None else ratio - 1)
    known = [deviation for deviation in deviations if deviation is not None]
    worst = max(known, key=abs) if known and len(known) == len(deviations) else None
    means = {
        name: ratio - 1
        for name in PARITY_AXES
        if (ratio := _ratio(_mean_cost(record, arm, scale, name)[0], _mean_cost(record, baseline, scale, name)[0]))
        is not None
    }
    of_means = means.pop(axis, None)
    others = {name: share for name, share in means.items() if abs(share) > REMARKED_ABOVE}
    return Parity(axis, worst, None if worst is None else abs(worst) <= EQUAL_WITHIN, others, of_means)


def _mean_cost(record: ExperimentRecord, arm: str, scale: str, axis: str) -> tuple[float | None, int]:
    finished = [run.result for run in record.runs_of(arm, scale) if run.outcome == "done" and run.result is not None]
    values = [value for result in finished if (value := result.cost(COST_AXES[axis])) is not None]
    return (intervals.mean(values) if values else None), len(values)


def _ratio(value: float | None, reference: float | None) -> float | None:
    return None if value is None or not reference else value / reference
