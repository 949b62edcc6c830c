"""Figures over sizes: both ratios along training, pooled ratio 1 by size, final scores by depth and width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from palinode.analysis import intervals
from palinode.analysis.curves import trained_directions
from palinode.analysis.ratio_curves import as_published, ratio_curves
from palinode.analysis.ratios import RATIO_1, RATIO_2, RATIOS, best_scores, final_ratios, final_scores
from palinode.analysis.sizes import ScaleSize, scale_sizes, varying
from palinode.analysis.tasks import on_a_task
from palinode.analysis.verdict import Rule
from palinode.base.measures import CURVE_AXES
from palinode.report import size_charts, theme
from palinode.report.charts import Axis
from palinode.report.figure import Figure, Rows, file_name, rounded
from palinode.report.look import Look, millions, size_labels
from palinode.report.words import SCORE_UNITS, X_SHORT, X_TITLES, metric_words, number, score_of
from palinode.results.record import ExperimentRecord

DEPTH, WIDTH = Axis("depth", "blocks", "d"), Axis("width", "width", "d")
MOST_VIOLIN_POINTS = 2_000  # of one arm; the tables hold the quartiles of all of them
RATIO_WORDS = {RATIO_1: "ratio 1", RATIO_2: "ratio 2"}
SOLID = {"": [1, 0]}
Window = tuple[float, float]  # from and to, as shares of training
BEST_WORDS = "Best is the best of all evaluations, which flatters noisy runs; verdicts use the final one."
LATE = (0.5, 1.0)  # as the published text looks at epochs 5 to 10


def ratio_words(ratio: str, rule: Rule, score: str) -> str:
    """What a ratio is, in a sentence that begins with its name."""
    unit = SCORE_UNITS.get(score, score)
    if ratio == RATIO_1:
        return f"Ratio 1: {unit} on ltr, the baseline {rule.baseline} over the arm; below 1 the arm's number is the higher one."
    return f"Ratio 2: {unit} on ltr over {unit} on rtl, within the arm; below 1 its rtl number is the higher one."


def size_figures(
    record: ExperimentRecord, curves: pl.DataFrame, rule: Rule, look: Look, window: Window = LATE
) -> Iterator[Figure]:
    """Every figure of this file that the experiment has data for.

    Args:
        window: which share of training the violins pool.
    """
    split, _, score = score_of(rule.metric)
    sizes = scale_sizes(record)
    if not on_a_task(
        record
    ):  # accuracies that jump have effects and difficulties of their own; their ratios say nothing more
        yield from _ratio_figures(record, curves, rule, look)
        yield from _violin_figures(record, curves, rule, look, sizes, window)
    if {"depth", "width"} <= set(varying(sizes)):
        yield from _score_maps(record, curves, rule, look, sizes)
        yield from _ratio_maps(record, rule, look, sizes)


def trained_arms(record: ExperimentRecord, direction: str) -> set[str]:
    """The arms of which a run trained in this direction."""
    return {run.entry.arm for run in record.runs if direction in trained_directions(run)}


def told_by(record: ExperimentRecord, ratio: str) -> set[str]:
    """The arms of which a ratio says something: those that trained in each of its directions, ltr and for ratio 2 rtl as well."""
    ltr = trained_arms(record, "ltr")
    return ltr & trained_arms(record, "rtl") if ratio == RATIO_2 else ltr


def series_of(
    record: ExperimentRecord, look: Look, arms: Sequence[str]
) -> Iterator[tuple[str, str, dict[tuple[str, str], str], dict[str, str], str]]:
    """How lines are shared out: with several scales a figure per arm and a line per size, else one figure, a line per arm.

    Yields:
        (arm or "", what stands in the title, (arm, scale) -> series, series -> colour, what a series is).
    """
    if len(record.entry.scales) == 1:
        scale = record.entry.scales[0]
        names = {(arm, scale): look.labels[arm] for arm in arms}
        yield "", "", names, {look.labels[arm]: look.colours[arm] for arm in arms}, "arm"
        return
    labels = size_labels(scale_sizes(record))
    for arm in arms:
        colours = theme.size_colours(list(labels.values()), leaking=arm in look.leaking)
        names = {(arm, scale): label for scale, label in labels.items()}
        yield arm, f", {look.labels[arm]}", names, colours, "size"


def over_seeds(counts: Sequence[int], rule: Rule | None = None) -> str:
    """`Each point is over 3 seeds; hovering gives its 95% interval.`"""
    low, high = min(counts), max(counts)
    said = f"{low} to {high} seeds" if low != high else f"{low} seed{'' if low == 1 else 's'}"
    return f"Each point is over {said}{f'; hovering gives its {rule.confidence:.0%} interval' if rule and high > 1 else ''}."


def spread_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What hovering says beside the value: the interval and the number of seeds."""
    return {"low": rounded(row["interval_low"], 5), "high": rounded(row["interval_high"], 5), "seeds": row["seeds"]}


