"""What stands in the way of a verdict: the reasons why runs are not reliable, and the cautions that limit an outcome."""

from __future__ import annotations

from collections.abc import Sequence

from palinode.analysis.apart import apart
from palinode.analysis.audits import ArmAudit
from palinode.analysis.compare import Comparison, LeftOut, Parity, seeds_on_two_kinds
from palinode.base.measures import EQUAL_WITHIN, MEASURES, OWN, Metric
from palinode.results.record import ExperimentRecord
from palinode.results.scored import comparable

WAYS = {"ltr": "left to right", "rtl": "right to left"}

ROUNDING = 1e-12  # of the largest score: differences that are equal in exact numbers differ by less
LEAST_ENDED = 3  # fewer pairs of runs that ended say too little about the runs that diverged
NO_SPREAD = "all differences are exactly equal, so there is no spread to measure"


def audit_reasons(audit: ArmAudit, scale: str) -> list[str]:
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


def leaks_elsewhere(here: ArmAudit, anywhere: ArmAudit) -> list[str]:
    """The reason that the arm leaks at another scale. An arm makes the same change at all scales, so its leak counts everywhere."""
    if here.leak != "none" or anywhere.leak != "unexpected":
        return []
    scales = dict.fromkeys(item.scale for item in anywhere.findings if item.finding.shows_leak)
    return [f"{here.arm.name} sees its own answer at {', '.join(scales)}"]


def pair_reasons(comparison: Comparison) -> list[str]:
    """The reasons in the pairs of runs. Runs that diverged are an outcome, as long as enough pairs ended."""
    reasons = []
    lost = [item for item in comparison.left_out if item.lost]
    diverged = [item for item in comparison.left_out if not item.lost and not item.other_kind]
    if lost:
        reasons.append(f"{len(lost)} of {comparison.planned} pairs cannot be compared ({_seeds(lost)})")
    ended = len(comparison.pairs)
    if diverged and (ended < LEAST_ENDED or 2 * ended < ended + len(diverged) + len(lost)):
        needed = f"a verdict on the pairs that ended needs {LEAST_ENDED} of them, and half of all"
        reasons.append(f"only {ended} of {comparison.planned} pairs ended ({_seeds(diverged)}); {needed}")
    if ended < 2:
        reasons.append(f"an interval needs at least 2 pairs, and there {'is 1' if ended else 'are none'}")
    elif comparison.mean != 0 and _all_equal(comparison):
        reasons.append(NO_SPREAD)
    return reasons


def _all_equal(comparison: Comparison) -> bool:
    """Whether the differences of all pairs are equal but for the rounding of their scores."""
    largest = max(abs(score) for pair in comparison.pairs for score in (pair.arm_value, pair.baseline_value))
    return comparison.spread is not None and comparison.spread <= ROUNDING * largest


def not_comparable(record: ExperimentRecord, comparison: Comparison) -> list[str]:
    """The reason that the losses of the two arms are about different tokens. Accuracies are always compared.

    Results of versions that did not store what a loss is about are not judged.
    """
    metric = Metric.parse(comparison.metric)
    if MEASURES[metric.measure].has_chance_levels:
        return []
    runs = (record.finished(arm, comparison.scale) for arm in (comparison.arm, comparison.baseline))
    ours, theirs = ({run.entry.seed: run.result for run in of_arm} for of_arm in runs)
    reasons = (
        comparable(
            ours[pair.seed],
            theirs[pair.seed],
            metric.split,
            *(
                result.own_pass(metric.split) if metric.direction == OWN else metric.direction
                for result in (ours[pair.seed], theirs[pair.seed])
            ),
        )
        for pair in comparison.pairs
    )
    return list(dict.fromkeys(reason for reason in reasons if reason is not None))


def _seeds(left_out: list[LeftOut]) -> str:
    """The reasons, each with all its seeds."""
    seeds: dict[str, list[str]] = {}
    for item in left_out:
        seeds.setdefault(item.reason, []).append(str(item.seed))
    return "; ".join(f"seed{'s' * (len(of) > 1)} {', '.join(of)}: {reason}" for reason, of in seeds.items())


def goal_cautions(record: ExperimentRecord, comparison: Comparison, cost: Parity) -> list[str]:
    """The caution that costs differ because runs end at an accuracy; none if no run does, or if the costs are equal."""
    runs = (*record.runs_of(comparison.arm, comparison.scale), *record.runs_of(comparison.baseline, comparison.scale))
    goals = [run.goal for run in runs if run.goal is not None]
    if not goals or cost.holds:
        return []
    return [
        f"not at equal {cost.axis}: runs end at an accuracy of {goals[0]:g}, so an arm that learns sooner costs less"
    ]


def cost_cautions(cost: Parity, baseline: str) -> list[str]:
    if cost.holds is None:
        return [f"{cost.axis} was not counted in every run, so equal cost cannot be checked"]
    if cost.holds:
        return []
    if cost.of_means is None:
        return [f"not at equal {cost.axis}: {baseline} has none"]
    if abs(cost.of_means) > EQUAL_WITHIN:
        return [f"not at equal {cost.axis}: it differs by {cost.of_means:+.1%}"]
    return [f"not at equal {cost.axis} in every pair of seeds, though the means over all seeds are equal"]


