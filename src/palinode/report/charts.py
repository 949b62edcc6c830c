"""The charts. Each chart is defined once; the same definition is drawn on the page and written as SVG and PDF.

A chart holds no data itself: it names the data set whose rows it shows. A chart is as wide as its column on the page. Every view
and every parameter of a chart gets a name in this file. Without names, Altair would number the views with a counter of the process,
and two reports of the same store would differ.

Every channel is made by its class, as in `alt.Y2("high:Q")` and `alt.OpacityValue(1)`. For a text, such as `y2="high:Q"`, Altair
would first build a table of all its classes, which takes some 8 ms each time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

ROWS = "rows"  # the name under which every chart finds its data
GREY = "#8c8678"
INK_BLUES = ["#eef1f4", "#b9c7d6", "#7f9ab8", "#4a6a8f", "#22405f"]
LEAK_REDS = ["#f6c1b6", "#e8806f", "#c8372d", "#7d1512"]
# The colours of ratios: two for ratios below 1, one for 1, two for ratios above 1.
AROUND_ONE = ["#c7861a", "#ead9b5", "#eeece6", "#b5d5cf", "#1f8a80"]
TABLE_SHAPES = {"tokens": "circle", "positions": "diamond"}
LEVEL_DASHES = {"chance": [2, 3], "guess": [2, 3], "trivial": [7, 4], "simple": [3, 3], "best": [1, 0]}
SOLID = {"mean": [1, 0]}

SYMBOL_PIXELS, LETTER_PIXELS = 42.0, 6.1  # the width of the symbol and of one letter in a legend
# The usual and the least height of a row of dots, and the height of one line of text in the name of a row.
ROW_PIXELS, LEAST_ROW_PIXELS, LINE_PIXELS = 44, 16, 15
LABEL_LIMIT, LABEL_PADDING, CHARACTER_PIXELS = (
    230,
    10,
    7.0,
)  # beside rows: the widest label, and a wide average character
ROWS_PIXELS = 330  # the height of all rows of dots together; if there are many rows, each row gets less height
HEAT_ROW_PIXELS, STRIP_ROW_PIXELS = 46, 30
FONT_PIXELS = 10.5
VIOLIN_HALF_WIDTH = 0.4
TRACE = 0.08  # the share of its opacity that a series keeps when other series are picked in the legend
MANY = 8  # with at least this many series, the caption says how to pick series in the legend
HOW_TO_PICK = "Click names to see those alone, and once more for all."
WHOLE_TICKS: dict[str, dict[str, Any]] = {  # field -> options of its axis, which has ticks only at whole numbers
    name: {"format": "d", "values": [2**power for power in range(21)], "labelOverlap": True}
    for name in ("context_tokens", "distance", "length_factor")
} | {
    "blocks": {"format": "d", "tickMinStep": 1, "tickCount": 16, "labelOverlap": True},
    "slice_value": {"format": "d", "tickMinStep": 1, "tickCount": 10, "labelOverlap": True},
}
FITTED = alt.Scale(zero=False, nice=True)
EXACT = alt.Scale(zero=False, nice=False)


@dataclass(frozen=True)
class Axis:
    """A quantitative axis: its field, its title, its d3 number format, and for y the value at which a dashed line is drawn."""

    field: str
    title: str
    format: str = "~s"
    reference: float | None = None

    def on(self, channel: Callable[..., Any], field: str = "", **more: Any) -> Any:
        """The channel (alt.X, alt.Y) that shows the field of this axis, or another field under the title of this axis."""
        return channel(f"{field or self.field}:Q", title=self.title, **more)

    @property
    def tooltip(self) -> alt.Tooltip:
        return alt.Tooltip(f"{self.field}:Q", title=self.title, format=self.format)


# --- curves ---------------------------------------------------------------------------------------------------------


def learning_curves(
    x: Axis,
    y: Axis,
    colours: Mapping[str, str],
    dashes: Mapping[str, Sequence[int]],
    *,
    dashed_by: str = "direction",
    legend_pixels: int = 640,
) -> dict[str, Any]:
    """A chart of learning curves: a thin line per seed and a thick line for their mean; ltr is solid, rtl is dashed.

    Fields of a row: `line` ("seed" or "mean"), `arm`, `dashed_by`, `seed`, the x fields, `value`.

    Args:
        legend_pixels: the width of the legend with the names of the arms, in pixels; 0 leaves the names out.
    """
    dashes_title = "direction" if dashed_by == "direction" else "line"
    base = _rows().encode(
        x=x.on(alt.X, axis=alt.Axis(format=x.format, tickCount=6)),
        y=y.on(alt.Y, scale=FITTED),
        color=_colour("arm", "arm", colours, legend_pixels, most_columns=3),
    )
    picked = picked_in_legend("arm") if legend_pixels else None
    dashed = base.encode(strokeDash=_dash(dashed_by, dashes, dashes_title))
    thin, thick = (
        dashed.transform_filter(alt.datum.line == line)
        .mark_line(strokeWidth=width)
        .encode(opacity=if_picked(picked, opacity))
        for line, width, opacity in (("seed", 1, 0.4), ("mean", 2.6, 1.0))
    )
    places = (
        Axis("step", "step", ",d"),
        Axis("tokens_read", "tokens read", ".4s"),
        Axis("seconds", "seconds", ".3~s"),
    )
    who = [words("arm", "arm"), words("seed", "seed"), words(dashed_by, dashes_title)]
    points = base.transform_filter(alt.datum.line == "seed").mark_point(filled=True, size=46)
    return _layered(
        {
            "seeds": thin.encode(detail=alt.Detail("seed:N")),
            "means": thick if picked is None else thick.add_params(picked),
            "points": _answering(points.encode(tooltip=[*who, y.tooltip, *(place.tooltip for place in places)]), 0),
        },
        height=330,
    )


def lines(
    x: Axis,
    y: Axis,
    colours: Mapping[str, str],
    what: str,
    *,
    chosen: Mapping[str, str] | None = None,
    dashes: Mapping[str, Sequence[int]] = SOLID,
    band: bool = False,
    legend_pixels: int | None = None,
) -> dict[str, Any]:
    """A chart with a line and its points for each series. The field `look` decides how a line is dashed.

    Fields of a row: `series`, `look`, `key`, the x field, the y field, `seeds`, `low` and `high` (the ends of the interval, or
    None), and the fields of `chosen`.

    Args:
        colours: series -> colour, in the order of the legend; `what`: the word for a series, such as arm.
        chosen: the values of the fields that a row must have to belong to this variant: field -> value.
        band: whether the interval is drawn behind the line.
        legend_pixels: the width of the legend with the names of the series, in pixels; 0 leaves the names out; with None the legend
            has five columns, or three columns if a legend of the dashes is next to it.
    """
    columns = 5 if len(dashes) == 1 else 3  # the legend of the dashes needs as much space as two columns
    base = _rows(chosen).encode(
        x=x.on(alt.X, axis=alt.Axis(**WHOLE_TICKS.get(x.field, {"format": x.format, "tickCount": 6})), scale=EXACT),
        y=y.on(alt.Y, scale=FITTED),
        color=_colour("series", what, colours, legend_pixels, most_columns=columns),
        detail=alt.Detail("look:N"),
    )
    spread = (Axis("low", "interval from", y.format), Axis("high", "to", y.format), Axis("seeds", "seeds", "d"))
    place = Axis(x.field, x.title, ".4~s")
    tooltip = [words("series", what), words("look", "line"), *(one.tooltip for one in (place, y, *spread))]
    points = base.mark_point(filled=True, size=46).encode(tooltip=tooltip)
    dash = _dash("look", dashes, None)
    layers: dict[str, Any] = {
        "lines": base.mark_line(strokeWidth=2.2).encode(strokeDash=dash),
        "points": _answering(points, 0.25 if x.field in WHOLE_TICKS else 0),
    }
    if band:
        area = base.mark_area(opacity=max(0.05, 0.16 / max(1, len(colours) / 3)))
        layers = {"bands": area.encode(y=y.on(alt.Y, "low"), y2=alt.Y2("high:Q"))} | layers
    return _with_reference(_layered(layers, height=300), y)


def accuracy_by_difficulty(
    x: Axis, y: Axis, colours: Mapping[str, str], scales: Sequence[str], marked: Mapping[str, str]
) -> dict[str, Any]:
    """A chart of accuracy over difficulty: a line per arm, with an interval over seeds and a point per seed.

    Lines of steps show the levels that the legend names; rows of ticks show the levels of simple guessers.

    Fields of a row: `kind` (arm, seed, or a level: chance, trivial, simple, best), `series`, the x field, `value`, `low`, `high`,
    `text`; a row of a level also has `name`.

    Args:
        scales: the names of the scales, which stand under x = 0, 1, ..; empty if the x-axis shows a number instead of names.
        marked: kind of level -> its name in the legend.
    """
    axis = alt.Axis(format=x.format, tickCount=6)
    if scales:
        axis = alt.Axis(values=list(range(len(scales))), labelExpr=f"{list(scales)}[datum.value]", grid=False)
    base = _rows().encode(
        x=x.on(alt.X, axis=axis, scale=alt.Scale(nice=False, zero=False, padding=24)),
        y=y.on(alt.Y, scale=alt.Scale(zero=True, nice=True)),
    )
    picked = picked_in_legend("series")
    coloured = base.encode(color=_colour("series", "arm", colours, 560, most_columns=4))
    arms = coloured.transform_filter(alt.datum.kind == "arm")
    seeds = coloured.transform_filter(alt.datum.kind == "seed")
    tooltip = [words("series", "arm"), words("text", y.title)]
    ends = arms.mark_rule(strokeWidth=2.2).encode(
        y=y.on(alt.Y, "low"), y2=alt.Y2("high:Q"), opacity=if_picked(picked, 0.5)
    )
    points = arms.mark_point(filled=True, size=64).encode(opacity=if_picked(picked, 1), tooltip=tooltip)
    circles = seeds.mark_point(size=26, strokeWidth=1.2).encode(opacity=if_picked(picked, 0.8), tooltip=tooltip)
    return _layered(
        {
            **_steps_and_ticks(base, marked),
            "intervals": ends.encode(tooltip=tooltip),
            "lines": arms.mark_line(strokeWidth=2.2).encode(opacity=if_picked(picked, 1)).add_params(picked),
            "seeds": circles,
            "points": points,
        },
        height=330,
    )


def _steps_and_ticks(base: alt.Chart, marked: Mapping[str, str]) -> dict[str, alt.Chart]:
    """The levels over difficulty: a line of steps per level in the legend, and a named row of ticks per simple guesser."""
    drawn = base.transform_filter(alt.FieldOneOfPredicate(field="kind", oneOf=list(marked)))
    thin = base.transform_filter(alt.datum.kind == "simple")
    dash = alt.StrokeDash(
        "kind:N",
        title="level",
        scale=alt.Scale(domain=list(marked), range=[LEVEL_DASHES[kind] for kind in marked]),
        legend=line_legend(symbolStrokeColor=GREY, labelExpr=f"{dict(marked)}[datum.label]"),
    )
    tooltip = words("text", "level")
    stroke: dict[str, Any] = {"shape": "stroke", "color": GREY}
    return {
        "steps": drawn.mark_line(interpolate="step", color=GREY, strokeWidth=1.4).encode(strokeDash=dash),
        "stops": drawn.mark_point(size=180, strokeWidth=1.6, **stroke).encode(tooltip=tooltip),
        "ticks": thin.mark_point(size=110, strokeWidth=0.8, **stroke).encode(tooltip=tooltip),
        "names": thin.mark_text(align="left", dx=9, fontSize=FONT_PIXELS, color=GREY).encode(text=alt.Text("name:N")),
    }


# --- rows of dots ---------------------------------------------------------------------------------------------------


def final_scores(
    x: Axis,
    colours: Mapping[str, str],
    tick_count: int = 4,
    tables: bool = False,
    chance: bool = False,
    alone: bool = False,
    published: bool = False,
) -> dict[str, Any]:
    """A chart with one row per arm: every seed is a dot, the mean is a tick, the t interval of the mean is a bar.

    Fields of a row: `kind` ("seed", "mean" or "chance"), `arm`, `seed`, `value`, `low`, `high`, `text`.

    Args:
        chance: whether a grey diamond in each row shows the value that chance would give.
        alone: whether a thin grey bar shows the interval of one comparison alone (the fields `single_low` and `single_high`).
        published: whether a hollow diamond shows a published value (a row of the kind "published").
        tables: whether each arm has two lines: the upper line shows the embedding table of tokens (circles), the lower line shows
            the embedding table of positions (diamonds). The field `table` of a row names its table.
    """
    arms, pixels = list(colours), _row_pixels(colours)
    axis = _axis_of_names(arms)
    base = _rows().encode(
        y=alt.Y(
            "arm:N", sort=arms, scale=alt.Scale(domain=arms, paddingInner=0.3 if tables else alt.Undefined), axis=axis
        ),
        color=alt.Color("arm:N", scale=alt.Scale(domain=arms, range=list(colours.values())), legend=None),
    )
    who = [words("arm", "arm")]
    seeds = base.transform_filter(alt.datum.kind == "seed").mark_point(filled=True, size=58, opacity=0.9)
    if tables:
        names = list(TABLE_SHAPES)
        look = alt.Scale(domain=names, range=list(TABLE_SHAPES.values()))
        legend = alt.Legend(symbolFillColor=GREY, symbolStrokeColor=GREY, symbolSize=70)
        line = alt.YOffset("table:N", sort=names, scale=alt.Scale(domain=names))
        base, seeds = base.encode(yOffset=line), seeds.encode(yOffset=line)
        seeds = seeds.encode(shape=alt.Shape("table:N", title=None, scale=look, legend=legend))
        who.append(words("table", "table"))
    means = base.transform_filter(alt.datum.kind == "mean").encode(tooltip=[*who, words("text", x.title)])
    ticks = alt.Axis(format=x.format, tickCount=tick_count, labelOverlap="greedy", labelSeparation=10)
    scale = alt.Scale(zero=False, nice=True, padding=14)
    interval = means.mark_bar(height=7 if tables else 9, opacity=0.28, cornerRadius=4)
    tick = means.mark_tick(thickness=2.5, size=14 if tables else min(22, pixels))
    value = Axis("value", x.title, ".4f").tooltip
    by_chance = base.transform_filter(alt.datum.kind == "chance").mark_point(shape="diamond", size=95, strokeWidth=1.8)
    by_chance = by_chance.encode(
        x=alt.X("value:Q"), color=alt.ColorValue(GREY), tooltip=[*who, words("text", "by chance")]
    )
    return _layered(
        {
            "intervals": interval.encode(x=x.on(alt.X, "low", scale=scale, axis=ticks), x2=alt.X2("high:Q")),
            **({"chance": by_chance} if chance else {}),
            **({"alone": _single_intervals(means)} if alone else {}),
            **({"published": _published_effects(base, who)} if published else {}),
            "means": tick.encode(x=x.on(alt.X, "value")),
            "seeds": seeds.encode(x=x.on(alt.X, "value"), tooltip=[*who, words("seed", "seed"), value]),
        },
        height=pixels * len(arms),
    )


def _single_intervals(means: alt.Chart) -> alt.Chart:
    """Thin grey bars: the intervals of single comparisons."""
    ends = {"x": alt.X("single_low:Q"), "x2": alt.X2("single_high:Q")}
    bars: alt.Chart = means.mark_bar(height=3, opacity=0.75).encode(**ends, color=alt.ColorValue(GREY))
    return bars


def _published_effects(base: alt.Chart, who: Sequence[alt.Tooltip]) -> alt.Chart:
    """Hollow diamonds: published effects."""
    points = base.transform_filter(alt.datum.kind == "published")
    points = points.mark_point(shape="diamond", size=95, strokeWidth=1.8)
    drawn: alt.Chart = points.encode(x=alt.X("value:Q"), tooltip=[*who, words("text", "published")])
    return drawn


def differences(
    x: Axis, colours: Mapping[str, str], smallest_effect: float, *, alone: bool = False, published: bool = False
) -> dict[str, Any]:
    """A chart of the differences of a family with a line at zero and a band of effects that are too small to matter.

    Every pair of runs is a dot; the mean is drawn with the interval that decides, and with that of one comparison alone. The rows
    must have the fields that `final_scores` lists.
    """
    chart = final_scores(x, colours, tick_count=7, alone=alone, published=published)
    ends = {"zero": 0, "least": smallest_effect, "minus": -smallest_effect}
    x_of = {name: {"field": name, "type": "quantitative"} for name in ends}
    zero = own_layer("zero", [ends], {"type": "rule", "strokeWidth": 1.2, "opacity": 0.8}, {"x": x_of["zero"]})
    rect = {"type": "rect", "color": GREY, "opacity": 0.14}
    band = own_layer("band", [ends], rect, {"x": x_of["minus"], "x2": {"field": "least"}})
    chart["layer"] = [*([band] if smallest_effect > 0 else []), zero, *chart["layer"]]
    return chart


def _axis_of_names(names: Collection[str]) -> alt.Axis:
    """The axis of names beside rows, with room for the longest one.

    A reader's font may be wider than the one that the drawing measures, and names would be cut.
    """
    longest = max((len(line) for name in names for line in name.split("\n")), default=0)
    axis = alt.Axis(title=None, grid=False, labelLimit=LABEL_LIMIT, labelFontSize=12, labelLineHeight=13)
    axis.labelPadding = LABEL_PADDING
    axis.minExtent = min(LABEL_LIMIT, CHARACTER_PIXELS * longest) + LABEL_PADDING
    axis.labelExpr = "split(datum.label, '\\n')"
    return axis


def _row_pixels(names: Collection[str]) -> int:
    least = max(LEAST_ROW_PIXELS, *(LINE_PIXELS * (1 + name.count("\n")) for name in names), 0)
    return max(least, min(ROW_PIXELS, ROWS_PIXELS // max(1, len(names))))


# --- areas ----------------------------------------------------------------------------------------------------------


def violins(
    x: Axis, y: Axis, categories: Sequence[Sequence[str]], colour: str, extent: tuple[float, float]
) -> dict[str, Any]:
    """A chart of violins, one per category: the shape shows the density of the category's values, a tick shows their median.

    Fields of a row: `kind` ("point", "median" or "run"), `value`, and the x field (the index 0, 1, .. of the category).

    Args:
        categories: the lines of text below each violin (only numbers); `extent`: the values at which the densities begin and end.
    """
    half = f"{VIOLIN_HALF_WIDTH} * datum.density / datum.densest"
    labels = f"{[list(lines) for lines in categories]}[datum.value]"
    places = alt.Axis(values=list(range(len(categories))), labelExpr=labels, grid=False, labelFontSize=12)
    span = alt.Scale(domain=[-0.6, len(categories) - 0.4], nice=False, zero=False)
    base = _rows()
    bodies = (
        base.transform_filter(alt.datum.kind == "point")
        .transform_density("value", as_=["value", "density"], groupby=[x.field], extent=list(extent), steps=80)
        .transform_joinaggregate(densest="max(density)", groupby=[x.field])
        .transform_calculate(left=f"datum.{x.field} - {half}", right=f"datum.{x.field} + {half}")
        .transform_filter("datum.density > datum.densest / 500")
        .mark_area(orient="horizontal", opacity=0.32, color=colour, aria=False)
        .encode(
            x=x.on(alt.X, "left", axis=places, scale=span),
            x2=alt.X2("right:Q"),
            y=y.on(alt.Y, "value", scale=FITTED),
            detail=alt.Detail(f"{x.field}:Q"),
        )
    )
    at = base.encode(x=alt.X(f"{x.field}:Q"), y=alt.Y("value:Q"))
    medians = at.transform_filter(alt.datum.kind == "median").transform_filter(f"isValid(datum.{x.field})")
    tick_pixels = max(16, min(54, 360 // len(categories)))
    runs = at.transform_filter(alt.datum.kind == "run").mark_point(filled=True, size=34, opacity=0.95, color=colour)
    named = {
        "violins": bodies,
        "medians": medians.mark_tick(orient="horizontal", thickness=2.5, size=tick_pixels, color=colour),
        "runs": runs.encode(tooltip=[words("text", "run")]),
    }
    return _with_reference(_layered(named, height=300), y)


@dataclass(frozen=True)
class Heat:
    """The colours, names and layout of the squares of a heat map.

    Attributes:
        what: the word that the tooltip shows before the number of a square.
        ramp, domain: the colours of the map, and the values that have exactly these colours.
        row_pixels: the height of a row in pixels.
    """

    what: str
    ramp: Sequence[str]
    domain: Sequence[float]
    row_pixels: int = HEAT_ROW_PIXELS


def heat_map(
    rows: Axis,
    row_order: Sequence[str],
    columns: Axis,
    column_order: Sequence[str],
    heat: Heat,
    chosen: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A heat map: a coloured square with a number for each pair of row and column, such as depth and width of a model.

    Fields of a row: the fields of both axes as texts, `value`, `label`, `dark` (whether the square is so dark that its number must
    be white), `text`, and the fields of `chosen`.
    """
    gap = alt.Scale(paddingInner=0.03)
    flat, no_grid = alt.Axis(labelAngle=0, grid=False), alt.Axis(grid=False, labelLimit=150)
    base = _rows(chosen).encode(
        x=alt.X(f"{columns.field}:O", title=columns.title, sort=list(column_order), axis=flat, scale=gap),
        y=alt.Y(f"{rows.field}:O", title=rows.title, sort=list(row_order), axis=no_grid, scale=gap),
        tooltip=[words("text", heat.what)],
    )
    ramp = alt.Scale(domain=list(heat.domain), range=list(heat.ramp), interpolate="lab", clamp=True)
    squares = base.mark_rect(strokeWidth=0).encode(color=alt.Color("value:Q", legend=None, scale=ramp))
    ink = alt.when(alt.datum.dark).then(alt.value("#ffffff")).otherwise(alt.value("#26241f"))
    numbers = base.mark_text(fontSize=12.5).encode(text=alt.Text("label:N"), color=alt.ColorValue(**ink))
    return _layered({"squares": squares, "numbers": numbers}, height=heat.row_pixels * len(row_order))


