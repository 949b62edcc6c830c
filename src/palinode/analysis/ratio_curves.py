"""The two ratios of the mask study over the course of training.

A position is a place on an x-axis, such as a step. If all runs of a comparison were evaluated at the same positions, the ratio is
taken at these and nothing is interpolated. Otherwise (arms that read different numbers of tokens) straight lines join the points of
each run, and the ratio is taken at evenly spaced positions inside the range that all runs cover: as many as the run with the fewest
evaluations has there, at least both ends. The column `interpolated` marks such rows. Interpolated positions are no samples, so
intervals are over seeds.

`as_published` repeats the published method for comparison: it pools 500 interpolated positions of every run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palinode.analysis.curves import evaluation_curves
from palinode.analysis.ratios import ESTIMATE_SCHEMA, RATIO_1, RATIOS, arms_with, estimate, sides
from palinode.analysis.sizes import scale_sizes
from palinode.base.measures import CURVE_AXES
from palinode.results.record import ExperimentRecord

PUBLISHED_POINTS = 500
RATIO_CURVE_SCHEMA: dict[str, Any] = (
    {"ratio": pl.String, "arm": pl.String, "scale": pl.String, "score": pl.String, "axis": pl.String, "x": pl.Float64}
    | ESTIMATE_SCHEMA
    | {"interpolated": pl.Boolean}
)
POOLED_SCHEMA: dict[str, Any] = {
    "arm": pl.String,
    "scale": pl.String,
    "depth": pl.Int64,
    "width": pl.Int64,
    "parameters": pl.Int64,
    "seed": pl.Int64,
    "axis": pl.String,
    "x": pl.Float64,
    "ratio_1": pl.Float64,
}
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """The measured points of one run: increasing positions `x`, and the score `y` at each."""

    x: Array
    y: Array

    def at(self, positions: Array) -> Array:
        """The scores at some positions, on the straight lines between measured points.

        Raises:
            ValueError: a position lies outside the measured range.
        """
        if len(positions) and not (self.x[0] <= positions.min() and positions.max() <= self.x[-1]):
            raise ValueError(f"positions outside the measured range from {self.x[0]} to {self.x[-1]}")
        return np.interp(positions, self.x, self.y)


def common_range(curves: Iterable[Curve]) -> tuple[float, float] | None:
    """The positions that all curves cover; None where there are none."""
    spans = [(float(curve.x[0]), float(curve.x[-1])) for curve in curves if len(curve.x)]
    if not spans:
        return None
    low, high = max(first for first, _ in spans), min(last for _, last in spans)
    return (low, high) if low <= high else None


def common_positions(curves: Sequence[Curve]) -> tuple[Array, bool]:
    """(positions at which curves are compared, whether scores there are interpolated)."""
    span = common_range(curves)
    if span is None:
        return np.empty(0), False
    measured = [curve.x[(curve.x >= span[0]) & (curve.x <= span[1])] for curve in curves]
    if all(np.array_equal(measured[0], other) for other in measured[1:]):
        return measured[0], False
    count = max(2, min(len(points) for points in measured)) if span[0] < span[1] else 1
    return np.clip(np.linspace(*span, count), *span), True


def ratio_curves(
    record: ExperimentRecord,
    split: str,
    score: str,
    axes: Iterable[str] = CURVE_AXES,
    curves: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Both ratios along every x-axis, over the seeds that finished in both arms (RATIO_CURVE_SCHEMA).

    Args:
        curves: the frame of `evaluation_curves`; None computes it.
    """
    rule = record.entry.rule
    rows: list[dict[str, Any]] = []
    for axis in axes:
        known = _curves_by_run(record, evaluation_curves(record) if curves is None else curves, split, score, axis)
        for ratio in RATIOS:
            for arm in arms_with(record, ratio):
                for scale in record.entry.scales:
                    above, below = (known.get((n, scale, way), {}) for n, way in sides(ratio, arm, rule))
                    who = {"ratio": ratio, "arm": arm, "scale": scale, "score": score, "axis": axis}
                    rows += [who | point for point in _points(above, below, rule.confidence)]
    return pl.DataFrame(rows, schema=RATIO_CURVE_SCHEMA)


