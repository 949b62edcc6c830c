"""Chance and the levels beside it, as charts, cards and the terminal name them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from palinode.analysis import intervals
from palinode.analysis.tasks import Levels, levels_at, on_a_task
from palinode.analysis.verdict import Verdict
from palinode.base.measures import MEASURES
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
    "cache_1": "looking up what followed the same token",
    "cache_2": "looking up what followed the same 2 tokens",
    "cache_3": "looking up what followed the same 3 tokens",
}
SIMPLE_WORDS = {
    "unigram": "unigram",
    "bigram": "bigram",
    "copy_last": "copy last",
    "most_recent_value": "most recent value",
}
READING_NOTES = {
    "rtl": "A guesser sees what rtl reads before an answer.",
    "prompt": "A guesser sees the prompt, on both sides of an answer.",
    "others": "A guesser sees all tokens but the answer itself.",
}
SAME, LEAST = 0.01, 0.005  # levels so near share a rule; lower ones lie on the axis


@dataclass(frozen=True)
class Mark:
    """A level as a chart shows it: chance, trivial, simple or best, or the loss of a guess; its value and what it is called."""

    kind: str
    value: float
    words: str

    @property
    def text(self) -> str:
        """What is written beside it."""
        return f"{self.words} {number(self.value, 3)}"


def trivial_words(name: str) -> str:
    """What a guesser without learning does."""
    return TRIVIAL_WORDS.get(name, name.replace("_", " "))


def level_marks(record: ExperimentRecord, metric: str, scale: str) -> list[Mark]:
    """The levels that a chart of this metric shows at a scale: none where no run is on a task, or where all tokens were scored."""
    return _marks(record, metric, scale, every_mark)


def _marks(
    record: ExperimentRecord, metric: str, scale: str, of_accuracy: Callable[[Levels], list[Mark]]
) -> list[Mark]:
    split, _, score = score_of(metric)
    levels, _ = levels_at(record, split, scale)
    if levels is None:
        return []
    if score == "nats_per_token" and levels.chance:
        return [Mark("guess", -math.log(levels.chance), "a guess")]
    return of_accuracy(levels) if MEASURES[score].has_chance_levels else []


def marks_of(levels: Levels) -> list[Mark]:
    """Chance, the best trivial level where it is above chance, and the best possible."""
    found = []
    if levels.chance is not None:
        found.append(Mark("chance", levels.chance, "chance"))
    if levels.best_trivial is not None and levels.best_trivial[1] > (levels.chance or 0.0):
        name, value = levels.best_trivial
        found.append(Mark("trivial", value, trivial_words(name)))
    if levels.best is not None:
        found.append(Mark("best", levels.best, "best possible"))
    return found


def every_mark(levels: Levels) -> list[Mark]:
    """Those of `marks_of`, and the simplest guessers each at its own level; names of levels that are about equal share a rule."""
    found, drawn = marks_of(levels), {mark.words for mark in marks_of(levels)}
    for name, words in SIMPLE_WORDS.items():
        value = levels.trivial.get(name, 0.0)
        if value < LEAST or name in levels.solved_by or trivial_words(name) in drawn:
            continue
        near = [mark for mark in found if mark.kind != "best" and abs(mark.value - value) <= SAME]
        if near:
            place = found.index(near[0])
            found[place] = replace(near[0], words=f"{near[0].words}, {words}")
        else:
            found.append(Mark("simple", value, words))
    return found


def reached(record: ExperimentRecord, verdict: Verdict) -> str:
    """What both arms of a verdict reached, beside the levels; empty where nothing is known to stand beside it."""
    comparison, scale = verdict.comparison, verdict.scale
    marks = _marks(record, verdict.rule.metric, scale, marks_of)
    if not marks or not comparison.pairs:
        return ""
    arm = intervals.mean([pair.arm_value for pair in comparison.pairs])
    baseline = intervals.mean([pair.baseline_value for pair in comparison.pairs])
    levels = ", ".join(mark.text for mark in marks if (mark.kind, mark.value) != ("best", 1.0))
    said = f"{comparison.arm} {number(arm, 3)}, {comparison.baseline} {number(baseline, 3)}; {levels}."
    to_beat = max((mark.value for mark in marks if mark.kind != "best"), default=None)
    measure = MEASURES[verdict.rule.score.measure]
    if measure.has_chance_levels and to_beat is not None and max(arm, baseline) <= to_beat:
        said += " Neither is above what needs no learning."
    return said


def level_notes(record: ExperimentRecord, metric: str, scale: str) -> list[str]:
    """What a caption says of the levels: where they are another arm's, where there are none, and what can be looked up."""
    split, _, score = score_of(metric)
    if not MEASURES[score].has_chance_levels or not on_a_task(record):
        return []
    levels, others = levels_at(record, split, scale)
    if levels is None:
        return ["All tokens are scored here: chance and trivial levels are known of answers alone, so none is drawn."]
    notes = []
    if levels.trivial:
        notes.append(
            "Chance is a uniform guess among the legal answers; the dashed level is the best of those that need no learning."
        )
        notes += _simple_notes(levels)
    if levels.asked_for is not None:
        name, value = levels.asked_for
        notes.append(f"No level to beat, for it is what the task asks for: {trivial_words(name)} ({number(value, 3)}).")
    notes += [READING_NOTES[levels.reading]] if levels.reading in READING_NOTES else []
    if others:
        notes.append(f"Of {', '.join(others)} the levels are others: see the table task_levels.")
    return notes


def _simple_notes(levels: Levels) -> list[str]:
    known = [name for name in SIMPLE_WORDS if levels.trivial.get(name, 0.0) >= LEAST and name not in levels.solved_by]
    told = [
        words if trivial_words(name).endswith(words := SIMPLE_WORDS[name]) else f"{words} ({trivial_words(name)})"
        for name in known
    ]
    return [f"Thin levels: {', '.join(told)}; those within {SAME:g} of another share its rule."] if told else []
