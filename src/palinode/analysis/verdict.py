"""The verdict on each arm, by the decision rule that the experiment fixed before its first run.

Differences are signed so that an improvement is positive. With d = smallest_effect:

    better               the interval lies above 0 and reaches d
    worse                the interval lies below 0 and reaches -d
    no difference found  d > 0: the interval lies inside (-d, d), so the difference is too small to matter;
                         d = 0: the interval contains 0
    cannot tell          d > 0: the interval contains 0 and reaches beyond d or -d, so more seeds are needed;
                         or the runs are not reliable: a seed is missing or diverged, an arm was not audited, failed its audit,
                         or sees its own answer although the experiment does not expect this leak
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from palinode.analysis.audits import ArmAudit, Leak, arm_audit
from palinode.analysis.compare import Comparison, Parity, compare, parity
from palinode.analysis.intervals import Interval, ends, seeds_needed
from palinode.base.decision import Decision
from palinode.base.measures import EQUAL_WITHIN
from palinode.results.record import ExperimentRecord

Outcome = Literal["better", "worse", "no difference found", "cannot tell"]


@dataclass(frozen=True)
class SeedsNeeded:
    """The number of paired seeds that shows an effect with probability 0.8, for the observed spread.

    Attributes:
        seeds: the number of seeds; None when more than 10,000 seeds would be needed.
        effect: the size of the effect to be shown, in the metric's unit.
        planned_for: whether the effect is the smallest one that matters, or the observed one.
    """

    seeds: int | None
    effect: float
    planned_for: Literal["smallest effect", "observed effect"]


@dataclass(frozen=True)
class Verdict:
    """The verdict on one arm, compared with the baseline at one scale.

    Attributes:
        leak: whether the arm leaks at any scale. An arm with an expected leak is compared, and every page marks this arm.
        collapse: whether an auxiliary term of the arm vanished at any scale. Every page marks such an arm; its losses stay valid.
        reasons: the reasons why the outcome is `cannot tell`; empty when the runs are reliable.
        cautions: facts that limit the outcome: unequal cost, checks that could not tell, different machines.
    """

    comparison: Comparison
    rule: Decision
    outcome: Outcome
    leak: Leak
    parity: Parity
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

    def row(self) -> dict[str, Any]:
        """The verdict as plain data, with the column names of the table `verdicts`."""
        comparison, needed = self.comparison, self.seeds_needed
        low, high = ends(comparison.interval)
        same_names = ("arm", "baseline", "scale", "metric", "confidence", "sign_flip_p", "spread")
        return {name: getattr(comparison, name) for name in same_names} | {
            "outcome": self.outcome,
            "leak": self.leak,
            "collapse": self.collapse,
            "mean_difference": comparison.mean,
            "interval_low": low,
            "interval_high": high,
            "pairs": len(comparison.pairs),
            "left_out": len(comparison.left_out),
            "smallest_effect": self.rule.smallest_effect,
            "seeds_needed": needed.seeds if needed else None,
            "seeds_needed_for": needed.effect if needed else None,
            "equal": self.rule.equal,
            "equal_deviation": self.parity.deviation,
            "reasons": list(self.reasons),
            "cautions": list(self.cautions),
        }


def verdicts(record: ExperimentRecord) -> tuple[Verdict, ...]:
    """The verdicts: one for each arm except the baseline, at each scale, in the entry's order."""
    rule = record.entry.rule
    return tuple(
        verdict(record, arm.name, scale, rule)
        for arm in record.entry.arms
        if arm.name != rule.baseline
        for scale in record.entry.scales
    )


