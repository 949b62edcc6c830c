"""Figures of synthetic tasks: accuracy by difficulty, effects of labels and of the objective, the jump, slices, lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from palinode.analysis import intervals
from palinode.analysis.curves import mean_curves, training_curves
from palinode.analysis.task_effects import CAUSAL, Effect, task_effects
from palinode.analysis.tasks import (
    difficulty,
    levels_at,
    on_a_task,
    settings_of,
    slice_means,
    task_accuracy,
    task_lengths,
    task_means,
)
from palinode.analysis.verdict import Rule
from palinode.report import charts, size_charts, task_charts, theme
from palinode.report.charts import Axis
from palinode.report.figure import MOST_CURVE_ROWS, Figure, Rows, at_scale, file_name, kept_inside, rounded, scale_part
from palinode.report.look import Look
from palinode.report.size_figures import over_seeds
from palinode.report.task_levels import Mark, every_mark, level_marks, level_notes, trivial_words
from palinode.report.words import MINUS, X_SHORT, X_TITLES, number, score_of, signed
from palinode.results.record import ExperimentRecord

ACCURACY = "accuracy"
LENGTH = Axis("length_factor", "length, in lengths it was trained at", "d")
JUMP_AXES = ("step", "tokens_read")
COUNTS = {"hits": "right", "tokens_scored": "answers, all seeds"}
EFFECTS = {
    "labels": ("effect-of-labels", "What training on more than the answers does"),
    "objective": ("effect-of-causality", "What reading without a direction does"),
}
EFFECT_NOTES = {
    "labels": "Two arms whose specs differ in their labels alone (without a direction: in what is hidden), paired by seed",
    "objective": "Two arms whose specs differ in the objective alone, paired by seed: non-causal minus causal",
}
ASIDE = 0.02
HALF_WIDTH_PIXELS = 300  # for names, beside those of the directions
COLOURS_ABOVE = "Colours as in the learning curves."
MOST_NAMED = 8  # arms in the legend of a chart of half the width
SOLID = {"mean": [1, 0]}


def task_figures(record: ExperimentRecord, curves: pl.DataFrame, rule: Rule, look: Look) -> Iterator[Figure]:
    """Nothing where no run is on a task."""
    if not on_a_task(record):
        return
    split = score_of(rule.metric)[0]
    yield from _difficulty_figure(record, rule, look, split)
    yield from _effect_figures(record, rule, look, split)
    for scale in record.entry.scales:
        yield from _jump_figures(record, curves, look, split, scale)
    for scale in record.entry.scales:
        yield from _slice_figure(record, look, split, scale)
        yield from _length_figure(record, rule, look, split, scale)


def _metric(split: str) -> str:
    return f"{split}.own.{ACCURACY}"


def _difficulty_figure(record: ExperimentRecord, rule: Rule, look: Look, split: str) -> Iterator[Figure]:
    """Accuracy over the scales, in their order or over the one number in which they differ."""
    means = task_means(record, split)
    if means["scale"].n_unique() < 2:
        return
    field, places = difficulty(record)
    accuracy = task_accuracy(record, split).drop_nulls(ACCURACY)
    aside = _aside([arm.name for arm in record.entry.arms if arm.name in set(means["arm"])], places)
    rows, cut = kept_inside([_difficulty_row(row, look, rule, aside) for row in means.iter_rows(named=True)], 0, 1)
    for row in accuracy.iter_rows(named=True):
        x = rounded(places[row["scale"]] + aside[row["arm"]])
        said = f"{row['scale']}, seed {row['seed']}: {number(row[ACCURACY])}"
        who = {"kind": "seed", "series": look.labels[row["arm"]], "x": x}
        rows.append({**who, "value": rounded(row[ACCURACY]), "text": said})
    levels = {scale: levels_at(record, split, scale) for scale in record.entry.scales}
    legend: dict[str, str] = {}
    for scale, (found, _) in levels.items():
        for mark in every_mark(found) if found is not None else ():
            if mark.kind != "simple":
                legend.setdefault(
                    mark.kind, {"trivial": "best trivial level", "best": "best possible"}.get(mark.kind, mark.kind)
                )
            row = {"kind": mark.kind, "x": places[scale], "value": rounded(mark.value), "text": f"{scale}: {mark.text}"}
            rows.append(row | {"name": mark.words if places[scale] == min(places.values()) else ""})
    present = {row["series"] for row in rows if row["kind"] == "arm"}
    names = [] if field else list(record.entry.scales)
    title = field.rpartition(".")[2].replace("_", " ") if field else "scale"
    yield Figure(
        name="accuracy-by-difficulty",
        kind="tasks",
        title=f"Accuracy by {title}",
        rows=rows,
        variants={
            "": task_charts.accuracy_by_difficulty(
                Axis("x", title, "~s"),
                Axis("value", f"{split} accuracy on the answers", ".4f"),
                _colours(look, present),
                names,
                legend,
            )
        },
        notes=(
            f"At the end of training; circles are seeds, bars {rule.confidence:.0%} intervals of their mean.",
            *charts.how_to_pick(present),
            *_bimodal(means),
            *_level_names(means),
            *cut,
        ),
    )


def _aside(arms: Sequence[str], places: Mapping[str, float]) -> dict[str, float]:
    """How far beside its place each arm is drawn, so that equal ones do not hide each other: up to 2 % of the axis."""
    span = max(places.values()) - min(places.values())
    middle = (len(arms) - 1) / 2
    return {arm: span * ASIDE * (index - middle) / max(1.0, middle) for index, arm in enumerate(arms)}


def _difficulty_row(row: Mapping[str, Any], look: Look, rule: Rule, aside: Mapping[str, float]) -> dict[str, Any]:
    low, high, mean = row["interval_low"], row["interval_high"], row["accuracy"]
    said = f"{row['scale']}: {number(mean)}"
    if low is not None:
        said += f"; {rule.confidence:.0%} interval {signed(low)} to {signed(high)}"
    said += f"; {row['seeds']} seed{'' if row['seeds'] == 1 else 's'}"
    if row["seeds_above_trivial"] is not None:
        said += f", {row['seeds_above_trivial']} above the trivial levels"
    ends = {"low": rounded(mean if low is None else low), "high": rounded(mean if high is None else high)}
    who: dict[str, Any] = {"kind": "arm", "series": look.labels[row["arm"]], "value": rounded(mean)}
    who["x"] = rounded(row["difficulty"] + aside[row["arm"]])
    return {**who, **ends, "seeds": row["seeds"], "text": said}


def _bimodal(means: pl.DataFrame) -> list[str]:
    """Where some seeds learned the task and others did not, the mean is of no seed."""
    split = means.filter((pl.col("seeds_above_trivial") > 0) & (pl.col("seeds_above_trivial") < pl.col("seeds")))
    if split.is_empty():
        return []
    said = [
        f"{row['arm']} at {row['scale']} ({row['seeds_above_trivial']} of {row['seeds']})" for row in split.to_dicts()
    ]
    return [
        f"Some seeds rose above the trivial levels and others did not, so the mean is that of no seed: {', '.join(said)}."
    ]


def _level_names(means: pl.DataFrame) -> list[str]:
    names = dict.fromkeys(means["best_trivial_name"].drop_nulls())
    told = ", or ".join(trivial_words(name) for name in names)
    return [f"The best trivial level: {told}; ticks are the others that need no learning."] if names else []


def _effect_figures(record: ExperimentRecord, rule: Rule, look: Look, split: str) -> Iterator[Figure]:
    """One row per pair of arms and scale: every seed's difference, the mean with its interval, and zero."""
    found = [effect for effect in task_effects(record, split) if effect.comparison.pairs]
    arms, scales = [arm.name for arm in record.entry.arms], list(record.entry.scales)
    for what, (name, title) in EFFECTS.items():
        here = sorted(
            (effect for effect in found if effect.what == what),
            key=lambda e: (
                arms.index(e.comparison.arm),
                arms.index(e.comparison.baseline),
                scales.index(e.comparison.scale),
            ),
        )
        if not here:
            continue
        rows: Rows = []
        colours: dict[str, str] = {}
        for effect in here:
            comparison = effect.comparison
            where = f"{comparison.scale}: " if len(scales) > 1 else ""
            label = f"{where}{look.labels[comparison.arm]}\n{MINUS} {look.labels[comparison.baseline]}"
            colours[label] = look.colours[comparison.arm]
            rows += _effect_rows(label, effect)
        rows, cut = kept_inside(rows, -1, 1)
        x = Axis("value", f"difference in {split} accuracy", "+.3~g")
        least = rule.smallest_effect if score_of(rule.metric)[2] == ACCURACY else 0.0
        yield Figure(
            name=name,
            kind="effects",
            title=title,
            rows=rows,
            variants={"": task_charts.two_lines(charts.differences(x, colours, least))},
            notes=(*_effect_notes(what, here), *cut),
        )


