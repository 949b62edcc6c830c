"""Simulations of many grids at once, for benchmarks/verdict_statistics.py: looks in a family, slopes, and one noisy cell.

A grid here has all its scores, so its two-way residuals have a closed form, and thousands of grids are computed at once. The
squeeze and the quantiles are the product's. A test compares `family_halves` with `family_intervals`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palinode.analysis.family import family_intervals, squeeze, t_quantile, trend_points
from palinode.analysis.looks import FIRST, look_alpha
from palinode.analysis.scales import over_scales, paule_mandel

SEED = 20261129
ALPHA = 0.05
MOST = 20  # pairs at the last look
GRIDS, PATHS, SLOPES, NOISY_GRIDS = 10_000, 100_000, 10_000, 1000
CHUNKS = 20  # of the grids or paths of a row, so that they fit into memory
LOOK_SHAPES = ((4, 6), (8, 2), (3, 3), (2, 2))  # arms without the baseline, scales
PLAIN_COMPARISONS = (4, 8, 24)
TAUS = (0.0, 0.5, 1.0)  # in standard deviations of one paired difference
SLOPE = 0.5  # per decade, in standard deviations of one paired difference
NOISE = 3.0  # the standard deviation of the runs of a noisy cell, against all others

Row = dict[str, Any]
Array = NDArray[np.float64]
Deviations = Callable[[str, int, int, np.random.Generator], Array]


def family_halves(scores: Array, alpha: float) -> tuple[Array, Array, Array]:
    """Means, standard errors and half-widths (G, A, S) of G grids.

    Args:
        scores: (G, 1 + A, S, n), the baseline first; the parameters grow tenfold from scale to scale.
        alpha: the error of one comparison.
    """
    arms, scales, pairs = scores.shape[1] - 1, scores.shape[2], scores.shape[3]
    of_arm, of_seed = scores.mean(axis=3, keepdims=True), scores.mean(axis=1, keepdims=True)
    residuals = scores - of_arm - of_seed + of_arm.mean(axis=1, keepdims=True)
    freedom = arms * (pairs - 1)
    own = 2 * (residuals**2).sum(axis=(1, 3)) / freedom
    squeezed, degrees = squeeze(own, np.full(scales, float(freedom)), trend_points(parameters(scales)))
    differences = scores[:, 1:] - scores[:, :1]
    factors = (differences.var(axis=3, ddof=1) / squeezed[:, None]).mean(axis=2, keepdims=True)
    joint = 1 / (1 / degrees + 1 / (scales * (pairs - 1)))
    errors = np.sqrt(squeezed[:, None] * factors / pairs)
    return differences.mean(axis=3), errors, t_quantile(joint, alpha)[:, None] * errors


def parameters(scales: int) -> list[int]:
    return [10 ** (5 + scale) for scale in range(scales)]


def family_looks_row(arms: int, scales: int, pattern: str, deviations: Deviations, grids: int = GRIDS) -> Row:
    """How often some interval excludes 0 at some look, although nothing differs; and with a plain division of one look's alpha.

    Args:
        deviations: pattern, arms, scales, generator -> (1 + arms, scales) standard deviations of one grid.
    """
    rng = np.random.default_rng([SEED, arms, scales, len(pattern)])
    alphas = look_alpha(ALPHA, MOST, arms * scales), look_alpha(ALPHA, MOST) / (arms * scales)
    wrong = np.zeros(2, dtype=np.int64)
    for _ in range(CHUNKS):
        deviation = np.stack([deviations(pattern, arms, scales, rng) for _ in range(grids // CHUNKS)])
        scores = deviation[..., None] * rng.standard_normal((*deviation.shape, MOST))
        excluded = np.zeros((2, len(scores)), dtype=bool)
        for pairs in range(FIRST, MOST + 1):
            for place, alpha in enumerate(alphas):
                means, _, halves = family_halves(scores[..., :pairs], alpha)
                excluded[place] |= (np.abs(means) > halves).any(axis=(1, 2))
        wrong += excluded.sum(axis=1)
    return {
        **{"arms": arms, "scales": scales, "pattern": pattern, "most": MOST, "grids": grids},
        "error": float(wrong[0] / grids),
        "error_by_division": float(wrong[1] / grids),
    }


def plain_looks_row(comparisons: int, *, one_baseline: bool, paths: int = PATHS) -> Row:
    """The same for plain t intervals: at `look_alpha` of so many comparisons, and at a plain division of the alpha of one look."""
    rng = np.random.default_rng([SEED, comparisons, int(one_baseline)])
    most = {"error": 0, "error_by_division": 0}
    alphas = look_alpha(ALPHA, MOST, comparisons), look_alpha(ALPHA, MOST) / comparisons
    for _ in range(CHUNKS):
        shape = (paths // CHUNKS, comparisons, MOST)
        baseline = rng.standard_normal((shape[0], 1 if one_baseline else comparisons, MOST))
        differences = rng.standard_normal(shape) - baseline
        wrong = np.zeros((2, shape[0]), dtype=bool)
        for pairs in range(FIRST, MOST + 1):
            seen = differences[..., :pairs]
            t = np.abs(seen.mean(axis=2)) / np.sqrt(seen.var(axis=2, ddof=1) / pairs)
            for place, alpha in enumerate(alphas):
                wrong[place] |= (t > t_quantile(pairs - 1, alpha)).any(axis=1)
        most = {name: count + int(wrong[place].sum()) for place, (name, count) in enumerate(most.items())}
    rates = {name: count / paths for name, count in most.items()}
    return {"comparisons": comparisons, "one_baseline": one_baseline, "paths": paths, **rates}


def slope_row(tau: float, pairs: int = 5, grids: int = SLOPES) -> Row:
    """How often the interval of the slope over six scales holds the true slope: with tau, and without it."""
    arms, scales = 4, 6
    rng = np.random.default_rng([SEED, int(10 * tau), pairs])
    scores = rng.standard_normal((grids, 1 + arms, scales, pairs)) / np.sqrt(2)
    points = np.arange(scales) - (scales - 1) / 2
    effects = SLOPE * points + tau * rng.standard_normal((grids, scales))
    scores[:, 1] += effects[..., None]
    means, errors, _ = family_halves(scores, ALPHA)
    covered = without = found = 0
    for centre, error in zip(means[:, 0], errors[:, 0], strict=True):
        ours = over_scales(centre, error, 1 - ALPHA, parameters(scales))
        assert ours is not None
        assert ours.slope_interval is not None
        covered += ours.slope_interval.low <= SLOPE <= ours.slope_interval.high
        found += paule_mandel(centre, error**2, np.stack([np.ones(scales), points], axis=1)).tau_squared > 0
        weights = error**-2
        middle = (weights * points).sum() / weights.sum()
        precision = (weights * (points - middle) ** 2).sum()
        slope = (weights * (points - middle) * centre).sum() / precision
        without += bool(abs(slope - SLOPE) <= t_quantile(scales - 2, ALPHA) / np.sqrt(precision))
    shares = {"covers": covered / grids, "covers_without_tau": without / grids, "tau_found": found / grids}
    return {"tau_sd": tau, "pairs": pairs, "scales": scales, "grids": grids, **shares}


def noisy_cell_row(pairs: int, noise: float, grids: int = NOISY_GRIDS) -> Row:
    """Grids without a difference in which the runs of one cell are noisier: how often some interval is wrong or has the caution."""
    arms, scales = 4, 6
    rng = np.random.default_rng([SEED, pairs, int(noise), 3])
    known = {f"s{scale}": count for scale, count in enumerate(parameters(scales))}
    wrong = noted = others = 0
    for _ in range(grids):
        scores = rng.standard_normal((scales, 1 + arms, pairs))
        scores[2, 1] *= noise
        values = {
            f"s{scale}": {f"a{arm}": dict(enumerate(of_arm.tolist())) for arm, of_arm in enumerate(at_scale)}
            for scale, at_scale in enumerate(scores)
        }
        found = family_intervals(values, "a0", 1 - ALPHA, known)
        wrong += any(each.interval and not each.interval.low <= 0 <= each.interval.high for each in found.values())
        noted += found["a1", "s2"].noisy
        others += any(each.noisy for cell, each in found.items() if cell != ("a1", "s2"))
    shares = {"error": wrong / grids, "caution": noted / grids, "caution_on_another": others / grids}
    return {"pairs": pairs, "noise": noise, "grids": grids, **shares}
