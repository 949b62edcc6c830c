"""What the page says, as plain values for the template: no markup here, no arithmetic there."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from palinode.analysis.audits import Audited, arm_audit
from palinode.analysis.parity import Cost, costs
from palinode.analysis.pictures import pictures
from palinode.analysis.verdict import Rule, Verdict
from palinode.base.finding import Finding
from palinode.base.measures import CHECK_WORDS, COST_AXES, EQUAL_WITHIN
from palinode.report import words
from palinode.report.figure import Figure
from palinode.report.look import look_of
from palinode.report.maps import map_notes
from palinode.report.task_levels import reached
from palinode.results.record import ArmEntry, ChoiceEntry, ExperimentRecord, ExperimentRun

Content = dict[str, Any]
ORDER = list(CHECK_WORDS)  # what failed comes first
BAR_PIXELS = 72
PLACES = (
    *("differences", "curves", "final", "tasks", "effects", "jumps", "slices"),
    *("sizes", "grids", "cuts", "angles", "embeddings", "auxiliary"),
)
ALARM = "C8.directions"


def page_content(
    record: ExperimentRecord, rule: Rule, verdicts: Sequence[Verdict], figures: Sequence[Figure], files: Sequence[str]
) -> Content:
    """Everything the template prints, by section."""
    entry = record.entry
    colours = look_of(record, rule).colours
    return {
        "name": entry.name,
        "size": entry.size,
        "question": entry.question or entry.name,
        "rule": words.rule_words(rule),
        "planned": _plural(len(record.runs), "run"),
        "extent": f"{_plural(len(entry.arms), 'arm')}, {_plural(len(entry.scales), 'scale')}, {_plural(len(entry.seeds), 'seed')}",
        "outcomes": sorted(
            Counter(run.outcome for run in record.runs).items(), key=lambda item: (item[0] != "done", item)
        ),
        "many_scales": len(entry.scales) > 1,
        "source": {name: words.without_home(value) for name, value in entry.source.items()},
        "verdicts": _verdicts(record, verdicts, colours),
        "comparisons": len(verdicts),
        "baseline": rule.baseline,
        "baseline_is_missing": not any(run.entry.arm == rule.baseline for run in record.runs),
        "figures": {kind: [_figure(f) for f in figures if f.kind == kind] for kind in PLACES},
        "audits": [_audit(record, arm, figures, colours) for arm in entry.arms],
        "damaged": [words.without_home(str(problem)) for problem in record.damaged],
        "arms": [_arm(arm, rule, colours) for arm in entry.arms],
        "choices": [_choice(choice) for choice in entry.choices],
        "costs": [_costs_at(record, rule, scale) for scale in entry.scales],
        "comparison": [_finding(finding, "all arms") for finding in record.comparison.findings]
        if record.comparison
        else [],
        "metric": ", ".join(words.metric_words(rule.metric)),
        "runs": [_run(run, rule) for run in record.runs],
        "environment": _environment(record),
        "command": words.without_home(shlex.join(entry.command)) if entry.command else None,
        "code": words.without_home(entry.code) if entry.code else None,
        "created": entry.created,
        "plan": _plan(record),
        "files": {folder: [f for f in files if f.startswith(f"{folder}/")] for folder in ("figures", "tables")},
    }


def _verdicts(record: ExperimentRecord, verdicts: Sequence[Verdict], colours: Mapping[str, str]) -> list[Content]:
    """One card per arm, the honest ones first; with several scales a card holds a row for each."""
    by_arm: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_arm.setdefault(verdict.arm, []).append(verdict)
    cards = [_card(record, arm, of_arm, colours[arm]) for arm, of_arm in by_arm.items()]
    return sorted(cards, key=lambda card: card["leak"] != "none")


def _card(record: ExperimentRecord, arm: str, verdicts: Sequence[Verdict], colour: str) -> Content:
    leak = next((verdict.leak for verdict in verdicts if verdict.leak != "none"), "none")
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    return {
        "arm": arm,
        "colour": colour,
        "leak": leak,
        "collapse": next((verdict.collapse for verdict in verdicts if verdict.collapse != "none"), "none"),
        "tone": "leak"
        if leak != "none"
        else outcomes.most_common(1)[0][0].replace(" ", "-")
        if len(outcomes) == 1
        else "mixed",
        "title": _title(verdicts[0]) if len(verdicts) == 1 else _title_of_scales(verdicts, outcomes),
        "seen": _seen(record, arm) if leak != "none" else [],
        "scales": [_verdict(record, verdict) for verdict in verdicts],
    }


def _verdict(record: ExperimentRecord, verdict: Verdict) -> Content:
    comparison = verdict.comparison
    interval = comparison.interval
    return {
        "scale": verdict.scale,
        "outcome": verdict.outcome,
        "tone": verdict.outcome.replace(" ", "-"),
        "headline": words.headline(verdict),
        "effect": words.effect(verdict),
        "mean": words.signed(comparison.mean),
        "interval": f"{words.signed(interval.low)} to {words.signed(interval.high)}" if interval else "–",
        "p": words.number(comparison.sign_flip_p, 2),
        "pairs": len(comparison.pairs),
        "more": words.more_seeds(verdict),
        "reached": reached(record, verdict),
        "reasons": [words.without_home(reason) for reason in verdict.reasons],
        "cautions": verdict.cautions,
        "others": [
            f"{words.COST_TITLES[axis]} {words.percent(value)}" for axis, value in verdict.parity.others.items()
        ],
    }


def _title_of_scales(verdicts: Sequence[Verdict], outcomes: Counter[Any]) -> str:
    said = {
        "better": "better than",
        "worse": "worse than",
        "no difference found": "no difference from",
        "cannot tell": "cannot tell about",
    }
    baseline = verdicts[0].comparison.baseline
    if len(outcomes) == 1:
        return f"{verdicts[0].arm}: {said[verdicts[0].outcome]} {baseline} at all {len(verdicts)} scales"
    parts = [f"{outcome} at {count}" for outcome, count in outcomes.most_common()]
    return f"{verdicts[0].arm} against {baseline}: {', '.join(parts)} of {len(verdicts)} scales"


def _title(verdict: Verdict) -> str:
    """The headline with a capital, unless it begins with the arm's own name."""
    headline = words.headline(verdict)
    return headline if headline.startswith(verdict.arm) else headline[:1].upper() + headline[1:]


