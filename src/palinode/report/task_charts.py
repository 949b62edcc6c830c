"""The charts of synthetic tasks, and the levels that charts of an accuracy show: chance, what needs no learning, the best possible.

Like `charts.py`: definitions only, rows by the name of a data set, every view named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from palinode.analysis.tasks import Levels
from palinode.report.charts import ROWS, Axis, columns_that_fit, if_picked, line_legend, picked_in_legend, plain, said
from palinode.report.task_levels import Mark

LEGEND_PIXELS = 560  # for the arms, beside the levels
GREY = "#8c8678"
LEVEL_DASHES: dict[str, list[int]] = {
    "chance": [2, 3],
    "guess": [2, 3],
    "trivial": [7, 4],
    "simple": [3, 3],
    "best": [1, 0],
}
LEVEL_OPACITY = {"chance": 1.0, "guess": 1.0, "trivial": 1.0, "simple": 0.8, "best": 0.45}
THIN, THICK = 0.8, 1.3
FONT_PIXELS = 10.5
LABEL_HEIGHT = 0.05  # of an axis of accuracy: labels at one end are no nearer to each other
ROOM = 0.08  # of the same, between two rules, for a label
LEFT, RIGHT = "left", "right"


def with_levels(chart: dict[str, Any], marks: Sequence[Mark], channel: str = "y") -> dict[str, Any]:
    """The chart with a rule for each level and its name at the rule: across the chart (`y`), or standing among lying bars (`x`).

    An axis of accuracy that shows them begins at 0.
    """
    if channel == "y" and any(mark.kind == "chance" for mark in marks):
        chart = {**chart, "layer": [_from_zero(layer) for layer in chart["layer"]]}
    names = _layer_names(marks)
    layers = [_rule(mark, channel, name) for mark, name in zip(marks, names, strict=True)]
    named = dict(zip(marks, names, strict=True))
    beside = _across(marks) if channel == "y" else _above(marks)
    labels = [_label(mark, channel, f"{named[mark]}_label", text, place) for mark, text, place in beside]
    return {**chart, "layer": [*layers, *chart["layer"], *labels]} if marks else chart


def with_chance_by_length(chart: dict[str, Any], x_field: str, levels: Levels | None) -> tuple[dict[str, Any], str]:
    """The chart with chance at each length, or that of length 1 where no other was recorded, and which of them it is."""
    if levels is None or levels.chance is None:
        return chart, "Chance is known of answers alone."
    if not levels.chance_by_length:
        chance = Mark("chance", levels.chance, "chance")
        return with_levels(chart, [chance]), "Chance is that of this length; others were not measured."
    chances = {1: levels.chance, **levels.chance_by_length}
    told = "Chance is that of each length; what needs no learning was measured at length 1 alone."
    return _with_stops(chart, x_field, chances), told


def _with_stops(chart: dict[str, Any], x_field: str, chances: Mapping[int, float]) -> dict[str, Any]:
    """The chart with chance as it changes along x: a stop at each place, and its name at the first."""
    marks = {x: Mark("chance", chance, "chance") for x, chance in sorted(chances.items())}
    values = [{x_field: x, "level": mark.value, "text": mark.text} for x, mark in marks.items()]
    places = {
        "x": {"field": x_field, "type": "quantitative"},
        "y": {"field": "level", "type": "quantitative"},
        "tooltip": [{"field": "text", "type": "nominal", "title": "level"}],
    }
    look = {"color": GREY, "strokeWidth": THICK, "strokeDash": LEVEL_DASHES["chance"]}
    line = {"type": "line", "interpolate": "step", "point": {"shape": "stroke", "size": 180, "color": GREY}, **look}
    steps = {"name": "level_chance", "data": {"values": values}, "mark": line, "encoding": places}
    label = {
        "name": "level_chance_label",
        "data": {"values": values[:1]},
        "mark": {"type": "text", "fontSize": FONT_PIXELS, "color": GREY, "align": "left", "dx": 4, "dy": -8},
        "encoding": {**places, "text": {"field": "text", "type": "nominal"}},
    }
    layers = [_from_zero(layer) for layer in chart["layer"]]
    return {**chart, "layer": [steps, *layers, label]}


def accuracy_by_difficulty(
    x: Axis, y: Axis, colours: Mapping[str, str], scales: Sequence[str], marked: Mapping[str, str]
) -> dict[str, Any]:
    """A line per arm over difficulty, with the interval over seeds and every seed at every point; levels as steps, simple ones as
    ticks.

    Rows: `kind` (arm, seed, or chance, trivial, simple, best), `series`, the x field, `value`, `low`, `high`, `text`, and of levels
    `name`.

    Args:
        scales: the names under places 0, 1, .. of the axis; empty where the axis holds a number of its own.
        marked: kind of level -> what the legend calls it.
    """
    axis = alt.Axis(format=x.format, tickCount=6)
    span: dict[str, Any] = {"nice": False, "zero": False, "padding": 24}
    if scales:
        axis = alt.Axis(values=list(range(len(scales))), labelExpr=f"{list(scales)}[datum.value]", grid=False)
    base = alt.Chart(alt.NamedData(ROWS)).encode(
        x=alt.X(x.field, type="quantitative", title=x.title, axis=axis, scale=alt.Scale(**span)),
        y=alt.Y("value", type="quantitative", title=y.title, scale=alt.Scale(zero=True, nice=True)),
    )
    colour = alt.Color(
        "series",
        type="nominal",
        title="arm",
        sort=list(colours),
        scale=alt.Scale(domain=list(colours), range=list(colours.values())),
        legend=line_legend(columns=columns_that_fit(colours, LEGEND_PIXELS, most=4)),
    )
    picked = picked_in_legend("series")
    arms = base.transform_filter(alt.datum.kind == "arm").encode(color=colour)
    seeds = base.transform_filter(alt.datum.kind == "seed").encode(color=colour)
    tooltip = [said("series", "arm"), said("text", y.title)]
    ends = arms.mark_rule(strokeWidth=2.2).encode(
        y=alt.Y("low", type="quantitative", title=y.title),
        y2="high:Q",
        tooltip=tooltip,
        opacity=if_picked(picked, 0.5),
    )
    lines = arms.mark_line(strokeWidth=2.2).encode(opacity=if_picked(picked, 1)).add_params(picked)
    points = arms.mark_point(filled=True, size=64).encode(tooltip=tooltip, opacity=if_picked(picked, 1))
    dots = seeds.mark_point(size=26, strokeWidth=1.2).encode(tooltip=tooltip, opacity=if_picked(picked, 0.8))
    named = {**_steps_and_ticks(base, marked), "intervals": ends, "lines": lines, "seeds": dots, "points": points}
    layers = [layer.properties(name=name) for name, layer in named.items()]
    return plain(alt.layer(*layers).properties(width="container", height=330))


def _steps_and_ticks(base: alt.Chart, marked: Mapping[str, str]) -> dict[str, alt.Chart]:
    """The levels of a chart over difficulty: lines of those in the legend, ticks of the simple ones, named at the first."""
    drawn = base.transform_filter(alt.FieldOneOfPredicate(field="kind", oneOf=list(marked)))
    dash = alt.StrokeDash(
        "kind",
        type="nominal",
        title="level",
        scale=alt.Scale(domain=list(marked), range=[LEVEL_DASHES[kind] for kind in marked]),
        legend=line_legend(symbolStrokeColor=GREY, labelExpr=f"{dict(marked)}[datum.label]"),
    )
    steps = drawn.mark_line(interpolate="step", color=GREY, strokeWidth=1.4).encode(strokeDash=dash)
    stops = drawn.mark_point(shape="stroke", color=GREY, size=180, strokeWidth=1.6).encode(
        tooltip=[said("text", "level")]
    )
    thin = base.transform_filter(alt.datum.kind == "simple")
    ticks = thin.mark_point(shape="stroke", color=GREY, size=110, strokeWidth=THIN).encode(
        tooltip=[said("text", "level")]
    )
    words = thin.mark_text(align="left", dx=9, fontSize=FONT_PIXELS, color=GREY).encode(text="name:N")
    return {"steps": steps, "stops": stops, "ticks": ticks, "names": words}


def with_counts(chart: dict[str, Any], counts: Mapping[str, str]) -> dict[str, Any]:
    """The chart whose points also say these fields of their row, under these titles."""
    more = [{"field": name, "type": "quantitative", "title": title, "format": ",d"} for name, title in counts.items()]
    layers = [
        {**layer, "encoding": {**layer["encoding"], "tooltip": [*layer["encoding"]["tooltip"], *more]}}
        if layer["name"] == "points"
        else layer
        for layer in chart["layer"]
    ]
    return {**chart, "layer": layers}


def two_lines(chart: dict[str, Any]) -> dict[str, Any]:
    """The chart with the names of its rows broken where a line ends."""
    axis = {"labelExpr": "split(datum.label, '\\n')", "labelLineHeight": 13}

    def broken(layer: Mapping[str, Any]) -> dict[str, Any]:
        encoding = dict(layer["encoding"])
        if "y" in encoding:
            encoding["y"] = {**encoding["y"], "axis": {**encoding["y"]["axis"], **axis}}
        return {**layer, "encoding": encoding}

    return {**chart, "layer": [broken(layer) for layer in chart["layer"]]}


def _from_zero(layer: Mapping[str, Any]) -> dict[str, Any]:
    encoding = dict(layer.get("encoding", {}))
    if "scale" in encoding.get("y", {}):
        encoding["y"] = {**encoding["y"], "scale": {**encoding["y"]["scale"], "zero": True}}
    return {**layer, "encoding": encoding}


def _layer_names(marks: Sequence[Mark]) -> list[str]:
    """A name for the layer of each rule: its kind, numbered where there are several."""
    names: list[str] = []
    for place, mark in enumerate(marks):
        before = sum(other.kind == mark.kind for other in marks[:place])
        names.append(f"level_{mark.kind}{f'_{before + 1}' if before else ''}")
    return names


def _rule(mark: Mark, channel: str, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "data": {"values": [{"level": mark.value, "text": mark.text}]},
        "mark": {
            "type": "rule",
            "color": GREY,
            "strokeWidth": THIN if mark.kind == "simple" else THICK,
            "opacity": LEVEL_OPACITY[mark.kind],
            "strokeDash": LEVEL_DASHES[mark.kind],
        },
        "encoding": {
            channel: {"field": "level", "type": "quantitative"},
            "tooltip": [{"field": "text", "type": "nominal", "title": "level"}],
        },
    }


def _across(marks: Sequence[Mark]) -> list[tuple[Mark, str, dict[str, Any]]]:
    """Where the names of lying rules stand: chance at its right end, below; the others above, at the left where curves have not
    risen yet; on the other side or at the other end where another rule or name is near, else with the name that is."""
    found: list[tuple[Mark, str, dict[str, Any]]] = []
    taken: dict[str, list[float]] = {LEFT: [], RIGHT: []}
    for mark in sorted(marks, key=lambda mark: (mark.kind != "chance", mark.value)):
        below = _stands_below(mark, marks)
        middle = mark.value + LABEL_HEIGHT * (-0.6 if below else 0.6)
        ends = (RIGHT, LEFT) if mark.kind == "chance" else (LEFT, RIGHT)
        free = [end for end in ends if all(abs(middle - other) >= LABEL_HEIGHT for other in taken[end])]
        if not free:
            near, text, place = found[-1]
            found[-1] = (near, f"{text}, {mark.text}", place)
            continue
        taken[free[0]].append(middle)
        end = {"align": RIGHT, "x": "width", "dx": -4} if free[0] == RIGHT else {"align": LEFT, "x": 0, "dx": 4}
        found.append((mark, mark.text, {**end, "baseline": "middle", "dy": 8 if below else -7}))
    return found


def _stands_below(mark: Mark, marks: Sequence[Mark]) -> bool:
    """Whether a name stands below its rule: chance does, the others do where the next rule leaves too little room above."""
    above = min((other.value - mark.value for other in marks if other.value > mark.value), default=1.0)
    under = min((mark.value - other.value for other in marks if other.value < mark.value), default=mark.value)
    usual, other = (under, above) if mark.kind == "chance" else (above, under)
    crowded = usual < ROOM < other
    return (mark.kind == "chance") != crowded


def _above(marks: Sequence[Mark]) -> list[tuple[Mark, str, dict[str, Any]]]:
    """Where the names of standing rules stand: over the chart, one above the other, all but the lowest to the left of their rules,
    where there is more room than to the right. There is none for those of simple guessers; hovering tells them."""
    ordered = sorted((mark for mark in marks if mark.kind != "simple"), key=lambda mark: mark.value)
    found: list[tuple[Mark, str, dict[str, Any]]] = []
    for place, mark in enumerate(ordered):
        align = RIGHT if place else LEFT
        found.append(
            (mark, mark.text, {"align": align, "y": 0, "dx": 3 if align == LEFT else -3, "dy": -6 - 13 * place})
        )
    return found


def _label(mark: Mark, channel: str, name: str, text: str, place: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "data": {"values": [{"level": mark.value, "text": text}]},
        "mark": {"type": "text", "fontSize": FONT_PIXELS, "color": GREY, **place},
        "encoding": {
            channel: {"field": "level", "type": "quantitative"},
            "text": {"field": "text", "type": "nominal"},
        },
    }
