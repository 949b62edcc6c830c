"""The sections of the page and the values that the sections print. This file holds no markup, the templates do no arithmetic.

A new section needs one more entry in SECTIONS and one more template.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from palinode.analysis.audits import ArmFinding, arm_audit, pictures
from palinode.analysis.claims import JudgedClaim
from palinode.analysis.compare import Cost, costs
from palinode.analysis.deviations import deviations, rule_was_fixed
from palinode.analysis.verdict import Verdict, over_scales_of
from palinode.base.decision import Decision
from palinode.base.finding import Finding, seconds_together
from palinode.base.measures import CHECK_WORDS, COST_AXES, EQUAL_WITHIN
from palinode.checks.explained import code_of, explanation
from palinode.report import words
from palinode.report.findings import between, effect_words, published_cell
from palinode.report.levels import reached
from palinode.report.maps import map_notes
from palinode.report.retrieval_figures import retrieval_content
from palinode.report.study import Figure, Study
from palinode.report.trained import what_was_trained
from palinode.results.record import NOT_COMPARED, ArmEntry, ExperimentRecord
from palinode.results.seals import Look, Seal

Content = dict[str, Any]
SMOKE = "smoke"  # the size that only tests whether everything works; the numbers of smoke runs decide nothing
ORDER = list(CHECK_WORDS)  # the order in which outcomes of checks are listed: failed checks come first
SCALES_WORDS = {
    "better": "better than",
    "better where it ends": "better, where it ends, than",
    "worse": "worse than",
    "not worse": "not worse than",
    "smaller than matters": "differs by less than matters from",
    "cannot tell": "cannot tell about",
}
BAR_PIXELS = 72
MOST_RUNS = 1_000  # the most runs that the page lists, at 0.6 kB each; the table `runs` lists every run
ALARM = "C8.directions"


@dataclass(frozen=True)
class Page:
    """The content of the page: the study, its figures, the paths of its other files, its judged claims, its seals and its looks."""

    study: Study
    figures: Sequence[Figure]
    files: Sequence[str]
    claims: Sequence[JudgedClaim] = ()
    seals: Sequence[Seal] = ()
    looks: Sequence[Look] = ()

    @property
    def record(self) -> ExperimentRecord:
        return self.study.record

    @property
    def colours(self) -> Mapping[str, str]:
        return self.study.look.colours


def head(page: Page) -> Content:
    """The top of the page: the question of the experiment, the number of runs, and the outcomes of the runs."""
    entry, runs = page.record.entry, page.record.runs
    parts = (("arm", entry.arms), ("scale", entry.scales), ("seed", entry.seeds))
    counted = Counter(run.outcome for run in runs)
    return {
        "entry": entry,
        "record": page.record,
        "rule": page.study.rule,
        "colours": page.colours,
        "decides_nothing": entry.size == SMOKE,
        "question": entry.question or entry.name,
        "planned": words.plural(len(runs), "run"),
        "extent": ", ".join(words.plural(len(items), word) for word, items in parts),
        "outcomes": sorted(counted.items(), key=lambda item: (item[0] != "done", item)),
        "many_scales": len(entry.scales) > 1,
    }


# --- verdict --------------------------------------------------------------------------------------------------------


def verdict(page: Page) -> Content:
    """The section of verdicts: one card per arm (arms without a leak first), the decision rule, and the trained models."""
    rule, verdicts = page.study.rule, page.study.verdicts
    by_arm: dict[str, list[Verdict]] = {}
    for one in verdicts:
        by_arm.setdefault(one.arm, []).append(one)
    cards = [_card(page, arm, of_arm) for arm, of_arm in by_arm.items()]
    return {
        "cards": sorted(cards, key=lambda card: card["leak"] != "none"),
        "rule": words.rule_words(rule),
        "comparisons": len(verdicts),
        "allowed_for": max((one.deciding.comparisons for one in verdicts), default=1),
        "plan": _sealed_plan(page),
        "baseline": rule.baseline,
        "baseline_is_missing": not any(run.entry.arm == rule.baseline for run in page.record.runs),
        "damaged": page.record.damaged.values(),
        "trained": what_was_trained(page.study),
    }


def _sealed_plan(page: Page) -> Content:
    """What was written down before the runs: the first seal, the number of seals and looks, and the deviations from the plan."""
    outcomes = Counter(run.outcome for run in page.record.runs)
    ended = [f"{words.number(count)} {outcome}" for outcome, count in outcomes.most_common()]
    return {
        "seal": page.seals[0] if page.seals else None,
        "seals": words.plural(len(page.seals), "seal"),
        "looks": words.plural(len(page.looks), "look"),
        "deviations": deviations(page.record, page.seals, page.looks),
        "rule_was_fixed": rule_was_fixed(page.record, page.seals),
        "counts": f"{words.plural(len(page.record.runs), 'run')} planned: {', '.join(ended)}",
        "pairs": words.plural(sum(len(one.comparison.pairs) for one in page.study.verdicts), "pair"),
    }


def _card(page: Page, arm: str, verdicts: Sequence[Verdict]) -> Content:
    """The card of one arm. With several scales, the card has a row for each scale."""
    leak = next((one.leak for one in verdicts if one.leak != "none"), "none")
    outcomes = Counter(one.outcome for one in verdicts)
    tone = outcomes.most_common(1)[0][0].replace(" ", "-") if len(outcomes) == 1 else "mixed"
    return {
        "arm": arm,
        "colour": page.colours[arm],
        "leak": leak,
        "collapse": next((one.collapse for one in verdicts if one.collapse != "none"), "none"),
        "tone": "leak" if leak != "none" else tone,
        "title": _title(verdicts[0]) if len(verdicts) == 1 else _title_of_scales(verdicts, outcomes),
        "leaks": _leak_sentences(page.record, arm) if leak != "none" else [],
        "verdicts": [(one, reached(page.record, one)) for one in verdicts],
        "over_scales": words.over_scales(over_scales_of(page.record, verdicts), page.study.rule),
    }


def _title_of_scales(verdicts: Sequence[Verdict], outcomes: Counter[Any]) -> str:
    arm, baseline = verdicts[0].arm, verdicts[0].comparison.baseline
    if len(outcomes) == 1:
        return f"{arm}: {SCALES_WORDS[verdicts[0].outcome]} {baseline} at all {len(verdicts)} scales"
    parts = [f"{outcome} at {count}" for outcome, count in outcomes.most_common()]
    return f"{arm} against {baseline}: {', '.join(parts)} of {len(verdicts)} scales"


def _title(verdict: Verdict) -> str:
    """The headline of a verdict with a capital first letter. A headline that begins with the name of the arm is not changed."""
    headline = words.headline(verdict)
    return headline if headline.startswith(verdict.arm) else headline[:1].upper() + headline[1:]


def _leak_sentences(record: ExperimentRecord, arm: str) -> list[str]:
    """The sentences about the leaks of an arm: one per influence picture with a leak, and one per other family of checks."""
    shown = [p for p in pictures(record, arm) if p.leaks]
    sentences = [f"{p.group} at length {p.length}: {' '.join(map_notes(p, 1))}" for p in shown]
    families = {code_of(p.check) for p in shown}
    for item in arm_audit(record, arm).failed:
        check = item.finding.check
        if item.finding.shows_leak and code_of(check) not in families:
            families.add(code_of(check))
            sentences.append(_alarm(record, arm) if check == ALARM else f"{check}: {item.finding.message}")
    return sentences


def _alarm(record: ExperimentRecord, arm: str) -> str:
    """The sentence about check C8.directions: the number of runs that fail the check, and the losses of the worst run."""
    checked = [item for item in arm_audit(record, arm).findings if item.finding.check == ALARM]
    failed = [item for item in checked if item.finding.shows_leak]
    worst = min(failed, key=lambda item: float(item.finding.numbers.get("ratio") or 0))
    numbers = {name: words.number(worst.finding.numbers.get(f"{name}_nats_per_token")) for name in ("ltr", "rtl")}  # type: ignore[arg-type]
    where = ", ".join([*([worst.scale] if len(record.entry.scales) > 1 else []), f"seed {worst.seed}"])
    return (
        f"{ALARM}: the rtl loss is far below the ltr loss in {len(failed)} of {len(checked)} runs; the worst ({where}) "
        f"reads rtl at {numbers['rtl']} and ltr at {numbers['ltr']} nats per token. "
        "No honest model reads a text better from its end."
    )


# --- claims and audit ----------------------------------------------------------------------------------------------------------


def claims(page: Page) -> Content | None:
    """The judged claims of the experiment, one row each; None if the experiment has no claims."""
    rows = [claim.row() for claim in page.claims]
    for row in rows:
        row |= {"effect": effect_words(row), "published": published_cell(row), "interval": between(row)}
    return {"claims": rows} if rows else None


def audit(page: Page) -> Content:
    """The section of audits: the findings about every arm, failed checks first, and an explanation of every check that was made."""
    comparison = page.record.comparison.findings if page.record.comparison else ()
    audits = {arm.name: arm_audit(page.record, arm.name) for arm in page.record.entry.arms}
    made = {item.finding.check for one in audits.values() for item in one.findings}
    codes = dict.fromkeys(sorted(code_of(check) for check in made | {finding.check for finding in comparison}))
    explained = [one for code in codes if (one := explanation(code)) is not None]
    seconds = seconds_together(report for one in audits.values() for report in one.reports.values())
    return {"arms": [_audit(page, arm) for arm in page.record.entry.arms], "explained": explained, "seconds": seconds}


def _audit(page: Page, arm: ArmEntry) -> Content:
    record, audited = page.record, arm_audit(page.record, arm.name)
    findings = _findings(
        sorted(audited.findings, key=lambda item: (ORDER.index(item.finding.outcome), item.finding.check))
    )
    counted: Counter[str] = Counter(finding.outcome for finding, _ in findings)
    return {
        "arm": arm.name,
        "colour": page.colours[arm.name],
        "audit": audited,
        "missing": [scale for scale in record.entry.scales if scale not in audited.reports],
        "counts": [(outcome, counted[outcome]) for outcome in ORDER if counted[outcome]],
        "seconds": seconds_together(audited.reports.values()),
        "maps": [figure for figure in page.figures if figure.section == "audit" and figure.arm == arm.name],
        "findings": [(finding, where) for finding, where in findings if finding.outcome != "pass"],
        "passed": [(finding, where) for finding, where in findings if finding.outcome == "pass"],
    }


def _findings(items: Sequence[ArmFinding]) -> list[tuple[Finding, str]]:
    """The findings with their places (scale and seeds). Equal findings of several runs or scales are printed once."""
    alike: dict[tuple[str, ...], list[ArmFinding]] = {}
    for item in items:
        finding = item.finding
        numbers, reproduce = str(dict(finding.numbers)), str(dict(finding.reproduce))
        alike.setdefault((finding.check, finding.outcome, finding.message, numbers, reproduce), []).append(item)
    return [(group[0].finding, _places(group)) for group in alike.values()]


def _places(group: Sequence[ArmFinding]) -> str:
    """The scales and seeds of a finding as text, such as `base` or `base, after training with seeds 1, 2`."""
    seeds: dict[str, list[str]] = {}
    for item in group:
        seeds.setdefault(item.scale, []).extend([] if item.seed is None else [str(item.seed)])
    return "; ".join(
        f"{scale}, after training with seed{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}" if numbers else scale
        for scale, numbers in seeds.items()
    )


# --- cost -----------------------------------------------------------------------------------------------------------


def cost(page: Page) -> Content:
    """The section of costs: the cost of every arm relative to the baseline, and the checks that compare the finished runs."""
    return {"blocks": [_costs_at(page, scale) for scale in page.record.entry.scales]}


def _costs_at(page: Page, scale: str) -> Content:
    rule, arms = page.study.rule, page.study.arms()
    here = {(cost.arm, cost.axis): cost for cost in costs(page.record, rule.baseline) if cost.scale == scale}
    rows = []
    for axis in COST_AXES:
        cells = [here[arm, axis] for arm in arms]
        if any(cell.mean for cell in cells):
            largest = max(cell.mean or 0.0 for cell in cells) or 1.0
            shown = [(cell, round(BAR_PIXELS * (cell.mean or 0.0) / largest, 1), *_away(cell, rule)) for cell in cells]
            rows.append({"title": COST_AXES[axis].title, "declared": axis == rule.equal, "cells": shown})
    return {"scale": scale, "arms": arms, "rows": rows}


def _away(cost: Cost, rule: Decision) -> tuple[str, bool]:
    """A pair: the difference of a cost from the cost of the baseline as text, and whether the two costs count as unequal."""
    if cost.ratio is None or cost.arm == rule.baseline:
        return "", False
    unequal = abs(cost.ratio - 1) > EQUAL_WITHIN
    return words.percent(cost.ratio - 1) if unequal else "equal", unequal


# --- runs -----------------------------------------------------------------------------------------------------------


def runs(page: Page) -> Content:
    """The section of runs: one row for each run. Of a large experiment, the runs that are not done, and the first of the others."""
    planned = page.record.runs
    if len(planned) <= MOST_RUNS:
        return {"runs": planned, "left_out": 0}
    not_done = [run for run in planned if run.outcome != "done"][:MOST_RUNS]
    first = [run for run in planned if run.outcome == "done"][: MOST_RUNS - len(not_done)]
    return {"runs": [*not_done, *first], "left_out": len(planned) - len(not_done) - len(first)}


# --- again ----------------------------------------------------------------------------------------------------------


def again(page: Page) -> Content:
    """The section about repeating the experiment: the command, the machine, the plan, the files of the report."""
    entry, folders = page.record.entry, ("figures", "tables")
    return {
        "command": shlex.join(entry.command),
        "environment": _environment(page.record),
        "plan": _plan(page.record),
        "files": {folder: [f for f in page.files if f.startswith(f"{folder}/")] for folder in folders},
    }


def _environment(record: ExperimentRecord) -> list[Content]:
    """The items of the execution fingerprints with their values. If an item has several values, the runs' environments differed."""
    values: dict[str, Counter[str]] = {}
    for run in record.runs:
        for item, value in sorted((run.result.fingerprint if run.result else {}).items()):
            values.setdefault(item, Counter())[words.without_home(str(value))] += 1
    listed = {item.replace("_", " "): [value for value, _ in counted.most_common()] for item, counted in values.items()}
    not_compared = {item.replace("_", " ") for item in NOT_COMPARED}
    rows: list[Content] = [
        {"item": item, "values": found, "mixed": len(found) > 1 and item not in not_compared}
        for item, found in listed.items()
    ]
    stacked = sorted({run.result.may_differ_by for run in record.runs if run.result is not None} - {""})
    return rows + ([{"item": "stacked runs", "values": stacked, "mixed": False}] if stacked else [])