def _seen(record: ExperimentRecord, arm: str) -> list[str]:
    """Which positions see what, in words: from the pictures where they show it, and one finding of every other family."""
    shown = [p for p in pictures(record, arm) if p.leaks]
    seen = [f"{p.group} at length {p.length}: {' '.join(map_notes(p, 1))}" for p in shown]
    families = {_family(p.check) for p in shown}
    for item in arm_audit(record, arm).failed:
        check = item.finding.check
        if item.finding.shows_leak and _family(check) not in families:
            families.add(_family(check))
            seen.append(_alarm(record, arm) if check == ALARM else f"{check}: {item.finding.message}")
    return seen


def _alarm(record: ExperimentRecord, arm: str) -> str:
    """The losses of the two directions against each other: how many runs give the alarm, and the worst of them."""
    asked = [item for item in arm_audit(record, arm).findings if item.finding.check == ALARM]
    failed = [item for item in asked if item.finding.shows_leak]
    worst = min(failed, key=lambda item: float(item.finding.numbers.get("ratio") or 0))
    numbers = {name: words.number(worst.finding.numbers.get(f"{name}_nats_per_token")) for name in ("ltr", "rtl")}  # type: ignore[arg-type]
    where = ", ".join([*([worst.scale] if len(record.entry.scales) > 1 else []), f"seed {worst.seed}"])
    return (
        f"{ALARM}: the rtl loss is far below the ltr loss in {len(failed)} of {len(asked)} runs; the worst ({where}) "
        f"reads rtl at {numbers['rtl']} and ltr at {numbers['ltr']} nats per token. "
        "No honest model reads a text better from its end."
    )


