"""Two arms at one scale, paired by seed: the differences, their interval, and the seeds without a pair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from palinode.analysis import intervals
from palinode.analysis.intervals import Interval
from palinode.results.record import ExperimentRecord, ExperimentRun


@dataclass(frozen=True)
class Pair:
    """The scores of one seed that is done in both arms, in the metric's unit."""

    seed: int
    arm_value: float
    baseline_value: float

    @property
    def difference(self) -> float:
        """Arm minus baseline."""
        return self.arm_value - self.baseline_value


@dataclass(frozen=True)
class LeftOut:
    """A planned seed that cannot be compared, and the reason."""

    seed: int
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Arm minus baseline on one metric at one scale.

    Attributes:
        pairs: the seeds that are done in both arms, in the entry's order.
        left_out: the other planned seeds.
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
    def differences(self) -> tuple[float, ...]:
        """Arm minus baseline of each pair, in the metric's unit."""
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
    """Pair the runs of two arms by seed. A seed without a number in one of the arms is left out.

    Raises:
        BadInput: the experiment has no such arm.
    """
    record.entry.arm(arm), record.entry.arm(baseline)
    ours = {run.entry.seed: run for run in record.runs_of(arm, scale)}
    theirs = {run.entry.seed: run for run in record.runs_of(baseline, scale)}
    pairs: list[Pair] = []
    left_out: list[LeftOut] = []
    for seed in dict.fromkeys([*theirs, *ours]):
        values = _score(arm, ours.get(seed), metric), _score(baseline, theirs.get(seed), metric)
        if problems := [value for value in values if isinstance(value, str)]:
            left_out.append(LeftOut(seed, "; ".join(problems)))
        else:
            pairs.append(Pair(seed, *map(float, values)))
    return Comparison(arm, baseline, scale, metric, confidence, tuple(pairs), tuple(left_out))


def _score(arm: str, run: ExperimentRun | None, metric: str) -> float | str:
    """The score of a run, or a sentence that says why it has none."""
    if run is None:
        return f"{arm} has no run with this seed"
    if run.outcome != "done" or run.result is None:
        damage = run.record.damage if run.record is not None else None
        file = f" ({run.entry.run_id}/{Path(damage.file).name})" if damage is not None and damage.file else ""
        return f"{arm}: {run.outcome}{file}"
    score = run.result.score(metric)
    return f"{arm} has no {metric}" if score is None else score