def verdict(record: ExperimentRecord, arm: str, scale: str, rule: Decision) -> Verdict:
    """The verdict on one arm at one scale, by the decision rule.

    Raises:
        BadInput: the experiment has no arm of this name.
    """
    comparison = compare(record, arm, rule.baseline, scale, rule.metric, rule.confidence)
    arm_side, baseline_side = arm_audit(record, arm, scale), arm_audit(record, rule.baseline, scale)
    cost = parity(record, arm, rule.baseline, scale, rule.equal)
    anywhere, setting = arm_audit(record, arm), record.entry.to_choose
    reasons = (
        *([f"{setting} is not chosen yet: some of its trials have not run"] if setting else []),
        *_audit_reasons(arm_side, scale),
        *_leaks_elsewhere(arm_side, anywhere),
        *_audit_reasons(baseline_side, scale),
        *_pair_reasons(comparison),
    )
    return Verdict(
        comparison=comparison,
        rule=rule,
        outcome="cannot tell" if reasons else decide(comparison.interval, rule),
        leak=anywhere.leak,
        parity=cost,
        reasons=reasons,
        cautions=(
            *_cost_cautions(cost),
            *_comparison_cautions(record),
            *_evaluation_cautions(record, comparison),
            *_audit_cautions(arm_side, baseline_side),
            *_edge_cautions(record, comparison),
            *_fingerprint_cautions(record, comparison),
        ),
        seeds_needed=plan_seeds(comparison, rule),
        collapse=anywhere.collapse,
    )


def decide(interval: Interval | None, rule: Decision) -> Outcome:
    """The outcome of the decision rule for reliable runs; the top of this file defines the outcomes."""
    if interval is None:
        return "cannot tell"
    low, high = interval if rule.better == "higher" else (-interval.high, -interval.low)
    least = rule.smallest_effect
    if -least < low and high < least:
        return "no difference found"
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "cannot tell" if least > 0 else "no difference found"


def plan_seeds(comparison: Comparison, rule: Decision) -> SeedsNeeded | None:
    """The number of seeds needed to show the smallest effect that matters, or the observed effect if the smallest effect is 0.

    The result is None below two pairs.
    """
    deviation, observed = comparison.spread, comparison.mean
    if deviation is None or observed is None:
        return None
    if rule.smallest_effect > 0:
        needed = seeds_needed(rule.smallest_effect, deviation, rule.confidence)
        return SeedsNeeded(needed, rule.smallest_effect, "smallest effect")
    return SeedsNeeded(seeds_needed(observed, deviation, rule.confidence), abs(observed), "observed effect")


def _audit_reasons(audit: ArmAudit, scale: str) -> list[str]:
    """The reasons in the audits why an arm is not reliable. An arm that is expected to leak is allowed to fail its audit."""
    reasons = [f"the audit of {audit.arm.name} cannot be read: {problem}" for problem in audit.damaged]
    if scale not in audit.reports and not audit.damaged:
        reasons.append(f"{audit.arm.name} was not audited")
    if audit.leak == "unexpected":
        leak = "sees its own answer: its audit failed and the experiment does not expect a leak"
        reasons.append(f"{audit.arm.name} {leak}")
    elif failed := audit.unexpected:
        names = dict.fromkeys(item.finding.check for item in failed)
        reasons.append(f"{audit.arm.name} failed its audit: {', '.join(names)}")
    return reasons


def _leaks_elsewhere(here: ArmAudit, anywhere: ArmAudit) -> list[str]:
    """The reason that the arm leaks at another scale. An arm is the same change at every scale, so a leak counts at all scales."""
    if here.leak != "none" or anywhere.leak != "unexpected":
        return []
    scales = dict.fromkeys(item.scale for item in anywhere.findings if item.finding.shows_leak)
    return [f"{here.arm.name} sees its own answer at {', '.join(scales)}"]


def _pair_reasons(comparison: Comparison) -> list[str]:
    reasons = []
    if comparison.left_out:
        planned = len(comparison.pairs) + len(comparison.left_out)
        seeds = "; ".join(f"seed {item.seed}: {item.reason}" for item in comparison.left_out)
        reasons.append(f"{len(comparison.left_out)} of {planned} pairs cannot be compared ({seeds})")
    if len(comparison.pairs) < 2:
        reasons.append(f"an interval needs at least 2 pairs, and there {'is 1' if comparison.pairs else 'are none'}")
    elif comparison.spread == 0 and comparison.mean != 0:
        reasons.append("all differences are exactly equal: the seed changes nothing, so there is no spread to measure")
    return reasons


