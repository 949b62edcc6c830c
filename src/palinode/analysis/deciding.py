"""The interval that decides a verdict. It allows for what the interval of a single comparison leaves out.

- Other comparisons: all pairs of an arm and a scale are one family (`family.py`).
- Several looks: an experiment with `seeds = "until decided"` is judged after every seed, and a look has a confidence of its own;
  seeds that were added after a look to a fixed number of seeds need an interval that is valid at every look (`looks.py`).
- Other text: with `over = "seeds and text"`, the wider one of this interval and of that over seeds and documents (`sources.py`), or
  over the queries of a retriever (`queries.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from palinode.analysis.compare import Comparison, seeds_on_two_kinds
from palinode.analysis.family import FamilyInterval, family_intervals
from palinode.analysis.intervals import Interval, mean, t_interval
from palinode.analysis.looks import look_alpha, mixture_interval
from palinode.analysis.queries import over_queries, query_differences
from palinode.analysis.sizes import scale_sizes
from palinode.analysis.sources import NOT_MEASURED, TextInterval, paired_documents, text_and_seeds
from palinode.analysis.two_valued import learned_counts, two_valued_applies
from palinode.base.decision import UNTIL_DECIDED, Decision
from palinode.base.measures import OWN, RETRIEVAL_MEASURES, Metric, probability_words
from palinode.results.record import ExperimentRecord

ONE_LOOK, SEVERAL_LOOKS, ADDED = "one look", "looks until decided", "seeds added after a look"
# The simulated error of 3 seeds that grow to 20 (docs/statistics.md): the first look has spent 5 % before the mixture begins.
ADDED_ERROR = 0.058
TEXT_MEASURE = "nats_per_token"  # a run stores the nats and the tokens of each document
NOISY_CELL = (
    "its seeds vary more than those of the other arms and scales suggest, so its interval comes from its own seeds if that is "
    "wider"
)


@dataclass(frozen=True)
class Deciding:
    """The interval that decides one verdict.

    Attributes:
        interval: the interval of the mean difference (arm minus baseline); None with fewer than two pairs, or while it is infinite.
        single: the interval of this comparison alone, from the same estimate of the variance.
        standard_error: the standard error of the mean difference from this estimate; None with fewer than two pairs.
        comparisons: the number of comparisons that the interval allows for, this one included.
        confidence: the confidence of all these intervals together.
        text: the interval over seeds and documents, signed so that an improvement is positive; None where it was not measured.
        over: the sources of noise in the interval: `seeds`, or `seeds and text`.
        looks: whether the interval allows for `one look`, for `looks until decided`, or for `seeds added after a look`.
        cautions: what limits the interval.
    """

    interval: Interval | None
    single: Interval | None
    standard_error: float | None = None
    comparisons: int = 1
    confidence: float = 0.95
    looks: str = ONE_LOOK
    cautions: tuple[str, ...] = ()
    text: TextInterval | None = None
    over: str = "seeds"

    @property
    def alpha(self) -> float:
        """The probability of an error that this comparison may use: a share of that of the family."""
        return (1 - self.confidence) / self.comparisons

    @property
    def floor(self) -> float | None:
        """Half of the width of the interval that remains with any number of seeds; None where the interval is over seeds alone.

        Further seeds of a retriever test the same queries again, so the interval over queries stays about as wide as it is.
        """
        if self.text is None or self.text.interval is None or self.over == "seeds":
            return None
        low, high = self.text.interval
        return (high - low) / 2 if self.text.unit == "queries" else self.text.floor

    @property
    def allows_for(self) -> str:
        """What the interval allows for, in words, such as `24 comparisons, looks until decided`."""
        parts = [f"{self.comparisons} comparisons"] if self.comparisons > 1 else []
        parts += [self.looks] if self.looks != ONE_LOOK else []
        parts += ["new text"] if self.over != "seeds" else []
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
        """The intervals by this rule. A comparison with another baseline than that of the experiment stands alone."""
        entry = record.entry
        if rule.family == "none" or rule.baseline != entry.decision.get("baseline"):
            return cls(record, rule, {})
        arms = [arm.name for arm in entry.arms if not arm.expect_leak]
        scores = {scale: {arm: _scores_in_family(record, arm, scale, rule) for arm in arms} for scale in entry.scales}
        parameters = {scale: size.parameters for scale, size in scale_sizes(record).items()}
        count = max(1, (len(arms) - 1) * len(entry.scales))
        alpha, alpha_of_each = (_alpha_of_a_look(record, rule, comparisons) for comparisons in (1, count))
        return cls(record, rule, family_intervals(scores, rule.baseline, 1 - alpha, parameters, alpha_of_each))

    def of_baseline_less(self, other: str) -> DecidingIntervals:
        """The intervals of the baseline less another arm: those of this arm less the baseline, with the other sign."""
        cells = {scale: cell for (arm, scale), cell in self.family.items() if arm == other}
        family = {(self.rule.baseline, scale): cell.reversed(self.rule.baseline) for scale, cell in cells.items()}
        return DecidingIntervals(self.record, self.rule.with_(baseline=other), family)

    def of_comparison(self, comparison: Comparison) -> Deciding:
        """The interval that decides this comparison."""
        rule, entry = self.rule, self.record.entry
        cell = self.family.get((comparison.arm, comparison.scale))
        alone = t_interval(comparison.differences, 1 - _alpha_of_a_look(self.record, rule))
        interval, single, error, count = alone, alone, _standard_error(comparison), 1
        if cell is not None and cell.interval is not None:
            interval, single, error, count = cell.interval, cell.single, cell.standard_error, cell.comparisons
        elif cell is not None:  # the family has no scores of it
            count = cell.comparisons
            interval = t_interval(comparison.differences, 1 - _alpha_of_a_look(self.record, rule, count))
        if entry.seeds_added_after_a_look:
            interval = mixture_interval(comparison.differences, (1 - rule.confidence) / count)
        text = _text(self.record, comparison, rule, 1 - _alpha_of_a_look(self.record, rule) / count)
        over = rule.over if text is not None else "seeds"
        if over != "seeds" and text is not None and interval is not None:
            interval = _wider(interval, text, rule)
        cautions = tuple(_cautions(self.record, cell, rule, text))
        return Deciding(
            interval, single, error, count, rule.confidence, _looks(self.record), cautions, text=text, over=over
        )


def _standard_error(comparison: Comparison) -> float | None:
    deviation = comparison.spread
    return None if deviation is None else deviation / math.sqrt(len(comparison.pairs))


def _alpha_of_a_look(record: ExperimentRecord, rule: Decision, comparisons: int = 1) -> float:
    """The probability of an error of one interval at one look."""
    if record.entry.seeds_planned == UNTIL_DECIDED:
        return look_alpha(1 - rule.confidence, rule.looks.most, comparisons)
    return (1 - rule.confidence) / comparisons


def _looks(record: ExperimentRecord) -> str:
    if record.entry.seeds_planned == UNTIL_DECIDED:
        return SEVERAL_LOOKS
    return ADDED if record.entry.seeds_added_after_a_look else ONE_LOOK


def _text(record: ExperimentRecord, comparison: Comparison, rule: Decision, confidence: float) -> TextInterval | None:
    """The interval over seeds and documents of a loss, or over the queries of a retriever.

    None where the runs have no scores of documents or queries, or for another metric.
    """
    metric = Metric.parse(comparison.metric)
    if metric.measure not in (TEXT_MEASURE, *RETRIEVAL_MEASURES) or len(comparison.pairs) < 2:
        return None
    sides = []
    for arm in (comparison.arm, comparison.baseline):
        runs = {run.entry.seed: run for run in record.finished(arm, comparison.scale)}
        used = [runs[pair.seed] for pair in comparison.pairs]
        own = metric.direction == OWN
        names = [run.result.own_pass(metric.split) if own else metric.direction for run in used]
        sides.append([(run.record, name) for run, name in zip(used, names, strict=True)])
    if metric.measure in RETRIEVAL_MEASURES:
        ours, theirs = ([run for run, _ in side] for side in sides)
        differences = query_differences(ours, theirs, metric.direction, metric.measure)
        return None if differences is None else over_queries(differences, confidence, rule.better)
    paired = paired_documents(sides[0], sides[1], metric.split)
    if paired is None:
        return None
    nats, baseline_nats, documents = paired
    return text_and_seeds(nats, baseline_nats, documents.tokens, confidence, rule.better, documents.kind)


def _wider(interval: Interval, text: TextInterval, rule: Decision) -> Interval:
    """The wider one of both intervals, as a difference (arm minus baseline)."""
    if text.interval is None:
        return interval
    low, high = text.interval
    other = Interval(low, high) if rule.better == "higher" else Interval(-high, -low)
    return max(interval, other, key=lambda one: one.high - one.low)


def _cautions(
    record: ExperimentRecord, cell: FamilyInterval | None, rule: Decision, text: TextInterval | None
) -> Iterator[str]:
    entry = record.entry
    if rule.over == "seeds and text":
        yield from [NOT_MEASURED] if text is None else filter(None, [text.caution])
    if cell is not None and cell.noisy:
        yield NOISY_CELL
    if entry.seeds_added_after_a_look:
        count = f"{entry.first_seeds} seeds were judged and there are {len(entry.seeds)} now"
        yield (
            f"{count}: seeds were added after a look, so the error is above {probability_words(1 - rule.confidence)}; in a "
            f"simulation of 3 seeds that grow to 20, with 95 % intervals, it is {ADDED_ERROR:.1%}"
        )


def _scores_in_family(record: ExperimentRecord, arm: str, scale: str, rule: Decision) -> dict[int, float]:
    """seed -> score of the runs whose scatter the family shares: none where runs that learned are counted.

    Accuracies that jump from guessing to nearly 1 in some seeds scatter 100 times as much as others, and would make every interval
    of their scale as wide.
    """
    if arm != rule.baseline and two_valued_applies(learned_counts(record, arm, scale, rule)):
        return {}
    return _scores(record, arm, scale, rule.metric)


def _scores(record: ExperimentRecord, arm: str, scale: str, metric: str) -> dict[int, float]:
    """seed -> score of the finished runs of one arm at one scale."""
    left_out = seeds_on_two_kinds(record, arm, record.entry.rule.baseline, scale) if record.one_kind else {}
    finished = (run for run in record.finished(arm, scale) if run.entry.seed not in left_out)
    scores = {run.entry.seed: run.result.score(metric) for run in finished}
    return {seed: score for seed, score in scores.items() if score is not None}
