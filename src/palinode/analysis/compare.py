"""Two arms at one scale, paired by seed: the differences, their interval, and every pair that had to be left out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from palinode.analysis import intervals
from palinode.analysis.intervals import Interval
from palinode.results.record import ExperimentRecord, ExperimentRun


@dataclass(frozen=True)
class Pair:
    """One seed, finished in both arms. Values are in the metric's unit."""

    seed: int
    arm_value: float
    baseline_value: float

    @property
    def difference(self) -> float:
        """Arm minus baseline."""
        return self.arm_value - self.baseline_value


@dataclass(frozen=True)
class LeftOut:
    """A seed that was planned but cannot be compared, and why."""

    seed: int
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Arm minus baseline on one metric at one scale.

    Attributes:
        pairs: seeds finished in both arms, in the entry's order.
        left_out: the other planned seeds.
        confidence: of the interval, such as 0.95.
    """

    arm: str
    baseline: str
    scale: str
    metric: str
    confidence: float
    pairs: tuple[Pair, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def differences(self) -> tuple[float, ...]:
        """Arm minus baseline per pair, in the metric's unit."""
        return tuple(pair.difference for pair in self.pairs)

    @property
    def mean(self) -> float | None:
        """The mean difference; None without pairs."""
        return intervals.mean(self.differences) if self.pairs else None

    @property
    def spread(self) -> float | None:
        """The standard deviation of the differences; None below two pairs."""
        return intervals.spread(self.differences)

    @property
    def interval(self) -> Interval | None:
        """Student's interval of the mean difference; None below two pairs."""
        return intervals.t_interval(self.differences, self.confidence)

    @property
    def sign_flip_p(self) -> float | None:
        """Exact two-sided p of the sign-flip test; None without pairs."""
        return intervals.sign_flip_p(self.differences)


def compare(
    record: ExperimentRecord, arm: str, baseline: str, scale: str, metric: str, confidence: float
) -> Comparison:
    """Pair the runs of two arms by seed. Nothing is filled in: a seed that lacks a number on either side is left out.

    Raises:
        BadInput: the experiment has no such arm.
    """
    record.entry.arm(arm), record.entry.arm(baseline)
    ours = {run.entry.seed: run for run in record.runs_of(arm, scale)}
    theirs = {run.entry.seed: run for run in record.runs_of(baseline, scale)}
    pairs: list[Pair] = []
    left_out: list[LeftOut] = []
    for seed in dict.fromkeys([*theirs, *ours]):
        problems = [
            problem
            for name, run in ((arm, ours.get(seed)), (baseline, theirs.get(seed)))
            if (problem := _problem(name, run, metric)) is not None
        ]
        if problems:
            left_out.append(LeftOut(seed, "; ".join(problems)))
        else:
            pairs.append(Pair(seed, _value(ours[seed], metric), _value(theirs[seed], metric)))
    return Comparison(arm, baseline, scale, metric, confidence, tuple(pairs), tuple(left_out))


def _problem(arm: str, run: ExperimentRun | None, metric: str) -> str | None:
    if run is None:
        return f"{arm} has no run with this seed"
    if run.outcome != "done":
        return f"{arm}: {run.outcome}{_where_damaged(run)}"
    if run.result is None or run.result.score(metric) is None:
        return f"{arm} has no {metric}"
    return None


def _where_damaged(run: ExperimentRun) -> str:
    """The file, as it is called in the store."""
    damage = run.record.damage if run.record is not None else None
    if damage is None or damage.file is None:
        return ""
    return f" ({run.entry.run_id}/{Path(damage.file).name})"


def _value(run: ExperimentRun, metric: str) -> float:
    value = run.result.score(metric) if run.result is not None else None
    if value is None:
        raise ValueError(f"run {run.entry.run_id} has no {metric}")
    return value
