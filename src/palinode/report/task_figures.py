"""The figures of synthetic tasks: accuracy by difficulty, slice and length, its jump in training, two effects on accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from palinode.analysis import tasks
from palinode.analysis.curves import training_curves
from palinode.base.measures import CURVE_AXES, probability_words
from palinode.report import charts, theme
from palinode.report.charts import Axis
from palinode.report.levels import (
    Mark,
    every_mark,
    level_marks,
    level_notes,
    trivial_words,
    with_chance_by_length,
    with_levels,
)
from palinode.report.study import Figure, Place, Rows, Study, kept_inside, rounded
from palinode.report.words import MINUS, interval_words, number, plural, signed

ACCURACY = "accuracy"
LENGTH = Axis("length_factor", "length, in lengths it was trained at", "d")
LOSS = Axis("value", "train loss, nats per token trained on", ".4f")
JUMP_AXES = ("step", "tokens_read")
COUNTS = {"hits": "right", "tokens_scored": "answers, all seeds"}
EFFECTS = {  # the setting in which arms differ -> (file name, title, note)
    "labels": (
        "effect-of-labels",
        "What training on more than the answers does",
        "Two arms whose specs differ in their labels alone (without a direction: in what is hidden), paired by seed",
    ),
    "objective": (
        "effect-of-causality",
        "What reading without a direction does",
        "Two arms whose specs differ in the objective alone, paired by seed: non-causal minus causal",
    ),
}
LOSSES_NOTE = (
    "The loss on what each arm trains on: that of answers alone and that of all tokens are different quantities."
)
FLOOR_NOTE = "No causal reader of fresh sequences gets below the floor on all tokens."
BANDS_NOTE = "Bands are Wilson's intervals for the answers of one seed: all seeds score the same sequences."
COLOURS_ABOVE = "Colours as in the learning curves."
ASIDE = 0.02  # the largest shift of an arm's points along the x-axis, as a share of the axis
HALF_WIDTH_PIXELS = 300  # the space for the names of arms in the legend of a chart that is half as wide as the page
MOST_NAMED = 8  # the most arms in the legend of a chart that is half as wide as the page


def task_figures(study: Study) -> Iterator[Figure]:
    """The figures of a synthetic task; no figures for text data."""
    if not tasks.on_a_task(study.record):
        return
    yield from _difficulty_figure(study)
    yield from _effect_figures(study)
    for scale in study.scales:
        yield from _jump_figures(study, scale)
    for scale in study.scales:
        yield from _slice_figure(study, scale)
        yield from _length_figure(study, scale)


def _accuracy(study: Study) -> Axis:
    return Axis("value", f"{study.split} accuracy", ".4f")


def _marks(study: Study, scale: str) -> list[Mark]:
    return level_marks(study.record, f"{study.split}.own.{ACCURACY}", scale)


# --- by difficulty --------------------------------------------------------------------------------------------------


def _difficulty_figure(study: Study) -> Iterator[Figure]:
    """The figure of accuracy by scale. If the scales differ in only one number, this number is the x-axis."""
    means = tasks.task_means(study.record, tasks.task_accuracy(study.record, study.split))
    if means["scale"].n_unique() < 2:
        return
    field, places = tasks.difficulty(study.record)
    aside = _aside(study.arms(set(means["arm"])), places)
    arms, cut = kept_inside([_difficulty_row(study, row, aside) for row in means.iter_rows(named=True)], 0, 1)
    levels, legend = _level_rows(study, places)
    colours = study.look.shown({row["series"] for row in arms})
    title = field.rpartition(".")[2].replace("_", " ") if field else "scale"
    y = Axis("value", f"{study.split} accuracy on the answers", ".4f")
    names = [] if field else list(study.scales)
    rows = [*arms, *_seed_rows(study, places, aside), *levels]
    chart = charts.accuracy_by_difficulty(Axis("x", title, "~s"), y, colours, names, legend)
    marks = f"At the end of training; circles are seeds, bars {probability_words(study.rule.confidence)} intervals of their mean."
    notes = (marks, *charts.how_to_pick(colours), *_bimodal(means), *_level_names(means), *cut)
    yield Place().figure("accuracy-by-difficulty", f"Accuracy by {title}", rows, {"": chart}, notes=notes)


def _aside(arms: Sequence[str], places: Mapping[str, float]) -> dict[str, float]:
    """A small shift for each arm, up to 2 % of the axis, so that equal values do not hide each other."""
    span = max(places.values()) - min(places.values())
    middle = (len(arms) - 1) / 2
    return {arm: span * ASIDE * (index - middle) / max(1.0, middle) for index, arm in enumerate(arms)}


def _difficulty_row(study: Study, row: Mapping[str, Any], aside: Mapping[str, float]) -> dict[str, Any]:
    low, high, mean = row["interval_low"], row["interval_high"], row["accuracy"]
    spread = f"; {interval_words(low, high, study.rule.confidence)}" if low is not None else ""
    above = row["seeds_above_trivial"]
    learned = "" if above is None else f", {above} above the trivial levels"
    ends = {"low": rounded(mean if low is None else low), "high": rounded(mean if high is None else high)}
    return {
        "kind": "arm",
        "series": study.look.labels[row["arm"]],
        "value": rounded(mean),
        "x": rounded(row["difficulty"] + aside[row["arm"]]),
        "seeds": row["seeds"],
        "text": f"{row['scale']}: {number(mean)}{spread}; {plural(row['seeds'], 'seed')}{learned}",
    } | ends


def _seed_rows(study: Study, places: Mapping[str, float], aside: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    for row in tasks.task_accuracy(study.record, study.split).drop_nulls(ACCURACY).iter_rows(named=True):
        who = {"kind": "seed", "series": study.look.labels[row["arm"]], "value": rounded(row[ACCURACY])}
        text = f"{row['scale']}, seed {row['seed']}: {number(row[ACCURACY])}"
        yield who | {"x": rounded(places[row["scale"]] + aside[row["arm"]]), "text": text}


def _level_rows(study: Study, places: Mapping[str, float]) -> tuple[Rows, dict[str, str]]:
    """A pair: the rows of the levels at every scale, and the names of the levels in the legend (kind of level -> name)."""
    rows: Rows = []
    legend: dict[str, str] = {}
    for scale in study.scales:
        levels, _ = tasks.levels_at(study.record, study.split, scale)
        for mark in every_mark(levels) if levels is not None else ():
            if mark.kind != "simple":
                names = {"trivial": "best trivial level", "best": "best possible"}
                legend.setdefault(mark.kind, names.get(mark.kind, mark.kind))
            place = {"kind": mark.kind, "x": places[scale], "value": rounded(mark.value)}
            name = mark.words if places[scale] == min(places.values()) else ""
            rows.append(place | {"text": f"{scale}: {mark.text}", "name": name})
    return rows, legend


def _bimodal(means: pl.DataFrame) -> list[str]:
    """The note that some seeds learned the task and other seeds did not, so that the mean describes no seed."""
    learned = pl.col("seeds_above_trivial")
    split = means.filter((learned > 0) & (learned < pl.col("seeds"))).to_dicts()
    where = ", ".join(f"{r['arm']} at {r['scale']} ({r['seeds_above_trivial']} of {r['seeds']})" for r in split)
    note = f"Some seeds rose above the trivial levels and others did not, so the mean is that of no seed: {where}."
    return [note] if where else []


def _level_names(means: pl.DataFrame) -> list[str]:
    names = dict.fromkeys(means["best_trivial_name"].drop_nulls())
    listed = ", or ".join(trivial_words(name) for name in names)
    return [f"The best trivial level: {listed}; ticks are the others that need no learning."] if names else []


# --- effects --------------------------------------------------------------------------------------------------------


def _effect_figures(study: Study) -> Iterator[Figure]:
    """The figures of effects: one row per pair of arms and scale, with a dot per seed, the mean, its interval, and a line at 0."""
    effects = [effect for effect in tasks.task_effects(study.record, study.split) if effect.comparison.pairs]
    arms, scales = study.arms(), study.scales

    def order(effect: tasks.Effect) -> tuple[int, int, int]:
        pair = effect.comparison
        return arms.index(pair.arm), arms.index(pair.baseline), scales.index(pair.scale)

    for what, (name, title, _) in EFFECTS.items():
        here = sorted((effect for effect in effects if effect.what == what), key=order)
        if not here:
            continue
        labelled, labels = {}, study.look.labels
        for pair in (effect.comparison for effect in here):
            where = f"{pair.scale}: " if len(scales) > 1 else ""
            labelled[f"{where}{labels[pair.arm]}\n{MINUS} {labels[pair.baseline]}"] = pair
        rows, colours = study.differences(labelled, signed)
        rows, cut = kept_inside(rows, -1, 1)
        x = Axis("value", f"difference in {study.split} accuracy", "+.3~g")
        least = study.rule.smallest_effect if study.score == ACCURACY else 0.0
        chart = charts.differences(x, colours, least)
        yield Place().figure(name, title, rows, {"": chart}, notes=(*_effect_notes(what, here), *cut))


def _effect_notes(what: str, effects: Sequence[tasks.Effect]) -> tuple[str, ...]:
    kinds = ", ".join(dict.fromkeys(effect.contrast.replace(" - ", " minus ") for effect in effects))
    notes = [f"{EFFECTS[what][2]}{f': {kinds}' if what == 'labels' else ''}. What was tuned for each may differ."]
    many = len({effect.comparison.scale for effect in effects}) > 1
    flat = [
        f"{e.comparison.arm} and {e.comparison.baseline}{f' at {e.comparison.scale}' if many else ''}"
        for e in effects
        if e.above_trivial is False
    ]
    if flat:
        notes.append(f"Neither arm is above the trivial levels, so no difference says nothing: {'; '.join(flat)}.")
    return tuple(notes)


# --- the jump -------------------------------------------------------------------------------------------------------


def _jump_figures(study: Study, scale: str) -> Iterator[Figure]:
    """Two figures that show how accuracy jumps during training: the train loss and the accuracy, over the same x-axis."""
    record, split = study.record, study.split
    losses = training_curves(record).filter(scale=scale).drop_nulls("nats_per_token")
    losses = losses.rename({"group": "direction"}).with_columns(split=pl.lit(""))
    right = study.curves.filter(pl.col("trained"), split=split, scale=scale).drop_nulls(ACCURACY)
    if losses.is_empty() or right.is_empty():
        return
    floor, metric = _floor(study, scale), f"{split}.own.{ACCURACY}"
    floor_notes = [LOSSES_NOTE, *([FLOOR_NOTE] if floor else [])]
    panels = (
        ("jump-loss", "Train loss", losses, "nats_per_token", LOSS, floor, floor_notes),
        (
            *("jump-accuracy", f"{split.capitalize()} accuracy", right, ACCURACY, _accuracy(study)),
            *(_marks(study, scale), level_notes(record, metric, scale)),
        ),
    )
    for name, title, frame, score, y, levels, notes in panels:
        rows, thinned = study.seeds_and_means(frame, score, "step")
        dashes = theme.direction_dashes(sorted({row["direction"] for row in rows}))
        colours = study.look.shown({row["arm"] for row in rows})
        many = len(colours) > MOST_NAMED
        pixels = 0 if many else HALF_WIDTH_PIXELS
        drawings = {}
        for axis in (axis for axis in JUMP_AXES if frame[axis].count()):
            x = Axis(axis, CURVE_AXES[axis].heading)
            drawings[axis] = with_levels(charts.learning_curves(x, y, colours, dashes, legend_pixels=pixels), levels)
        labels = {axis: CURVE_AXES[axis].short for axis in drawings}
        captions = (*notes, *([COLOURS_ABOVE] if many else []), *thinned)
        yield study.at(scale).figure(name, title, rows, drawings, labels=labels, half=True, notes=captions)


def _floor(study: Study, scale: str) -> list[Mark]:
    """The line at the lowest possible loss; empty if no causal arm with a direction token is trained on all tokens.

    A direction token precedes the first token, so the first token has a loss too. The lowest possible loss includes it.
    """
    levels, _ = tasks.levels_at(study.record, study.split, scale)
    specs = [tasks.settings_of(study.record, arm, scale) or {} for arm in study.arms()]
    reached = any(
        spec.get("objective.kind") in tasks.CAUSAL
        and spec.get("objective.direction_token", True)
        and spec.get("labels", "all") == "all"
        for spec in specs
    )
    if levels is None or levels.floor_nats is None or not reached:
        return []
    return [Mark("best", levels.floor_nats, "floor of all tokens")]


# --- slices and lengths ---------------------------------------------------------------------------------------------


def _slice_figure(study: Study, scale: str) -> Iterator[Figure]:
    """The figure of accuracy by the value of a slice: a line per arm, with Wilson's interval for the answers of one seed."""
    means = tasks.slice_means(study.record, study.split).filter(scale=scale)
    several = means.group_by("slice").agg(pl.col("value").n_unique()).filter(pl.col("value") > 1)
    names = sorted(several["slice"])
    if not names:
        return
    rows = [
        _line_row(study, row, key)
        | {"slice": row["slice"], "slice_value": row["value"]}
        | {name: row[name] for name in COUNTS}
        for key, row in enumerate(means.filter(pl.col("slice").is_in(names)).iter_rows(named=True))
    ]
    colours, options = _narrow(study, rows)
    variants = {}
    for name in names:
        x = Axis("slice_value", name.replace("_", " "), "d")
        chart = charts.lines(x, _accuracy(study), colours, "arm", chosen={"slice": name}, **options)
        variants[name] = with_levels(charts.with_counts(chart, COUNTS), _marks(study, scale))
    bands = BANDS_NOTE if options["band"] else f"{COLOURS_ABOVE} Intervals stand in the table of slices."
    labels = {name: name.replace("_", " ") for name in names} if len(names) > 1 else {}
    notes = ("Hits of all seeds over answers.", bands, "The levels are those of all sequences together.")
    more = {"labels": labels, "choice": "by", "half": True, "notes": notes}
    yield study.at(scale).figure("accuracy-by-slice", "Accuracy by slice", rows, variants, **more)