def _family(check: str) -> str:
    return check.partition(".")[0]


def _figure(figure: Figure) -> Content:
    return {
        "name": figure.name,
        "title": figure.title,
        "notes": figure.notes,
        "description": figure.description,
        "choice": figure.choice,
        "choices": list(figure.labels.items()),
        "log_axes": figure.log_axes,
        "directions": _directions(figure),
    }


def _directions(figure: Figure) -> list[str]:
    """The directions a chart can be narrowed to: none where it shows only one."""
    found = sorted({row["direction"] for row in figure.rows if "direction" in row})
    return found if len(found) > 1 else []


def _audit(record: ExperimentRecord, arm: ArmEntry, figures: Sequence[Figure], colours: Mapping[str, str]) -> Content:
    audit = arm_audit(record, arm.name)
    items = sorted(audit.findings, key=lambda item: (ORDER.index(item.finding.outcome), item.finding.check))
    findings = _findings(items)
    counted = Counter(finding["outcome"] for finding in findings)
    return {
        "arm": arm.name,
        "colour": colours[arm.name],
        "leak": audit.leak,
        "collapse": audit.collapse,
        "expect_leak": arm.expect_leak,
        "missing": [scale for scale in record.entry.scales if scale not in audit.reports],
        "damaged": [words.without_home(problem) for problem in audit.damaged],
        "counts": [(said, outcome, counted[outcome]) for outcome, said in CHECK_WORDS.items() if counted[outcome]],
        "seconds": words.duration(sum(report.seconds for report in audit.reports.values())),
        "maps": [_figure(figure) for figure in figures if figure.kind == "map" and figure.arm == arm.name],
        "findings": [finding for finding in findings if finding["outcome"] != "pass"],
        "passed": [finding for finding in findings if finding["outcome"] == "pass"],
    }


def _findings(items: Sequence[Audited]) -> list[Content]:
    """Findings for the page; what several runs or scales found alike is said once, with every place."""
    alike: dict[tuple[str, ...], list[Audited]] = {}
    for item in items:
        finding = item.finding
        key = (
            finding.check,
            finding.outcome,
            finding.message,
            str(dict(finding.numbers)),
            str(dict(finding.reproduce)),
        )
        alike.setdefault(key, []).append(item)
    return [_finding(group[0].finding, _places(group)) for group in alike.values()]


def _places(group: Sequence[Audited]) -> str:
    """`base`, or `base, after training with seeds 1, 2`."""
    seeds: dict[str, list[str]] = {}
    for item in group:
        seeds.setdefault(item.scale, []).extend([] if item.seed is None else [str(item.seed)])
    return "; ".join(
        f"{scale}, after training with seed{'s' if len(known) > 1 else ''} {', '.join(known)}" if known else scale
        for scale, known in seeds.items()
    )


def _finding(finding: Finding, where: str) -> Content:
    return {
        "check": finding.check,
        "outcome": finding.outcome,
        "said": CHECK_WORDS[finding.outcome],
        "where": where,
        "trained": "after training" in where,
        "message": finding.message,
        "law": finding.law,
        "threshold": None if finding.threshold is None else words.number(finding.threshold),
        "numbers": [(name.replace("_", " "), _value(value)) for name, value in finding.numbers.items()],
        "reproduce": ", ".join(f"{name} = {_plain(value)}" for name, value in finding.reproduce.items()),
    }


def _arm(arm: ArmEntry, rule: Rule, colours: Mapping[str, str]) -> Content:
    return {
        "name": arm.name,
        "colour": colours[arm.name],
        "note": arm.note,
        "is_baseline": arm.name == rule.baseline,
        "expect_leak": arm.expect_leak,
        "expect_collapse": arm.expect_collapse,
        "diff": [(path, _plain(before), _plain(after)) for path, before, after in arm.diff],
    }