def _effect_rows(label: str, effect: Effect) -> Rows:
    comparison = effect.comparison
    mean, interval = intervals.mean(comparison.differences), comparison.interval
    low, high = (interval.low, interval.high) if interval else (mean, mean)
    said = signed(mean)
    if interval:
        said += f"; {comparison.confidence:.0%} interval {signed(low)} to {signed(high)}"
    ends = {"low": rounded(low), "high": rounded(high)}
    centre = {"kind": "mean", "arm": label, "value": rounded(mean), **ends, "text": said}
    pairs = [{"kind": "seed", "arm": label, "seed": p.seed, "value": rounded(p.difference)} for p in comparison.pairs]
    return [centre, *pairs]


def _effect_notes(what: str, found: Sequence[Effect]) -> tuple[str, ...]:
    said = ", ".join(dict.fromkeys(effect.said.replace(" - ", " minus ") for effect in found))
    notes = [f"{EFFECT_NOTES[what]}{f': {said}' if what == 'labels' else ''}. What was tuned for each may differ."]
    many = len({effect.comparison.scale for effect in found}) > 1
    flat = [
        f"{e.comparison.arm} and {e.comparison.baseline}{f' at {e.comparison.scale}' if many else ''}"
        for e in found
        if e.above_trivial is False
    ]
    if flat:
        notes.append(f"Neither arm is above the trivial levels, so no difference says nothing: {'; '.join(flat)}.")
    return tuple(notes)