def _cost_cautions(cost: Parity) -> list[str]:
    if cost.holds is None:
        return [f"{cost.axis} was not counted in every run, so equal cost cannot be checked"]
    if not cost.holds and cost.of_means is not None:
        if abs(cost.of_means) > EQUAL_WITHIN:
            return [f"not at equal {cost.axis}: it differs by {cost.of_means:+.1%}"]
        return [f"not at equal {cost.axis} in every pair of seeds, though the means over all seeds are equal"]
    return []


def _audit_cautions(arm: ArmAudit, baseline: ArmAudit) -> list[str]:
    cautions = []
    if arm.arm.expect_leak and arm.leak == "none" and arm.reports:
        cautions.append(f"{arm.arm.name} is marked expect_leak, but no check found a leak")
    if arm.arm.expect_collapse and arm.collapse == "none" and arm.reports:
        cautions.append(f"{arm.arm.name} is marked expect_collapse, but no check found a collapse")
    if baseline.collapse == "expected":
        cautions.append(f"an auxiliary term of the baseline {baseline.arm.name} collapsed, as the experiment expects")
    if baseline.leak == "expected":
        cautions.append(f"the baseline {baseline.arm.name} sees its own answer, as the experiment expects")
    undecided = {side.arm.name: {item.finding.check for item in side.undecided} for side in (arm, baseline)}
    checks_of: dict[str, list[str]] = {}  # names of arms -> the checks that could not decide for exactly these arms
    for check in dict.fromkeys(item.finding.check for side in (arm, baseline) for item in side.undecided):
        arms = " and ".join(name for name, checks in undecided.items() if check in checks)
        checks_of.setdefault(arms, []).append(check)
    return cautions + [f"{', '.join(checks)} could not tell on {arms}" for arms, checks in checks_of.items()]


def _comparison_cautions(record: ExperimentRecord) -> list[str]:
    """The cautions about failed checks that compare all finished runs (C5), or that their audit cannot be read.

    A check that has a caution for each pair of arms is left out.
    """
    if (damage := record.damaged.get(record.entry.comparison)) is not None:
        return [f"the audit of the finished runs cannot be read: {damage}"]
    findings = record.comparison.findings if record.comparison is not None else ()
    by_pair = ("C5.declared_axis", "C5.runs")
    failed = [f for f in findings if f.outcome == "fail" and f.check not in by_pair]
    parts = {f.check: [part for part in f.message.split("; ") if not part.startswith("evaluations ")] for f in failed}
    return [f"{check}: {'; '.join(messages)}" for check, messages in parts.items() if messages]


def _evaluation_cautions(record: ExperimentRecord, comparison: Comparison) -> list[str]:
    """The caution of check C5.selection for two arms: the arm with more validation evaluations had more scores to choose from."""

    def most(arm: str) -> float:
        results = (run.result for run in record.runs_of(arm, comparison.scale) if run.result)
        return max((result.counters.get("evaluations") or 0 for result in results), default=0)

    here, there = most(comparison.arm), most(comparison.baseline)
    return [f"evaluated {here:g} times, {comparison.baseline} {there:g}"] if here != there else []


def _edge_cautions(record: ExperimentRecord, comparison: Comparison) -> list[str]:
    """The caution that the best tuned value is the smallest or largest value that was tried, so another value may be better."""
    sides = (comparison.arm, comparison.baseline)
    return [
        f"{choice.arm} was tuned to {choice.field} = {choice.chosen:g}, the edge of what was tried"
        for choice in record.entry.choices
        if choice.scale == comparison.scale and choice.arm in sides and choice.at_the_edge
    ]


def _fingerprint_cautions(record: ExperimentRecord, comparison: Comparison) -> list[str]:
    """The caution that the runs of a comparison have different execution fingerprints.

    Two runs can give equal bits only if the compared items of their execution fingerprints are equal.
    """
    used = {pair.seed for pair in comparison.pairs}
    prints = {
        tuple(sorted((key, str(value)) for key, value in run.result.compared_fingerprint.items()))
        for arm in (comparison.arm, comparison.baseline)
        for run in record.runs_of(arm, comparison.scale)
        if run.result is not None and run.entry.seed in used
    }
    return [f"the runs were made under {len(prints)} different execution fingerprints"] if len(prints) > 1 else []