def _choice(choice: ChoiceEntry) -> Content:
    return {
        "arm": choice.arm,
        "scale": choice.scale,
        "field": choice.field,
        "chosen": words.number(choice.chosen),
        "at_the_edge": choice.at_the_edge,
        "tried": [
            (words.number(value), words.number(score, 4), value == choice.chosen)
            for value, score in zip(choice.values, choice.scores, strict=True)
        ],
    }


def _costs_at(record: ExperimentRecord, rule: Rule, scale: str) -> Content:
    here = {(cost.arm, cost.axis): cost for cost in costs(record, rule.baseline) if cost.scale == scale}
    arms = [arm.name for arm in record.entry.arms]
    rows = []
    for axis in COST_AXES:
        cells = [here[arm, axis] for arm in arms]
        if any(cell.mean for cell in cells):
            largest = max(cell.mean or 0.0 for cell in cells)
            shown = [_cost(cell, largest, arm == rule.baseline) for arm, cell in zip(arms, cells, strict=True)]
            rows.append({"title": words.COST_TITLES[axis], "declared": axis == rule.equal, "cells": shown})
    return {"scale": scale, "arms": arms, "rows": rows}


def _cost(cost: Cost, largest: float, is_baseline: bool) -> Content:
    away = None if cost.ratio is None else cost.ratio - 1
    return {
        "mean": words.number(cost.mean),
        "bar": round(BAR_PIXELS * (cost.mean or 0.0) / largest, 1) if largest else 0,
        "away": "" if is_baseline or away is None else ("equal" if abs(away) <= EQUAL_WITHIN else words.percent(away)),
        "unequal": away is not None and abs(away) > EQUAL_WITHIN,
    }


def _run(run: ExperimentRun, rule: Rule) -> Content:
    result = run.result
    reason = run.record.reason if run.record is not None else None
    return {
        "arm": run.entry.arm,
        "scale": run.entry.scale,
        "seed": run.entry.seed,
        "run_id": run.entry.run_id,
        "outcome": run.outcome,
        "reason": words.without_home(reason) if reason else "",
        "value": words.aligned(result.score(rule.metric) if result else None),
        "steps": words.number(result.counters.get("optimizer_steps") if result else None),
        "seconds": words.duration(_float(result.seconds.get("total")) if result else None),
        "attempts": result.attempts if result else None,
        "imported": result is not None and result.provenance == "imported",
        "weights": result.weights_sha256[:12] if result and result.weights_sha256 else "–",
    }


def _environment(record: ExperimentRecord) -> list[Content]:
    """Each item of the fingerprints with its values; more than one value means that machines were mixed."""
    values: dict[str, Counter[str]] = {}
    for run in record.runs:
        for item, value in sorted((run.result.fingerprint if run.result else {}).items()):
            values.setdefault(item, Counter())[words.without_home(str(value))] += 1
    return [
        {
            "item": item.replace("_", " "),
            "values": [value for value, _ in counted.most_common()],
            "mixed": len(counted) > 1,
        }
        for item, counted in values.items()
    ]


def _plan(record: ExperimentRecord) -> list[tuple[str, str]]:
    """What was predicted, and what the finished runs took."""
    said = [
        (_quantity(name), _amount(name, value))
        for name, value in record.entry.plan.items()
        if isinstance(value, str | int | float)
    ]
    took = [_float(run.result.seconds.get("total")) for run in record.runs if run.result is not None]
    known = [seconds for seconds in took if seconds is not None]
    return [*said, *([("taken by the runs, added up", words.duration(sum(known)))] if known else [])]


def _quantity(name: str) -> str:
    return name.removesuffix("_seconds").removesuffix("_bytes").replace("_", " ")


def _amount(name: str, value: str | int | float) -> str:
    if isinstance(value, str | bool):
        return str(value)
    if name.endswith("_seconds"):
        return words.duration(float(value))
    return f"{words.number(value / 1e6, 3)} MB" if name.endswith("_bytes") else words.number(value)


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _value(value: Any) -> str:
    return words.number(value) if isinstance(value, int | float) and not isinstance(value, bool) else _plain(value)


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _float(value: float | int | None) -> float | None:
    return None if value is None else float(value)
