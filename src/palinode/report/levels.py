"""The levels of a task in charts, on cards and in the terminal: chance, the best trivial level and the best possible level."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from palinode.analysis import intervals
from palinode.analysis.tasks import Levels, levels_at, on_a_task
from palinode.analysis.verdict import Verdict
from palinode.base.measures import MEASURES, Metric
from palinode.report.charts import FONT_PIXELS, GREY, LEVEL_DASHES, own_layer, with_channels
from palinode.report.words import number
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
SIMPLE = ("unigram", "bigram", "copy_last", "most_recent_value")
READING_NOTES = {
    "rtl": "A guesser sees what rtl reads before an answer.",
    "prompt": "A guesser sees the prompt, on both sides of an answer.",
    "others": "A guesser sees all tokens but the answer itself.",
}
NOT_OF_ALL_NOTE = "All tokens are scored here: chance and trivial levels are known of answers alone, so none is drawn."
CHANCE_NOTE = (
    "Chance is a uniform guess among the legal answers; the dashed level is the best of those that need no learning."
)
SAME, LEAST = 0.01, 0.005  # levels at most SAME apart share a line; levels below LEAST would lie on the axis: not drawn
LEVEL_OPACITY = {"simple": 0.8, "best": 0.45}  # kind of level -> opacity of its line; other kinds have the opacity 1
THIN, THICK = 0.8, 1.3
LABEL_HEIGHT = 0.05  # the least vertical distance of two labels that are both left or both right, in accuracy
ROOM = 0.08  # the vertical space that a label needs between two lines, in accuracy
LEFT, RIGHT = "left", "right"
LABEL: dict[str, Any] = {"type": "text", "fontSize": FONT_PIXELS, "color": GREY}
TEXT = {"field": "text", "type": "nominal"}


@dataclass(frozen=True)
class Mark:
    """A level that a chart shows as a line with a name.

    Attributes:
        kind: the kind of level: chance, trivial, simple, best, or guess (the loss of a guess).
        words: the name of the level.
    """

    kind: str
    value: float
    words: str

    @property
    def text(self) -> str:
        """The name of the level and its value."""
        return f"{self.words} {number(self.value, 3)}"


def trivial_words(name: str) -> str:
    """The words that say what a trivial guesser does."""
    return TRIVIAL_WORDS.get(name, name.replace("_", " "))


def marks_of(levels: Levels) -> list[Mark]:
    """The main levels: chance, the best trivial level (if it is above chance), and the best possible level."""
    marks = []
    if levels.chance is not None:
        marks.append(Mark("chance", levels.chance, "chance"))
    if levels.best_trivial is not None and levels.best_trivial[1] > (levels.chance or 0.0):
        name, value = levels.best_trivial
        marks.append(Mark("trivial", value, trivial_words(name)))
    if levels.best is not None:
        marks.append(Mark("best", levels.best, "best possible"))
    return marks


def every_mark(levels: Levels) -> list[Mark]:
    """The main levels (`marks_of`) and the levels of the simplest guessers. About equal levels share one line, with all names."""
    marks, drawn = marks_of(levels), {mark.words for mark in marks_of(levels)}
    for name in _simple(levels):
        words, value = name.replace("_", " "), levels.trivial[name]
        if trivial_words(name) in drawn:
            continue
        near = [mark for mark in marks if mark.kind != "best" and abs(mark.value - value) <= SAME]
        if near:
            place = marks.index(near[0])
            marks[place] = replace(near[0], words=f"{near[0].words}, {words}")
        else:
            marks.append(Mark("simple", value, words))
    return marks


def _simple(levels: Levels) -> list[str]:
    """The names of the simplest guessers whose accuracy is at least LEAST and that do not do what the task tests."""
    return [name for name in SIMPLE if levels.trivial.get(name, 0.0) >= LEAST and name not in levels.solved_by]


def level_marks(
    record: ExperimentRecord, metric: str, scale: str, of_accuracy: Callable[[Levels], list[Mark]] = every_mark
) -> list[Mark]:
    """The levels for a chart of a metric at a scale; empty for text data, and if tokens that are no answers were scored."""
    split, _, score = Metric.parse(metric)
    levels, _ = levels_at(record, split, scale)
    if levels is None:
        return []
    if score == "nats_per_token" and levels.chance:
        return [Mark("guess", -math.log(levels.chance), "a guess")]
    return of_accuracy(levels) if MEASURES[score].has_chance_levels else []


def reached(record: ExperimentRecord, verdict: Verdict) -> str:
    """The text with the scores of both arms of a verdict and the levels; an empty text if no levels are known."""
    comparison, scale = verdict.comparison, verdict.scale
    marks = level_marks(record, verdict.rule.metric, scale, marks_of)
    if not marks or not comparison.pairs:
        return ""
    arm = intervals.mean([pair.arm_value for pair in comparison.pairs])
    baseline = intervals.mean([pair.baseline_value for pair in comparison.pairs])
    levels = ", ".join(mark.text for mark in marks if (mark.kind, mark.value) != ("best", 1.0))
    scores = f"{comparison.arm} {number(arm, 3)}, {comparison.baseline} {number(baseline, 3)}; {levels}."
    to_beat = max((mark.value for mark in marks if mark.kind != "best"), default=None)
    if (
        MEASURES[Metric.parse(verdict.rule.metric).measure].has_chance_levels
        and to_beat is not None
        and max(arm, baseline) <= to_beat
    ):
        scores += " Neither is above what needs no learning."
    return scores


def level_notes(record: ExperimentRecord, metric: str, scale: str) -> list[str]:
    """The sentences of a caption about the levels: the meaning of the levels, and the arms whose levels differ."""
    split, _, score = Metric.parse(metric)
    if not MEASURES[score].has_chance_levels or not on_a_task(record):
        return []
    levels, others = levels_at(record, split, scale)
    if levels is None:
        return [NOT_OF_ALL_NOTE]
    notes = [CHANCE_NOTE, *_simple_notes(levels)] if levels.trivial else []
    if levels.asked_for is not None:
        name, value = levels.asked_for
        notes.append(f"No level to beat, for it is what the task asks for: {trivial_words(name)} ({number(value, 3)}).")
    notes += [READING_NOTES[levels.reading]] if levels.reading in READING_NOTES else []
    if others:
        notes.append(f"The levels of {', '.join(others)} differ: see the table task_levels.")
    return notes


def _simple_notes(levels: Levels) -> list[str]:
    named = [
        words if trivial_words(name).endswith(words := name.replace("_", " ")) else f"{words} ({trivial_words(name)})"
        for name in _simple(levels)
    ]
    return [f"Thin levels: {', '.join(named)}; those within {SAME:g} of another share its line."] if named else []


# --- in charts ------------------------------------------------------------------------------------------------------


def with_levels(chart: dict[str, Any], marks: Sequence[Mark], channel: str = "y") -> dict[str, Any]:
    """The chart with a line for each level, and with the name of the level next to its line.

    With channel `y` the lines are horizontal; with channel `x` they are vertical and cross horizontal bars. An axis of accuracy
    that shows levels begins at 0.
    """
    if channel == "y" and any(mark.kind == "chance" for mark in marks):
        chart = _from_zero(chart)
    names: dict[Mark, str] = {}
    for place, mark in enumerate(marks):
        before = sum(other.kind == mark.kind for other in marks[:place])
        names[mark] = f"level_{mark.kind}{f'_{before + 1}' if before else ''}"
    layers = [_level(mark, channel, names[mark]) for mark in marks]
    places = _across(marks) if channel == "y" else _above(marks)
    labels = [_label(mark, channel, f"{names[mark]}_label", text, place) for mark, text, place in places]
    return {**chart, "layer": [*layers, *chart["layer"], *labels]}


def with_chance_by_length(chart: dict[str, Any], x_field: str, levels: Levels | None) -> tuple[dict[str, Any], str]:
    """A pair: the chart with the level of chance at each length, and a note that says at which lengths chance is known.

    If chance is known only at the training length (length 1), the chart shows only this level.
    """
    if levels is None or levels.chance is None:
        return chart, "Chance is known of answers alone."
    if not levels.chance_by_length:
        chance = Mark("chance", levels.chance, "chance")
        return with_levels(chart, [chance]), "Chance is that of this length; others were not measured."
    chances = {1: levels.chance, **levels.chance_by_length}
    note = "Chance is that of each length; what needs no learning was measured at length 1 alone."
    return _with_steps(chart, x_field, chances), note


def _with_steps(chart: dict[str, Any], x_field: str, chances: Mapping[int, float]) -> dict[str, Any]:
    """The chart with a line of steps for the level of chance at each x; the name of the level is at the first step."""
    values = [
        {x_field: x, "level": chance, "text": Mark("chance", chance, "chance").text}
        for x, chance in sorted(chances.items())
    ]
    encoding = {"x": {"field": x_field, "type": "quantitative"}, **_encoding("y")}
    point = {"shape": "stroke", "size": 180, "color": GREY}
    look = {"color": GREY, "strokeWidth": THICK, "strokeDash": LEVEL_DASHES["chance"]}
    steps = own_layer("level_chance", values, {"type": "line", "interpolate": "step", "point": point, **look}, encoding)
    place = {"align": LEFT, "dx": 4, "dy": -8}
    label = own_layer("level_chance_label", values[:1], LABEL | place, {**encoding, "text": TEXT})
    return {**chart, "layer": [steps, *_from_zero(chart)["layer"], label]}


def _from_zero(chart: dict[str, Any]) -> dict[str, Any]:
    def begun(y: dict[str, Any]) -> dict[str, Any]:
        return {**y, "scale": {**y["scale"], "zero": True}} if "scale" in y else y

    return with_channels(chart, ("y",), begun)


def _encoding(channel: str) -> dict[str, Any]:
    return {channel: {"field": "level", "type": "quantitative"}, "tooltip": [{**TEXT, "title": "level"}]}


def _level(mark: Mark, channel: str, name: str) -> dict[str, Any]:
    line = {
        "type": "rule",
        "color": GREY,
        "strokeWidth": THIN if mark.kind == "simple" else THICK,
        "opacity": LEVEL_OPACITY.get(mark.kind, 1.0),
        "strokeDash": LEVEL_DASHES[mark.kind],
    }
    return own_layer(name, [{"level": mark.value, "text": mark.text}], line, _encoding(channel))


def _label(mark: Mark, channel: str, name: str, text: str, place: Mapping[str, Any]) -> dict[str, Any]:
    encoding = {channel: {"field": "level", "type": "quantitative"}, "text": TEXT}
    return own_layer(name, [{"level": mark.value, "text": text}], {**LABEL, **place}, encoding)


def _across(marks: Sequence[Mark]) -> list[tuple[Mark, str, dict[str, Any]]]:
    """The places for the names of horizontal lines.

    The name of chance is below its line, at the right end. Any other name is above its line, at the left end, where curves have
    not risen yet. If another line or name is too near, the name goes to the other side or the other end of its own line. If no
    place is free, the name is appended to the name that was placed before.
    """
    placed: list[tuple[Mark, str, dict[str, Any]]] = []
    taken: dict[str, list[float]] = {LEFT: [], RIGHT: []}
    for mark in sorted(marks, key=lambda mark: (mark.kind != "chance", mark.value)):
        below = _stands_below(mark, marks)
        middle = mark.value + LABEL_HEIGHT * (-0.6 if below else 0.6)
        ends = (RIGHT, LEFT) if mark.kind == "chance" else (LEFT, RIGHT)
        free = [end for end in ends if all(abs(middle - other) >= LABEL_HEIGHT for other in taken[end])]
        if not free:
            near, text, place = placed[-1]
            placed[-1] = (near, f"{text}, {mark.text}", place)
            continue
        taken[free[0]].append(middle)
        end = {"align": RIGHT, "x": "width", "dx": -4} if free[0] == RIGHT else {"align": LEFT, "x": 0, "dx": 4}
        placed.append((mark, mark.text, {**end, "baseline": "middle", "dy": 8 if below else -7}))
    return placed


def _stands_below(mark: Mark, marks: Sequence[Mark]) -> bool:
    """Whether the name of a level is below its line: usually the name of chance is below, and every other name is above.

    The name changes sides if its usual side has too little room and the opposite side has enough.
    """
    above = min((other.value - mark.value for other in marks if other.value > mark.value), default=1.0)
    under = min((mark.value - other.value for other in marks if other.value < mark.value), default=mark.value)
    usual, other = (under, above) if mark.kind == "chance" else (above, under)
    crowded = usual < ROOM < other
    return (mark.kind == "chance") != crowded


def _above(marks: Sequence[Mark]) -> list[tuple[Mark, str, dict[str, Any]]]:
    """The places for the names of vertical lines: over the chart, one name above the other.

    The name of the lowest level is at the right of its line. Every other name is at the left of its line, where there is more
    room. The name of a simple guesser is shown only in the tooltip.
    """
    ordered = sorted((mark for mark in marks if mark.kind != "simple"), key=lambda mark: mark.value)
    return [
        (mark, mark.text, {"align": RIGHT if row else LEFT, "y": 0, "dx": -3 if row else 3, "dy": -6 - 13 * row})
        for row, mark in enumerate(ordered)
    ]
