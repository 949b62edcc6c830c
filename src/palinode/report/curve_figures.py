"""The figures of differences from the baseline, learning curves and final scores (any experiment), and of auxiliary terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from palinode.analysis.curves import AFFINITY, auxiliary_curves, mean_curves
from palinode.analysis.ratios import final_scores
from palinode.analysis.verdict import Verdict
from palinode.base.measures import CURVE_AXES, MEASURES
from palinode.report import charts, theme
from palinode.report.charts import Axis
from palinode.report.levels import level_marks, level_notes, with_levels
from palinode.report.study import CurvePart, Figure, Place, Rows, Study, kept_inside, rounded
from palinode.report.words import metric_words, number, signed

TOKENS = Axis("tokens_read", CURVE_AXES["tokens_read"].heading)
LOG_LABELS = "datum.value < 0.001 ? format(datum.value, '~e') : format(datum.value, '~g')"
PANELS: dict[str, tuple[str, Mapping[str, str]]] = {  # name on the switch -> (axis, column -> name of its line)
    "score": ("score of the pairs", {"value": "pairs", "shuffled": "shuffled pairs"}),
    "gain": ("gain of the norms that feed it", {"gain": "mean", "least_gain": "least"}),
    "variance": ("variance of the side that has less", {"variance": "mean"}),
    AFFINITY: ("affinity: 1 - pairs / shuffled pairs", {AFFINITY: "mean"}),
}
TERM_NOTES = (
    "In training only; no loss elsewhere on this page contains it. Thin: one seed. Thick: the mean.",
    "A term has collapsed where shuffled pairs (dashed) fall with the pairs themselves, or the gain does: both sides vanish, "
    "and the value says nothing about how well they agree.",
)


def difference_figures(study: Study) -> Iterator[Figure]:
    """The family figure: the improvement of every arm at every scale, paired by seed; no figure if no pair can be compared."""
    rule, look = study.rule, study.look
    shown = [verdict for verdict in study.verdicts if verdict.comparison.pairs and verdict.leak != "unexpected"]
    if not shown:
        return
    many = len({verdict.scale for verdict in shown}) > 1
    rows: Rows = []
    colours = {}
    for one in shown:
        ended = f"\n{one.divergence.arm} of {one.divergence.planned} diverged" if one.divergence.arm else ""
        label = f"{f'{one.scale}: ' if many else ''}{look.labels[one.arm]}{ended}"
        colours[label] = look.colours[one.arm]
        rows += _improvements(study, label, one)
    what, unit = metric_words(rule.metric)
    # The number format states a precision: d3's own choice shows the tick .12 as .1 when .12 - .02 is rounded to just below .1.
    x = Axis("value", f"improvement, {unit} (right is better)", ".4~g")
    title = f"Improvement over {rule.baseline} in {what}, paired by seed"
    has_published = any(row["kind"] == "published" for row in rows)
    chart = charts.differences(x, colours, rule.smallest_effect, alone=True, published=has_published)
    yield Place().figure("differences", title, rows, {"": chart}, notes=tuple(_family_notes(study, shown)))


def _improvements(study: Study, label: str, verdict: Verdict) -> Rows:
    """The rows of one line of the family figure: each pair, the mean with both intervals, and a published effect."""
    sign = 1.0 if study.rule.better == "higher" else -1.0
    rows = study.dots(label, {pair.seed: sign * pair.difference for pair in verdict.comparison.pairs})
    mean = rows[0]
    single = verdict.single_interval or (mean["value"], mean["value"])
    low, high = verdict.interval or (mean["value"], mean["value"])
    text = f"{signed(verdict.improvement)}; interval that decides: {signed(low)} to {signed(high)}"
    if tuple(single) != (low, high):
        text += f"; alone: {signed(single[0])} to {signed(single[1])}"
    rows[0] = mean | {"low": rounded(low), "high": rounded(high), "text": text}
    rows[0] |= {"single_low": rounded(single[0]), "single_high": rounded(single[1])}
    effect = study.rule.published
    if effect is not None and effect.arm in ("", verdict.arm):
        source = f"{signed(effect.effect)}, {effect.source}"
        rows.append({"kind": "published", "arm": label, "value": rounded(effect.effect), "text": source})
    return rows


def _family_notes(study: Study, shown: Sequence[Verdict]) -> Iterator[str]:
    rule = study.rule
    if any(one.deciding.comparisons > 1 for one in shown):
        yield "The wide bar is the interval that decides; the thin grey bar is the interval of the comparison alone."
    if rule.smallest_effect > 0:
        yield f"Inside the grey band (\u00b1{number(rule.smallest_effect)}) a difference does not matter."
    if rule.published is not None:
        yield "A hollow diamond is the published effect."


def learning_figures(study: Study) -> Iterator[Figure]:
    """The figures of learning curves: one per scale, with a variant for each x-axis (step, tokens, FLOPs, ..) that was counted."""
    record, split, score = study.record, study.split, study.score
    what = f"{split} loss" if MEASURES[score].is_loss else split
    y = Axis("value", f"{what}, {MEASURES[score].unit}", ".4f")
    for scale in study.scales:
        here = study.curves.filter(split=split, scale=scale).drop_nulls(score)
        drawn = here.filter(pl.col("trained"))
        if drawn.is_empty():
            continue
        axes = [Axis(axis, CURVE_AXES[axis].heading) for axis in CURVE_AXES if drawn[axis].count()]
        marks = level_marks(record, study.rule.metric, scale)
        rows, thinned = study.seeds_and_means(drawn, score, "evaluation")
        dashes = theme.direction_dashes(sorted(drawn["direction"].unique()))
        colours = study.look.shown({row["arm"] for row in rows})
        drawings = {axis.field: with_levels(charts.learning_curves(axis, y, colours, dashes), marks) for axis in axes}
        labels = {axis.field: CURVE_AXES[axis.field].short for axis in axes}
        levels = level_notes(record, study.rule.metric, scale)
        notes = (*thinned, *charts.how_to_pick(colours), *_untrained_notes(here, score), *levels)
        figure = study.at(scale).figure
        yield figure("learning-curves", "Learning curves", rows, drawings, labels=labels, log_axes=True, notes=notes)


def final_figures(study: Study) -> Iterator[Figure]:
    """The figures of the scores at the end of training, one for each direction in which an arm was trained."""
    record, look, split, score = study.record, study.look, study.split, study.score
    finals = final_scores(record, split, score)
    for scale in study.scales:
        untrained = set(study.curves.filter(~pl.col("trained"), scale=scale).select("arm", "direction").iter_rows())
        values = {(arm, way): seeds for (arm, at, way), seeds in finals.items() if at == scale}
        for direction in sorted({way for _, way in values}):
            arms = [arm for arm in study.arms() if (arm, direction) in values]
            shown = [arm for arm in arms if (arm, direction) not in untrained]
            hidden = [arm for arm in arms if arm not in shown]
            if not shown:
                continue
            rows = [row for arm in shown for row in study.dots(look.labels[arm], values[arm, direction])]
            rows, cut = kept_inside(rows, 0, 1) if MEASURES[score].has_chance_levels else (rows, [])
            x = Axis("value", ", ".join(metric_words(f"{split}.{direction}.{score}")), ".4~g")
            chart = charts.final_scores(x, look.shown({row["arm"] for row in rows}))
            chart = with_levels(chart, level_marks(record, study.rule.metric, scale), "x")
            notes = (*cut, *([_not_drawn(direction, hidden)] if hidden else []))
            name, title = f"final--{direction}", f"At the end, {direction}"
            yield study.at(scale).figure(name, title, rows, {"": chart}, half=True, notes=notes)


def _not_drawn(direction: str, arms: list[str]) -> str:
    return f"Never trained on {direction}, so not drawn: {', '.join(arms)}."


def _untrained_notes(here: pl.DataFrame, score: str) -> list[str]:
    """A note for each direction without a learning curve: the arms that never trained on the direction, and their last scores."""
    last = here.filter(~pl.col("trained")).sort("step").group_by("arm", "direction").agg(pl.col(score).last())
    hidden: dict[str, list[str]] = {}
    for row in last.sort("arm", "direction").iter_rows(named=True):
        hidden.setdefault(row["direction"], []).append(f"{row['arm']} (at the end {number(row[score])})")
    return [_not_drawn(direction, arms) for direction, arms in hidden.items()]


# --- auxiliary terms ---------------------------------------------------------------------------------------------------


def auxiliary_figures(study: Study) -> Iterator[Figure]:
    """The figures of auxiliary terms, one for each scale and term; no figure if no arm has an auxiliary term."""
    curves = auxiliary_curves(study.record)
    for scale in study.scales:
        for (term,), here in curves.filter(scale=scale).sort("term").group_by("term", maintain_order=True):
            rows, thinned = _term_rows(study, here)
            if rows:
                shown = {row["panel"] for row in rows}
                labels = {name: name for name in PANELS if name in shown}
                colours = study.look.shown({row["arm"] for row in rows})
                panels = {panel: _term_chart(panel, rows, colours) for panel in labels}
                name, title = f"auxiliary--{term}", f"Auxiliary term: {str(term).replace('_', ' ')}"
                notes = (*TERM_NOTES, *thinned)
                yield study.at(scale).figure(name, title, rows, panels, labels=labels, choice="of", notes=notes)


def _term_rows(study: Study, curves: pl.DataFrame) -> tuple[Rows, list[str]]:
    parts: list[CurvePart] = []
    for panel, (_, columns) in PANELS.items():
        for column, name in columns.items():
            seeds = curves.drop_nulls(column)
            more = {"panel": panel, "look": name}
            means = mean_curves(seeds, column, ("arm", "scale", "term"))
            parts += [("seed", column, seeds, more), ("mean", column, means, more)]
    return study.curve_rows(parts, "logged step")


def _term_chart(panel: str, rows: Rows, colours: Mapping[str, str]) -> dict[str, Any]:
    """The chart of an auxiliary term on a logarithmic axis. The affinity has a linear axis, because an affinity can be zero."""
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