def _ratio_figures(record: ExperimentRecord, curves: pl.DataFrame, rule: Rule, look: Look) -> Iterator[Figure]:
    split, _, score = score_of(rule.metric)
    found = ratio_curves(record, split, score, curves=curves)
    for ratio in RATIOS:
        mine = found.filter(ratio=ratio)
        mine = mine.filter(pl.col("arm").is_in(sorted(told_by(record, ratio))))
        present = set(mine["arm"])
        arms = [arm.name for arm in record.entry.arms if arm.name in present]
        for arm, said, names, colours, kind in series_of(record, look, arms) if arms else ():
            here = mine.filter(arm=arm) if arm else mine
            shown = {names[place] for place in here.select("arm", "scale").unique().iter_rows()}
            rows = [_ratio_row(row, names, index) for index, row in enumerate(here.iter_rows(named=True))]
            y = Axis("value", f"{RATIO_WORDS[ratio]}, {SCORE_UNITS[score]}", ".4f")
            drawn = {name: colour for name, colour in colours.items() if name in shown}
            yield Figure(
                name=file_name(ratio.replace("_", "-"), "over-training", arm),
                kind="sizes",
                title=f"{RATIO_WORDS[ratio].capitalize()} over training{said}",
                rows=rows,
                variants={
                    axis: size_charts.ratio_lines(
                        Axis("x", X_TITLES[axis]), y, drawn, {"axis": axis}, {"mean": [1, 0]}, kind
                    )
                    for axis in CURVE_AXES
                    if axis in set(here["axis"])
                },
                labels={axis: name for axis, name in X_SHORT.items() if axis in set(here["axis"])},
                notes=(ratio_words(ratio, rule, score), over_seeds(here["seeds"].to_list(), rule), *_between(here)),
                arm=arm or None,
            )


def _ratio_row(row: dict[str, Any], names: dict[tuple[str, str], str], key: int) -> dict[str, Any]:
    return {
        "series": names[row["arm"], row["scale"]],
        "look": "mean",
        "key": key,
        "axis": row["axis"],
        "x": rounded(row["x"]),
        "value": rounded(row["ratio_then_mean"], 5),
        **spread_of(row),
    }


def _between(here: pl.DataFrame) -> list[str]:
    """Which axes were read between measured points."""
    axes = [X_SHORT[axis] for axis in CURVE_AXES if here.filter(axis=axis)["interpolated"].any()]
    if not axes:
        return ["Every point was measured; nothing is interpolated."]
    return [
        f"On {', '.join(axes)} the runs were not all evaluated at the same places: their curves are read on the straight lines "
        "between measured evaluations, never outside the range that all of them cover."
    ]


def _violin_figures(
    record: ExperimentRecord,
    curves: pl.DataFrame,
    rule: Rule,
    look: Look,
    sizes: dict[str, ScaleSize],
    share: Window,
) -> Iterator[Figure]:
    split, _, score = score_of(rule.metric)
    axis = "epochs" if curves["epochs"].count() else "step"
    window = _positions(curves, axis, share)
    by = varying(sizes)
    if not by or window is None:
        return
    pooled = as_published(record, split, score, axis, window, curves=curves)
    present = set(pooled["arm"]) & told_by(record, RATIO_1)
    for arm in (arm.name for arm in record.entry.arms if arm.name in present):
        mine = pooled.filter(arm=arm).drop_nulls(list(by))
        usable = [name for name in by if mine[name].n_unique() > 1]
        if usable:
            notes = (ratio_words(RATIO_1, rule, score), _pooled_words(mine, axis, window, share))
            yield _violin_figure(mine, arm, usable, f"ratio 1, {SCORE_UNITS[score]}", look, notes)


