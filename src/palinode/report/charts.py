"""The charts, each defined once: the same definition is drawn on the page and written as SVG and PDF.

A chart reads rows by the name of a data set and carries no data itself; it is as wide as its column on the page. Every
view and parameter is named here, because Altair numbers unnamed ones with a counter of the process, and the same store
must give the same bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

SYMBOL_PIXELS, LETTER_PIXELS = 42.0, 6.1  # of an entry of a legend
ROWS = "rows"  # the name under which every chart finds its data
ROW_PIXELS = 44
TRACE = 0.08  # of its opacity, of a series that is not picked
MANY = 8  # series, from which on a reader is told that they can be picked
HOW_TO_PICK = "Click names to see those alone, and once more for all."
LEAK_COLOUR = "#c8372d"
INK_BLUES = ["#eef1f4", "#b9c7d6", "#7f9ab8", "#4a6a8f", "#22405f"]
LEAK_REDS = ["#f6c1b6", "#e8806f", "#c8372d", "#7d1512"]


@dataclass(frozen=True)
class Axis:
    """A quantitative axis: field, title, and d3 number format."""

    field: str
    title: str
    format: str = "~s"


def learning_curves(
    x: Axis,
    y: Axis,
    colours: Mapping[str, str],
    dashes: Mapping[str, Sequence[int]],
    *,
    dashed_by: str = "direction",
    legend_pixels: int = 640,
) -> dict[str, Any]:
    """Lines per seed (thin) and their mean (thick); ltr solid, rtl dashed.

    Rows: `line` ("seed" or "mean"), `arm`, `dashed_by`, `seed`, the x fields, `value`.

    Args:
        legend_pixels: room for the names of the arms; 0 leaves them out.
    """
    dashes_title = "direction" if dashed_by == "direction" else "line"
    base = alt.Chart(alt.NamedData(ROWS)).encode(
        x=alt.X(x.field, type="quantitative", title=x.title, axis=alt.Axis(format=x.format, tickCount=6)),
        y=alt.Y("value", type="quantitative", title=y.title, scale=alt.Scale(zero=False, nice=True)),
        color=_arm_colour(colours, legend_pixels),
    )
    dash = alt.StrokeDash(
        dashed_by,
        type="nominal",
        title=dashes_title,
        scale=alt.Scale(domain=list(dashes), range=[list(dash) for dash in dashes.values()]),
        legend=line_legend(symbolStrokeColor="#8c8678") if len(dashes) > 1 or dashed_by == "direction" else None,
    )
    nearest = alt.selection_point(
        name="nearest", on="pointerover", clear="pointerout", nearest=True, fields=["key"], empty=False
    )
    thin, thick = _seeds_and_means(base.encode(strokeDash=dash), picked_in_legend("arm") if legend_pixels else None)
    points = (
        base.transform_filter(alt.datum.line == "seed")
        .mark_point(filled=True, size=46)
        .encode(
            opacity=alt.when(nearest).then(alt.value(1)).otherwise(alt.value(0)),
            tooltip=[
                said("arm", "arm"),
                said("seed", "seed"),
                said(dashed_by, dashes_title),
                alt.Tooltip("value", type="quantitative", title=y.title, format=y.format),
                alt.Tooltip("step", type="quantitative", title="step", format=",d"),
                alt.Tooltip("tokens_read", type="quantitative", title="tokens read", format=".4s"),
                alt.Tooltip("seconds", type="quantitative", title="seconds", format=".3~s"),
            ],
        )
        .add_params(nearest)
    )
    layers = [
        thin.encode(detail="seed:N").properties(name="seeds"),
        thick.properties(name="means"),
        points.properties(name="points"),
    ]
    return plain(alt.layer(*layers).properties(width="container", height=330))


def _seeds_and_means(base: alt.Chart, picked: alt.Parameter | None) -> tuple[alt.Chart, alt.Chart]:
    """Thin lines and thick ones."""
    thin, thick = (
        base.transform_filter(alt.datum.line == line)
        .mark_line(strokeWidth=width)
        .encode(opacity=if_picked(picked, opacity))
        for line, width, opacity in (("seed", 1, 0.4), ("mean", 2.6, 1.0))
    )
    return thin, thick if picked is None else thick.add_params(picked)


def final_scores(x: Axis, colours: Mapping[str, str], tick_count: int = 4) -> dict[str, Any]:
    """One row per arm: every seed as a dot, the mean as a tick, its t interval as a bar.

    Rows: `kind` ("seed" or "mean"), `arm`, `seed`, `value`, `low`, `high`, `text`.
    """
    y = _arm_rows(list(colours))
    colour = alt.Color(
        "arm", type="nominal", scale=alt.Scale(domain=list(colours), range=list(colours.values())), legend=None
    )
    scale = alt.Scale(zero=False, nice=True, padding=14)
    base = alt.Chart(alt.NamedData(ROWS)).encode(y=y, color=colour)
    means = base.transform_filter(alt.datum.kind == "mean")
    interval = means.mark_bar(height=9, opacity=0.28, cornerRadius=4).encode(
        x=alt.X(
            "low",
            type="quantitative",
            title=x.title,
            scale=scale,
            axis=alt.Axis(format=x.format, tickCount=tick_count, labelOverlap="greedy", labelSeparation=10),
        ),
        x2="high:Q",
        tooltip=_mean_tooltip(x),
    )
    tick = means.mark_tick(thickness=2.5, size=22).encode(
        x=alt.X("value", type="quantitative", title=x.title), tooltip=_mean_tooltip(x)
    )
    dots = (
        base.transform_filter(alt.datum.kind == "seed")
        .mark_point(filled=True, size=58, opacity=0.9)
        .encode(x=alt.X("value", type="quantitative", title=x.title), tooltip=_seed_tooltip(x))
    )
    layers = [
        interval.properties(name="intervals"),
        tick.properties(name="means"),
        dots.properties(name="seeds"),
    ]
    return plain(alt.layer(*layers).properties(width="container", height=ROW_PIXELS * len(colours)))


def differences(x: Axis, colours: Mapping[str, str], smallest_effect: float) -> dict[str, Any]:
    """Arm minus baseline: every pair as a dot, the mean with its interval; zero and the band that does not matter.

    Rows as for `final_scores`.
    """
    chart = final_scores(x, colours, tick_count=7)
    everywhere = {"values": [{"zero": 0, "least": smallest_effect, "minus": -smallest_effect}]}
    zero = {
        "name": "zero",
        "data": everywhere,
        "mark": {"type": "rule", "strokeWidth": 1.2, "opacity": 0.8},
        "encoding": {"x": {"field": "zero", "type": "quantitative"}},
    }
    band = {
        "name": "band",
        "data": everywhere,
        "mark": {"type": "rect", "color": "#8c8678", "opacity": 0.14},
        "encoding": {"x": {"field": "minus", "type": "quantitative"}, "x2": {"field": "least"}},
    }
    chart["layer"] = [*([band] if smallest_effect > 0 else []), zero, *chart["layer"]]
    return chart


def influence_map(length: int, boundary: Sequence[Mapping[str, float]], side_pixels: int) -> dict[str, Any]:
    """A T x T heat map: rows are target positions, columns source positions; leaks in red, the law's edge drawn.

    Rows: `target`, `target_end`, `source`, `source_end`, `influence`, `state` ("allowed" or "LEAK").

    Args:
        boundary: segments (x, y, x2, y2) in positions, around the region that the law allows.
    """
    ticks = list(range(0, length + 1, _tick_step(length)))
    x_axis = alt.Axis(values=ticks, grid=False, format="d", labelOverlap=True)
    base = alt.Chart(alt.NamedData(ROWS)).encode(
        x=alt.X(
            "source",
            type="quantitative",
            title="source position",
            scale=alt.Scale(domain=[0, length], nice=False, zero=False),
            axis=x_axis,
        ),
        x2="source_end:Q",
        y=alt.Y(
            "target",
            type="quantitative",
            title="target position",
            scale=alt.Scale(domain=[length, 0], nice=False, zero=False),
            axis=x_axis,
        ),
        y2="target_end:Q",
        tooltip=[
            said("targets", "target"),
            said("sources", "source"),
            alt.Tooltip("influence", type="quantitative", title="influence", format=".2~g"),
            said("state", "the law says"),
        ],
    )
    layers = []
    for state, ramp in (("allowed", INK_BLUES), ("LEAK", LEAK_REDS)):
        colour = alt.Color(
            "shade", type="quantitative", legend=None, scale=alt.Scale(domain=[0, 1], range=ramp, interpolate="lab")
        )
        cells = (
            base.transform_filter(alt.datum.state == state).mark_rect(strokeWidth=0, aria=False).encode(color=colour)
        )
        layers.append(cells.properties(name=f"cells_{state.lower()}"))
    edge = (
        alt.Chart(alt.NamedData("boundary"), name="law")
        .mark_rule(strokeWidth=1.4, opacity=1, aria=False)
        .encode(x="x:Q", y="y:Q", x2="x2:Q", y2="y2:Q")
    )
    chart = alt.layer(*layers, edge).resolve_scale(color="independent")
    drawn = plain(chart.properties(width=side_pixels, height=side_pixels))
    drawn["layer"][-1]["data"] = {"values": list(boundary)}
    return drawn


def _arm_colour(colours: Mapping[str, str], legend_pixels: int) -> alt.Color:
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    legend = line_legend(columns=columns_that_fit(colours, legend_pixels)) if legend_pixels else None
    return alt.Color("arm", type="nominal", title="arm", scale=scale, legend=legend)


def columns_that_fit(names: Iterable[str], pixels: int, most: int = 3) -> int:
    """Columns of a legend with these names, between 1 and `most`."""
    widest = SYMBOL_PIXELS + LETTER_PIXELS * max(map(len, names), default=0)
    return max(1, min(most, int(pixels / widest)))


def picked_in_legend(field: str) -> alt.Parameter:
    """The series whose names were clicked in the legend, once; all of them where none is."""
    return alt.selection_point(name="picked", fields=[field], bind="legend", toggle="true")


def how_to_pick(series: Collection[str]) -> Iterator[str]:
    """What a chart's reader is told when there are many."""
    if len(series) >= MANY:
        yield HOW_TO_PICK


