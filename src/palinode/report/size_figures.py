"""The figures about sizes: both ratios over training and over context, pooled ratio 1 by size, final scores by depth and width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from palinode.analysis import intervals, ratios
from palinode.analysis.ratios import RATIO_1, RATIO_2, RATIOS
from palinode.analysis.sizes import varying
from palinode.analysis.tasks import on_a_task
from palinode.base.measures import CURVE_AXES, MEASURES
from palinode.report import charts
from palinode.report.charts import AROUND_ONE, INK_BLUES, Axis, Heat
from palinode.report.study import Figure, Rows, Study, millions, rounded
from palinode.report.words import metric_words, number, plural

DEPTH, WIDTH = Axis("depth", "blocks", "d"), Axis("width", "width", "d")
CONTEXT = Axis("context_tokens", "tokens in a window", "d")
MOST_VIOLIN_POINTS = 2_000  # the most points of one arm in a violin; the tables hold the quartiles of all points
RATIO_WORDS = {RATIO_1: "ratio 1", RATIO_2: "ratio 2"}
BEST_WORDS = "Best is the best of all evaluations, which flatters noisy runs; verdicts use the final one."
CONTEXT_NOTE = (
    "The same model scored in windows of every length. Against the arm's own ltr loss where it trained on ltr, else the "
    "baseline's at the same seed. Below zero means a leak until proven otherwise."
)
PERCENTS = (("value", "ratio_then_mean"), ("low", "interval_low"), ("high", "interval_high"))
Means = Mapping[str, tuple[float, int]]  # scale -> (mean over seeds, number of seeds)


def size_figures(study: Study) -> Iterator[Figure]:
    """The figures of ratios (if the experiment has two directions or several sizes) and the maps of depth and width.

    A synthetic task gets no figures of ratios: its accuracies jump in training, and `task_figures` shows them.
    """
    sizes = varying(study.sizes)
    if not on_a_task(study.record) and (sizes or study.trained_on("rtl")):
        yield from _ratio_figures(study)
        yield from _violin_figures(study, sizes)
    if {"depth", "width"} <= set(sizes):
        yield from _score_maps(study)
        yield from _ratio_maps(study)
    yield from _context_figures(study)


def in_ratio(study: Study, ratio: str) -> set[str]:
    """The arms that have this ratio. Ratio 1 needs arms trained on ltr; ratio 2 needs arms trained on ltr and rtl."""
    return study.trained_on("ltr", "rtl") if ratio == RATIO_2 else study.trained_on("ltr")


def around_one(values: Sequence[float]) -> list[float]:
    """The domain of the colours of ratios: 1 is in the middle, and the ratio that is furthest from 1 is at one of the ends."""
    reach = max((abs(value - 1) for value in values), default=0.0) or 1.0
    return [1 - reach, 1 - reach / 2, 1, 1 + reach / 2, 1 + reach]


def _ratio_words(study: Study, ratio: str) -> str:
    unit = MEASURES[study.score].unit
    if ratio == RATIO_1:
        return (
            f"Ratio 1: {unit} on ltr, the baseline {study.rule.baseline} over the arm; below 1 the arm's number is the "
            "higher one."
        )
    return f"Ratio 2: {unit} on ltr over {unit} on rtl, within the arm; below 1 its rtl number is the higher one."


def _ratio_figures(study: Study) -> Iterator[Figure]:
    """The figures of both ratios over training."""
    curves = ratios.ratio_curves(study.record, study.split, study.score, study.curves)
    for ratio in RATIOS:
        for lines in study.lines(curves.filter(pl.col("arm").is_in(sorted(in_ratio(study, ratio))), ratio=ratio)):
            here = lines.frame
            y = Axis("value", f"{RATIO_WORDS[ratio]}, {MEASURES[study.score].unit}", ".4f", reference=1.0)
            axes = {axis: Axis("x", CURVE_AXES[axis].heading) for axis in CURVE_AXES if axis in set(here["axis"])}
            rows = lines.rows(
                lambda row: {"axis": row["axis"], "x": rounded(row["x"]), "value": rounded(row["ratio_then_mean"], 5)}
            )
            drawings = {
                name: charts.lines(x, y, lines.colours, lines.what, chosen={"axis": name}) for name, x in axes.items()
            }
            labels = {axis: CURVE_AXES[axis].short for axis in axes}
            notes = (_ratio_words(study, ratio), study.over_seeds(rows), *_between(here))
            title = f"{RATIO_WORDS[ratio].capitalize()} over training"
            name = f"{ratio.replace('_', '-')}--over-training"
            yield lines.place.figure(name, title, rows, drawings, labels=labels, notes=notes)


def _between(here: pl.DataFrame) -> list[str]:
    """The note about axes on which values between two measured points were interpolated."""
    axes = [CURVE_AXES[axis].short for axis in CURVE_AXES if here.filter(axis=axis)["interpolated"].any()]
    if not axes:
        return ["Every point was measured; nothing is interpolated."]
    return [
        f"On {', '.join(axes)} the runs were not all evaluated at the same places: their curves are read on the straight lines "
        "between measured evaluations, never outside the range that all of them cover."
    ]


def _context_figures(study: Study) -> Iterator[Figure]:
    """The figures of (rtl loss / ltr loss - 1) in percent over the window length; no figure where only one length was scored."""
    by_context = ratios.direction_ratios(study.record, study.split)
    if by_context["context_tokens"].n_unique() < 2:
        return
    y = Axis("value", f"{study.split} loss, rtl / ltr - 1, percent", ".2f", reference=0.0)
    for lines in study.lines(by_context):
        rows = lines.rows(
            lambda row: (
                {"look": "rtl / ltr", "context_tokens": row["context_tokens"]}
                | {name: _percent_above_one(row[column]) for name, column in PERCENTS}
            )
        )
        chart = charts.lines(CONTEXT, y, lines.colours, lines.what, dashes={"rtl / ltr": [1, 0]}, band=True)
        chart = charts.with_log_axes(chart, CONTEXT.field, ("x",))
        title, notes = "How much harder right to left, by context", (CONTEXT_NOTE, study.over_seeds(rows))
        yield lines.place.figure("direction-by-context", title, rows, {"": chart}, notes=notes)


def _percent_above_one(ratio: float | None) -> float | None:
    return None if ratio is None else round(100 * (ratio - 1), 4)


# --- pooled ratios --------------------------------------------------------------------------------------------------


def _violin_figures(study: Study, by: Sequence[str]) -> Iterator[Figure]:
    """The violin figures: ratio 1 of the arms, pooled over a share of training, by each axis of size that varies."""
    axis = "epochs" if study.curves["epochs"].count() else "step"
    last = study.curves[axis].max()
    if not by or not isinstance(last, int | float):
        return
    window = (study.window[0] * last, study.window[1] * last)
    pooled = ratios.as_published(study.record, study.split, study.score, axis, study.curves, window)
    for arm in study.arms(set(pooled["arm"]) & in_ratio(study, RATIO_1)):
        mine = pooled.filter(arm=arm).drop_nulls(list(by))
        if usable := [name for name in by if mine[name].n_unique() > 1]:
            yield _violin_figure(study, mine, arm, usable, _pooled_words(study, mine, axis, window))


def _violin_figure(study: Study, mine: pl.DataFrame, arm: str, usable: Sequence[str], pooled: str) -> Figure:
    places = {name: sorted(set(mine[name])) for name in usable}
    # The median is taken over all pooled points, although only some of the points are drawn.
    by_size = {name: mine.sort(name).group_by(name, maintain_order=True) for name in usable}
    medians = {name: groups.agg(pl.col("ratio_1").median())["ratio_1"].to_list() for name, groups in by_size.items()}
    points = mine.gather_every(_every(mine)).iter_rows(named=True)
    means = mine.group_by("scale", "seed", *usable, maintain_order=True).agg(pl.col("ratio_1").mean())
    rows: Rows = [_violin_row("point", row, places) for row in points]
    rows += [{"kind": "median", name: i, "value": rounded(v)} for name in usable for i, v in enumerate(medians[name])]
    for row in means.iter_rows(named=True):
        text = f"{row['scale']}, seed {row['seed']}: {number(row['ratio_1'])}"
        rows.append(_violin_row("run", row, places) | {"text": text})
    values = mine["ratio_1"].to_numpy()
    low, high = float(values.min()), float(values.max())
    margin = 0.3 * (high - low) or 1e-6  # the margin leaves room for the tails of the densities
    variants = {}
    for name in usable:
        x = Axis(name, f"{'blocks' if name == 'depth' else name}; below, the median")
        of_number = millions if name == "parameters" else str
        pairs = zip(map(of_number, places[name]), medians[name], strict=True)
        categories = [(label, f"{median:.4f}") for label, median in pairs]
        y = Axis("value", f"ratio 1, {MEASURES[study.score].unit}", ".4f", reference=1.0)
        variants[name] = charts.violins(x, y, categories, study.look.colours[arm], (low - margin, high + margin))
    labels, notes = {name: name for name in usable}, (_ratio_words(study, RATIO_1), pooled)
    figure, title = study.of_arm(arm).figure, "Ratio 1 by size, as published"
    return figure("ratio-1-by-size", title, rows, variants, labels=labels, choice="by", notes=notes)


def _every(mine: pl.DataFrame) -> int:
    return -(-mine.height // MOST_VIOLIN_POINTS)


def _pooled_words(study: Study, mine: pl.DataFrame, axis: str, window: tuple[float, float]) -> str:
    """The note about the points that the violins pool. Points of one run are not independent samples."""
    runs, share = mine.select("scale", "seed").unique().height, study.window
    thinned = f" One in {_every(mine)} of them is drawn." if _every(mine) > 1 else ""
    where = f"between {axis} {number(window[0])} and {number(window[1])} ({share[0]:.0%} to {share[1]:.0%} of training)"
    return (
        f"As published: {number(mine.height)} interpolated points of {runs} runs, {where}, are pooled into the shapes; the tick "
        f"is their median.{thinned} They are not independent: the dots, one per run (its mean over the same window), show how "
        "many samples there are."
    )


def _violin_row(kind: str, row: dict[str, Any], places: dict[str, list[int]]) -> dict[str, Any]:
    where = {name: values.index(row[name]) for name, values in places.items()}
    return {"kind": kind, "value": rounded(row["ratio_1"], 5), **where}


# --- maps of depth and width ----------------------------------------------------------------------------------------


def _score_maps(study: Study) -> Iterator[Figure]:
    """The maps of the final and the best score by depth and width. All arms of a direction use one scale of colours."""
    record, split, score = study.record, study.split, study.score
    both = {
        "final": ratios.final_scores(record, split, score),
        "best": ratios.best_scores(record, split, score, study.curves),
    }
    for direction in ("ltr", "rtl"):
        trained = study.trained_on(direction)
        # (when, arm) -> scale -> (mean, number of seeds).
        means: dict[tuple[str, str], dict[str, tuple[float, int]]] = {}
        for when, scores in both.items():
            for (arm, scale, way), seeds in scores.items():
                if way == direction and arm in trained:
                    means.setdefault((when, arm), {})[scale] = intervals.mean(list(seeds.values())), len(seeds)
        if not means:
            continue
        values = [value for of_arm in means.values() for value, _ in of_arm.values()]
        low, high = min(values), max(values)
        heat = Heat("size", INK_BLUES, [low + (high - low) * share / 4 for share in range(5)])
        what, unit = metric_words(f"{split}.{direction}.{score}")
        for arm in study.arms():
            here = {when: _squares(study, means.get((when, arm), {}), low + 0.55 * (high - low)) for when in both}
            rows = [row | {"when": when} for when in both for row in here[when]]
            counts = _seed_counts(means.get(("final", arm), {}))
            notes = (f"Means over the seeds of each size ({counts}), {unit}. Darker is higher.", BEST_WORDS)
            yield from _map_figure(study, f"grid-{direction}", f"{what} by size", arm, rows, heat, notes, tuple(both))


def _ratio_maps(study: Study) -> Iterator[Figure]:
    """The maps of ratio 1 at the end of training by depth and width. All arms use one scale of colours."""
    arms = in_ratio(study, RATIO_1)
    means: dict[str, dict[str, tuple[float, int]]] = {}
    for (ratio, arm, scale), estimate in ratios.final_ratios(study.record, study.split, study.score).items():
        if ratio == RATIO_1 and arm in arms and estimate.ratio_then_mean is not None:
            means.setdefault(arm, {})[scale] = (estimate.ratio_then_mean, estimate.seeds)
    heat = Heat("size", AROUND_ONE, around_one([value for here in means.values() for value, _ in here.values()]))
    for arm in study.arms(means):
        rows = _squares(study, means[arm], float("inf"))
        notes = (_ratio_words(study, RATIO_1), f"At the end, mean over paired seeds ({_seed_counts(means[arm])}).")
        yield from _map_figure(study, "grid-ratio-1", "Ratio 1 by size", arm, rows, heat, notes)


def _map_figure(
    study: Study,
    name: str,
    title: str,
    arm: str,
    rows: Rows,
    heat: Heat,
    notes: tuple[str, ...],
    moments: tuple[str, ...] = (),
) -> Iterator[Figure]:
    """The figure of a heat map, if at least two depths and two widths have a number.

    With `moments`, the figure has one map for each of these values of the field `when`.
    """
    depths, widths = ([str(v) for v in sorted({int(row[side]) for row in rows})] for side in ("depth", "width"))
    if len(depths) < 2 or len(widths) < 2:
        return
    maps = {
        when: charts.heat_map(DEPTH, depths, WIDTH, widths, heat, {"when": when} if when else None)
        for when in moments or ("",)
    }
    labels, title = {when: when for when in moments}, f"{title[:1].upper()}{title[1:]}"
    figure = study.of_arm(arm).figure
    yield figure(name, title, rows, maps, labels=labels, choice="score", half=True, notes=notes)


def _squares(study: Study, means: Means, dark_from: float) -> Rows:
    rows: Rows = []
    for scale, (value, seeds) in means.items():
        size = study.sizes[scale]
        if size.depth is None or size.width is None:
            continue
        parameters = f", {millions(size.parameters)} parameters" if size.parameters else ""
        place = {"depth": str(size.depth), "width": str(size.width)}
        text = f"{scale}{parameters}: {number(value)} over {plural(seeds, 'seed')}"
        shown = {"value": rounded(value), "label": f"{value:.3f}", "dark": value >= dark_from, "text": text}
        rows.append(place | shown)
    return rows


def _seed_counts(means: Means) -> str:
    return " or ".join(str(count) for count in sorted({seeds for _, seeds in means.values()}))
