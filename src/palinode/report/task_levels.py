"""Chance and the levels beside it, as charts, cards and the terminal name them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from palinode.analysis import intervals
from palinode.analysis.tasks import Levels, levels_at, on_a_task
from palinode.analysis.verdict import Verdict
from palinode.report.words import number, score_of
from palinode.results.record import ExperimentRecord

TRIVIAL_WORDS = {
    "uniform": "a guess",
    "unigram": "the most frequent answer",
    "bigram": "the most frequent answer after the token before",
    "position_only": "the position alone",
    "copy_last": "copying the token before",
    "most_recent_value": "the most recent value",
    "in_context_mode": "the most frequent value in context",
}


@dataclass(frozen=True)
class Mark:
    """A level as a chart shows it: chance, trivial or best, or the loss of a guess; its value and what is written beside it."""

    kind: str
    value: float
    text: str


def trivial_words(name: str) -> str:
    """What a guesser without learning does."""
    return TRIVIAL_WORDS.get(name, name.replace("_", " "))


def level_marks(record: ExperimentRecord, metric: str, scale: str) -> list[Mark]:
    """The levels that a chart of this metric shows at a scale: none where no run is on a task, or where all tokens were scored."""
    split, _, score = score_of(metric)
    levels, _ = levels_at(record, split, scale)
    if levels is None:
        return []
    if score == "nats_per_token" and levels.chance:
        nats = -math.log(levels.chance)
        return [Mark("guess", nats, f"a guess {number(nats, 3)}")]
    return marks_of(levels) if score == "accuracy" else []


def marks_of(levels: Levels) -> list[Mark]:
    """Chance, the best trivial level where it is above chance, and the best possible."""
    found = []
    if levels.chance is not None:
        found.append(Mark("chance", levels.chance, f"chance {number(levels.chance, 3)}"))
    if levels.best_trivial is not None and levels.best_trivial[1] > (levels.chance or 0.0):
        name, value = levels.best_trivial
        found.append(Mark("trivial", value, f"{trivial_words(name)} {number(value, 3)}"))
    if levels.best is not None:
        found.append(Mark("best", levels.best, f"best possible {number(levels.best, 3)}"))
    return found


def reached(record: ExperimentRecord, verdict: Verdict) -> str:
    """What both arms of a verdict reached, beside the levels; empty where nothing is known to stand beside it."""
    comparison, scale = verdict.comparison, verdict.scale
    marks = level_marks(record, verdict.rule.metric, scale)
    if not marks or not comparison.pairs:
        return ""
    arm = intervals.mean([pair.arm_value for pair in comparison.pairs])
    baseline = intervals.mean([pair.baseline_value for pair in comparison.pairs])
    levels = ", ".join(mark.text for mark in marks if (mark.kind, mark.value) != ("best", 1.0))
    said = f"{comparison.arm} {number(arm, 3)}, {comparison.baseline} {number(baseline, 3)}; {levels}."
    to_beat = max((mark.value for mark in marks if mark.kind != "best"), default=None)
    if score_of(verdict.rule.metric)[2] == "accuracy" and to_beat is not None and max(arm, baseline) <= to_beat:
        said += " Neither is above what needs no learning."
    return said


def level_notes(record: ExperimentRecord, metric: str, scale: str) -> list[str]:
    """What a caption says of the levels: where they are another arm's, where there are none, and what can be looked up."""
    split, _, score = score_of(metric)
    if score != "accuracy" or not on_a_task(record):
        return []
    levels, others = levels_at(record, split, scale)
    if levels is None:
        return ["All tokens are scored here: chance and trivial levels are known of answers alone, so none is drawn."]
    notes = []
    if levels.trivial:
        notes.append(
            "Chance is a uniform guess among the legal answers; the dashed level is the best of those that need no learning."
        )
    lookups = [f"{name.rpartition('_')[2]}" for name, value in levels.trivial.items() if value >= (levels.best or 1.0)]
    if lookups := [order for order in lookups if order.isdigit()]:
        notes.append(f"Looking up what followed the same {_tokens(lookups[0])} would solve it.")
    if others:
        notes.append(f"Of {', '.join(others)} the levels are others: see the table task_levels.")
    return notes


def _tokens(count: str) -> str:
    return "token" if count == "1" else f"{count} tokens"
