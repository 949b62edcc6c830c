"""The verdict on each arm, by the decision rule that the experiment fixed before its first run.

Differences are signed so that an improvement is positive. L and H are the ends of the interval that decides (`deciding.py`), and
d = smallest_effect. The rows are read from the top:

    smaller than matters  d > 0, -d < L and H < d
    better                L > 0; "by more than matters" if L >= d
    worse                 H < 0; "by more than matters" if H <= -d
    cannot tell           in all other cases; and when the runs are not reliable: a run is missing, too many runs diverged, an arm
                          was not audited, failed its audit, or sees its own answer although the experiment does not expect this
                          leak, or the two losses are about different tokens

With `claim = "not worse"` the rows are: better (L > 0), not worse (L > -d), worse (H < -d), cannot tell.
An arm that diverges with more seeds than the baseline is at most "better where it ends".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from palinode.analysis.audits import Leak, arm_audit
from palinode.analysis.compare import Comparison, Parity, compare, parity
from palinode.analysis.deciding import Deciding, DecidingIntervals
from palinode.analysis.divergence import Divergence, divergence
from palinode.analysis.intervals import Interval, ends, seeds_needed
from palinode.analysis.published_effect import published_words
from palinode.analysis.reliability import (
    apart_cautions,
    audit_cautions,
    audit_reasons,
    comparison_cautions,
    cost_cautions,
    edge_cautions,
    evaluation_cautions,
    fingerprint_cautions,
    goal_cautions,
    leaks_elsewhere,
    not_comparable,
    pair_reasons,
    untrained_cautions,
)
from palinode.analysis.scales import OverScales, over_scales
from palinode.analysis.sizes import scale_sizes
from palinode.analysis.two_valued import LearnedCounts, learned_counts, two_valued_applies
from palinode.base.decision import Decision
from palinode.results.record import ExperimentRecord

Outcome = Literal["better", "better where it ends", "worse", "not worse", "smaller than matters", "cannot tell"]
DECIDED: frozenset[Outcome] = frozenset(
    ("better", "better where it ends", "worse", "not worse", "smaller than matters")
)


@dataclass(frozen=True)
class SeedsNeeded:
    """The number of paired seeds that would show an effect with probability 0.8, if the spread stays as observed.

    Attributes:
        seeds: the number of seeds; None when more than 10,000 seeds would be needed.
        effect: the size of the effect to be shown, in the metric's unit.
        planned_for: whether `effect` is the smallest effect that matters, or the observed effect.
        floor: the half-width that remains with any number of seeds on the same text, where it is at least `effect`.
    """

    seeds: int | None
    effect: float
    planned_for: Literal["smallest effect", "observed effect"]
    floor: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The verdict on one arm, compared with the baseline at one scale.

    Attributes:
        deciding: the interval that decides, and what it allows for.
        divergence: how many runs of both arms diverged, and what the outcome would be if they had ended.
        learned: the counts of runs that learned a task, where they decide instead of the interval: some runs of the two arms
            learned the task and others did not.
        by_more_than_matters: whether the whole interval of a better or a worse arm lies beyond the smallest effect that matters.
        published: what the runs say about a published effect; None where the rule names none.
        leak: whether the arm leaks at any scale. An arm whose leak is expected is still compared, and every page marks the arm.
        collapse: whether an auxiliary term of the arm collapsed at any scale. Every page marks the arm; its losses stay valid.
        reasons: the reasons why the runs are not reliable, so that the outcome is `cannot tell`; empty when they are reliable.
        cautions: facts that limit the outcome: unequal cost, checks that could not tell, different machines.
    """

    comparison: Comparison
    rule: Decision
    outcome: Outcome
    deciding: Deciding
    divergence: Divergence
    leak: Leak
    parity: Parity
    learned: LearnedCounts | None = None
    by_more_than_matters: bool = False
    published: str | None = None
    reasons: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    seeds_needed: SeedsNeeded | None = None
    collapse: Leak = "none"

    @property
    def arm(self) -> str:
        return self.comparison.arm

    @property
    def scale(self) -> str:
        return self.comparison.scale

    @property
    def improvement(self) -> float | None:
        """The mean difference, signed so that an improvement is positive; None without pairs."""
        mean = self.comparison.mean
        return mean if mean is None or self.rule.better == "higher" else -mean

    @property
    def interval(self) -> Interval | None:
        """The interval that decides, signed so that an improvement is positive; None with fewer than two pairs."""
        return of_improvement(self.deciding.interval, self.rule)

    @property
    def single_interval(self) -> Interval | None:
        """The interval of this comparison alone, signed so that an improvement is positive."""
        return of_improvement(self.deciding.single, self.rule)

    @property
    def _text_interval(self) -> Interval | None:
        """The interval over seeds and documents, as a difference (arm minus baseline)."""
        text = self.deciding.text
        return None if text is None else of_improvement(text.interval, self.rule)

    def row(self) -> dict[str, Any]:
        """The verdict as plain data, with the column names of the table `verdicts`. Differences are arm minus baseline."""
        comparison, needed = self.comparison, self.seeds_needed
        low, high = ends(self.deciding.interval)
        single_low, single_high = ends(self.deciding.single)
        same_names = ("arm", "baseline", "scale", "metric", "confidence", "sign_flip_p", "spread")
        return {name: getattr(comparison, name) for name in same_names} | {
            "outcome": self.outcome,
            "by_more_than_matters": self.by_more_than_matters,
            "leak": self.leak,
            "collapse": self.collapse,
            "mean_difference": comparison.mean,
            "interval_low": low,
            "interval_high": high,
            "single_interval_low": single_low,
            "single_interval_high": single_high,
            "text_interval_low": ends(self._text_interval)[0],
            "text_interval_high": ends(self._text_interval)[1],
            "comparisons": self.deciding.comparisons,
            "allows_for": self.deciding.allows_for,
            "pairs": len(comparison.pairs),
            "left_out": len(comparison.left_out),
            "diverged": self.divergence.arm,
            "diverged_baseline": self.divergence.baseline,
            "stability": self.divergence.words,
            "stability_p": self.divergence.p,
            "outcome_if_all_had_ended": self.divergence.outcome_if_ended,
            "published": self.published,
            "learned": self.learned.learned if self.learned else None,
            "learned_baseline": self.learned.baseline_learned if self.learned else None,
            "learned_p": self.learned.p if self.learned else None,
            "smallest_effect": self.rule.smallest_effect,
            "seeds_needed": needed.seeds if needed else None,
            "seeds_needed_for": needed.effect if needed else None,
            "equal": self.rule.equal,
            "equal_deviation": self.parity.deviation,
            "reasons": list(self.reasons),
            "cautions": list(self.cautions),
        }