def if_picked(picked: alt.Parameter | None, opacity: float) -> Any:
    """The opacity of a series; of those that were not picked a trace is left."""
    if picked is None:
        return alt.value(opacity)
    return alt.when(picked).then(alt.value(opacity)).otherwise(alt.value(TRACE * opacity))


def line_legend(**more: Any) -> alt.Legend:
    """Of lines, with every entry: Vega leaves out those after the 30th."""
    return alt.Legend(
        symbolType="stroke", symbolOpacity=1, symbolSize=420, symbolStrokeWidth=2.6, symbolLimit=0, **more
    )


def _arm_rows(arms: Sequence[str]) -> alt.Y:
    axis = alt.Axis(title=None, grid=False, labelLimit=230, labelFontSize=12, labelPadding=10)
    return alt.Y("arm", type="nominal", sort=list(arms), scale=alt.Scale(domain=list(arms)), axis=axis)


def said(field: str, title: str) -> alt.Tooltip:
    return alt.Tooltip(field, type="nominal", title=title)


def _seed_tooltip(x: Axis) -> list[alt.Tooltip]:
    value = alt.Tooltip("value", type="quantitative", title=x.title, format=".4f")
    return [said("arm", "arm"), said("seed", "seed"), value]


def _mean_tooltip(x: Axis) -> list[alt.Tooltip]:
    return [said("arm", "arm"), said("text", x.title)]


def _tick_step(length: int) -> int:
    return next(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2**30) if length / step <= 8)


def plain(chart: alt.LayerChart | alt.FacetChart) -> dict[str, Any]:
    """The Vega-Lite specification, without the schema's address: the report names nothing outside itself."""
    specification: dict[str, Any] = chart.to_dict(validate=False)  # a third of the time; the tests draw every chart
    for key in ("$schema", "config", "datasets"):
        specification.pop(key, None)
    return specification