def influence_map(length: int, boundary: Sequence[Mapping[str, float]], side_pixels: int) -> dict[str, Any]:
    """A T x T heat map: rows are target positions, columns are source positions. Leaks are red.

    A line surrounds the cells in which the objective allows influence.

    Fields of a row: `target`, `target_end`, `source`, `source_end`, `influence`, `state` ("allowed" or "LEAK").

    Args:
        boundary: the segments (x, y, x2, y2) of the line around the allowed influence, in positions.
    """
    step = next(step for step in (*(2**power for power in range(11)), 2**30) if length / step <= 8)
    axis = alt.Axis(values=list(range(0, length + 1, step)), grid=False, format="d", labelOverlap=True)

    def side(domain: list[int]) -> dict[str, Any]:
        return {"scale": alt.Scale(domain=domain, nice=False, zero=False), "axis": axis}

    base = _rows().encode(
        x=Axis("source", "source position").on(alt.X, **side([0, length])),
        x2=alt.X2("source_end:Q"),
        y=Axis("target", "target position").on(alt.Y, **side([length, 0])),
        y2=alt.Y2("target_end:Q"),
        tooltip=[
            words("targets", "target"),
            words("sources", "source"),
            Axis("influence", "influence", ".2~g").tooltip,
            words("state", "the law says"),
        ],
    )
    layers = []
    for state, ramp in (("allowed", INK_BLUES), ("LEAK", LEAK_REDS)):
        shade = alt.Color("shade:Q", legend=None, scale=alt.Scale(domain=[0, 1], range=ramp, interpolate="lab"))
        cells = base.transform_filter(alt.datum.state == state).mark_rect(strokeWidth=0, aria=False)
        layers.append(cells.encode(color=shade).properties(name=f"cells_{state.lower()}"))
    edge = alt.Chart(alt.NamedData("boundary"), name="law").mark_rule(strokeWidth=1.4, opacity=1, aria=False)
    layers.append(edge.encode(x=alt.X("x:Q"), y=alt.Y("y:Q"), x2=alt.X2("x2:Q"), y2=alt.Y2("y2:Q")))
    chart = alt.layer(*layers).resolve_scale(color="independent")
    drawn = plain(chart.properties(width=side_pixels, height=side_pixels))
    drawn["layer"][-1]["data"] = {"values": list(boundary)}
    return drawn