def verdicts(record: ExperimentRecord) -> tuple[Verdict, ...]:
    """The verdicts: one for each scale of each arm except the baseline, in the order of the experiment's entry."""
    rule = record.entry.rule
    intervals = DecidingIntervals.of(record, rule)
    return tuple(
        verdict(record, arm.name, scale, rule, intervals)
        for arm in record.entry.arms
        if arm.name != rule.baseline
        for scale in record.entry.scales
    )


def verdict(
    record: ExperimentRecord, arm: str, scale: str, rule: Decision, intervals: DecidingIntervals | None = None
) -> Verdict:
    """The verdict on one arm at one scale, by the decision rule.

    Args:
        intervals: the intervals that decide all verdicts by this rule; None: they are computed here.

    Raises:
        BadInput: the experiment has no arm of this name.
    """
    comparison = compare(record, arm, rule.baseline, scale, rule.metric, rule.confidence)
    arm_side, baseline_side = arm_audit(record, arm, scale), arm_audit(record, rule.baseline, scale)
    cost = parity(record, arm, rule.baseline, scale, rule.equal)
    anywhere, setting = arm_audit(record, arm), record.entry.to_choose
    deciding = (intervals or DecidingIntervals.of(record, rule)).of_comparison(comparison)
    counts = learned_counts(record, arm, scale, rule)
    learned = counts if two_valued_applies(counts) else None
    outcome = decide(deciding.interval, rule) if learned is None else learned.outcome(deciding.alpha)
    diverged = divergence(
        comparison, lambda filled: decide(deciding.over_differences(filled), rule), higher=rule.better == "higher"
    )
    reasons = (
        *([f"{setting} is not chosen yet: some of its trials have not run"] if setting else []),
        *audit_reasons(arm_side, scale),
        *leaks_elsewhere(arm_side, anywhere),
        *audit_reasons(baseline_side, scale),
        *not_comparable(record, comparison),
        *pair_reasons(comparison),
    )
    return Verdict(
        comparison=comparison,
        rule=rule,
        outcome="cannot tell" if reasons else _with_divergence(outcome, diverged),
        deciding=deciding,
        divergence=diverged,
        leak=anywhere.leak,
        parity=cost,
        learned=learned,
        by_more_than_matters=not reasons and learned is None and beyond(deciding.interval, rule),
        published=_published(comparison, deciding, rule) if not reasons and learned is None else None,
        reasons=reasons,
        cautions=(
            *(
                goal_cautions(record, comparison, cost)
                or (*cost_cautions(cost, rule.baseline), *evaluation_cautions(record, comparison))
            ),
            *comparison_cautions(record),
            *untrained_cautions(record, comparison),
            *audit_cautions(arm_side, baseline_side),
            *edge_cautions(record, comparison),
            *apart_cautions(comparison, rule.smallest_effect),
            *fingerprint_cautions(record, comparison),
            *deciding.cautions,
        ),
        seeds_needed=plan_seeds(comparison, rule, deciding) if learned is None else None,
        collapse=anywhere.collapse,
    )