def _length_figure(study: Study, scale: str) -> Iterator[Figure]:
    """The figure of accuracy on sequences that are longer than the sequences in training."""
    scored = tasks.task_lengths(study.record, study.split).filter(scale=scale).drop_nulls(ACCURACY)
    if scored["length_factor"].n_unique() < 2:
        return
    means = enumerate(study.means(scored, ACCURACY, "arm", "length_factor"))
    points = [_line_row(study, row, key) | {"length_factor": row["length_factor"]} for key, row in means]
    rows, cut = kept_inside(points, 0, 1)
    colours, options = _narrow(study, rows)
    chart = charts.lines(LENGTH, _accuracy(study), colours, "arm", **options)
    chart, chance = with_chance_by_length(chart, LENGTH.field, tasks.levels_at(study.record, study.split, scale)[0])
    chart = charts.with_log_axes(chart, LENGTH.field, ("x",))
    seeds, colours_above = study.over_seeds(rows), [] if options["band"] else [COLOURS_ABOVE]
    notes = (f"Trained at length 1. {chance}", seeds, *colours_above, *cut)
    title = "Accuracy on longer sequences"
    yield study.at(scale).figure("accuracy-by-length", title, rows, {"": chart}, half=True, notes=notes)


def _line_row(study: Study, row: Mapping[str, Any], key: int) -> dict[str, Any]:
    """The fields of a row for one point of an arm's line."""
    ends = {"low": rounded(row["interval_low"]), "high": rounded(row["interval_high"])}
    who = {"series": study.look.labels[row["arm"]], "look": "mean", "key": key}
    return who | {"value": rounded(row[ACCURACY]), "seeds": row["seeds"]} | ends


def _narrow(study: Study, rows: Rows) -> tuple[dict[str, str], dict[str, Any]]:
    """A pair for a chart that is half as wide as the page: the colours, and the options for interval bands and for the legend.

    A chart with many arms has no bands and no names in the legend, because bands or names would overlap.
    """
    colours = study.look.shown({row["series"] for row in rows})
    many = len(colours) > MOST_NAMED
    return colours, {"band": not many, "legend_pixels": 0 if many else HALF_WIDTH_PIXELS}