def _violin_figure(
    mine: pl.DataFrame, arm: str, usable: Sequence[str], title: str, look: Look, notes: tuple[str, ...]
) -> Figure:
    places = {name: sorted(set(mine[name])) for name in usable}
    medians = {name: _medians(mine, name, places[name]) for name in usable}
    rows: Rows = [_violin_row("point", row, places) for row in mine.gather_every(_every(mine)).iter_rows(named=True)]
    rows += [{"kind": "median", name: i, "value": rounded(v)} for name in usable for i, v in enumerate(medians[name])]
    rows += [_violin_row("run", row, places) for row in _means_of_runs(mine, usable)]
    variants = {}
    for name in usable:
        x = Axis(name, f"{'blocks' if name == 'depth' else name}; below, the median")
        said = [millions(place) if name == "parameters" else str(place) for place in places[name]]
        lines = [(place, f"{median:.4f}") for place, median in zip(said, medians[name], strict=True)]
        y = Axis("value", title, ".4f")
        variants[name] = size_charts.violins(x, y, lines, look.colours[arm], _extent(mine["ratio_1"]))
    return Figure(
        name=file_name("ratio-1-by-size", arm),
        kind="sizes",
        title=f"Ratio 1 by size, as published, {look.labels[arm]}",
        rows=rows,
        variants=variants,
        labels={name: name for name in usable},
        choice="by",
        notes=notes,
        arm=arm,
    )


