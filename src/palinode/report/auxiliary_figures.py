"""Figures of auxiliary terms along training: the score beside its shuffled pairs, the gains, the variance, the affinity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from palinode.analysis.curves import AFFINITY, auxiliary_curves, mean_curves
from palinode.base.measures import CURVE_AXES
from palinode.report import charts
from palinode.report.charts import Axis
from palinode.report.figure import MOST_CURVE_ROWS, Figure, Rows, at_scale, file_name, rounded, scale_part
from palinode.report.look import Look
from palinode.report.size_charts import with_log_axes
from palinode.report.words import X_TITLES
from palinode.results.record import ExperimentRecord

TOKENS = Axis("tokens_read", X_TITLES["tokens_read"])
LOG_LABELS = "datum.value < 0.001 ? format(datum.value, '~e') : format(datum.value, '~g')"
SOLID, DASHED = [1, 0], [5, 4]
SCORE, GAIN, VARIANCE = "score", "gain", "variance"
PANELS: dict[
    str, tuple[str, str, Mapping[str, str]]
] = {  # what the switch says, the axis, column -> how its line is called
    SCORE: ("value", "score of the pairs", {"value": "pairs", "shuffled": "shuffled pairs"}),
    GAIN: ("gain", "gain of the norms that feed it", {"gain": "mean", "least_gain": "least"}),
    VARIANCE: ("variance", "variance of the side that has less", {"variance": "mean"}),
    AFFINITY: ("affinity", "affinity: 1 - pairs / shuffled pairs", {AFFINITY: "mean"}),
}
NOTES = (
    "In training only; no loss elsewhere on this page contains it. Thin: one seed. Thick: the mean.",
    "A term has collapsed where shuffled pairs (dashed) fall with the pairs themselves, or the gain does: both sides vanish, "
    "and the value says nothing about how well they agree.",
)


def auxiliary_figures(record: ExperimentRecord, look: Look) -> Iterator[Figure]:
    """A figure per scale and term; nothing where no arm has one."""
    curves = auxiliary_curves(record)
    for scale in record.entry.scales:
        here = curves.filter(scale=scale)
        for term in here["term"].unique().sort():
            yield from _term_figure(record, here.filter(term=term), look, scale, term)


def _term_figure(record: ExperimentRecord, curves: pl.DataFrame, look: Look, scale: str, term: str) -> Iterator[Figure]:
    rows, thinned = _rows(curves, look)
    panels = [name for name in PANELS if any(row["panel"] == name for row in rows)]
    if not panels:
        return
    present = {row["arm"] for row in rows}
    colours = {look.labels[arm]: colour for arm, colour in look.colours.items() if look.labels[arm] in present}
    yield Figure(
        name=file_name("auxiliary", term, scale_part(record, scale)),
        kind="auxiliary",
        title=f"Auxiliary term: {term.replace('_', ' ')}{at_scale(record, scale)}",
        rows=rows,
        variants={panel: _chart(panel, rows, colours) for panel in panels},
        labels={panel: PANELS[panel][0] for panel in panels},
        choice="of",
        notes=(*NOTES, *thinned),
        scale=scale,
    )


def _chart(panel: str, rows: Rows, colours: Mapping[str, str]) -> dict[str, Any]:
    """Logarithmic but for the affinity, which has a zero."""
    _, title, lines = PANELS[panel]
    shown = {row["look"] for row in rows if row["panel"] == panel}
    dashes = {name: DASHED if place else SOLID for place, name in enumerate(lines.values()) if name in shown}
    chart = charts.learning_curves(TOKENS, Axis("value", title, ".4~g"), colours, dashes, dashed_by="look")
    chart["transform"] = [{"filter": {"field": "panel", "equal": panel}}]
    if panel == AFFINITY:
        return chart
    for layer in chart["layer"]:
        layer["encoding"]["y"]["axis"] = {"labelExpr": LOG_LABELS}
    return with_log_axes(chart, TOKENS.field, ("y",))


def _rows(curves: pl.DataFrame, look: Look) -> tuple[Rows, list[str]]:
    """Rows of single seeds and of means, evenly thinned where there are too many to draw."""
    columns = {column: (panel, said) for panel, (_, _, lines) in PANELS.items() for column, said in lines.items()}
    found = [(column, curves.drop_nulls(column)) for column in columns]
    drawn = [
        (line, column, frame)
        for column, seeds in found
        for line, frame in (("seed", seeds), ("mean", mean_curves(seeds, column, ("arm", "scale", "term"))))
    ]
    keep_every = -(-sum(frame.height for _, _, frame in drawn) // MOST_CURVE_ROWS)
    steps = sorted(curves["step"].unique())
    kept = {step for index, step in enumerate(steps) if index % max(1, keep_every) == 0 or step == steps[-1]}
    rows: Rows = []
    for line, column, frame in drawn:
        panel, said = columns[column]
        for row in frame.filter(pl.col("step").is_in(kept)).iter_rows(named=True):
            who = {"line": line, "panel": panel, "look": said, "arm": look.labels[row["arm"]], "seed": row.get("seed")}
            where = {axis: rounded(row[axis]) for axis in CURVE_AXES}
            rows.append(who | {"key": len(rows)} | where | {"value": rounded(row[column])})
    notes = [f"One logged step in {keep_every} is drawn; the tables hold all of them."] if keep_every > 1 else []
    return rows, notes
