"""Charts over sizes: ratios along training and over blocks left, violins of pooled ratios, depth x width heat maps.

Like `charts.py`: definitions only, rows by the name of a data set, every view named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from palinode.report.charts import INK_BLUES, ROWS, Axis, columns_that_fit, line_legend, plain, said

LOSSES = INK_BLUES
AROUND_ONE = ["#c7861a", "#ead9b5", "#eeece6", "#b5d5cf", "#1f8a80"]  # below one, one, above one
VIOLIN_HALF_WIDTH = 0.4
DOUBLING = ("context_tokens", "distance", "length_factor")  # axes with a tick at every power of 2
HEAT_ROW_PIXELS = 46
STRIP_ROW_PIXELS = 30


def ratio_lines(
    x: Axis,
    y: Axis,
    colours: Mapping[str, str],
    chosen: Mapping[str, str],
    dashes: Mapping[str, Sequence[int]],
    title: str,
    reference: float | None = 1.0,
    *,
    band: bool = False,
    legend_pixels: int | None = None,
) -> dict[str, Any]:
    """A line per series over x, with its points; dashed by `look`; a rule at 1 where a ratio means "the same".

    Rows: `series`, `look`, `key`, the x field, the y field, `seeds`, `low` and `high` (the
    interval, where there is one), and the fields of `chosen`.

    Args:
        band: draw the interval as well, behind the line.
        colours: series -> colour, in the order of the legend; `title`: what a series is.
        chosen: field -> value: the rows of this variant.
        legend_pixels: room for the names of the series, 0 leaves them out; None: five columns, or three beside dashes.
    """
    base = alt.Chart(alt.NamedData(ROWS))
    for field, value in chosen.items():
        base = base.transform_filter(alt.FieldEqualPredicate(field=field, equal=value))
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    columns = 5 if len(dashes) == 1 else 3  # beside it stands the legend of the dashes
    if legend_pixels:
        columns = columns_that_fit(colours, legend_pixels, most=columns)
    legend = None if legend_pixels == 0 else line_legend(columns=columns)
    places = alt.Scale(nice=False, zero=False)
    drawn = base.encode(
        x=alt.X(x.field, type="quantitative", title=x.title, axis=_whole_ticks(x), scale=places),
        y=alt.Y(y.field, type="quantitative", title=y.title, scale=alt.Scale(zero=False, nice=True)),
        color=alt.Color("series", type="nominal", title=title, sort=list(colours), scale=scale, legend=legend),
        detail="look:N",
    )
    nearest = alt.selection_point(
        name="nearest", on="pointerover", clear="pointerout", nearest=True, fields=["key"], empty=False
    )
    hidden = alt.value(0.25 if x.field in ("blocks", "slice_value", *DOUBLING) else 0)
    points = drawn.mark_point(filled=True, size=46).encode(
        opacity=alt.when(nearest).then(alt.value(1)).otherwise(hidden), tooltip=_line_tooltip(x, y, title)
    )
    lines = drawn.mark_line(strokeWidth=2.2).encode(strokeDash=_dash(dashes))
    area = drawn.mark_area(opacity=max(0.05, 0.16 / max(1, len(colours) / 3))).encode(
        y=alt.Y("low", type="quantitative", title=y.title), y2="high:Q"
    )
    bands = [area.properties(name="bands")] if band else []
    layers = [*bands, lines.properties(name="lines"), points.add_params(nearest).properties(name="points")]
    chart = plain(alt.layer(*layers).properties(width="container", height=300))
    if reference is not None:
        chart["layer"].insert(0, _rule_at(reference))
    return chart


def violins(
    x: Axis, y: Axis, categories: Sequence[Sequence[str]], colour: str, extent: tuple[float, float]
) -> dict[str, Any]:
    """Densities of pooled values, one per category, around the category's place; medians as ticks.

    Rows: `kind` ("point", "median" or "run"), `value`, and the x field: the place 0, 1, .. of the category.

    Args:
        categories: the lines under each place, made of numbers; `extent`: where the densities begin and end.
    """
    half = f"{VIOLIN_HALF_WIDTH} * datum.density / datum.densest"
    places = alt.Axis(
        values=list(range(len(categories))),
        labelExpr=f"{[list(lines) for lines in categories]}[datum.value]",
        grid=False,
        labelFontSize=12,
    )
    span = alt.Scale(domain=[-0.6, len(categories) - 0.4], nice=False, zero=False)
    y_scale = alt.Scale(zero=False, nice=True)
    base = alt.Chart(alt.NamedData(ROWS))
    points = base.transform_filter(alt.datum.kind == "point")
    bodies = (
        points.transform_density("value", as_=["value", "density"], groupby=[x.field], extent=list(extent), steps=80)
        .transform_joinaggregate(densest="max(density)", groupby=[x.field])
        .transform_calculate(left=f"datum.{x.field} - {half}", right=f"datum.{x.field} + {half}")
        .transform_filter("datum.density > datum.densest / 500")
        .mark_area(orient="horizontal", opacity=0.32, color=colour, aria=False)
        .encode(
            x=alt.X("left", type="quantitative", title=x.title, axis=places, scale=span),
            x2="right:Q",
            y=alt.Y("value", type="quantitative", title=y.title, scale=y_scale),
            detail=f"{x.field}:Q",
        )
    )
    runs = (
        base.transform_filter(alt.datum.kind == "run")
        .mark_point(filled=True, size=34, opacity=0.95, color=colour)
        .encode(x=alt.X(x.field, type="quantitative"), y="value:Q", tooltip=[said("text", "run")])
    )
    medians = base.transform_filter(alt.datum.kind == "median").transform_filter(f"isValid(datum.{x.field})")
    tick = medians.mark_tick(
        orient="horizontal", thickness=2.5, size=max(16, min(54, 360 // len(categories))), color=colour
    )
    tick = tick.encode(x=alt.X(x.field, type="quantitative"), y="value:Q")
    named = {"violins": bodies, "medians": tick, "runs": runs}
    layers = [layer.properties(name=name) for name, layer in named.items()]
    chart = plain(alt.layer(*layers).properties(width="container", height=300))
    chart["layer"].insert(0, _rule_at(1.0))
    return chart


def heat_map(
    rows: Axis,
    row_order: Sequence[str],
    columns: Axis,
    column_order: Sequence[str],
    title: str,
    ramp: Sequence[str],
    domain: Sequence[float],
    chosen: Mapping[str, str] | None = None,
    row_pixels: int = HEAT_ROW_PIXELS,
) -> dict[str, Any]:
    """A coloured square per row and column with its number: depth by width, or size by blocks left.

    Rows: the fields of both axes as texts, `value`, `label`, `dark` (whether the square needs light ink), `text`, and the fields of
    `chosen`.

    Args:
        title: what a square is, for the tooltip.
        chosen: field -> value: the rows of this variant.
    """
    gap = alt.Scale(paddingInner=0.03)
    flat, no_grid = alt.Axis(labelAngle=0, grid=False), alt.Axis(grid=False, labelLimit=150)
    base = alt.Chart(alt.NamedData(ROWS))
    for field, value in (chosen or {}).items():
        base = base.transform_filter(alt.FieldEqualPredicate(field=field, equal=value))
    base = base.encode(
        x=alt.X(columns.field, type="ordinal", title=columns.title, sort=list(column_order), axis=flat, scale=gap),
        y=alt.Y(rows.field, type="ordinal", title=rows.title, sort=list(row_order), axis=no_grid, scale=gap),
        tooltip=[said("text", title)],
    )
    colour = alt.Color(
        "value",
        type="quantitative",
        legend=None,
        scale=alt.Scale(domain=list(domain), range=list(ramp), interpolate="lab", clamp=True),
    )
    squares = base.mark_rect(strokeWidth=0).encode(color=colour)
    ink = alt.when(alt.datum.dark).then(alt.value("#ffffff")).otherwise(alt.value("#26241f"))
    numbers = base.mark_text(fontSize=12.5).encode(text="label:N", color=ink)
    layers = [squares.properties(name="squares"), numbers.properties(name="numbers")]
    return plain(alt.layer(*layers).properties(width="container", height=row_pixels * len(row_order)))


def with_log_axes(
    specification: Mapping[str, Any], x_field: str, channels: Sequence[str] = ("x", "y")
) -> dict[str, Any]:
    """The same chart on logarithmic axes; what lies at 0 cannot be drawn there. `report.js` does the same on the page."""

    def stretched(layer: Mapping[str, Any]) -> dict[str, Any]:
        encoding = dict(layer.get("encoding", {}))
        for channel in channels:
            if channel in encoding:
                old = encoding[channel]
                kept = {name: value for name, value in (old.get("scale") or {}).items() if name != "zero"}
                encoding[channel] = {**old, "scale": {**kept, "type": "log", "nice": False}}
        return {**layer, "encoding": encoding}

    fields = {"x": x_field, "y": "value"}
    positive = [{"filter": {"field": fields[channel], "gt": 0}} for channel in channels]
    return {
        **specification,
        "transform": [*specification.get("transform", []), *positive],
        "layer": [stretched(layer) for layer in specification["layer"]],
    }


def _dash(dashes: Mapping[str, Sequence[int]]) -> alt.StrokeDash:
    scale = alt.Scale(domain=list(dashes), range=[list(dash) for dash in dashes.values()])
    legend = line_legend(symbolStrokeColor="#8c8678") if len(dashes) > 1 else None
    return alt.StrokeDash("look", type="nominal", title=None, scale=scale, legend=legend)


def _line_tooltip(x: Axis, y: Axis, title: str) -> list[alt.Tooltip]:
    numbers = {x.field: (x.title, ".4~s"), y.field: (y.title, y.format)}
    numbers |= {"low": ("interval from", y.format), "high": ("to", y.format), "seeds": ("seeds", "d")}
    shown = [
        alt.Tooltip(name, type="quantitative", title=said_as, format=how) for name, (said_as, how) in numbers.items()
    ]
    return [said("series", title), said("look", "line"), *shown]


def _whole_ticks(x: Axis) -> alt.Axis:
    if x.field in DOUBLING:
        return alt.Axis(format="d", values=[2**power for power in range(21)], labelOverlap=True)
    if x.field == "blocks":
        return alt.Axis(format="d", tickMinStep=1, tickCount=16, labelOverlap=True)
    if x.field == "slice_value":
        return alt.Axis(format="d", tickMinStep=1, tickCount=10, labelOverlap=True)
    return alt.Axis(format=x.format, tickCount=6)


def _rule_at(value: float) -> dict[str, Any]:
    return {
        "name": "same",
        "data": {"values": [{"same": value}]},
        "mark": {"type": "rule", "strokeWidth": 1, "opacity": 0.55, "strokeDash": [3, 3]},
        "encoding": {"y": {"field": "same", "type": "quantitative"}},
    }