def decide(interval: Interval | None, rule: Decision) -> Outcome:
    """The outcome of the decision rule for reliable runs; the top of this file defines the outcomes.

    Args:
        interval: the interval of the difference (arm minus baseline) that decides.
    """
    improved = of_improvement(interval, rule)
    if improved is None:
        return "cannot tell"
    low, high = improved
    least = rule.smallest_effect
    if rule.claim == "not worse":
        return "better" if low > 0 else "worse" if high < -least else "not worse" if low > -least else "cannot tell"
    if -least < low and high < least:
        return "smaller than matters"
    return "better" if low > 0 else "worse" if high < 0 else "cannot tell"


def of_improvement(interval: Interval | None, rule: Decision) -> Interval | None:
    """An interval of differences (arm minus baseline), signed so that an improvement is positive."""
    return interval if interval is None or rule.better == "higher" else Interval(-interval.high, -interval.low)


def beyond(interval: Interval | None, rule: Decision) -> bool:
    """Whether the whole interval lies beyond the smallest effect that matters, on one side of zero."""
    improved, least = of_improvement(interval, rule), rule.smallest_effect
    return improved is not None and least > 0 and bool(improved.low >= least or improved.high <= -least)


def over_scales_of(record: ExperimentRecord, of_arm: Sequence[Verdict]) -> OverScales | None:
    """The improvement of one arm over the scales of an experiment, from its reliable verdicts; None with fewer than two of them."""
    known = [
        (one.improvement, one.deciding.standard_error, one.scale)
        for one in of_arm
        if not one.reasons and one.learned is None and one.improvement is not None and one.deciding.standard_error
    ]
    if len(known) < 2:
        return None
    effects, errors, scales = zip(*known, strict=True)
    sizes = scale_sizes(record)
    return over_scales(effects, errors, of_arm[0].rule.confidence, [sizes[scale].parameters for scale in scales])


def plan_seeds(comparison: Comparison, rule: Decision, deciding: Deciding) -> SeedsNeeded | None:
    """The number of seeds needed to show the smallest effect that matters, or the observed effect if the smallest effect is 0.

    The result is None with fewer than two pairs of runs.

    Args:
        deciding: the interval that decides; its standard error is planned with.
    """
    confidence, observed = 1 - deciding.alpha, comparison.mean
    if deciding.standard_error is None or observed is None:
        return None
    deviation = deciding.standard_error * math.sqrt(len(comparison.pairs))
    effect = rule.smallest_effect or abs(observed)
    planned_for: Literal["smallest effect", "observed effect"] = (
        "smallest effect" if rule.smallest_effect > 0 else "observed effect"
    )
    if deciding.floor is not None and deciding.floor >= effect:
        return SeedsNeeded(None, effect, planned_for, deciding.floor)
    return SeedsNeeded(seeds_needed(effect, deviation, confidence), effect, planned_for)


def _with_divergence(outcome: Outcome, diverged: Divergence) -> Outcome:
    """The outcome of pairs that ended, for an arm that may diverge with more seeds than the baseline.

    Such an arm can be better only where it ends. Nothing is said of an arm that would otherwise be called as good as the baseline.
    """
    if diverged.arm <= diverged.baseline:
        return outcome
    return "better where it ends" if outcome == "better" else outcome if outcome == "worse" else "cannot tell"


def _published(comparison: Comparison, deciding: Deciding, rule: Decision) -> str | None:
    """What the runs say about the published effect of this arm; None where the rule names none."""
    effect, interval, mean = rule.published, of_improvement(deciding.interval, rule), comparison.mean
    if effect is None or interval is None or mean is None or effect.arm not in ("", comparison.arm):
        return None
    improvement = mean if rule.better == "higher" else -mean
    return published_words(improvement, interval.low, interval.high, effect.effect, effect.low, effect.high)
