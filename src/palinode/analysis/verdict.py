"""Runs become a claim here, by the rule that the experiment fixed before the first run, and nowhere else.

With `better` turned so that an improvement is positive, and d = smallest_effect:

    better               the interval lies above 0 and reaches d
    worse                the interval lies below 0 and reaches -d
    no difference found  d > 0: the interval lies inside (-d, d): whatever the difference is, it is too small to matter;
                         d = 0: the interval holds 0
    cannot tell          d > 0: the interval holds 0 and reaches beyond d or -d: more seeds are needed;
                         or the runs may not be believed: a seed is missing or diverged, an arm was not audited, failed its
                         audit, or sees its own answer although the experiment does not expect it
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from palinode.analysis.audits import ArmAudit, Leak, arm_audit
from palinode.analysis.compare import Comparison, compare
from palinode.analysis.intervals import Interval, seeds_needed
from palinode.analysis.parity import Parity, parity
from palinode.base.decision import Decision
from palinode.base.measures import EQUAL_WITHIN
from palinode.results.record import ExperimentEntry, ExperimentRecord

Outcome = Literal["better", "worse", "no difference found", "cannot tell"]
Rule = Decision


@dataclass(frozen=True)
class SeedsNeeded:
    """How many paired seeds would show an effect with probability 0.8, for the spread that was observed.

    Attributes:
        seeds: None when more than 10,000 would be needed.
        effect: the size of the effect planned for, in the metric's unit; `planned_for` says where it comes from.
    """

    seeds: int | None
    effect: float
    planned_for: Literal["smallest effect", "observed effect"]


@dataclass(frozen=True)
class Verdict:
    """What may be said of one arm against the baseline at one scale.

    Attributes:
        leak: whether the arm sees what it may not, at any scale; an expected leak is compared, and stamped wherever it is
            shown.
        collapse: whether an auxiliary term of the arm vanished, at any scale; stamped as a leak is, but its losses are honest.
        reasons: why nothing can be told (empty when the runs may be believed).
        cautions: what a reader must know beside the outcome: unequal cost, checks that could not tell, mixed machines.
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


def rule_of(entry: ExperimentEntry) -> Decision:
    """The entry's decision rule; see `ExperimentEntry.rule`."""
    return entry.rule


def verdicts(record: ExperimentRecord) -> tuple[Verdict, ...]:
    """One verdict per arm (but the baseline) and scale, in the entry's order."""
    rule = rule_of(record.entry)
    return tuple(
        verdict(record, arm.name, scale, rule)
        for arm in record.entry.arms
        if arm.name != rule.baseline
        for scale in record.entry.scales
    )


def verdict(record: ExperimentRecord, arm: str, scale: str, rule: Decision) -> Verdict:
    """Apply the rule to one arm at one scale.

    Raises:
        BadInput: the experiment has no such arm.
    """
    comparison = compare(record, arm, rule.baseline, scale, rule.metric, rule.confidence)
    arm_side, baseline_side = arm_audit(record, arm, scale), arm_audit(record, rule.baseline, scale)
    cost = parity(record, arm, rule.baseline, scale, rule.equal)
    anywhere = arm_audit(record, arm)
    reasons = (
        *_unchosen(record),
        *_disbelief(arm_side, scale),
        *_leaks_elsewhere(arm_side, anywhere),
        *_disbelief(baseline_side, scale),
        *_incomplete(comparison),
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
            *_unequal_looks(record, comparison),
            *_audit_cautions(arm_side, baseline_side),
            *_at_the_edge(record, comparison),
            *_mixed_machines(record, comparison),
        ),
        seeds_needed=plan_seeds(comparison, rule),
        collapse=anywhere.collapse,
    )


def decide(interval: Interval | None, rule: Decision) -> Outcome:
    """The outcome for runs that may be believed; see the top of this file."""
    if interval is None:
        return "cannot tell"
    low, high = (interval.low, interval.high) if rule.better == "higher" else (-interval.high, -interval.low)
    least = rule.smallest_effect
    if -least < low and high < least:
        return "no difference found"
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "cannot tell" if least > 0 else "no difference found"


def plan_seeds(comparison: Comparison, rule: Decision) -> SeedsNeeded | None:
    """Seeds for the smallest effect that matters, or for the observed one where none was named; None below two pairs."""
    deviation, observed = comparison.spread, comparison.mean
    if deviation is None or observed is None:
        return None
    if rule.smallest_effect > 0:
        needed = seeds_needed(rule.smallest_effect, deviation, rule.confidence)
        return SeedsNeeded(needed, rule.smallest_effect, "smallest effect")
    return SeedsNeeded(seeds_needed(observed, deviation, rule.confidence), abs(observed), "observed effect")


