"""The figures of the token and position tables: the angle between both, shared directions, vector lengths, cosine by distance."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from palinode.analysis import embeddings
from palinode.report import charts
from palinode.report.charts import Axis
from palinode.report.study import Figure, Rows, Study, kept_inside, rounded
from palinode.report.words import number

DISTANCE = Axis("distance", "slots between two positions", "d")
COSINE = Axis("value", "mean cosine of two positions", ".3f", reference=0.0)
LENGTH = Axis("value", "mean length of a row of the table", ".4~g")
TABLES = {"tokens": embeddings.TOKEN_NORM, "positions": embeddings.POSITION_NORM}
ANGLES = {  # number -> title, axis, part of the file name, note
    embeddings.ABSOLUTE_COSINE: (
        "Angle of tokens and positions",
        "mean |cosine|",
        "cosine",
        "Over all pairs of a token and a position. Grey diamond: random directions of the same width.",
    ),
    embeddings.SHARE: (
        "Where positions vary",
        "share of their variance",
        "share",
        "How much of the positions' variance lies in the quarter of directions in which the tokens vary most. Grey diamond: "
        "random directions.",
    ),
}
LENGTH_NOTE = "The vectors of the tables, before any norm."
DISTANCE_NOTE = (
    "Cosines are taken about the mean of all n positions. Positions that are independent of each other would have "
    "-1 / (n - 1), just below 0."
)


def embedding_figures(study: Study) -> Iterator[Figure]:
    """The figures of embeddings; no figure where embeddings were not measured."""
    numbers = embeddings.embedding_numbers(study.record)
    if numbers.is_empty():
        return
    means = embeddings.embedding_means(study.record, numbers)
    for scale in study.scales:
        for name in ANGLES:
            yield from _angle_figure(study, numbers.filter(scale=scale), means.filter(scale=scale), name, scale)
    for scale in study.scales:
        yield from _length_figure(study, numbers.filter(scale=scale), scale)
    yield from _distance_figures(study, means)


def _angle_figure(study: Study, numbers: pl.DataFrame, means: pl.DataFrame, name: str, scale: str) -> Iterator[Figure]:
    """The figure of one number of the embeddings per arm, with the value that chance gives."""
    arms = study.arms(set(numbers.filter(number=name)["arm"]))
    if not arms:
        return
    rows: Rows = []
    for arm in arms:
        rows += _dots(study, numbers, name, arm)
        chance = means.filter(number=name, arm=arm)["chance"].item()
        if chance is not None:
            label = study.look.labels[arm]
            rows.append({"kind": "chance", "arm": label, "value": rounded(chance), "text": number(chance)})
    rows, cut = kept_inside(rows, 0, 1)
    title, what, short, note = ANGLES[name]
    colours = study.look.shown({row["arm"] for row in rows})
    chart = charts.final_scores(Axis("value", what, ".4~g"), colours, tick_count=6, chance=True)
    notes = (note, *cut, *_without_positions(study, numbers))
    yield study.at(scale).figure(f"embedding-{short}", title, rows, {"": chart}, half=True, notes=notes)


def _length_figure(study: Study, numbers: pl.DataFrame, scale: str) -> Iterator[Figure]:
    """The figure of the mean length of a token vector and of a position vector."""
    rows = [
        {**row, "table": table}
        for arm in study.arms(set(numbers["arm"]))
        for table, name in TABLES.items()
        for row in _dots(study, numbers, name, arm)
    ]
    if rows:
        chart = charts.final_scores(LENGTH, study.look.shown({row["arm"] for row in rows}), 7, tables=True)
        title, notes = "Length of token and position vectors", (LENGTH_NOTE, *_without_positions(study, numbers))
        yield study.at(scale).figure("embedding-lengths", title, rows, {"": chart}, notes=notes)


def _distance_figures(study: Study, means: pl.DataFrame) -> Iterator[Figure]:
    """The figures of the cosine of two position vectors over the distance of the positions."""
    for lines in study.lines(means.filter(number=embeddings.POSITION_COSINE).sort("distance", maintain_order=True)):
        rows = lines.rows(lambda row: {"distance": row["distance"], "value": rounded(row["mean"])})
        rows, cut = kept_inside(rows, -1, 1)
        chart = charts.lines(DISTANCE, COSINE, lines.colours, lines.what, band=True)
        chart = charts.with_log_axes(chart, DISTANCE.field, ("x",))
        notes = (DISTANCE_NOTE, study.over_seeds(rows), *cut, *_without_positions(study, means))
        title = "How alike positions are, by distance"
        yield lines.place.figure("embedding-distance", title, rows, {"": chart}, notes=notes)


def _dots(study: Study, numbers: pl.DataFrame, name: str, arm: str) -> Rows:
    values = numbers.filter(number=name, arm=arm)
    seeds = dict(zip(values["seed"], values["value"], strict=True))
    return study.dots(study.look.labels[arm], seeds) if seeds else []


def _without_positions(study: Study, frame: pl.DataFrame) -> list[str]:
    """The arms that were measured but have no table of positions."""
    having = set(frame.filter(number=embeddings.POSITION_NORM)["arm"])
    lacking = study.arms(set(frame["arm"]) - having)
    return [f"Without a table of positions: {', '.join(lacking)}."] if lacking else []
