"""Which figures a report has, with their rows: experiment records in, charts with data out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import polars as pl

from palinode.analysis import intervals
from palinode.analysis.curves import evaluation_curves, mean_curves
from palinode.analysis.verdict import Rule, Verdict
from palinode.base.measures import CURVE_AXES, MEASURES
from palinode.report import charts, theme
from palinode.report.auxiliary_figures import auxiliary_figures
from palinode.report.charts import Axis
from palinode.report.context_figures import context_figures
from palinode.report.cut_figures import cut_figures
from palinode.report.embedding_figures import embedding_figures
from palinode.report.figure import MOST_CURVE_ROWS, Figure, Rows, at_scale, file_name, kept_inside, rounded, scale_part
from palinode.report.look import Look, look_of
from palinode.report.maps import map_figures
from palinode.report.size_figures import LATE, Window, size_figures
from palinode.report.task_charts import with_levels
from palinode.report.task_figures import task_figures
from palinode.report.task_levels import level_marks, level_notes
from palinode.report.words import X_SHORT, X_TITLES, metric_words, number, score_of, signed
from palinode.results.record import ExperimentRecord


def all_figures(
    record: ExperimentRecord, rule: Rule, verdicts: Sequence[Verdict], window: Window = LATE
) -> list[Figure]:
    """Every figure of a report, in the order of the page, each with a file name of its own.

    Args:
        window: which share of training the violins pool.

    Raises:
        BadInput: the metric is not split.direction.score.
        Damaged: a run's metrics do not decode.
    """
    look = look_of(record, rule)
    curves = evaluation_curves(record)
    found = [
        *_difference_figures(rule, verdicts, look),
        *_curve_figures(record, curves, rule, look),
        *_final_figures(record, curves, rule, look),
        *size_figures(record, curves, rule, look, window),
        *task_figures(record, curves, rule, look),
        *cut_figures(record, rule, look),
        *context_figures(record, rule, look),
        *embedding_figures(record, rule, look),
        *auxiliary_figures(record, look),
        *map_figures(record),
    ]
    taken: dict[str, int] = {}
    named = []
    for figure in found:
        count = taken[figure.name.lower()] = taken.get(figure.name.lower(), 0) + 1
        named.append(figure if count == 1 else replace(figure, name=f"{figure.name}-{count}"))
    return named


def _curve_figures(record: ExperimentRecord, curves: pl.DataFrame, rule: Rule, look: Look) -> Iterator[Figure]:
    split, _, score = score_of(rule.metric)
    what = f"{split} loss" if MEASURES[score].is_loss else split
    y = Axis("value", f"{what}, {metric_words(rule.metric)[1]}", ".4f")
    for scale in record.entry.scales:
        here = curves.filter(split=split, scale=scale).drop_nulls(score)
        drawn = here.filter(pl.col("trained"))
        if drawn.is_empty():
            continue
        axes = [Axis(axis, X_TITLES[axis]) for axis in CURVE_AXES if drawn[axis].count()]
        marks = level_marks(record, rule.metric, scale)
        rows, thinned = _curve_rows(drawn, score, look)
        dashes = theme.direction_dashes(sorted(drawn["direction"].unique()))
        present = set(drawn["arm"])
        colours = {look.labels[arm]: colour for arm, colour in look.colours.items() if arm in present}
        yield Figure(
            name=file_name("learning-curves", scale_part(record, scale)),
            kind="curves",
            title="Learning curves" + at_scale(record, scale),
            rows=rows,
            variants={
                axis.field: with_levels(charts.learning_curves(axis, y, colours, dashes), marks) for axis in axes
            },
            labels={axis.field: X_SHORT[axis.field] for axis in axes},
            log_axes=True,
            notes=(
                *thinned,
                *charts.how_to_pick(colours),
                *_untrained_notes(here, score),
                *level_notes(record, rule.metric, scale),
            ),
            scale=scale,
        )


def _curve_rows(drawn: pl.DataFrame, score: str, look: Look) -> tuple[Rows, list[str]]:
    """Rows of single seeds and of means: measured points only, evenly thinned where there are too many to draw."""
    means = mean_curves(drawn, score)
    notes: list[str] = []
    if (keep_every := -(-(drawn.height + means.height) // MOST_CURVE_ROWS)) > 1:
        steps = sorted(drawn["step"].unique())
        kept = {step for index, step in enumerate(steps) if index % keep_every == 0 or step == steps[-1]}
        drawn, means = (frame.filter(pl.col("step").is_in(kept)) for frame in (drawn, means))
        notes.append(f"One evaluation in {keep_every} is drawn; the tables hold all of them.")
    rows: Rows = []
    for line, frame in (("seed", drawn), ("mean", means)):
        for row in frame.iter_rows(named=True):
            who = {"line": line, "arm": look.labels[row["arm"]], "direction": row["direction"], "seed": row.get("seed")}
            where = {axis: rounded(row[axis]) for axis in CURVE_AXES}
            rows.append(who | {"key": len(rows)} | where | {"value": rounded(row[score])})
    return rows, notes


def _untrained_notes(here: pl.DataFrame, score: str) -> list[str]:
    """A direction that an arm never trained has a loss but no learning curve: say what is not drawn."""
    last = here.filter(~pl.col("trained")).sort("step").group_by("arm", "direction").agg(pl.col(score).last())
    hidden: dict[str, list[str]] = {}
    for row in last.sort("arm", "direction").iter_rows(named=True):
        hidden.setdefault(row["direction"], []).append(f"{row['arm']} (at the end {number(row[score])})")
    return [f"Never trained on {direction}, so not drawn: {', '.join(arms)}." for direction, arms in hidden.items()]


def _final_figures(record: ExperimentRecord, curves: pl.DataFrame, rule: Rule, look: Look) -> Iterator[Figure]:
    split, _, score = score_of(rule.metric)
    for scale in record.entry.scales:
        untrained = set(curves.filter(~pl.col("trained"), scale=scale).select("arm", "direction").iter_rows())
        values = _final_values(record, scale, split, score)
        for direction in sorted({direction for _, direction in values}):
            arms = [arm.name for arm in record.entry.arms if (arm.name, direction) in values]
            shown = [arm for arm in arms if (arm, direction) not in untrained]
            hidden = [arm for arm in arms if arm not in shown]
            if not shown:
                continue
            rows = [row for arm in shown for row in _dots(look.labels[arm], values[arm, direction], rule.confidence)]
            rows, cut = kept_inside(rows, 0, 1) if MEASURES[score].has_chance_levels else (rows, [])
            x = Axis("value", ", ".join(metric_words(f"{split}.{direction}.{score}")), ".4~g")
            colours = {look.labels[arm]: look.colours[arm] for arm in shown}
            chart = with_levels(charts.final_scores(x, colours), level_marks(record, rule.metric, scale), "x")
            yield Figure(
                name=file_name("final", direction, scale_part(record, scale)),
                kind="final",
                title=f"At the end, {direction}" + at_scale(record, scale),
                rows=rows,
                variants={"": chart},
                notes=(
                    *cut,
                    *([f"Never trained on {direction}, so not drawn: {', '.join(hidden)}."] if hidden else []),
                ),
                scale=scale,
            )


def _difference_figures(rule: Rule, verdicts: Sequence[Verdict], look: Look) -> Iterator[Figure]:
    shown = [verdict for verdict in verdicts if verdict.comparison.pairs and verdict.leak != "unexpected"]
    if not shown:
        return
    many = len({verdict.scale for verdict in shown}) > 1
    rows: Rows = []
    colours: dict[str, str] = {}
    for verdict in shown:
        label = (f"{verdict.scale}: " if many else "") + look.labels[verdict.arm]
        colours[label] = look.colours[verdict.arm]
        rows += _dots(label, {pair.seed: pair.difference for pair in verdict.comparison.pairs}, rule.confidence)
    what, unit = metric_words(rule.metric)
    side = "left" if rule.better == "lower" else "right"
    # The precision is given: left to itself, d3 rounds .12 to .1 where .12 - .02 falls just below .1.
    x = Axis("value", f"difference, {unit} ({side} is better)", ".4~g")
    band = [f"Inside the grey band (±{number(rule.smallest_effect)}) a difference does not matter."]
    yield Figure(
        name="differences",
        kind="differences",
        title=f"Difference from {rule.baseline} in {what}, paired by seed",
        rows=rows,
        variants={"": charts.differences(x, colours, rule.smallest_effect)},
        notes=tuple(band if rule.smallest_effect > 0 else []),
    )


def _dots(label: str, values: Mapping[int, float], confidence: float) -> Rows:
    """A row per seed and one for the mean; low = high = mean where one seed gives no interval."""
    numbers = list(values.values())
    mean, interval = intervals.mean(numbers), intervals.t_interval(numbers, confidence)
    low, high = (interval.low, interval.high) if interval else (mean, mean)
    said = (
        f"{number(mean)}; {confidence:.0%} interval {signed(low, 4)} to {signed(high, 4)}" if interval else number(mean)
    )
    centre = {
        "kind": "mean",
        "arm": label,
        "value": rounded(mean),
        "low": rounded(low),
        "high": rounded(high),
        "text": said,
    }
    return [centre, *({"kind": "seed", "arm": label, "seed": s, "value": rounded(v)} for s, v in values.items())]


def _final_values(
    record: ExperimentRecord, scale: str, split: str, score: str
) -> dict[tuple[str, str], dict[int, float]]:
    """(arm, direction) -> seed -> final score of the finished runs."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for run in record.runs:
        if run.entry.scale != scale or run.outcome != "done" or run.result is None:
            continue
        for direction, scores in run.result.scores.get(split, {}).items():
            if (value := scores.get(score)) is not None:
                found.setdefault((run.entry.arm, direction), {})[run.entry.seed] = float(value)
    return found