def _disbelief(audit: ArmAudit, scale: str) -> list[str]:
    """Why the audits forbid a claim about this arm; an arm that is expected to leak is expected to fail its audit."""
    reasons = [f"the audit of {audit.arm.name} cannot be read: {problem}" for problem in audit.damaged]
    if scale not in audit.reports:
        reasons.append(f"{audit.arm.name} was not audited")
    if audit.leak == "unexpected":
        reasons.append(
            f"{audit.arm.name} sees its own answer: its audit failed and the experiment does not expect a leak"
        )
    elif failed := audit.unexpected:
        names = dict.fromkeys(item.finding.check for item in failed)
        reasons.append(f"{audit.arm.name} failed its audit: {', '.join(names)}")
    return reasons


def _leaks_elsewhere(here: ArmAudit, anywhere: ArmAudit) -> list[str]:
    """An arm is one change at every scale: a leak that one scale shows is not gone where it does not show."""
    if here.leak != "none" or anywhere.leak != "unexpected":
        return []
    scales = dict.fromkeys(item.scale for item in anywhere.findings if item.finding.shows_leak)
    return [f"{here.arm.name} sees its own answer at {', '.join(scales)}"]


def _unchosen(record: ExperimentRecord) -> list[str]:
    setting = record.entry.to_choose
    return [f"{setting} is not chosen yet: some of its trials are left"] if setting else []


def _incomplete(comparison: Comparison) -> list[str]:
    reasons = []
    if comparison.left_out:
        planned = len(comparison.pairs) + len(comparison.left_out)
        seeds = "; ".join(f"seed {item.seed}: {item.reason}" for item in comparison.left_out)
        reasons.append(f"{len(comparison.left_out)} of {planned} pairs cannot be compared ({seeds})")
    if len(comparison.pairs) < 2:
        reasons.append(f"an interval needs at least 2 pairs, there {'is 1' if comparison.pairs else 'are none'}")
    elif comparison.spread == 0 and comparison.mean != 0:
        reasons.append("all differences are exactly equal: the seeds change nothing, so they measure no spread")
    return reasons


def _cost_cautions(cost: Parity) -> list[str]:
    if cost.holds is None:
        return [f"{cost.axis} was not counted in every run: equal cost cannot be checked"]
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
    untold: dict[str, list[str]] = {}
    for side in (arm, baseline):
        for check in dict.fromkeys(item.finding.check for item in side.undecided):
            untold.setdefault(check, []).append(side.arm.name)
    together: dict[str, list[str]] = {}
    for check, arms in untold.items():
        together.setdefault(" and ".join(arms), []).append(check)
    return cautions + [f"{', '.join(checks)} could not tell on {arms}" for arms, checks in together.items()]


def _comparison_cautions(record: ExperimentRecord) -> list[str]:
    """What the audit of the finished runs against one another found wrong, beside what is said of each pair anyway."""
    findings = record.comparison.findings if record.comparison is not None else ()
    said_anyway = ("C5.declared_axis", "C5.runs")
    failed = [f for f in findings if f.outcome == "fail" and f.check not in said_anyway]
    told = {f.check: [part for part in f.message.split("; ") if not part.startswith("evaluations ")] for f in failed}
    return [f"{check}: {'; '.join(parts)}" for check, parts in told.items() if parts]


def _unequal_looks(record: ExperimentRecord, comparison: Comparison) -> list[str]:
    """C5.selection for one pair: who looked at the validation split more often could have chosen more."""
    looks = {
        arm: max(
            (
                run.result.counters.get("evaluations") or 0
                for run in record.runs_of(arm, comparison.scale)
                if run.result
            ),
            default=0,
        )
        for arm in (comparison.arm, comparison.baseline)
    }
    here, there = looks.values()
    return [f"evaluated {here:g} times, {comparison.baseline} {there:g}"] if here != there else []


def _at_the_edge(record: ExperimentRecord, comparison: Comparison) -> list[str]:
    """A setting whose best value is the last one tried may not be at its best."""
    sides = (comparison.arm, comparison.baseline)
    return [
        f"{choice.arm} was tuned to {choice.field} = {choice.chosen:g}, the edge of what was tried"
        for choice in record.entry.choices
        if choice.scale == comparison.scale and choice.arm in sides and choice.at_the_edge
    ]


def _mixed_machines(record: ExperimentRecord, comparison: Comparison) -> list[str]:
    """Bits are promised per execution fingerprint; runs of one comparison should share one."""
    used = {pair.seed for pair in comparison.pairs}
    prints = {
        tuple(sorted((key, str(value)) for key, value in run.result.fingerprint.items()))
        for arm in (comparison.arm, comparison.baseline)
        for run in record.runs_of(arm, comparison.scale)
        if run.result is not None and run.entry.seed in used
    }
    return [f"the runs were made under {len(prints)} different execution fingerprints"] if len(prints) > 1 else []
