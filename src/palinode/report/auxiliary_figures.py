"""Figures of auxiliary terms over training: the score of true and of shuffled pairs, the gains, the variance, the affinity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from palinode.analysis.curves import AFFINITY, auxiliary_curves, mean_curves
from palinode.base.measures import CURVE_AXES
from palinode.report import charts
from palinode.report.charts import Axis
from palinode.report.figure import Figure, Rows, at_scale, file_name, scale_part
from palinode.report.study import CurvePart, Study

TOKENS = Axis("tokens_read", CURVE_AXES["tokens_read"].heading)
LOG_LABELS = "datum.value < 0.001 ? format(datum.value, '~e') : format(datum.value, '~g')"
PANELS: dict[str, tuple[str, Mapping[str, str]]] = {  # name on the switch -> the axis, and column -> name of its line
    "score": ("score of the pairs", {"value": "pairs", "shuffled": "shuffled pairs"}),
    "gain": ("gain of the norms that feed it", {"gain": "mean", "least_gain": "least"}),
    "variance": ("variance of the side that has less", {"variance": "mean"}),
    AFFINITY: ("affinity: 1 - pairs / shuffled pairs", {AFFINITY: "mean"}),
}
NOTES = (
    "In training only; no loss elsewhere on this page contains it. Thin: one seed. Thick: the mean.",
    "A term has collapsed where shuffled pairs (dashed) fall with the pairs themselves, or the gain does: both sides vanish, "
    "and the value says nothing about how well they agree.",
)


def auxiliary_figures(study: Study) -> Iterator[Figure]:
    """One figure for each scale and term; none where no arm has an auxiliary term."""
    curves = auxiliary_curves(study.record)
    for scale in study.scales:
        for (term,), here in curves.filter(scale=scale).sort("term").group_by("term", maintain_order=True):
            rows, thinned = _rows(study, here)
            if rows:
                shown = {row["panel"] for row in rows}
                panels = [name for name in PANELS if name in shown]
                colours = study.look.shown({row["arm"] for row in rows})
                yield Figure(
                    name=file_name("auxiliary", str(term), scale_part(study.record, scale)),
                    section="auxiliary",
                    title=f"Auxiliary term: {str(term).replace('_', ' ')}{at_scale(study.record, scale)}",
                    rows=rows,
                    variants={panel: _chart(panel, rows, colours) for panel in panels},
                    labels={panel: panel for panel in panels},
                    choice="of",
                    notes=(*NOTES, *thinned),
                )


def _rows(study: Study, curves: pl.DataFrame) -> tuple[Rows, list[str]]:
    parts: list[CurvePart] = []
    for panel, (_, columns) in PANELS.items():
        for column, name in columns.items():
            seeds = curves.drop_nulls(column)
            more = {"panel": panel, "look": name}
            means = mean_curves(seeds, column, ("arm", "scale", "term"))
            parts += [("seed", column, seeds, more), ("mean", column, means, more)]
    return study.curve_rows(parts, "logged step")


def _chart(panel: str, rows: Rows, colours: Mapping[str, str]) -> dict[str, Any]:
    """A chart on a logarithmic axis; the affinity has a linear one, because it can be zero."""
    title, columns = PANELS[panel]
    shown = {row["look"] for row in rows if row["panel"] == panel}
    dashes = {name: [5, 4] if place else [1, 0] for place, name in enumerate(columns.values()) if name in shown}
    chart = charts.learning_curves(TOKENS, Axis("value", title, ".4~g"), colours, dashes, dashed_by="look")
    chart["transform"] = [{"filter": {"field": "panel", "equal": panel}}]
    if panel == AFFINITY:
        return chart
    for layer in chart["layer"]:
        layer["encoding"]["y"]["axis"] = {"labelExpr": LOG_LABELS}
    return charts.with_log_axes(chart, TOKENS.field, ("y",))