def _jump_figures(
    record: ExperimentRecord, curves: pl.DataFrame, look: Look, split: str, scale: str
) -> Iterator[Figure]:
    """Train loss and accuracy over the same axis, side by side."""
    losses = training_curves(record).filter(scale=scale).drop_nulls("nats_per_token").rename({"group": "direction"})
    right = curves.filter(pl.col("trained"), split=split, scale=scale).drop_nulls(ACCURACY)
    if losses.is_empty() or right.is_empty():
        return
    loss = Axis("value", "train loss, nats per token trained on", ".4f")
    right_axis = Axis("value", f"{split} accuracy", ".4f")
    panels = (
        ("jump-loss", "Train loss", losses, "nats_per_token", loss),
        ("jump-accuracy", f"{split.capitalize()} accuracy", right, ACCURACY, right_axis),
    )
    marks = level_marks(record, _metric(split), scale)
    for name, title, frame, score, y in panels:
        rows, thinned = _curve_rows(frame, score, look)
        dashes = theme.direction_dashes(sorted({row["direction"] for row in rows}))
        colours = _colours(look, {row["arm"] for row in rows})
        many = len(colours) > MOST_NAMED
        variants = {
            axis: charts.learning_curves(
                Axis(axis, X_TITLES[axis]), y, colours, dashes, legend_pixels=0 if many else HALF_WIDTH_PIXELS
            )
            for axis in JUMP_AXES
            if frame[axis].count()
        }
        levels = marks if score == ACCURACY else _floor(record, split, scale)
        told = [COLOURS_ABOVE] if many else []
        notes = level_notes(record, _metric(split), scale) if score == ACCURACY else _loss_notes(levels)
        yield Figure(
            name=file_name(name, scale_part(record, scale)),
            kind="jumps",
            title=title + at_scale(record, scale),
            rows=rows,
            variants={axis: task_charts.with_levels(chart, levels) for axis, chart in variants.items()},
            labels={axis: X_SHORT[axis] for axis in variants},
            notes=(*notes, *told, *thinned),
            scale=scale,
        )


def _floor(record: ExperimentRecord, split: str, scale: str) -> list[Mark]:
    """The floor on all tokens, where an arm is trained on all of them: it counts the first, which a direction token lets score."""
    levels, _ = levels_at(record, split, scale)
    specs = [settings_of(record, arm.name, scale) or {} for arm in record.entry.arms]
    reached = any(
        spec.get("objective.kind") in CAUSAL
        and spec.get("objective.direction_token", True)
        and spec.get("labels", "all") == "all"
        for spec in specs
    )
    if levels is None or levels.floor_nats is None or not reached:
        return []
    return [Mark("best", levels.floor_nats, "floor of all tokens")]


def _loss_notes(levels: Sequence[Mark]) -> list[str]:
    said = "The loss on what each arm trains on: that of answers alone and that of all tokens are different quantities."
    return [said, *(["No causal reader of fresh sequences gets below the floor on all tokens."] if levels else [])]


