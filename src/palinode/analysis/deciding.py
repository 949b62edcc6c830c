"""The interval that decides a verdict. It allows for what the interval of a single comparison leaves out.

- Other comparisons: all pairs of an arm and a scale are one family (`family.py`).
- Several looks: an experiment with `seeds = "until decided"` is judged after every seed, and a look has a confidence of its own;
  seeds that were added after a look to a fixed number of seeds need an interval that is valid at every look (`looks.py`).
- Other text: with `over = "seeds and text"`, the wider one of the interval over seeds and the interval over seeds and documents
  (`sources.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from palinode.analysis.compare import Comparison
from palinode.analysis.family import FamilyInterval, family_intervals
from palinode.analysis.intervals import Interval, mean, t_interval
from palinode.analysis.looks import look_confidence, mixture_interval
from palinode.analysis.sizes import scale_sizes
from palinode.analysis.sources import TextInterval, text_of
from palinode.base.decision import Decision
from palinode.results.record import ExperimentRecord

ONE_LOOK, UNTIL_DECIDED, ADDED = "one look", "looks until decided", "seeds added after a look"
ADDED_ERROR = 0.064  # with 3 planned seeds, grown to 20: the first look has spent its 5 % (benchmarks/statistics.py)
NOISY_CELL = (
    "its own seeds vary more than those of the other arms and scales suggest, so the interval may be too narrow here"
)


@dataclass(frozen=True)
class Deciding:
    """The interval that decides one verdict.

    Attributes:
        interval: the interval of the mean difference (arm minus baseline); None with fewer than two pairs, or while it is infinite.
        comparisons: the number of comparisons that the interval allows for, this one included.
        confidence: the confidence of all these intervals together.
        looks: whether the interval allows for `one look`, for `looks until decided`, or for `seeds added after a look`.
        text: the interval over seeds and documents; None where no documents were stored, or for another metric than nats.
        over: the sources of noise in the interval: `seeds` or `seeds and text`.
        cautions: what limits the interval.
    """

    interval: Interval | None
    comparisons: int = 1
    confidence: float = 0.95
    looks: str = ONE_LOOK
    text: TextInterval | None = None
    over: str = "seeds"
    cautions: tuple[str, ...] = ()

    @property
    def allows_for(self) -> str:
        """What the interval allows for, in words, such as `24 comparisons, looks until decided`."""
        parts = [f"{self.comparisons} comparisons"] if self.comparisons > 1 else []
        parts += [self.looks] if self.looks != ONE_LOOK else []
        parts += ["new text"] if self.over == "seeds and text" else []
        return ", ".join(parts) or "this comparison alone"

    def over_differences(self, differences: Sequence[float]) -> Interval | None:
        """An interval for other differences: as wide as this one or as the t interval of the differences, whichever is wider."""
        own = t_interval(differences, self.confidence)
        if own is None or self.interval is None:
            return None
        half = max(self.interval.high - self.interval.low, own.high - own.low) / 2
        return Interval(mean(differences) - half, mean(differences) + half)


@dataclass(frozen=True)
class DecidingIntervals:
    """The intervals that decide all verdicts of an experiment by one rule.

    Attributes:
        family: (arm, scale) -> the interval that allows for the other comparisons; empty where the rule has no family.
    """

    record: ExperimentRecord
    rule: Decision
    family: Mapping[tuple[str, str], FamilyInterval]

    @classmethod
    def of(cls, record: ExperimentRecord, rule: Decision) -> DecidingIntervals:
        """The intervals by this rule. A baseline other than that of the experiment has no family: such a comparison stands alone."""
        entry = record.entry
        if rule.family == "none" or rule.baseline != entry.decision.get("baseline"):
            return cls(record, rule, {})
        arms = [arm.name for arm in entry.arms if not arm.expect_leak]
        scores = {scale: {arm: _scores(record, arm, scale, rule.metric) for arm in arms} for scale in entry.scales}
        parameters = {scale: size.parameters for scale, size in scale_sizes(record).items()}
        confidence = _confidence_of_a_look(record, rule)
        return cls(record, rule, family_intervals(scores, rule.baseline, confidence, parameters))

    def of_comparison(self, comparison: Comparison) -> Deciding:
        """The interval that decides this comparison."""
        rule, entry = self.rule, self.record.entry
        cell = self.family.get((comparison.arm, comparison.scale))
        confidence = _confidence_of_a_look(self.record, rule)
        count = cell.comparisons if cell is not None else 1
        if entry.seeds_added_after_a_look:
            interval = mixture_interval(comparison.differences, (1 - rule.confidence) / count)
        else:
            interval = cell.interval if cell is not None else t_interval(comparison.differences, confidence)
        text = text_of(self.record, comparison, 1 - (1 - confidence) / count)
        over_text = rule.over == "seeds and text" and text is not None
        if over_text and text is not None and interval is not None:
            interval = max(interval, text.interval, key=lambda one: one.high - one.low)
        return Deciding(
            interval=interval,
            comparisons=count,
            confidence=rule.confidence,
            looks=_looks(self.record),
            text=text,
            over="seeds and text" if over_text else "seeds",
            cautions=tuple(_cautions(self.record, cell, text, rule)),
        )


def _confidence_of_a_look(record: ExperimentRecord, rule: Decision) -> float:
    """The confidence of the intervals at one look."""
    if record.entry.seeds_planned == "until decided":
        return look_confidence(rule.looks.most)
    return rule.confidence


def _looks(record: ExperimentRecord) -> str:
    if record.entry.seeds_planned == "until decided":
        return UNTIL_DECIDED
    return ADDED if record.entry.seeds_added_after_a_look else ONE_LOOK


def _cautions(
    record: ExperimentRecord, cell: FamilyInterval | None, text: TextInterval | None, rule: Decision
) -> Iterator[str]:
    entry = record.entry
    if cell is not None and cell.noisy:
        yield NOISY_CELL
    if entry.seeds_added_after_a_look:
        yield (
            f"{entry.first_seeds} seeds were planned and there are {len(entry.seeds)}, added after a look: the error is about "
            f"{ADDED_ERROR:.1%}"
        )
    if rule.over == "seeds and text":
        if text is None:
            yield "text: not measured, so the interval is over seeds alone"
        elif text.caution:
            yield text.caution


def _scores(record: ExperimentRecord, arm: str, scale: str, metric: str) -> dict[int, float]:
    """seed -> score of the finished runs of one arm at one scale."""
    scores = {run.entry.seed: run.result.score(metric) for run in record.finished(arm, scale)}
    return {seed: score for seed, score in scores.items() if score is not None}
