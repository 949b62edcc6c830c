"""The findings of an experiment: its claims with their judgements, as a dated Markdown page and as a JSON file."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import jinja2

from palinode.analysis.claim_measures import NO_CLAIM, Evidence, edges
from palinode.analysis.claims import JudgedClaim, judged_claims, token_frequencies
from palinode.analysis.compare import costs
from palinode.analysis.deviations import deviations, rule_was_fixed
from palinode.analysis.ratios import final_scores
from palinode.analysis.tasks import learned_from, levels_at
from palinode.analysis.verdict import Verdict, verdicts
from palinode.base import fsio
from palinode.base.errors import BadInput
from palinode.base.measures import probability_words
from palinode.checks.laws import LAWS
from palinode.report import words
from palinode.report.claim_chart import as_shown, claims_chart
from palinode.report.drawing import drawn
from palinode.report.retrieval_figures import retrieval_content, retrieval_figures
from palinode.report.study import Study
from palinode.report.theme import svg
from palinode.results.record import ExperimentRecord
from palinode.results.store import Store

TEMPLATE = "findings.md"
RANKED = "-ndcg.svg"  # the end of the name of the figure of retrievers
# The options that choose the store, how many runs are trained at a time, and for how long. These options do not change the runs.
LOCAL_OPTIONS = ("--store", "--workers", "--stack", "--hours")
# Two texts by which `_cautions` recognizes cautions about an arm. Cautions with the same text become one line for all their arms.
COULD_NOT_TELL, AT_THE_EDGE = " could not tell on ", ", the edge of what was tried"
WAS_TUNED = " was tuned to "  # stands behind the name of an arm that was best at the edge
AND = " and "
BEST_AT_THE_EDGE = "best at the edge of what was tried, so another setting may be better: "
# Judgement -> what is said of one row, and of several.
IN_SHORT = {
    "holds": ("holds", "hold"),
    "does not hold": ("does not hold", "do not hold"),
    "cannot tell": ("cannot be told", "cannot be told"),
}
# Digits of the numbers of a page. The same runs give other last digits on another kind of CPU: 6e-14 of a slope, between AVX2 and
# AVX-512.
DIGITS = 10
Row = dict[str, Any]


def write_findings(store: Store, name: str, directory: Path) -> tuple[Path, ...]:
    """Write `<name>--<size>.md`, `<name>--<size>.json` and, if a claim has an effect, the figure `<name>--<size>.svg`.

    If the runs scored retrievers, the figure `<name>--<size>-ndcg.svg` shows their scores.

    Args:
        name: the name of the experiment: `<name>--<size>`, or `<name>` if the experiment was run at one size only.
        directory: the directory for both files; it is created if it does not exist.

    Returns:
        The paths of the Markdown page, of the JSON file and of the figures.

    Raises:
        BadInput: the store has no experiment of this name, or the experiment has no claims.
        Damaged: a stored file does not decode.
        EnvironmentProblem: the disk cannot be written.
    """
    record = store.experiment(name)
    content = findings(store, record)
    page, numbers, figure = (directory / f"{record.entry.full_name}.{ending}" for ending in ("md", "json", "svg"))
    fsio.write_text(page, page_text(content))
    fsio.write_json(numbers, content)
    written = [page, numbers]
    if (chart := claims_chart(content["claims"])) is not None:
        fsio.write_text(figure, svg(chart))
        written.append(figure)
    if content["retrieval"] is not None:
        written.append(_ranked(record, directory / f"{record.entry.full_name}{RANKED}"))
    return tuple(written)


def _ranked(record: ExperimentRecord, path: Path) -> Path:
    """Draw nDCG@10 of the retriever that the rule asks for, or of the first one, by arm and beside BM25."""
    every = list(retrieval_figures(Study.of(record)))
    asked = next((one for one in every if one.name.startswith(record.entry.rule.score.direction)), every[0])
    [(_, picture)] = drawn(asked)
    fsio.write_text(path, picture)
    return path


def findings(store: Store, record: ExperimentRecord) -> dict[str, Any]:
    """The content of the findings page as plain data. Its numbers are rounded to ten digits, so that every CPU gives the same page.

    Raises:
        BadInput: the experiment has no claims.
    """
    entry, rule = record.entry, record.entry.rule
    if not entry.claims:
        hint = "write claims=(Claim(...),) in its file and `palinode run` it again: no finished run is trained twice"
        raise BadInput(f"{entry.full_name} has no claims", field="claims", hint=hint)
    judged, by_rule = judged_claims(store, record), verdicts(record)
    claims = tuple(claim for claim in judged if not claim.is_left_out)
    of_name = {name: at for at, name in enumerate(dict.fromkeys(claim.claim.name for claim in claims))}
    claims = tuple(sorted(claims, key=lambda row: of_name[row.claim.name]))
    rows = [claim.row() for claim in claims]
    content = {
        "experiment": entry.name,
        "size": entry.size,
        "question": entry.question,
        "about": " ".join(entry.about.split()),
        "created": entry.created[:10],
        "outcomes": dict(Counter(run.outcome for run in record.runs)),
        "seeds": list(entry.seeds),
        "runs": what_was_run(record),
        "hours": _hours(store, record),
        "rule": words.rule_words(rule),
        "plan": _plan(store, record),
        "confidence": rule.confidence,
        "smallest_effect": rule.smallest_effect,
        "token_frequencies_nats": token_frequencies(store, record),
        "figure": claims_chart(rows) is not None,
        "in_short": _in_short(rows),
        "claims": rows,
        "left_out": dict(Counter(claim.claim.name for claim in judged if claim.is_left_out)),
        "promised": _promised(claims),
        "published_outside": list(
            dict.fromkeys(f"{row.claim.name} {row.measured.scale}" for row in claims if row.published_is_outside)
        ),
        "levels": _levels(record),
        "sources": list(dict.fromkeys(claim.source for claim in entry.claims if claim.source)),
        "notes": _notes(claims),
        "choices": _choices(record),
        "cautions": _cautions(record, claims, by_rule),
        "arms": [_arm_row(verdict, record) for verdict in by_rule],
        "intervals": sum(row["low"] is not None for row in rows)
        + sum(v.deciding.interval is not None for v in by_rule),
        "scores": _scores(record),
        "scores_are_losses": rule.curve_measure != rule.score.measure,
        "retrieval": retrieval_content(record),
        "command": without_local_options(entry.command),
    }
    return {key: _rounded(value) for key, value in content.items()}


def _rounded(value: Any) -> Any:
    """Plain data with every number rounded to DIGITS digits."""
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def page_text(content: Mapping[str, Any]) -> str:
    """The Markdown text of the findings page."""
    environment = jinja2.Environment(  # noqa: S701  the page is Markdown, not HTML
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"table": table, "signed": signed, "between": between, "alone": alone}
    environment.filters |= {
        "claim_words": claim_words,
        "effect_words": effect_words,
        "in_unit": in_unit,
        "published_cell": published_cell,
        "kept": kept,
        "probability_words": probability_words,
    }
    source = (resources.files("palinode.report") / "templates" / TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(content)


def table(rows: Iterable[Sequence[Any]], heads: str) -> str:
    """A Markdown table. `heads` holds the headings of the columns, separated by commas."""
    names = heads.split(", ")
    lines = [names, ["---"] * len(names), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return "" if value is None else " ".join(str(value).replace("|", "\\|").split())


def signed(value: float | None) -> str:
    """A number as text with a sign and four decimals; a very small number has three digits; None becomes an empty text."""
    if value is None:
        return ""
    return f"{value:+.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:+.3g}"


def between(row: Mapping[str, Any]) -> str:
    """The interval that judges a row as text, or its p value; an empty text if the row has neither.

    A row with both was judged by the p value: runs that learned were counted.
    """
    ends = [f"family_{end}" if f"family_{end}" in row else end for end in ("low", "high")]
    low, high = (in_unit(row.get("measure"), as_shown(row, end)) for end in ends)
    parts = [f"{low} to {high}"] if low else []
    if row.get("p") is not None:
        largest = "" if row.get("largest_p") is None else f" (shows an effect up to {row['largest_p']:.3g})"
        parts.append(f"p = {row['p']:.3g}{largest}")
    return "; ".join(parts)


def alone(row: Mapping[str, Any]) -> str:
    """The interval of a row of a claim alone, as text; an empty text if it is the one that judges the row."""
    same = (row["low"], row["high"]) == (row["family_low"], row["family_high"])
    return "" if same else " to ".join(in_unit(row.get("measure"), as_shown(row, end)) for end in ("low", "high"))


def effect_words(row: Mapping[str, Any]) -> str:
    """The effect of a row of a claim as text, after `>=` or `<=` where censored runs make it a bound."""
    return " ".join(word for word in (row["effect_bound"], in_unit(row["measure"], row["effect"])) if word)


def in_unit(measure: str | None, value: float | None) -> str:
    """A value of a measure as text: a difference has a sign, a score and a ratio of steps have none."""
    digits = {"steps_to_learn": 2, "score": 4}.get(measure or "")
    return signed(value) if digits is None or value is None else f"{value:.{digits}f}"


def published_cell(row: Mapping[str, Any]) -> str:
    """The published number of a row of a claim, with what the difference that was measured says about it.

    A number that was turned into our unit stands before the published one.
    """
    number, of = in_unit(row.get("measure"), row["published"]), row.get("published_of")
    if number and of:
        number = f"{number} (published: {signed(row['published_as'])} of {of:g})"
    return ": ".join(word for word in (number, row["published_words"]) if word)


def claim_words(row: Mapping[str, Any]) -> str:
    """The sentence of a claim behind its name, and the bound that it asks for where this is not the value of no effect."""
    bound = " or ".join(signed(value) for value in row["limits"])
    return f"{row['name']}. {row['claim']}{f' The bound is {bound}.' if bound else ''}"


def kept(value: bool | None) -> str:
    """Yes or no; an empty text if it cannot be said."""
    return "" if value is None else "yes" if value else "no"


def without_local_options(command: Sequence[str]) -> str:
    """A stored command line without the options in LOCAL_OPTIONS, which do not change the runs."""
    kept: list[str] = []
    is_value = False
    for word in command:
        option, equals, _ = word.partition("=")
        local = option in LOCAL_OPTIONS
        if not is_value and not local:
            kept.append(word)
        is_value = local and not equals and not is_value
    return shlex.join(kept)


def what_was_run(record: ExperimentRecord) -> str:
    """The sentence about the data, parameters, steps and tokens of the finished runs; an empty text if no run is finished."""
    done = [(run.record.spec, run.result) for run in record.runs if run.record and run.result and run.outcome == "done"]
    if not done:
        return ""
    data = "; ".join(dict.fromkeys(_data(spec["data"], spec["recipe"]) for spec, _ in done))
    parameters = _span([result.parameters["total"] for _, result in done])
    steps, tokens = (_span([r.counters[name] or 0 for _, r in done]) for name in ("optimizer_steps", "tokens_read"))
    return f"{data}; {parameters} parameters, {steps} steps, {tokens} tokens read by each run"


def _span(values: Sequence[float]) -> str:
    """The text for a range of numbers: one number if all are equal, otherwise the least and the largest number."""
    return " to ".join(f"{end:,.0f}" for end in sorted({min(values), max(values)}))


def _data(data: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    if "task" in data:
        task, sequences = data["task"], data["train_sequences"]
        options = ", ".join(f"{name} {value}" for name, value in task.items() if type(value) is int)
        drawn = f"the same {sequences:,} sequences in every epoch" if sequences else "new sequences at every step"
        return f"{task['kind']} ({options}), {drawn}, {recipe['batch_windows']} sequences a step"
    return f"{data['corpus']} as {data['tokenizer']} in windows of {data['window_tokens']} tokens"


def _in_short(rows: Sequence[Row]) -> list[str]:
    """A line for each claim: its sentence with the verdict, or how many of its rows hold, do not hold and cannot be told."""
    lines = []
    for name, measure in dict.fromkeys((row["name"], row["measure"]) for row in rows):
        of_claim = [
            row for row in rows if (row["name"], row["measure"]) == (name, measure) and row["verdict"] != "not judged"
        ]
        counts = Counter(row["verdict"] for row in of_claim)
        parts = [f"{counts[word]} {told[counts[word] > 1]}" for word, told in IN_SHORT.items() if counts[word]]
        if len(of_claim) > 1:
            first = f"{name}. {of_claim[0]['claim'].rstrip('.')}"
            lines.append(f"{first}: of {len(of_claim)} rows of this claim {', '.join(parts)}.")
        elif of_claim:
            lines.append(f"{name}. {of_claim[0]['claim'].rstrip('.')}: {of_claim[0]['verdict']}.")
    return lines


def _plan(store: Store, record: ExperimentRecord) -> Row:
    """What was written down before the runs: the first seal, and every later change of the plan."""
    seals = store.seals(record.entry).rows
    return {
        "sealed": seals[0].created[:16].replace("T", " ") if seals else None,
        "sha256": seals[0].sha256 if seals else None,
        "rule_was_fixed": rule_was_fixed(record, seals),
        "deviations": list(deviations(record, seals, store.looks(record.entry).rows)),
    }


def _choices(record: ExperimentRecord) -> list[Row]:
    """The value that the trials chose for each arm and scale, of which values, and whether it lies at their edge."""
    return [
        {
            "arm": choice.arm,
            "scale": choice.scale,
            "field": choice.field,
            "chosen": choice.chosen,
            "values": list(choice.values),
            "steps": list(choice.steps),
            "at_the_edge": choice.at_the_edge,
        }
        for choice in record.entry.choices
    ]


def _hours(store: Store, record: ExperimentRecord) -> dict[str, float]:
    """The hours that the finished runs took, and those of the trials that chose their settings. A run has one thread by default."""
    here = set(store.run_ids())  # a deleted trial leaves its choice
    tried = dict.fromkeys(run_id for choice in record.entry.choices for run_id in choice.runs if run_id in here)
    trials = [store.record(run_id).result for run_id in tried]
    of_kind = {"runs": [run.result for run in record.runs], "trials": trials}
    return {
        kind: sum(result.seconds.get("total") or 0.0 for result in results if result is not None) / 3600
        for kind, results in of_kind.items()
    }


def _promised(claims: Sequence[JudgedClaim]) -> list[Row]:
    """What the plan predicted and promised for each row of a claim, beside what came; empty if no claim predicts or promises."""
    return [
        {
            "name": row.claim.name,
            "measured": row.words,
            "group": row.measured.group,
            "scale": row.measured.scale,
            "measure": row.claim.measure,
            "predicted": row.claim.predicted,
            "inside": row.prediction_is_inside,
            "promised": row.claim.half_width,
            "reached": row.half_width,
            "kept": None
            if row.claim.half_width is None or row.half_width is None
            else row.half_width <= row.claim.half_width,
        }
        for row in claims
        if row.claim.predicted is not None or row.claim.half_width is not None
    ]


def _notes(claims: Sequence[JudgedClaim]) -> list[str]:
    """The notes of claims. Each note is given once, after the names of all claims with this note."""
    named: dict[str, dict[str, None]] = {}
    for row in claims:
        if row.claim.note:
            named.setdefault(row.claim.note, {})[row.claim.name] = None
    return [f"{', '.join(names)}: {note}" for note, names in named.items()]


def _cautions(record: ExperimentRecord, claims: Sequence[JudgedClaim], by_rule: Sequence[Verdict]) -> list[str]:
    """The cautions that a reader must know besides the outcomes. Each caution is given once.

    One line names all arms for which a check could not decide. One line names all arms that were best at the edge of their tuned
    settings.
    """
    names = {arm.name for arm in record.entry.arms}
    cautions: list[tuple[str | None, str]] = [
        (None if any(name in caution for name in names) else row.measured.arm, caution)
        for row in claims
        for caution in row.measured.cautions
    ]
    cautions += [(arm.arm, caution) for arm in by_rule for caution in arm.cautions]
    lines: dict[str, dict[str, None]] = {}
    of_arms: dict[str, dict[str, None]] = {}
    for of_arm, caution in cautions:
        text, gathered, arms = caution.partition(COULD_NOT_TELL)
        if caution.endswith(AT_THE_EDGE):
            text, arms = BEST_AT_THE_EDGE, caution.rpartition(WAS_TUNED)[0]
        elif not gathered and of_arm is not None:
            of_arms.setdefault(text, {})[of_arm] = None
            continue
        lines.setdefault(text + gathered, {}).update(dict.fromkeys(_names_in(arms, names)))
    judged = {verdict.arm for verdict in by_rule}
    told = [
        f"{'Every arm' if len(arms) > 1 and judged <= arms.keys() else ', '.join(arms)}: {text}"
        for text, arms in of_arms.items()
        if text not in lines
    ]
    return [f"{text}{', '.join(arms)}{_laws_of(text)}" for text, arms in lines.items()] + told


def _laws_of(text: str) -> str:
    """What the checks ask that a caution names before `could not tell on`; empty for another caution."""
    checks, found, _ = text.partition(COULD_NOT_TELL)
    asked = [f"{check}: {LAWS[check]}" for check in checks.split(", ") if found and check in LAWS]
    return "".join(f". {law}" for law in asked)


def _names_in(text: str, names: Collection[str]) -> list[str]:
    """The arms that a text such as `both and ltr` names; a name may hold the word "and" itself. None in an empty text."""
    if not text or text in names:
        return [text] if text else []
    pairs = [(one, text[len(one) + len(AND) :]) for one in names if text.startswith(f"{one}{AND}")]
    return next(([one, other] for one, other in pairs if other in names), [text])


def _arm_row(verdict: Verdict, record: ExperimentRecord) -> Row:
    evidence = Evidence(record, record.entry.rule, None, lambda name: None)
    unsure = edges(evidence, (verdict.arm, record.entry.rule.baseline), (verdict.scale,))
    compared, ends = verdict.comparison, verdict.deciding.interval
    stamps = {"LEAK": verdict.leak, "COLLAPSE": verdict.collapse}
    return {
        "arm": verdict.arm,
        "scale": verdict.scale,
        "difference": compared.mean,
        "low": None if ends is None else ends.low,
        "high": None if ends is None else ends.high,
        "pairs": len(compared.pairs),
        "verdict": ": ".join([stamp for stamp, state in stamps.items() if state != "none"] + [verdict.outcome]),
        "reasons": [*(verdict.reasons or _why_open(verdict)), *(reason.partition(NO_CLAIM)[0] for reason in unsure)],
    }


def _why_open(verdict: Verdict) -> list[str]:
    """What would tell, where the runs are reliable and the verdict is open: more seeds, or other counts of runs that learned."""
    if verdict.outcome == "cannot tell" and verdict.learned is not None:
        return [verdict.learned.sentence]
    return [more for more in [words.more_seeds(verdict)] if more]


def _levels(record: ExperimentRecord) -> list[Row]:
    """Of every scale of a synthetic task: the share of right answers without learning, and from where a run has learned it."""
    split, levels = record.entry.rule.score.split, []
    for scale in record.entry.scales:
        known, _ = levels_at(record, split, scale)
        if known is not None and known.to_beat is not None:
            levels.append(
                {"scale": scale, "without_learning": known.to_beat, "learned_from": learned_from(record, split, scale)}
            )
    return levels


def _scores(record: ExperimentRecord) -> list[Row]:
    """The rows with the final score and the model size of every arm, scale and direction."""
    split, score = record.entry.rule.score.split, record.entry.rule.curve_measure
    sizes = {
        (cost.arm, cost.scale): cost.mean
        for cost in costs(record, record.entry.arms[0].name)
        if cost.axis == "parameters"
    }
    return [
        {
            "arm": arm,
            "scale": scale,
            "direction": direction,
            "parameters": sizes[arm, scale],
            "mean": mean(of_seed.values()),
            "deviation": stdev(of_seed.values()) if len(of_seed) > 1 else None,
            "seeds": len(of_seed),
        }
        for (arm, scale, direction), of_seed in final_scores(record, split, score).items()
    ]
