"""Two ratios of scores, paired by seed: at the end of training, over training, by context length, and by remaining blocks.

    ratio 1 = score(baseline, ltr) / score(arm, ltr)     of losses, below 1: the arm's ltr loss is higher than the baseline's
    ratio 2 = score(arm, ltr) / score(arm, rtl)          of losses, below 1: the arm's ltr loss is lower than its rtl loss

Two estimates combine several seeds. `mean_then_ratio` is the ratio of the mean scores, which outliers change less.
`ratio_then_mean` is the mean of the ratios of single seeds. The t interval is computed from the ratios of single seeds, because one
run is one sample, however often the run was evaluated.

A position is a place on an x-axis of a training curve, such as a step. If all runs of a comparison were evaluated at the same
positions, the ratio is taken at these positions and no score is interpolated. If arms read different numbers of tokens, straight
lines join the points of each run, and the ratio is taken at evenly spaced positions inside the range that all runs cover. There are
as many positions as the run with the fewest evaluations in the common range has evaluations there, and at least 2 positions.
The column `interpolated` marks the rows whose scores were interpolated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palinode.analysis import intervals
from palinode.analysis.audits import arm_audit
from palinode.analysis.curves import trained_directions
from palinode.analysis.frames import CELL, columns
from palinode.analysis.sizes import SIZE_AXES, scale_sizes
from palinode.base.decision import Decision
from palinode.base.measures import CURVE_AXES, MEASURES, PASS_MEASURES
from palinode.results.record import ExperimentRecord

RATIO_1, RATIO_2 = "ratio_1", "ratio_2"
RATIOS = (RATIO_1, RATIO_2)
PUBLISHED_POINTS = 500  # the number of positions at which the published method reads every curve
ESTIMATE_SCHEMA = columns(
    (pl.Float64, "mean_then_ratio ratio_then_mean interval_low interval_high"), (pl.Int64, "seeds")
)
_WHO = columns((pl.String, "ratio arm scale score"))
_SIZE = dict.fromkeys(SIZE_AXES, pl.Int64)
_CURVE = ["arm", "direction", "scale", "seed"]
CONTEXT_SCHEMA = columns((pl.String, "arm against scale"), (pl.Int64, "context_tokens")) | ESTIMATE_SCHEMA
CUT_RATIO_SCHEMA = _WHO | columns((pl.String, "head"), (pl.Int64, "blocks of_blocks")) | ESTIMATE_SCHEMA
RATIO_CURVE_SCHEMA = (
    _WHO | columns((pl.String, "axis"), (pl.Float64, "x")) | ESTIMATE_SCHEMA | columns((pl.Boolean, "interpolated"))
)
POOLED_SCHEMA = (
    CELL | _SIZE | columns((pl.Int64, "seed"), (pl.String, "axis"), (pl.Float64, "x"), (pl.Float64, RATIO_1))
)
Array = NDArray[np.float64]
Side = TypeVar("Side")  # a score or a curve
# (arm, scale, direction) -> seed -> score. The key may have further parts, such as a number of blocks.
Scores = dict[tuple[Any, ...], dict[int, float]]


@dataclass(frozen=True)
class Estimate:
    """The two estimates of a ratio over the seeds that have both scores; a field is None if it needs more seeds.

    Attributes:
        low, high: the ends of the t interval of `ratio_then_mean`; None with fewer than two seeds.
        seeds: the number of seeds that have both scores.
    """

    mean_then_ratio: float | None
    ratio_then_mean: float | None
    low: float | None
    high: float | None
    seeds: int

    def row(self) -> dict[str, Any]:
        """The estimate as a row with the columns of ESTIMATE_SCHEMA."""
        return dict(zip(ESTIMATE_SCHEMA, astuple(self), strict=True))


def estimate(numerators: Mapping[int, float], denominators: Mapping[int, float], confidence: float) -> Estimate:
    """The estimate of a ratio of two scores. Numerators and denominators are mappings: seed -> score.

    A seed is left out if it lacks one of the two scores, or if its denominator is 0.
    """
    seeds = [seed for seed in numerators if denominators.get(seed)]
    if not seeds:
        return Estimate(None, None, None, None, 0)
    ratios = [numerators[seed] / denominators[seed] for seed in seeds]
    above, below = (intervals.mean([side[seed] for seed in seeds]) for side in (numerators, denominators))
    low, high = intervals.ends(intervals.t_interval(ratios, confidence))
    return Estimate(above / below if below else None, intervals.mean(ratios), low, high, len(seeds))


def sides(ratio: str, arm: str, rule: Decision) -> tuple[tuple[str, str], tuple[str, str]]:
    """The pairs (arm, direction) of the numerator and of the denominator of a ratio."""
    return ((rule.baseline, "ltr"), (arm, "ltr")) if ratio == RATIO_1 else ((arm, "ltr"), (arm, "rtl"))


def arms_with(record: ExperimentRecord, ratio: str) -> tuple[str, ...]:
    """The arms for which a ratio is defined: ratio 2 for every arm, ratio 1 for every arm except the baseline."""
    baseline = record.entry.rule.baseline
    return tuple(arm.name for arm in record.entry.arms if ratio == RATIO_2 or arm.name != baseline)


def _paired(
    record: ExperimentRecord,
    by_side: Mapping[tuple[Any, ...], Mapping[int, Side]],
    places: Iterable[tuple[Any, ...]],
) -> Iterator[tuple[tuple[Any, ...], Mapping[int, Side], Mapping[int, Side]]]:
    """The tuples ((ratio, arm, scale, ..), numerators, denominators) of both ratios, for every arm and place.

    Args:
        by_side: the scores or curves as a mapping: key (arm, direction, ..) -> seed -> score or curve.
        places: the parts (scale, ..) that follow (arm, direction) in the keys of `by_side`, in the order of the rows.
    """
    for ratio in RATIOS:
        for arm in arms_with(record, ratio):
            for place in places:
                above, below = (by_side.get((*side, *place), {}) for side in sides(ratio, arm, record.entry.rule))
                yield (ratio, arm, *place), above, below


# --- at the end of training -----------------------------------------------------------------------------------------


def final_scores(record: ExperimentRecord, split: str, score: str) -> Scores:
    """The final scores of the finished runs, as a mapping: (arm, scale, direction) -> seed -> score."""
    return _by_seed(
        ((run.entry.arm, run.entry.scale, direction), run.entry.seed, run.result.score(f"{split}.{direction}.{score}"))
        for run in record.finished()
        for direction in run.result.scores.get(split, {})
    )


def _by_seed(scores: Iterable[tuple[tuple[Any, ...], int, float | None]]) -> Scores:
    """The scores as a mapping (key -> seed -> score), made from triples (key, seed, score). A score of None is left out."""
    by_seed: Scores = {}
    for key, seed, value in scores:
        if value is not None:
            by_seed.setdefault(key, {})[seed] = value
    return by_seed


def best_scores(record: ExperimentRecord, split: str, score: str, curves: pl.DataFrame) -> Scores:
    """The best score among all evaluations of each finished run, as a mapping: (arm, scale, direction) -> seed -> score.

    The best score of many evaluations is too good by chance, most of all in noisy runs. For this reason verdicts use final scores.

    Args:
        curves: the frame of `evaluation_curves` for this record.
    """
    finals = final_scores(record, split, score)
    best = pl.col(score).max() if MEASURES[score].better == "higher" else pl.col(score).min()
    evaluated = curves.filter(pl.col(score).is_finite(), split=split)
    by_run = evaluated.group_by("arm", "scale", "direction", "seed", maintain_order=True).agg(best)
    return _by_seed(
        (tuple(key), seed, value) for *key, seed, value in by_run.iter_rows() if seed in finals.get(tuple(key), {})
    )


def final_ratios(record: ExperimentRecord, split: str, score: str) -> dict[tuple[str, str, str], Estimate]:
    """The ratios at the end of training, as a mapping: (ratio, arm, scale) -> estimate.

    A key is absent where no seed has both scores.
    """
    finals = {(arm, way, scale): seeds for (arm, scale, way), seeds in final_scores(record, split, score).items()}
    ratios = {
        key: estimate(above, below, record.entry.rule.confidence)
        for key, above, below in _paired(record, finals, [(scale,) for scale in record.entry.scales])
    }
    return {(ratio, arm, scale): found for (ratio, arm, scale), found in ratios.items() if found.seeds}


def ratio_table(record: ExperimentRecord, split: str) -> pl.DataFrame:
    """The final ratios: one row per arm, scale and score. A row has the model size, and both estimates of each ratio."""
    who = columns((pl.String, "arm baseline scale"))
    what = columns((pl.String, "split score leak"), (pl.Float64, "confidence"))
    numbers = {f"{ratio}_{name}": kind for ratio in RATIOS for name, kind in ESTIMATE_SCHEMA.items()}
    rule, sizes = record.entry.rule, scale_sizes(record)
    leaks = {arm.name: arm_audit(record, arm.name).leak for arm in record.entry.arms}
    rows = []
    for score in PASS_MEASURES:
        ratios = final_ratios(record, split, score)
        for arm in arms_with(record, RATIO_2):
            for scale in record.entry.scales:
                row: dict[str, Any] = {}
                for ratio in RATIOS:
                    if known := ratios.get((ratio, arm, scale)):
                        row |= {f"{ratio}_{name}": value for name, value in known.row().items()}
                if row:
                    row |= {"arm": arm, "baseline": rule.baseline, "scale": scale} | sizes[scale].columns()
                    row |= {"split": split, "score": score, "leak": leaks[arm], "confidence": rule.confidence}
                    rows.append(row)
    return pl.DataFrame(rows, schema=who | _SIZE | what | numbers)


# --- by context length and by remaining blocks ----------------------------------------------------------------------


def direction_ratios(record: ExperimentRecord, split: str, confidence: float | None = None) -> pl.DataFrame:
    """The ratio rtl loss / ltr loss: one row per scale, window length and arm that trained on rtl (CONTEXT_SCHEMA).

    The ltr loss is the loss of the same arm if this arm also trained on ltr, otherwise the loss of the baseline at the same seed.

    Args:
        confidence: of the intervals; that of the rule if None.
    """
    rule, losses = record.entry.rule, _losses_by_context(record, split)
    rows = []
    for arm, scale, direction, length in losses:
        if direction != "rtl":
            continue
        against = arm if (arm, scale, "ltr", length) in losses else rule.baseline
        below = losses.get((against, scale, "ltr", length), {})
        over_seeds = estimate(losses[arm, scale, "rtl", length], below, confidence or rule.confidence)
        if over_seeds.seeds:
            rows.append((arm, against, scale, length, *astuple(over_seeds)))
    return pl.DataFrame(rows, schema=CONTEXT_SCHEMA, orient="row").sort("arm", "scale", "context_tokens")


def _losses_by_context(record: ExperimentRecord, split: str) -> Scores:
    """The losses of finished runs in the directions they trained on, in nats per token.

    The losses are a mapping: (arm, scale, direction, window length in tokens) -> seed -> loss.
    """
    return _by_seed(
        (
            (run.entry.arm, run.entry.scale, direction, length),
            run.entry.seed,
            scores[direction].get("nats_per_token"),
        )
        for run in record.finished()
        for length, scores in run.record.context_lengths.get(split, {}).items()
        for direction in trained_directions(run) & set(scores)
    )


def layer_cut_ratios(record: ExperimentRecord, score: str, cuts: pl.DataFrame) -> pl.DataFrame:
    """Both ratios for every number of remaining blocks, head and scale, paired by seed (CUT_RATIO_SCHEMA).

    Args:
        cuts: the frame of `layer_cuts` for this record.
    """
    side_and_place = ("arm", "direction", "scale", "head", "blocks", "of_blocks")
    rows_of_cuts = cuts.select(*side_and_place, "seed", score).iter_rows()
    scores = _by_seed((tuple(key), seed, value) for *key, seed, value in rows_of_cuts)
    places = sorted({key[2:] for key in scores}, key=lambda known: (record.entry.scales.index(known[0]), *known[1:]))
    rows = []
    for (ratio, arm, scale, *rest), above, below in _paired(record, scores, places):
        over_seeds = estimate(above, below, record.entry.rule.confidence)
        if over_seeds.seeds:
            rows.append((ratio, arm, scale, score, *rest, *astuple(over_seeds)))
    return pl.DataFrame(rows, schema=CUT_RATIO_SCHEMA, orient="row")


# --- over the course of training ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """The measured points of one run: increasing positions `x`, and the score `y` at each position."""

    x: Array
    y: Array

    def at(self, positions: Array) -> Array:
        """The scores at the given positions, read from the straight lines between measured points.

        Raises:
            ValueError: a position lies outside the measured range.
        """
        if len(positions) and not (self.x[0] <= positions.min() and positions.max() <= self.x[-1]):
            raise ValueError(f"positions outside the measured range from {self.x[0]} to {self.x[-1]}")
        return np.interp(positions, self.x, self.y)


def common_range(curves: Iterable[Curve]) -> tuple[float, float] | None:
    """The range of positions that all curves cover; None if no position is in all curves. Every curve must have a point."""
    spans = [(float(curve.x[0]), float(curve.x[-1])) for curve in curves]
    low, high = max(first for first, _ in spans), min(last for _, last in spans)
    return (low, high) if low <= high else None


def common_positions(curves: Sequence[Curve]) -> tuple[Array, bool]:
    """A pair: the positions at which curves are compared, and whether the scores at these positions are interpolated."""
    span = common_range(curves)
    if span is None:
        return np.empty(0), False
    inside = [curve.x[(curve.x >= span[0]) & (curve.x <= span[1])] for curve in curves]
    if all(np.array_equal(inside[0], other) for other in inside[1:]):
        return inside[0], False
    count = max(2, min(len(points) for points in inside)) if span[0] < span[1] else 1
    return np.clip(np.linspace(*span, count), *span), True


def ratio_curves(record: ExperimentRecord, split: str, score: str, curves: pl.DataFrame) -> pl.DataFrame:
    """Both ratios along every x-axis, over the seeds that have a finished run on both sides of the ratio (RATIO_CURVE_SCHEMA).

    Args:
        curves: the frame of `evaluation_curves` for this record.
    """
    rows: list[dict[str, Any]] = []
    for axis in CURVE_AXES:
        by_run = _curves_by_run(record, curves, split, score, axis)
        for (ratio, arm, scale), above, below in _paired(record, by_run, [(name,) for name in record.entry.scales]):
            who = {"ratio": ratio, "arm": arm, "scale": scale, "score": score, "axis": axis}
            rows += [who | point for point in _points(above, below, record.entry.rule.confidence)]
    return pl.DataFrame(rows, schema=RATIO_CURVE_SCHEMA)


def _points(above: Mapping[int, Curve], below: Mapping[int, Curve], confidence: float) -> Iterator[dict[str, Any]]:
    seeds = [seed for seed in above if seed in below]
    if not seeds:
        return
    positions, interpolated = common_positions([side[seed] for side in (above, below) for seed in seeds])
    tops, bottoms = ({seed: side[seed].at(positions) for seed in seeds} for side in (above, below))
    for index, x in enumerate(positions):
        numerators, denominators = (
            {seed: float(values[index]) for seed, values in side.items()} for side in (tops, bottoms)
        )
        over_seeds = estimate(numerators, denominators, confidence)
        if over_seeds.seeds:
            yield {"x": float(x), **over_seeds.row(), "interpolated": interpolated}


def as_published(
    record: ExperimentRecord,
    split: str,
    score: str,
    axis: str,
    curves: pl.DataFrame,
    window: tuple[float, float] | None = None,
) -> pl.DataFrame:
    """Ratio 1 by the published method, which pools the ratios at PUBLISHED_POINTS positions of every pair of runs (POOLED_SCHEMA).

    The points of one run are not independent samples, so no interval may be computed from these points.

    Args:
        axis: the x-axis: `epochs`, or `step` if epochs were not counted.
        curves: the frame of `evaluation_curves` for this record.
        window: the first and the last position to keep; None keeps all positions.
    """
    by_run = _curves_by_run(record, curves, split, score, axis)
    baseline, frames = record.entry.rule.baseline, [pl.DataFrame(schema=POOLED_SCHEMA)]
    for arm in arms_with(record, RATIO_1):
        for scale, size in scale_sizes(record).items():
            ours, theirs = by_run.get((arm, "ltr", scale), {}), by_run.get((baseline, "ltr", scale), {})
            for seed in (seed for seed in ours if seed in theirs):
                x, values = _pooled(theirs[seed], ours[seed], window)
                who = {"arm": arm, "scale": scale, "seed": seed, "axis": axis} | size.columns()
                columns = {name: [value] * len(x) for name, value in who.items()} | {"x": x, RATIO_1: values}
                frames.append(pl.DataFrame(columns, schema_overrides=POOLED_SCHEMA).select(*POOLED_SCHEMA))
    return pl.concat(frames)


def _pooled(above: Curve, below: Curve, window: tuple[float, float] | None) -> tuple[Array, Array]:
    """A pair: the positions at which two curves are read, and the ratios of the two curves at these positions."""
    span = common_range([above, below])
    if span is None:
        return np.empty(0), np.empty(0)
    x = np.clip(np.linspace(*span, PUBLISHED_POINTS), *span)
    denominators = below.at(x)
    kept = denominators != 0
    if window is not None:
        kept &= (x >= window[0]) & (x <= window[1])
    return x[kept], above.at(x)[kept] / denominators[kept]


def published_summary(pooled: pl.DataFrame) -> pl.DataFrame:
    """The summary of pooled points: one row per arm and scale with the quartiles, the number of points and the number of runs."""
    value = pl.col(RATIO_1)
    return pooled.group_by("arm", "scale", *_SIZE, "axis", maintain_order=True).agg(
        value.median().alias("median_as_published"),
        value.quantile(0.25, "linear").alias("lower_quartile"),
        value.quantile(0.75, "linear").alias("upper_quartile"),
        pl.col("x").min().alias("from"),
        pl.col("x").max().alias("to"),
        pl.len().cast(pl.Int64).alias("pooled_points"),
        pl.col("seed").n_unique().cast(pl.Int64).alias("runs"),
    )


def _curves_by_run(
    record: ExperimentRecord, curves: pl.DataFrame, split: str, score: str, axis: str
) -> dict[tuple[Any, ...], dict[int, Curve]]:
    """The curves of finished runs with at least one measured point, as a mapping: (arm, direction, scale) -> seed -> curve."""
    finished = [run.entry.run_id for run in record.finished()]
    scored = curves.filter(pl.col("run_id").is_in(finished), split=split).drop_nulls([score, axis])
    by_run: dict[tuple[Any, ...], dict[int, Curve]] = {}
    # All curves are sorted at once: a report of many scales has thousands of them.
    growing = (
        scored.sort("step", maintain_order=True)
        .unique([*_CURVE, axis], keep="last", maintain_order=True)
        .sort(axis, maintain_order=True)
    )
    growing = growing.sort(_CURVE, maintain_order=True)
    x, y = growing[axis].cast(pl.Float64).to_numpy(), growing[score].to_numpy()
    sizes = growing.group_by(_CURVE, maintain_order=True).len()
    last = sizes["len"].cum_sum().to_list()
    ends = {tuple(key): (end - size, end) for (*key, size), end in zip(sizes.iter_rows(), last, strict=True)}
    for *side, seed in scored.select(_CURVE).unique(maintain_order=True).iter_rows():
        start, end = ends[*side, seed]
        by_run.setdefault(tuple(side), {})[int(str(seed))] = Curve(x[start:end], y[start:end])
    return by_run
