"""The charts of synthetic tasks, and the levels that every chart of an accuracy shows: chance, the best trivial one, the best.

Like `charts.py`: definitions only, rows by the name of a data set, every view named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from palinode.report.charts import ROWS, Axis, columns_that_fit, line_legend, plain, said
from palinode.report.task_levels import Mark

LEGEND_PIXELS = 560  # for the arms, beside the levels
GREY = "#8c8678"
LEVEL_DASHES: dict[str, list[int]] = {"chance": [2, 3], "guess": [2, 3], "trivial": [7, 4], "best": [1, 0]}
LEVEL_OPACITY = {"chance": 1.0, "guess": 1.0, "trivial": 1.0, "best": 0.45}
FONT_PIXELS = 10.5


def with_levels(chart: dict[str, Any], marks: Sequence[Mark], channel: str = "y") -> dict[str, Any]:
    """The chart with a rule for each level and its name at the rule: across the chart (`y`), or standing among lying bars (`x`).

    An axis of accuracy that shows them begins at 0.
    """
    if channel == "y" and any(mark.kind == "chance" for mark in marks):
        chart = {**chart, "layer": [_from_zero(layer) for layer in chart["layer"]]}
    layers = [_rule(mark, channel) for mark in marks]
    labels = [_label(mark, marks, channel) for mark in marks]
    return {**chart, "layer": [*layers, *chart["layer"], *labels]} if marks else chart


def accuracy_by_difficulty(
    x: Axis, y: Axis, colours: Mapping[str, str], scales: Sequence[str], marked: Mapping[str, str]
) -> dict[str, Any]:
    """A line per arm over difficulty, with the interval over seeds and every seed at every point; levels as steps.

    Rows: `kind` (arm, seed, or chance, trivial, best), `series`, the x field, `value`, `low`, `high`, `text`.

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
    arms = base.transform_filter(alt.datum.kind == "arm").encode(color=colour)
    seeds = base.transform_filter(alt.datum.kind == "seed").encode(color=colour)
    tooltip = [said("series", "arm"), said("text", y.title)]
    ends = arms.mark_rule(strokeWidth=2.2, opacity=0.5).encode(
        y=alt.Y("low", type="quantitative", title=y.title), y2="high:Q", tooltip=tooltip
    )
    lines = arms.mark_line(strokeWidth=2.2)
    points = arms.mark_point(filled=True, size=64, opacity=1).encode(tooltip=tooltip)
    dots = seeds.mark_point(size=26, opacity=0.8, strokeWidth=1.2).encode(tooltip=tooltip)
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
    named = {"steps": steps, "stops": stops, "intervals": ends, "lines": lines, "seeds": dots, "points": points}
    layers = [layer.properties(name=name) for name, layer in named.items()]
    return plain(alt.layer(*layers).properties(width="container", height=330))


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


def _rule(mark: Mark, channel: str) -> dict[str, Any]:
    return {
        "name": f"level_{mark.kind}",
        "data": {"values": [{"level": mark.value, "text": mark.text}]},
        "mark": {
            "type": "rule",
            "color": GREY,
            "strokeWidth": 1.3,
            "opacity": LEVEL_OPACITY[mark.kind],
            "strokeDash": LEVEL_DASHES[mark.kind],
        },
        "encoding": {
            channel: {"field": "level", "type": "quantitative"},
            "tooltip": [{"field": "text", "type": "nominal", "title": "level"}],
        },
    }


def _label(mark: Mark, marks: Sequence[Mark], channel: str) -> dict[str, Any]:
    """Along a lying rule: chance at its right end, the others at its left, where curves have not risen yet. Over standing ones:
    one above the other."""
    by_value = sorted(marks, key=lambda other: other.value)
    place = by_value.index(mark)
    if channel == "y":
        end = (
            {"align": "right", "x": "width", "dx": -4} if mark.kind == "chance" else {"align": "left", "x": 0, "dx": 4}
        )
        beside = {**end, "baseline": "middle", "dy": 8 if mark.kind == "chance" else -7}
    else:
        align = "right" if place == len(by_value) - 1 and place else "left"
        beside = {"align": align, "y": 0, "dx": 3 if align == "left" else -3, "dy": -6 - 13 * place}
    return {
        "name": f"level_{mark.kind}_label",
        "data": {"values": [{"level": mark.value, "text": mark.text}]},
        "mark": {"type": "text", "fontSize": FONT_PIXELS, "color": GREY, **beside},
        "encoding": {
            channel: {"field": "level", "type": "quantitative"},
            "text": {"field": "text", "type": "nominal"},
        },
    }
