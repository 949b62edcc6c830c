"""The two ratios of the mask study, for any score, paired by seed.

    ratio 1 = score(baseline, ltr) / score(arm, ltr)     below 1, reading rtl as well makes the ltr loss worse
    ratio 2 = score(arm, ltr) / score(arm, rtl)          below 1, the ltr loss of the arm is lower than its rtl loss

Two estimates combine several seeds: the ratio of the means (`mean_then_ratio`, on which outliers weigh less) and the mean of the
ratios (`ratio_then_mean`). The t interval is over the ratios of single seeds, because one run is one sample, however often it was
evaluated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from palinode.analysis import intervals
from palinode.analysis.audits import arm_audit
from palinode.analysis.sizes import scale_sizes
from palinode.base.decision import Decision
from palinode.base.measures import MEASURES
from palinode.results.record import ExperimentRecord

RATIO_1, RATIO_2 = "ratio_1", "ratio_2"
RATIOS = (RATIO_1, RATIO_2)
ESTIMATE_SCHEMA: dict[str, Any] = {
    "mean_then_ratio": pl.Float64,
    "ratio_then_mean": pl.Float64,
    "interval_low": pl.Float64,
    "interval_high": pl.Float64,
    "seeds": pl.Int64,
}


@dataclass(frozen=True)
class Estimate:
    """A ratio over the seeds that have both scores.

    Attributes:
        low, high: the t interval of `ratio_then_mean`; None below two seeds.
        seeds: how many seeds have both scores.
    """

    mean_then_ratio: float | None
    ratio_then_mean: float | None
    low: float | None
    high: float | None
    seeds: int

    def row(self) -> dict[str, Any]:
        """As columns of ESTIMATE_SCHEMA."""
        values = (self.mean_then_ratio, self.ratio_then_mean, self.low, self.high, self.seeds)
        return dict(zip(ESTIMATE_SCHEMA, values, strict=True))


def mean_then_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float | None:
    """The mean of the numerators over the mean of the denominators; None without values or if that divides by zero."""
    if not numerators or not denominators:
        return None
    below = intervals.mean(denominators)
    return intervals.mean(numerators) / below if below else None


def ratio_then_mean(numerators: Sequence[float], denominators: Sequence[float]) -> float | None:
    """The mean of the ratios of single seeds; None without values or if one of them divides by zero."""
    if not numerators or not all(denominators):
        return None
    return intervals.mean([above / below for above, below in zip(numerators, denominators, strict=True)])


def estimate(numerators: Mapping[int, float], denominators: Mapping[int, float], confidence: float) -> Estimate:
    """The ratio of two scores, each given as seed -> score. A seed without both scores, or with a denominator of 0, is left out."""
    seeds = [seed for seed in numerators if denominators.get(seed)]
    above, below = [numerators[seed] for seed in seeds], [denominators[seed] for seed in seeds]
    interval = intervals.t_interval([a / b for a, b in zip(above, below, strict=True)], confidence)
    low, high = (interval.low, interval.high) if interval else (None, None)
    return Estimate(mean_then_ratio(above, below), ratio_then_mean(above, below), low, high, len(seeds))


def sides(ratio: str, arm: str, rule: Decision) -> tuple[tuple[str, str], tuple[str, str]]:
    """The (arm, direction) of the numerator and of the denominator of a ratio."""
    return ((rule.baseline, "ltr"), (arm, "ltr")) if ratio == RATIO_1 else ((arm, "ltr"), (arm, "rtl"))


def arms_with(record: ExperimentRecord, ratio: str) -> tuple[str, ...]:
    """The arms that have a ratio: every arm has ratio 2, every arm but the baseline has ratio 1."""
    baseline = record.entry.rule.baseline
    return tuple(arm.name for arm in record.entry.arms if ratio == RATIO_2 or arm.name != baseline)


def final_scores(record: ExperimentRecord, split: str, score: str) -> dict[tuple[str, str, str], dict[int, float]]:
    """(arm, scale, direction) -> seed -> the final score of the finished runs."""
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for run in record.runs:
        if run.outcome == "done" and run.result is not None:
            for direction in run.result.scores.get(split, {}):
                if (value := run.result.score(f"{split}.{direction}.{score}")) is not None:
                    found.setdefault((run.entry.arm, run.entry.scale, direction), {})[run.entry.seed] = value
    return found


def best_scores(
    record: ExperimentRecord, split: str, score: str, curves: pl.DataFrame
) -> dict[tuple[str, str, str], dict[int, float]]:
    """(arm, scale, direction) -> seed -> the best score that a finished run had at any evaluation.

    The best of many evaluations is too good by chance, in noisy runs most, so verdicts use the final score.

    Args:
        curves: the frame of `evaluation_curves` for this record.
    """
    finals = final_scores(record, split, score)
    best = pl.col(score).max() if MEASURES[score].better == "higher" else pl.col(score).min()
    measured = curves.filter(split=split).drop_nulls(score).filter(pl.col(score).is_finite())
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for arm, scale, direction, seed, value in (
        measured.group_by("arm", "scale", "direction", "seed", maintain_order=True).agg(best).iter_rows()
    ):
        if seed in finals.get((arm, scale, direction), {}):
            found.setdefault((arm, scale, direction), {})[seed] = value
    return found


def final_ratios(record: ExperimentRecord, split: str, score: str) -> dict[tuple[str, str, str], Estimate]:
    """(ratio, arm, scale) -> the ratio at the end of training; absent where no seed has both scores."""
    rule, finals = record.entry.rule, final_scores(record, split, score)
    found = {}
    for ratio in RATIOS:
        for arm in arms_with(record, ratio):
            for scale in record.entry.scales:
                above, below = (finals.get((name, scale, direction), {}) for name, direction in sides(ratio, arm, rule))
                over_seeds = estimate(above, below, rule.confidence)
                if over_seeds.seeds:
                    found[ratio, arm, scale] = over_seeds
    return found


def ratio_table(record: ExperimentRecord, split: str, scores: Iterable[str] = MEASURES) -> pl.DataFrame:
    """One row per arm, scale and score: the size of the model, and both ratios at the end with both estimates and the interval."""
    who = {"arm": pl.String, "baseline": pl.String, "scale": pl.String}
    size = {"depth": pl.Int64, "width": pl.Int64, "parameters": pl.Int64}
    what = {"split": pl.String, "score": pl.String, "leak": pl.String, "confidence": pl.Float64}
    schema = who | size | what | {f"{ratio}_{name}": kind for ratio in RATIOS for name, kind in ESTIMATE_SCHEMA.items()}
    rule, sizes = record.entry.rule, scale_sizes(record)
    leaks = {arm.name: arm_audit(record, arm.name).leak for arm in record.entry.arms}
    rows = []
    for score in scores:
        found = final_ratios(record, split, score)
        for arm in arms_with(record, RATIO_2):
            for scale in record.entry.scales:
                estimates = {ratio: found.get((ratio, arm, scale)) for ratio in RATIOS}
                if not any(estimates.values()):
                    continue
                place = sizes[scale]
                row: dict[str, Any] = {
                    "arm": arm,
                    "baseline": rule.baseline,
                    "scale": scale,
                    "split": split,
                    "score": score,
                }
                row |= {"depth": place.depth, "width": place.width, "parameters": place.parameters}
                row |= {"leak": leaks[arm], "confidence": rule.confidence}
                for ratio, known in estimates.items():
                    row |= {f"{ratio}_{name}": value for name, value in known.row().items()} if known else {}
                rows.append(row)
    return pl.DataFrame(rows, schema=schema)