def _plan(record: ExperimentRecord) -> list[tuple[str, str]]:
    """The costs that the plan predicted, and the total time of all runs with a result."""
    rows = [
        (name.removesuffix("_seconds").removesuffix("_bytes").replace("_", " "), _amount(name, value))
        for name, value in record.entry.plan.items()
        if isinstance(value, str | int | float)
    ]
    took = [run.result.seconds.get("total") for run in record.runs if run.result is not None]
    known = [seconds for seconds in took if seconds is not None]
    return [*rows, *([("taken by the runs, added up", words.duration(sum(known)))] if known else [])]


def _amount(name: str, value: str | int | float) -> str:
    if isinstance(value, str | bool):
        return str(value)
    if name.endswith("_seconds"):
        return words.duration(float(value))
    return f"{words.number(value / 1e6, 3)} MB" if name.endswith("_bytes") else words.number(value)


# --- the sections in their order ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """A section of the page. A section appears if it has figures, or if `fill` returns values to print.

    Attributes:
        name: the anchor of the section, and the name that a figure stores to belong to this section.
        nav: the name of the section in the list at the top; `title`: the heading of the section.
        fill: the function that returns the values for `templates/<name>.html`; None if the section has only charts.
    """

    name: str
    nav: str
    title: str = ""
    fill: Callable[[Page], Content | None] = lambda page: None


SECTIONS = (
    Section("verdict", "Verdict", fill=verdict),
    Section("claims", "Claims", "Claims", claims),
    Section("curves", "Curves", "Learning curves and final scores"),
    Section("task", "Task", "The task"),
    Section("retrieval", "Retrieval", "Retrieval", lambda page: retrieval_content(page.study.record)),
    Section("sizes", "Ratios", "Ratios and sizes"),
    Section("cuts", "Cuts", "With fewer blocks"),
    Section("auxiliary", "Terms", "Auxiliary terms"),
    Section("embeddings", "Embeddings", "Embeddings"),
    Section("audit", "Audit", "Audit: may these runs be believed?", audit),
    Section("arms", "Arms", "What differs between the arms", lambda page: {}),
    Section("chosen", "Tuning", "How a setting was chosen", lambda page: {} if page.record.entry.choices else None),
    Section("cost", "Cost", "Cost and parity", cost),
    Section("runs", "Runs", "Every run", runs),
    Section("again", "Again", "To do it again", again),
)


def page_content(page: Page) -> Content:
    """The values that the templates print: the head of the page and its sections.

    The figures of a section come in groups of equal width: pairs (whether the figures are half as wide as the page, the figures).
    """
    by_section: dict[str, list[Figure]] = {}
    for figure in page.figures:
        by_section.setdefault(figure.section, []).append(figure)
    if not by_section.get("verdict") and by_section.get("curves"):
        by_section["verdict"] = [by_section["curves"].pop(0)]  # so the first screen of the page shows a chart
    sections = []
    for section in SECTIONS:
        figures, filled = by_section.get(section.name, []), section.fill(page)
        if figures or filled is not None:
            rows = [(half, list(group)) for half, group in groupby(figures, key=lambda figure: figure.half)]
            sections.append({"section": section, "rows": rows, **(filled or {})})
    return {**head(page), "sections": sections}