def _every(mine: pl.DataFrame) -> int:
    return -(-mine.height // MOST_VIOLIN_POINTS)


def _pooled_words(mine: pl.DataFrame, axis: str, window: tuple[float, float], share: Window) -> str:
    """What the shapes are made of, and that they are no samples."""
    runs = mine.select("scale", "seed").unique().height
    thinned = f" One in {_every(mine)} of them is drawn." if _every(mine) > 1 else ""
    where = f"between {axis} {number(window[0])} and {number(window[1])} ({share[0]:.0%} to {share[1]:.0%} of training)"
    return (
        f"As published: {number(mine.height)} interpolated points of {runs} runs, {where}, are pooled into the shapes; the tick "
        f"is their median.{thinned} They are not independent: the dots, one per run (its mean over the same window), show how "
        "many samples there are."
    )


def _medians(mine: pl.DataFrame, name: str, places: Sequence[int]) -> list[float]:
    """Of all pooled points, also where only some are drawn."""
    return [float(np.median(mine.filter(pl.col(name) == place)["ratio_1"].to_numpy())) for place in places]


def _extent(values: pl.Series) -> tuple[float, float]:
    """Wide enough for the tails of the densities."""
    low, high = float(values.to_numpy().min()), float(values.to_numpy().max())
    margin = 0.3 * (high - low) or 1e-6
    return low - margin, high + margin


def _positions(curves: pl.DataFrame, axis: str, share: Window) -> tuple[float, float] | None:
    """Where on the axis this share of the longest training lies."""
    last = curves[axis].max()
    return None if not isinstance(last, int | float) else (share[0] * last, share[1] * last)


def _means_of_runs(mine: pl.DataFrame, usable: Sequence[str]) -> list[dict[str, Any]]:
    means = mine.group_by("scale", "seed", *usable, maintain_order=True).agg(pl.col("ratio_1").mean())
    return [
        row | {"text": f"{row['scale']}, seed {row['seed']}: {number(row['ratio_1'])}"}
        for row in means.iter_rows(named=True)
    ]


def _violin_row(kind: str, row: dict[str, Any], places: dict[str, list[int]]) -> dict[str, Any]:
    where = {name: known.index(row[name]) for name, known in places.items()}
    said = {"text": row["text"]} if kind == "run" else {}
    return {"kind": kind, "value": rounded(row["ratio_1"], 5), **where} | said


def around_one(values: Sequence[float]) -> list[float]:
    """Where the colours of ratios lie: one in the middle, as far to both sides as the furthest of them."""
    reach = max((abs(value - 1) for value in values), default=0.0) or 1.0
    return [1 - reach, 1 - reach / 2, 1, 1 + reach / 2, 1 + reach]


def _score_maps(
    record: ExperimentRecord, curves: pl.DataFrame, rule: Rule, look: Look, sizes: dict[str, ScaleSize]
) -> Iterator[Figure]:
    """The final and the best score by depth and width, on one scale of colour for all arms of a direction."""
    split, _, score = score_of(rule.metric)
    both = {"final": final_scores(record, split, score), "best": best_scores(record, split, score, curves)}
    for direction in ("ltr", "rtl"):
        trained = trained_arms(record, direction)
        means = {
            (when, arm, scale): (intervals.mean(list(seeds.values())), len(seeds))
            for when, scores in both.items()
            for (arm, scale, way), seeds in scores.items()
            if way == direction and arm in trained
        }
        if not means:
            continue
        span = [min(value for value, _ in means.values()), max(value for value, _ in means.values())]
        domain = [span[0] + (span[1] - span[0]) * share / 4 for share in range(5)]
        what, unit = metric_words(f"{split}.{direction}.{score}")
        for arm in (arm.name for arm in record.entry.arms):
            here = {
                when: {scale: value for (at, name, scale), value in means.items() if (at, name) == (when, arm)}
                for when in both
            }
            dark_from = span[0] + 0.55 * (span[1] - span[0])
            rows = [row | {"when": when} for when, values in here.items() for row in _squares(values, sizes, dark_from)]
            notes = (
                f"Means over the seeds of each size ({_seed_counts(here['final'])}), {unit}. Darker is higher.",
                BEST_WORDS,
            )
            yield from _map_figure(
                f"grid-{direction}", f"{what} by size", arm, look, rows, size_charts.LOSSES, domain, notes, tuple(both)
            )


def _ratio_maps(record: ExperimentRecord, rule: Rule, look: Look, sizes: dict[str, ScaleSize]) -> Iterator[Figure]:
    split, _, score = score_of(rule.metric)
    told = told_by(record, RATIO_1)
    found = {
        place: e for place, e in final_ratios(record, split, score).items() if place[0] == RATIO_1 and place[1] in told
    }
    known = [e.ratio_then_mean for e in found.values() if e.ratio_then_mean is not None]
    domain = around_one(known)
    for arm in (arm.name for arm in record.entry.arms):
        here = {
            scale: (estimate.ratio_then_mean, estimate.seeds)
            for (ratio, name, scale), estimate in found.items()
            if (ratio, name) == (RATIO_1, arm) and estimate.ratio_then_mean is not None
        }
        rows = _squares(here, sizes, float("inf"))
        notes = (
            (ratio_words(RATIO_1, rule, score), f"At the end, mean over paired seeds ({_seed_counts(here)}).")
            if here
            else ()
        )
        yield from _map_figure(
            "grid-ratio-1", "Ratio 1 by size", arm, look, rows, size_charts.AROUND_ONE, domain, notes
        )


def _map_figure(
    name: str,
    title: str,
    arm: str,
    look: Look,
    rows: Rows,
    ramp: Sequence[str],
    domain: Sequence[float],
    notes: tuple[str, ...],
    moments: tuple[str, ...] = (),
) -> Iterator[Figure]:
    """A heat map, where at least two depths and two widths have a number; with `moments`, one of each value of `when`."""
    depths, widths = ([str(v) for v in sorted({int(row[side]) for row in rows})] for side in ("depth", "width"))
    if len(depths) < 2 or len(widths) < 2:
        return
    yield Figure(
        name=file_name(name, arm),
        kind="grids",
        title=f"{title[:1].upper()}{title[1:]}, {look.labels[arm]}",
        rows=rows,
        variants={
            when: size_charts.heat_map(
                DEPTH, depths, WIDTH, widths, "size", ramp, domain, {"when": when} if when else None
            )
            for when in moments or ("",)
        },
        labels={when: when for when in moments},
        choice="score",
        notes=notes,
        arm=arm,
    )


def _squares(values: dict[str, tuple[float, int]], sizes: dict[str, ScaleSize], dark_from: float) -> Rows:
    rows: Rows = []
    for scale, (value, seeds) in values.items():
        size = sizes[scale]
        if size.depth is not None and size.width is not None:
            parameters = f", {millions(size.parameters)} parameters" if size.parameters else ""
            rows.append(
                {
                    "depth": str(size.depth),
                    "width": str(size.width),
                    "value": rounded(value),
                    "label": f"{value:.3f}",
                    "dark": value >= dark_from,
                    "text": f"{scale}{parameters}: {number(value)} over {seeds} seed{'' if seeds == 1 else 's'}",
                }
            )
    return rows


def _seed_counts(values: dict[str, tuple[float, int]]) -> str:
    counts = sorted({seeds for _, seeds in values.values()})
    return " or ".join(str(count) for count in counts)