def as_published(
    record: ExperimentRecord,
    split: str,
    score: str,
    axis: str = "epochs",
    window: tuple[float, float] | None = None,
    points: int = PUBLISHED_POINTS,
    curves: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Ratio 1 by the published method: `points` interpolated positions of every pair of runs, pooled (POOLED_SCHEMA).

    The points of one run are not independent samples, so no interval may be computed from them.

    Args:
        axis: `epochs`, or `step` if epochs were not counted.
        window: the first and the last position to keep; None keeps all.
    """
    rule, sizes = record.entry.rule, scale_sizes(record)
    frame = evaluation_curves(record) if curves is None else curves
    known = _curves_by_run(record, frame, split, score, axis)
    frames = [pl.DataFrame(schema=POOLED_SCHEMA)]
    for arm in arms_with(record, RATIO_1):
        for scale, size in sizes.items():
            ours, theirs = known.get((arm, scale, "ltr"), {}), known.get((rule.baseline, scale, "ltr"), {})
            for seed in (seed for seed in ours if seed in theirs):
                x, values = _pooled(theirs[seed], ours[seed], points, window)
                who = {"arm": arm, "scale": scale, "seed": seed, "axis": axis}
                who |= {"depth": size.depth, "width": size.width, "parameters": size.parameters}
                columns = {name: [value] * len(x) for name, value in who.items()} | {"x": x, "ratio_1": values}
                frames.append(pl.DataFrame(columns, schema_overrides=POOLED_SCHEMA).select(*POOLED_SCHEMA))
    return pl.concat(frames)


def published_summary(pooled: pl.DataFrame) -> pl.DataFrame:
    """One row per arm and scale: quartiles of the pooled points, how many points there are, and from how many runs."""
    value = pl.col("ratio_1")
    found = pooled.group_by("arm", "scale", "depth", "width", "parameters", "axis", maintain_order=True)
    return found.agg(
        value.median().alias("median_as_published"),
        value.quantile(0.25, "linear").alias("lower_quartile"),
        value.quantile(0.75, "linear").alias("upper_quartile"),
        pl.col("x").min().alias("from"),
        pl.col("x").max().alias("to"),
        pl.len().cast(pl.Int64).alias("pooled_points"),
        pl.col("seed").n_unique().cast(pl.Int64).alias("runs"),
    )


def _points(above: Mapping[int, Curve], below: Mapping[int, Curve], confidence: float) -> Iterator[dict[str, Any]]:
    seeds = [seed for seed in above if seed in below]
    if not seeds:
        return
    positions, interpolated = common_positions([side[seed] for side in (above, below) for seed in seeds])
    tops = {seed: above[seed].at(positions) for seed in seeds}
    bottoms = {seed: below[seed].at(positions) for seed in seeds}
    for index, x in enumerate(positions):
        numerators = {seed: float(values[index]) for seed, values in tops.items()}
        denominators = {seed: float(values[index]) for seed, values in bottoms.items()}
        over_seeds = estimate(numerators, denominators, confidence)
        if over_seeds.seeds:
            yield {"x": float(x), **over_seeds.row(), "interpolated": interpolated}


def _pooled(above: Curve, below: Curve, points: int, window: tuple[float, float] | None) -> tuple[Array, Array]:
    span = common_range([above, below])
    if span is None:
        return np.empty(0), np.empty(0)
    x = np.clip(np.linspace(*span, points), *span)
    denominators = below.at(x)
    kept = denominators != 0
    if window is not None:
        kept &= (x >= window[0]) & (x <= window[1])
    return x[kept], above.at(x)[kept] / denominators[kept]


def _curves_by_run(
    record: ExperimentRecord, curves: pl.DataFrame, split: str, score: str, axis: str
) -> dict[tuple[str, str, str], dict[int, Curve]]:
    """(arm, scale, direction) -> seed -> its curve; finished runs with at least one measured point."""
    finished = [run.entry.run_id for run in record.runs if run.outcome == "done"]
    scored = curves.filter(pl.col("run_id").is_in(finished), split=split).drop_nulls([score, axis])
    found: dict[tuple[str, str, str], dict[int, Curve]] = {}
    for key, rows in scored.group_by("arm", "scale", "direction", "seed", maintain_order=True):
        arm, scale, direction, seed = key
        growing = rows.sort("step").unique(axis, keep="last").sort(axis)
        curve = Curve(growing[axis].cast(pl.Float64).to_numpy(), growing[score].to_numpy())
        found.setdefault((str(arm), str(scale), str(direction)), {})[int(str(seed))] = curve
    return found