def _curve_rows(frame: pl.DataFrame, score: str, look: Look) -> tuple[Rows, list[str]]:
    """Rows of single seeds and of means, evenly thinned where there are too many to draw."""
    means = mean_curves(frame.with_columns(split=pl.lit("")) if "split" not in frame.columns else frame, score)
    every = max(1, -(-(frame.height + means.height) // MOST_CURVE_ROWS))
    steps = sorted(frame["step"].unique())
    kept = {step for index, step in enumerate(steps) if index % every == 0 or step == steps[-1]}
    rows: Rows = []
    for line, found in (("seed", frame), ("mean", means)):
        for row in found.filter(pl.col("step").is_in(kept)).iter_rows(named=True):
            who = {"line": line, "arm": look.labels[row["arm"]], "direction": row["direction"], "seed": row.get("seed")}
            where = {axis: rounded(row[axis]) for axis in (*JUMP_AXES, "seconds")}
            rows.append(who | {"key": len(rows)} | where | {"value": rounded(row[score])})
    return rows, [f"One step in {every} is drawn; the tables hold all of them."] if every > 1 else []


def _slice_figure(record: ExperimentRecord, look: Look, split: str, scale: str) -> Iterator[Figure]:
    """Accuracy by the value of each slice: a line per arm, with the interval that the number of answers gives."""
    found = slice_means(record, split).filter(scale=scale)
    several = found.group_by("slice").agg(pl.col("value").n_unique()).filter(pl.col("value") > 1)
    names = sorted(several["slice"])
    if not names:
        return
    rows: Rows = []
    for row in found.filter(pl.col("slice").is_in(names)).iter_rows(named=True):
        who = {"series": look.labels[row["arm"]], "look": "mean", "key": len(rows), "slice": row["slice"]}
        ends = {"low": rounded(row["interval_low"]), "high": rounded(row["interval_high"]), "seeds": row["seeds"]}
        counts = {name: row[name] for name in COUNTS}
        rows.append({**who, "slice_value": row["value"], "value": rounded(row[ACCURACY]), **ends, **counts})
    colours = _colours(look, {row["series"] for row in rows})
    y = Axis("value", f"{split} accuracy", ".4f")
    marks = level_marks(record, _metric(split), scale)
    variants, drawn = {}, _drawn_for(colours)
    for name in names:
        x = Axis("slice_value", name.replace("_", " "), "d")
        chart = size_charts.ratio_lines(x, y, colours, {"slice": name}, SOLID, "arm", reference=None, **drawn)
        variants[name] = task_charts.with_levels(task_charts.with_counts(chart, COUNTS), marks)
    yield Figure(
        name=file_name("accuracy-by-slice", scale_part(record, scale)),
        kind="slices",
        title="Accuracy by slice" + at_scale(record, scale),
        rows=rows,
        variants=variants,
        labels={name: name.replace("_", " ") for name in names} if len(names) > 1 else {},
        choice="by",
        notes=(
            "Hits of all seeds over answers.",
            "Bands are Wilson's intervals for the answers of one seed: all seeds score the same sequences."
            if drawn["band"]
            else f"{COLOURS_ABOVE} Intervals stand in the table of slices.",
            "The levels are those of all sequences together.",
        ),
        scale=scale,
    )


def _length_figure(record: ExperimentRecord, rule: Rule, look: Look, split: str, scale: str) -> Iterator[Figure]:
    """Accuracy on sequences longer than those trained on."""
    found = task_lengths(record, split).filter(scale=scale).drop_nulls(ACCURACY)
    if found["length_factor"].n_unique() < 2:
        return
    rows: Rows = []
    for (arm, factor), cell in found.group_by("arm", "length_factor", maintain_order=True):
        values = cell[ACCURACY].to_list()
        interval = intervals.t_interval(values, rule.confidence)
        ends = {"low": rounded(interval.low), "high": rounded(interval.high)} if interval else {}
        who = {"series": look.labels[str(arm)], "look": "mean", "key": len(rows), "length_factor": factor}
        rows.append(
            {**who, "value": rounded(intervals.mean(values)), "low": None, "high": None, **ends, "seeds": len(values)}
        )
    rows, cut = kept_inside(rows, 0, 1)
    y = Axis("value", f"{split} accuracy", ".4f")
    colours = _colours(look, {row["series"] for row in rows})
    drawn = _drawn_for(colours)
    chart = size_charts.ratio_lines(LENGTH, y, colours, {}, SOLID, "arm", reference=None, **drawn)
    chart, told = task_charts.with_chance_by_length(chart, LENGTH.field, levels_at(record, split, scale)[0])
    yield Figure(
        name=file_name("accuracy-by-length", scale_part(record, scale)),
        kind="slices",
        title="Accuracy on longer sequences" + at_scale(record, scale),
        rows=rows,
        variants={"": size_charts.with_log_axes(chart, LENGTH.field, ("x",))},
        notes=(
            f"Trained at length 1. {told}",
            over_seeds([row["seeds"] for row in rows], rule),
            *([] if drawn["band"] else [COLOURS_ABOVE]),
            *cut,
        ),
        scale=scale,
    )


def _drawn_for(colours: Mapping[str, str]) -> dict[str, Any]:
    """Names and bands of a chart of half the width: of many arms neither could be told apart."""
    many = len(colours) > MOST_NAMED
    return {"band": not many, "legend_pixels": 0 if many else HALF_WIDTH_PIXELS}


def _colours(look: Look, present: set[str]) -> dict[str, str]:
    """Label -> colour of the arms that are drawn, in the order of the experiment."""
    return {look.labels[arm]: colour for arm, colour in look.colours.items() if look.labels[arm] in present}
