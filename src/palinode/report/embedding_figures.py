"""Figures of the tables of tokens and positions: their angle, the directions they share, their lengths, positions far apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

from palinode.analysis.embeddings import (
    ABSOLUTE_COSINE,
    POSITION_COSINE,
    POSITION_NORM,
    SHARE,
    TOKEN_NORM,
    embedding_means,
    embedding_numbers,
)
from palinode.analysis.verdict import Rule
from palinode.report import embedding_charts, size_charts
from palinode.report.charts import Axis
from palinode.report.figure import Figure, Rows, at_scale, file_name, kept_inside, rounded, scale_part
from palinode.report.look import Look
from palinode.report.size_figures import over_seeds, series_of
from palinode.report.words import number, signed
from palinode.results.record import ExperimentRecord

DISTANCE = Axis("distance", "slots between two positions", "d")
ANGLES = {
    ABSOLUTE_COSINE: ("Angle of tokens and positions", "mean |cosine|", "cosine"),
    SHARE: ("Where positions vary", "share of their variance", "share"),
}
TABLES = {"tokens": TOKEN_NORM, "positions": POSITION_NORM}
ANGLE_NOTES = {
    ABSOLUTE_COSINE: "Over all pairs of a token and a position. Grey diamond: random directions of the same width.",
    SHARE: "How much of the positions' variance lies in the quarter of directions in which the tokens vary most. Grey diamond: "
    "random directions.",
}


def embedding_figures(record: ExperimentRecord, rule: Rule, look: Look) -> Iterator[Figure]:
    """Nothing where no run was measured."""
    numbers = embedding_numbers(record)
    if numbers.is_empty():
        return
    means = embedding_means(record, numbers)
    for scale in record.entry.scales:
        here = numbers.filter(scale=scale)
        for name in ANGLES:
            yield from _angle_figure(record, here, means.filter(scale=scale), name, rule, look, scale)
    for scale in record.entry.scales:
        yield from _length_figure(record, numbers.filter(scale=scale), means.filter(scale=scale), rule, look, scale)
    yield from _distance_figures(record, means, rule, look)


def _angle_figure(
    record: ExperimentRecord, numbers: pl.DataFrame, means: pl.DataFrame, name: str, rule: Rule, look: Look, scale: str
) -> Iterator[Figure]:
    """One number per arm, beside chance."""
    arms = _arms(record, numbers.filter(number=name))
    if not arms:
        return
    rows: Rows = []
    for arm in arms:
        found = _dots(numbers.filter(number=name, arm=arm), means.filter(number=name, arm=arm), look.labels[arm], rule)
        rows += found
        chance = means.filter(number=name, arm=arm)["chance"].item()
        if chance is not None:
            said = {"kind": "chance", "arm": look.labels[arm], "value": rounded(chance), "text": number(chance)}
            rows.append(said)
    rows, cut = kept_inside(rows, 0, 1)
    title, what, short = ANGLES[name]
    yield Figure(
        name=file_name(f"embedding-{short}", scale_part(record, scale)),
        kind="angles",
        title=title + at_scale(record, scale),
        rows=rows,
        variants={"": embedding_charts.beside_chance(Axis("value", what, ".4~g"), _colours(look, arms))},
        notes=(ANGLE_NOTES[name], *cut, *_without_positions(record, numbers)),
        scale=scale,
    )


def _length_figure(
    record: ExperimentRecord, numbers: pl.DataFrame, means: pl.DataFrame, rule: Rule, look: Look, scale: str
) -> Iterator[Figure]:
    """The mean length of a row of either table."""
    arms = _arms(record, numbers)
    if not arms:
        return
    rows: Rows = []
    for arm in arms:
        for table, name in TABLES.items():
            found = _dots(
                numbers.filter(number=name, arm=arm), means.filter(number=name, arm=arm), look.labels[arm], rule
            )
            rows += [{**row, "table": table} for row in found]
    yield Figure(
        name=file_name("embedding-lengths", scale_part(record, scale)),
        kind="embeddings",
        title="Length of token and position vectors" + at_scale(record, scale),
        rows=rows,
        variants={
            "": embedding_charts.lengths(
                Axis("value", "mean length of a row of the table", ".4~g"), _colours(look, arms)
            )
        },
        notes=("The vectors of the tables, before any norm.", *_without_positions(record, numbers)),
        scale=scale,
    )


def _distance_figures(record: ExperimentRecord, means: pl.DataFrame, rule: Rule, look: Look) -> Iterator[Figure]:
    """How alike two positions are, over their distance."""
    found = means.filter(number=POSITION_COSINE)
    arms = _arms(record, found)
    if not arms:
        return
    y = Axis("value", "mean cosine of two positions", ".3f")
    for arm, said, names, colours, kind in series_of(record, look, arms):
        here = (found.filter(arm=arm) if arm else found).sort("distance", maintain_order=True)
        rows, cut = kept_inside(_distance_rows(here, names), -1, 1)
        present = {row["series"] for row in rows}
        drawn = {name: colour for name, colour in colours.items() if name in present}
        chart = size_charts.ratio_lines(DISTANCE, y, drawn, {}, {"mean": [1, 0]}, kind, reference=0.0, band=True)
        yield Figure(
            name=file_name("embedding-distance", arm),
            kind="embeddings",
            title=f"How alike positions are, by distance{said}",
            rows=rows,
            variants={"": size_charts.with_log_axes(chart, DISTANCE.field, ("x",))},
            notes=(
                "Taken about the mean of all positions: n that know nothing of each other would have -1 / (n - 1), just below 0.",
                over_seeds(here["seeds"].to_list(), rule),
                *cut,
                *_without_positions(record, means),
            ),
            arm=arm or None,
        )


def _distance_rows(here: pl.DataFrame, names: Mapping[tuple[str, str], str]) -> Rows:
    """A row per line and distance, means over seeds."""
    return [
        {
            "series": names[row["arm"], row["scale"]],
            "look": "mean",
            "key": key,
            "distance": row["distance"],
            "value": rounded(row["mean"]),
            "low": rounded(row["interval_low"]),
            "high": rounded(row["interval_high"]),
            "seeds": row["seeds"],
        }
        for key, row in enumerate(here.iter_rows(named=True))
    ]


def _dots(values: pl.DataFrame, means: pl.DataFrame, label: str, rule: Rule) -> Rows:
    """A row per seed and one for the mean; low = high = mean where one seed gives no interval."""
    rows: Rows = []
    for row in means.iter_rows(named=True):
        low, high, centre = row["interval_low"], row["interval_high"], row["mean"]
        said = number(centre)
        if low is not None:
            said += f"; {rule.confidence:.0%} interval {signed(low, 4)} to {signed(high, 4)}"
        ends = {"low": rounded(centre if low is None else low), "high": rounded(centre if high is None else high)}
        rows.append({"kind": "mean", "arm": label, "value": rounded(centre), **ends, "text": said})
    seeds = zip(values["seed"], values["value"], strict=True)
    return [*rows, *({"kind": "seed", "arm": label, "seed": seed, "value": rounded(value)} for seed, value in seeds)]


def _without_positions(record: ExperimentRecord, frame: pl.DataFrame) -> list[str]:
    """The arms that were measured but have no table of positions."""
    having = set(frame.filter(number=POSITION_NORM)["arm"])
    lacking = [arm for arm in _arms(record, frame) if arm not in having]
    return [f"Without a table of positions: {', '.join(lacking)}."] if lacking else []


def _arms(record: ExperimentRecord, frame: pl.DataFrame) -> list[str]:
    present = set(frame["arm"])
    return [arm.name for arm in record.entry.arms if arm.name in present]


def _colours(look: Look, arms: list[str]) -> dict[str, str]:
    return {look.labels[arm]: look.colours[arm] for arm in arms}
