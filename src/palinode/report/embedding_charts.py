"""The charts of the embedding tables: dots beside what chance makes, and the lengths of both tables in one row per arm.

Like `charts.py`: definitions only, rows by the name of a data set, every view named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from palinode.report.charts import ROW_PIXELS, ROWS, Axis, final_scores, plain, said

GREY = "#8c8678"
SHAPES = {"tokens": "circle", "positions": "diamond"}


def beside_chance(x: Axis, colours: Mapping[str, str]) -> dict[str, Any]:
    """`final_scores` with a grey mark in every row where chance would put it.

    Rows as for `final_scores`, and of `kind` "chance": `arm`, `value`, `text`.
    """
    chart = final_scores(x, colours, tick_count=6)
    chance = {
        "name": "chance",
        "transform": [{"filter": {"field": "kind", "equal": "chance"}}],
        "mark": {"type": "point", "shape": "diamond", "filled": False, "size": 95, "strokeWidth": 1.8, "color": GREY},
        "encoding": {
            "x": {"field": "value", "type": "quantitative"},
            "y": chart["layer"][0]["encoding"]["y"],
            "tooltip": [
                {"field": "arm", "type": "nominal", "title": "arm"},
                {"field": "text", "type": "nominal", "title": "by chance"},
            ],
        },
    }
    chart["layer"] = [*chart["layer"][:1], chance, *chart["layer"][1:]]
    return chart


def lengths(x: Axis, colours: Mapping[str, str]) -> dict[str, Any]:
    """Two lines of dots per arm: the rows of the table of tokens (circles), of positions below them (diamonds).

    Rows: `kind` ("seed" or "mean"), `arm`, `table`, `seed`, `value`, `low`, `high`, `text`.
    """
    arms, tables = list(colours), list(SHAPES)
    axis = alt.Axis(title=None, grid=False, labelLimit=230, labelFontSize=12, labelPadding=10)
    base = alt.Chart(alt.NamedData(ROWS)).encode(
        y=alt.Y("arm", type="nominal", sort=arms, scale=alt.Scale(domain=arms, paddingInner=0.3), axis=axis),
        yOffset=alt.YOffset("table", type="nominal", sort=tables, scale=alt.Scale(domain=tables)),
        color=alt.Color("arm", type="nominal", scale=alt.Scale(domain=arms, range=list(colours.values())), legend=None),
    )
    means = base.transform_filter(alt.datum.kind == "mean")
    place = alt.X("value", type="quantitative", title=x.title, axis=alt.Axis(format=x.format, tickCount=7))
    tooltip = [said("arm", "arm"), said("table", "table"), said("text", x.title)]
    interval = means.mark_bar(height=7, opacity=0.28, cornerRadius=3).encode(
        x=alt.X("low", type="quantitative", title=x.title), x2="high:Q", tooltip=tooltip
    )
    tick = means.mark_tick(thickness=2.2, size=14).encode(x=place, tooltip=tooltip)
    shape = alt.Shape(
        "table",
        type="nominal",
        title=None,
        scale=alt.Scale(domain=tables, range=list(SHAPES.values())),
        legend=alt.Legend(symbolFillColor=GREY, symbolStrokeColor=GREY, symbolSize=70),
    )
    dots = (
        base.transform_filter(alt.datum.kind == "seed")
        .mark_point(filled=True, size=58, opacity=0.9)
        .encode(
            x=place,
            shape=shape,
            tooltip=[
                said("arm", "arm"),
                said("table", "table"),
                said("seed", "seed"),
                alt.Tooltip("value", type="quantitative", title=x.title, format=".4f"),
            ],
        )
    )
    layers = [interval.properties(name="intervals"), tick.properties(name="means"), dots.properties(name="seeds")]
    return plain(alt.layer(*layers).properties(width="container", height=ROW_PIXELS * len(arms)))