def audit_cautions(arm: ArmAudit, baseline: ArmAudit) -> list[str]:
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


def comparison_cautions(record: ExperimentRecord) -> list[str]:
    """The cautions about failed checks that compare all finished runs (C5), or that the audit with these checks is damaged.

    The checks in `by_pair` are left out, because other functions of this file give cautions about each pair of arms.
    """
    if (damage := record.damaged.get(record.entry.comparison)) is not None:
        return [f"the audit of the finished runs cannot be read: {damage}"]
    findings = record.comparison.findings if record.comparison is not None else ()
    by_pair = ("C5.declared_axis", "C5.runs")
    failed = [f for f in findings if f.outcome == "fail" and f.check not in by_pair]
    parts = {f.check: [part for part in f.message.split("; ") if not part.startswith("evaluations ")] for f in failed}
    return [f"{check}: {'; '.join(messages)}" for check, messages in parts.items() if messages]


def evaluation_cautions(record: ExperimentRecord, comparison: Comparison) -> list[str]:
    """The caution that two arms were evaluated different numbers of times: more evaluations give more scores to choose from."""

    def most(arm: str) -> float:
        results = (run.result for run in record.runs_of(arm, comparison.scale) if run.result)
        return max((result.counters.get("evaluations") or 0 for result in results), default=0)

    here, there = most(comparison.arm), most(comparison.baseline)
    return (
        [f"its runs were evaluated {here:g} times, those of {comparison.baseline} {there:g} times"]
        if here != there
        else []
    )


def untrained_cautions(record: ExperimentRecord, comparison: Comparison) -> list[str]:
    """The caution that an arm was never trained on the direction that is compared: its score is no sign of what it learned."""
    way = Metric.parse(comparison.metric).direction
    counted = f"tokens_scored_{way}"
    sides = {arm: record.finished(arm, comparison.scale) for arm in (comparison.arm, comparison.baseline)}
    return [
        f"{arm} was never trained {WAYS[way]}, so this score says nothing about what it learned"
        for arm, runs in sides.items()
        if way in WAYS and runs and all(run.result.counters.get(counted) == 0 for run in runs)
    ]


def edge_cautions(record: ExperimentRecord, comparison: Comparison) -> list[str]:
    """The caution that the best tuned value is the smallest or largest value that was tried, so another value may be better."""
    sides = (comparison.arm, comparison.baseline)
    return [
        f"{choice.arm} was tuned to {choice.field} = {choice.chosen:g}, the edge of what was tried"
        for choice in record.entry.choices
        if choice.scale == comparison.scale and choice.arm in sides and choice.at_the_edge
    ]


def apart_cautions(comparison: Comparison, smallest_effect: float) -> list[str]:
    """The caution that some runs of an arm ended far from the others, by more than matters: their mean describes none of them.

    Accuracies are left out: a task is learned or not, and `two_valued.py` counts such runs.
    """
    if MEASURES[Metric.parse(comparison.metric).measure].has_chance_levels:
        return []
    cautions = []
    for arm, value in ((comparison.arm, "arm_value"), (comparison.baseline, "baseline_value")):
        groups = apart([getattr(pair, value) for pair in comparison.pairs])
        if groups is not None and _gap(*groups) > smallest_effect:
            count = f"{len(groups[0])} of {len(comparison.pairs)} runs of {arm}"
            few, many = map(_range, groups)
            cautions.append(
                f"{count} ended far from the others, at {few} and not at {many}: the mean describes none of them"
            )
    return cautions


def _gap(scores: Sequence[float], others: Sequence[float]) -> float:
    """The distance between two groups of sorted scores that do not overlap."""
    return max(scores[0] - others[-1], others[0] - scores[-1])


def _range(scores: Sequence[float]) -> str:
    low, high = f"{scores[0]:.4g}", f"{scores[-1]:.4g}"
    return low if low == high else f"{low} to {high}"


def fingerprint_cautions(record: ExperimentRecord, comparison: Comparison) -> list[str]:
    """The caution that the two runs of some pairs were trained on two kinds of machine: their bits differ for this reason, too.

    Where the user asked for one kind, the caution says that these pairs are left out.
    """
    if asked := [item.seed for item in comparison.left_out if item.other_kind]:
        count = f"{len(asked)} of {comparison.planned} pairs {'is' if len(asked) == 1 else 'are'} left out, as asked"
        return [f"{count}: trained on two kinds of machine ({_listed(asked)})"]
    used = {pair.seed for pair in comparison.pairs}
    on_two = seeds_on_two_kinds(record, comparison.arm, comparison.baseline, comparison.scale)
    seeds = [seed for seed in on_two if seed in used]
    if not seeds:
        return []
    items = ", ".join(sorted({item.replace("_", " ") for seed in seeds for item in on_two[seed]}))
    were = "was" if len(seeds) == 1 else "were"
    where = f"({_listed(seeds)}; they differ in {items})"
    return [f"{len(seeds)} of {len(used)} pairs {were} trained on two kinds of machine {where}"]


def _listed(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