# --- changes to a chart ---------------------------------------------------------------------------------------------


def with_log_axes(
    specification: Mapping[str, Any], x_field: str, channels: Sequence[str] = ("x", "y")
) -> dict[str, Any]:
    """The chart on logarithmic axes, without the points at 0. On the page, `report.js` makes the same change."""

    def stretched(channel: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in (channel.get("scale") or {}).items() if name != "zero"}
        return {**channel, "scale": {**kept, "type": "log", "nice": False}}

    fields = {"x": x_field, "y": "value"}
    positive = [{"filter": {"field": fields[channel], "gt": 0}} for channel in channels]
    return {
        **with_channels(specification, channels, stretched),
        "transform": [*specification.get("transform", []), *positive],
    }


def with_channels(
    chart: Mapping[str, Any], channels: Sequence[str], changed: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """The chart in which the function `changed` was applied to the given channels (such as x and y) of every layer."""
    layers = []
    for layer in chart["layer"]:
        encoding = layer.get("encoding", {})
        new = {channel: changed(encoding[channel]) for channel in channels if channel in encoding}
        layers.append({**layer, "encoding": encoding | new})
    return {**chart, "layer": layers}


def with_counts(chart: dict[str, Any], counts: Mapping[str, str]) -> dict[str, Any]:
    """The chart with further fields in the tooltips of its points. `counts` maps each field to its title."""
    more = [{"field": name, "type": "quantitative", "title": title, "format": ",d"} for name, title in counts.items()]
    for layer in chart["layer"]:
        if layer["name"] == "points":
            layer["encoding"]["tooltip"] = [*layer["encoding"]["tooltip"], *more]
    return chart


def on_paper(chart: dict[str, Any]) -> dict[str, Any]:
    """The chart without the layers that only a mouse makes visible, and without the parameters of these layers.

    A drawing of learning curves as SVG is then five times smaller, and it takes two thirds of the time.
    """
    hidden = {layer["name"] for layer in chart.get("layer", ()) if _waits_for_mouse(layer)}
    if not hidden:
        return chart
    params = [param for param in chart["params"] if not set(param["views"]) <= hidden]
    layers = [layer for layer in chart["layer"] if layer.get("name") not in hidden]
    return {**chart, "layer": layers, "params": params}


def _waits_for_mouse(layer: Mapping[str, Any]) -> bool:
    """Whether all marks of a layer are invisible until the mouse is near one of them; `_answering` makes such layers."""
    opacity = layer.get("encoding", {}).get("opacity", {})
    return "name" in layer and "condition" in opacity and opacity.get("value") == 0


# --- parts of charts ------------------------------------------------------------------------------------------------


def columns_that_fit(names: Iterable[str], pixels: int, most: int = 3) -> int:
    """The number of columns, from 1 to `most`, with which a legend of these names fits into `pixels`."""
    widest = SYMBOL_PIXELS + LETTER_PIXELS * max(map(len, names), default=0)
    return max(1, min(most, int(pixels / widest)))


def picked_in_legend(field: str) -> alt.Parameter:
    """A selection of series: the series whose names were clicked in the legend, or all series if no name was clicked."""
    return alt.selection_point(name="picked", fields=[field], bind="legend", toggle="true")


def how_to_pick(series: Collection[str]) -> Iterator[str]:
    """The sentence of a caption that explains how to pick series in the legend; no sentence for fewer than MANY series."""
    if len(series) >= MANY:
        yield HOW_TO_PICK


def if_picked(picked: alt.Parameter | None, opacity: float) -> Any:
    """The opacity of a series: a selected series has the full opacity, any other series is faint."""
    if picked is None:
        return alt.OpacityValue(opacity)
    return alt.OpacityValue(**alt.when(picked).then(alt.value(opacity)).otherwise(alt.value(TRACE * opacity)))


def line_legend(**more: Any) -> alt.Legend:
    """A legend of lines with every entry; by default Vega leaves out the entries after the 30th."""
    return alt.Legend(
        symbolType="stroke", symbolOpacity=1, symbolSize=420, symbolStrokeWidth=2.6, symbolLimit=0, **more
    )


def words(field: str, title: str) -> alt.Tooltip:
    """One line of a tooltip: a text field under a title."""
    return alt.Tooltip(f"{field}:N", title=title)


def plain(chart: Any) -> dict[str, Any]:
    """The Vega-Lite specification without the address of its schema, because a report names nothing outside itself."""
    # Without validation the conversion takes a third of the time. Tests draw every chart, so they find an invalid chart.
    specification: dict[str, Any] = chart.to_dict(validate=False)
    for key in ("$schema", "config", "datasets"):
        specification.pop(key, None)
    return specification


def _rows(chosen: Mapping[str, str] | None = None) -> alt.Chart:
    chart = alt.Chart(alt.NamedData(ROWS))
    for field, value in (chosen or {}).items():
        chart = chart.transform_filter(alt.FieldEqualPredicate(field=field, equal=value))
    return chart


def _layered(layers: Mapping[str, alt.Chart], height: int) -> dict[str, Any]:
    """The layers as one chart of the rows of the page, with the selections of all layers above them, where Vega-Lite wants them.

    `alt.layer` gives the same, but it copies every layer five times, and this took half of the time of a report's charts.
    """
    selections: dict[str, dict[str, Any]] = {}
    drawn = []
    for name, layer in layers.items():
        specification = plain(layer)
        data = specification.pop("data")
        for selection in specification.pop("params", []):
            selections.setdefault(selection["name"], {**selection, "views": []})["views"].append(name)
        drawn.append({**specification, "name": name})
    params = {"params": list(selections.values())} if selections else {}
    return {"layer": drawn, "data": data, "height": height, **params, "width": "container"}


def own_layer(
    name: str, values: Sequence[Mapping[str, Any]], mark: Mapping[str, Any], encoding: Mapping[str, Any]
) -> dict[str, Any]:
    """A layer of a chart that holds its own rows instead of the rows of the chart."""
    return {"name": name, "data": {"values": list(values)}, "mark": mark, "encoding": encoding}


def _with_reference(chart: dict[str, Any], y: Axis) -> dict[str, Any]:
    """The chart with a dashed line behind it, at the reference value of its y-axis."""
    if y.reference is None:
        return chart
    mark = {"type": "rule", "strokeWidth": 1, "opacity": 0.55, "strokeDash": [3, 3]}
    rule = own_layer("same", [{"same": y.reference}], mark, {"y": {"field": "same", "type": "quantitative"}})
    return {**chart, "layer": [rule, *chart["layer"]]}


def _answering(points: alt.Chart, hidden: float) -> alt.Chart:
    """The points of a chart. The point nearest to the mouse is shown with its tooltip; other points have the opacity `hidden`."""
    nearest = alt.selection_point(
        name="nearest", on="pointerover", clear="pointerout", nearest=True, fields=["key"], empty=False
    )
    shown = alt.when(nearest).then(alt.value(1)).otherwise(alt.value(hidden))
    return points.encode(opacity=alt.OpacityValue(**shown)).add_params(nearest)


def _colour(
    field: str, title: str, colours: Mapping[str, str], legend_pixels: int | None, most_columns: int
) -> alt.Color:
    columns = columns_that_fit(colours, legend_pixels, most_columns) if legend_pixels else most_columns
    legend = None if legend_pixels == 0 else line_legend(columns=columns)
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return alt.Color(f"{field}:N", title=title, sort=list(colours), scale=scale, legend=legend)


def _dash(field: str, dashes: Mapping[str, Sequence[int]], title: str | None) -> alt.StrokeDash:
    """The channel that chooses the dashes of lines by the values of a field. With two or more values there is a legend."""
    scale = alt.Scale(domain=list(dashes), range=[list(dash) for dash in dashes.values()])
    legend = line_legend(symbolStrokeColor=GREY) if len(dashes) > 1 else None
    return alt.StrokeDash(f"{field}:N", title=title, scale=scale, legend=legend)
