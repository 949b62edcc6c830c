"""Intervals of all comparisons of an experiment as one family, with variances that arms and scales share.

A grid of 24 comparisons with 24 separate 95 % intervals states something false in two grids of three, even if no arm differs from
the baseline. The intervals of this file hold together: with the probability `confidence`, none of them misses its true difference.
Separate estimates of 24 variances from three seeds each would make such intervals useless (11 standard deviations wide), so the
variances are estimated together (`family_intervals` has the steps). `benchmarks/verdict_statistics.py` measures the error.

In comments and names below: A arms without the baseline, S scales, n pairs of a cell. A cell is one arm at one scale.

Sources: Smyth 2004, "Linear models and empirical Bayes methods for assessing differential expression in microarray experiments"
(the squeeze); Bonferroni's correction (the family).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from palinode.analysis.intervals import Interval, mean, spread

Scores = Mapping[str, Mapping[int, float]]  # arm -> seed -> score, at one scale
Cell = tuple[str, str]  # arm, scale
Array = NDArray[np.float64]

LEAST_FOR_A_TREND = 4  # scales; with fewer, a line would fit the noise of the variances
# With a single arm, nothing but the scales tells how much variances vary. From fewer scales, or with a free weight of the prior,
# the simulated error of a family was up to 12 %.
LEAST_FOR_ONE_ARM = 6  # scales
MOST_PRIOR_FOR_ONE_ARM = 2.0  # degrees of freedom of the prior
MOST_FALSE_CAUTIONS = 0.05  # the share of grids with equally noisy cells in which some cell gets the caution `noisy`
# A variance below this share of the largest squared score is a rounding error of scores that differ by a constant.
ROUNDING = 1e-24


@dataclass(frozen=True)
class FamilyInterval:
    """The difference between one arm and the baseline at one scale, as a member of a family of comparisons.

    Attributes:
        mean: the mean of the arm's scores minus the baseline's, paired by seed, in the metric's unit; None without pairs.
        single: the interval that holds with the given confidence for this comparison alone; None with fewer than two pairs.
        interval: the interval of the family: all of them together hold with the given confidence; None with fewer than two pairs.
        degrees: the degrees of freedom of the variance that both intervals are computed from.
        comparisons: the number of comparisons in the family.
        shared: whether the variance is estimated from all arms and scales, or from the pairs of this cell alone.
        noisy: whether the cell's own variance is larger than the other cells lead to expect (`_is_noisy`). Its intervals are then
            those of its own pairs, where these are wider: docs/statistics.md has the error with one such cell.
        pairs: the number of pairs.
        standard_error: the standard error of the mean from the same variance; None with fewer than two pairs.
    """

    arm: str
    scale: str
    mean: float | None
    single: Interval | None
    interval: Interval | None
    degrees: float | None
    comparisons: int
    shared: bool
    noisy: bool
    pairs: int
    standard_error: float | None

    def reversed(self, baseline: str) -> FamilyInterval:
        """The baseline minus the arm: the same numbers with the other sign, and `baseline` in place of the arm."""
        single, interval = (
            None if one is None else Interval(-one.high, -one.low) for one in (self.single, self.interval)
        )
        return replace(
            self, arm=baseline, mean=None if self.mean is None else -self.mean, single=single, interval=interval
        )


class Estimate(NamedTuple):
    """A variance of paired differences and its degrees of freedom."""

    variance: float
    degrees: float


def family_intervals(
    values: Mapping[str, Scores],
    baseline: str,
    confidence: float,
    parameters: Mapping[str, int | None],
    alpha_of_each: float | None = None,
) -> dict[Cell, FamilyInterval]:
    """The intervals of every arm at every scale, as a family of C = A * S comparisons.

    1. At each scale, the model score = arm + seed + noise is fitted by least squares to all scores, the baseline's included. Twice
       the residual variance is the variance v of a paired difference. Seeds that some arms lack add what they have: with all
       scores present, v has A (n - 1) degrees of freedom. A scale whose residuals are all 0 shares nothing.
    2. The variances of the scales are squeezed towards a constant, or, from four scales with known parameters on, towards a line of
       log v over the logarithm of the parameters (`squeeze`).
    3. An arm has a factor f that all scales share: the mean over its scales of (variance of its differences / squeezed variance),
       weighted by n - 1.
    4. The half-width is t * sqrt(squeezed variance * f / n), where 1/df is the sum of the reciprocals of both degrees of freedom.
       `single` takes t at alpha = 1 - confidence, `interval` at `alpha_of_each`.
    5. A cell whose own variance is far above this (`_is_noisy`) has Student's t interval from its own pairs, if that is wider.

    With one scale, or one arm at fewer than six scales, variances are not shared: every cell has Student's t interval from its own
    pairs. One arm at six scales or more has no factor, a constant instead of a line, and a prior
    of at most two degrees of freedom. An arm counts here if it has at least two pairs at some scale.

    Args:
        values: scale -> arm -> seed -> score, for every planned scale and arm, the baseline included. An arm without any score is
            an empty mapping. Arms that are meant to leak are left out by the caller.
        confidence: such as 0.95.
        parameters: scale -> number of parameters, or None where it is not known.
        alpha_of_each: the alpha of one interval of the family; alpha / C if None. An experiment that looks at its seeds more than
            once gives the `look_alpha` of C comparisons here, because the look_alpha of one comparison, divided by C, is too large.

    Returns:
        (arm, scale) -> interval: each pair of an arm, at whatever scale it stands in `values`, and a scale. The order of arms,
        scales and seeds in `values` changes no bit of it.

    Raises:
        ValueError: the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence is between 0 and 1, got {confidence:g}")
    scales = sorted(values)
    arms = sorted({arm for scores in values.values() for arm in scores} - {baseline})
    alpha, comparisons = 1 - confidence, len(arms) * len(scales)
    differences = {
        (arm, scale): _differences(values[scale].get(arm, {}), values[scale].get(baseline, {}))
        for arm in arms
        for scale in scales
    }
    own = {scale: residual_variance(values[scale]) for scale in scales}
    shared = _shared_estimates(own, differences, parameters)
    result = {}
    for cell, found in differences.items():
        alphas = alpha, alpha / comparisons if alpha_of_each is None else alpha_of_each
        interval = _interval(cell, found, shared.get(cell), alphas, comparisons)
        noisy = interval.shared and _is_noisy(cell, values, own, differences, parameters)
        if noisy:
            interval = _wider(interval, _interval(cell, found, None, alphas, comparisons))
        result[cell] = replace(interval, noisy=noisy)
    return result


def _wider(one: FamilyInterval, other: FamilyInterval) -> FamilyInterval:
    """Of two intervals of one cell the one that is wider in the family."""
    widths = [each.interval.high - each.interval.low for each in (one, other) if each.interval is not None]
    return other if len(widths) == 2 and widths[1] > widths[0] else one


def _interval(
    cell: Cell, differences: Sequence[float], shared: Estimate | None, alphas: tuple[float, float], comparisons: int
) -> FamilyInterval:
    """The intervals of one cell, from the shared estimate of its variance or, without one, from its own pairs."""
    count = len(differences)
    centre = mean(differences) if count else None
    own = _variance(differences)
    if centre is None or own is None:
        return FamilyInterval(*cell, centre, None, None, None, comparisons, False, False, count, None)
    variance, degrees = shared or Estimate(own, count - 1)
    error = math.sqrt(variance / count)
    single, family = (_around(centre, error, degrees, each) for each in alphas)
    return FamilyInterval(*cell, centre, single, family, degrees, comparisons, shared is not None, False, count, error)


def _around(centre: float, error: float, degrees: float, alpha: float) -> Interval:
    half = t_quantile(degrees, alpha) * error
    return Interval(centre - half, centre + half)


def t_quantile(degrees: float | Array, alpha: float) -> float:
    """The value that |t| with so many degrees of freedom exceeds with probability alpha. Works on arrays as well."""
    return -special.stdtrit(degrees, alpha / 2)  # type: ignore[no-any-return]  # of alpha / 2, as 1 - alpha / 2 would round


def _differences(scores: Mapping[int, float], baseline: Mapping[int, float]) -> tuple[float, ...]:
    return tuple(scores[seed] - baseline[seed] for seed in sorted(scores) if seed in baseline)


def _variance(differences: Sequence[float]) -> float | None:
    deviation = spread(differences)
    return None if deviation is None else deviation**2


# --- the shared variance ----------------------------------------------------------------------------------------------


def _shared_estimates(
    own: Mapping[str, Estimate | None],
    differences: Mapping[Cell, Sequence[float]],
    parameters: Mapping[str, int | None],
) -> dict[Cell, Estimate]:
    """The shared estimate of every cell with at least two pairs whose variance can be shared."""
    used = {scale: estimate for scale, estimate in own.items() if estimate is not None}
    cells = {cell: found for cell, found in differences.items() if cell[1] in used and len(found) >= 2}
    arms = {arm for arm, _ in cells}
    if len(used) < (LEAST_FOR_ONE_ARM if len(arms) == 1 else 2):
        return {}
    of_scale = _squeezed(used, parameters, one_arm=len(arms) == 1)
    if len(arms) == 1:
        return {cell: of_scale[cell[1]] for cell in cells}
    factors = {arm: _arm_factor(arm, cells, of_scale) for arm in arms}
    return {(arm, scale): _product(of_scale[scale], factors[arm]) for arm, scale in cells}


def _squeezed(
    own: Mapping[str, Estimate], parameters: Mapping[str, int | None], *, one_arm: bool
) -> dict[str, Estimate]:
    """The squeezed variance of each scale."""
    scales = sorted(own)
    squeezed = squeeze(
        np.array([own[scale].variance for scale in scales]),
        np.array([own[scale].degrees for scale in scales], dtype=np.float64),
        None if one_arm else trend_points([parameters.get(scale) for scale in scales]),
        MOST_PRIOR_FOR_ONE_ARM if one_arm else math.inf,
    )
    return {scale: Estimate(*map(float, pair)) for scale, *pair in zip(scales, *squeezed, strict=True)}


def _product(of_scale: Estimate, factor: Estimate) -> Estimate:
    degrees = 1 / (1 / of_scale.degrees + 1 / factor.degrees)
    return Estimate(of_scale.variance * factor.variance, degrees)


def residual_variance(scores: Scores) -> Estimate | None:
    """The variance of a paired difference at one scale: twice the residual variance of score = arm + seed + noise.

    Returns:
        The estimate; None if no degree of freedom is left, or if all residuals are 0 but for rounding errors.
    """
    points = [(arm, seed, scores[arm][seed]) for arm in sorted(scores) for seed in sorted(scores[arm])]
    if not points:
        return None
    observed = np.array([score for _, _, score in points])
    columns = sorted({arm for arm, _, _ in points}), sorted({seed for _, seed, _ in points})
    design = np.zeros((len(points), len(columns[0]) + len(columns[1])))
    for row, (arm, seed, _) in enumerate(points):
        design[row, columns[0].index(arm)] = 1
        design[row, len(columns[0]) + columns[1].index(seed)] = 1
    centred = observed - observed.mean()
    solution, _, rank, _ = np.linalg.lstsq(design, centred)
    degrees = len(points) - int(rank)
    if degrees < 1:
        return None
    variance = 2 * float(((centred - design @ solution) ** 2).sum()) / degrees
    return Estimate(variance, degrees) if variance > ROUNDING * float((observed**2).max()) else None


def _arm_factor(arm: str, cells: Mapping[Cell, Sequence[float]], of_scale: Mapping[str, Estimate]) -> Estimate:
    """The factor f of an arm, and its degrees of freedom."""
    own = [(scale, found) for (name, scale), found in sorted(cells.items()) if name == arm]
    degrees = sum(len(found) - 1 for _, found in own)
    ratios = ((len(found) - 1) * (_variance(found) or 0.0) / of_scale[scale].variance for scale, found in own)
    return Estimate(math.fsum(ratios) / degrees, degrees)


def _is_noisy(
    cell: Cell,
    values: Mapping[str, Scores],
    own: Mapping[str, Estimate | None],
    differences: Mapping[Cell, Sequence[float]],
    parameters: Mapping[str, int | None],
) -> bool:
    """Whether a cell's own variance is larger than expected, by an F test that spends 5 % of error on all cells of the grid.

    The expected variance is computed without this cell: its arm is left out of the variance of its scale, and its scale is left
    out of the factor of its arm. A variance that includes a noisy cell grows with it, so no ratio to it could tell.
    """
    arm, scale = cell
    others = {name: scores for name, scores in values[scale].items() if name != arm}
    used = {name: each for name, each in {**own, scale: residual_variance(others)}.items() if each is not None}
    cells = {each: found for each, found in differences.items() if each[1] in used and len(found) >= 2 and each != cell}
    if scale not in used or not any(name == arm for name, _ in cells) or len({name for name, _ in cells}) == 1:
        return False
    of_scale = _squeezed(used, parameters, one_arm=False)
    expected = _product(of_scale[scale], _arm_factor(arm, cells, of_scale))
    level = 1 - MOST_FALSE_CAUTIONS / len(differences)
    most = float(special.fdtri(len(differences[cell]) - 1, expected.degrees, level))
    return (_variance(differences[cell]) or 0.0) > most * expected.variance


def trend_points(parameters: Sequence[int | None]) -> Array | None:
    """log10 of the parameters of each scale for a line; None for a constant.

    A line needs at least four scales, the parameters of all of them, and two different numbers of parameters.
    """
    known = [count for count in parameters if count]
    if len(known) < len(parameters) or len(known) < LEAST_FOR_A_TREND or len(set(known)) < 2:
        return None
    return np.log10(np.array(known, dtype=np.float64))


def squeeze(
    variances: Array, degrees: Array, points: Array | None, most_prior: float = math.inf
) -> tuple[Array, Array]:
    """Squeeze the variances of S scales towards a constant or a line, as Smyth 2004 does (limma's `squeezeVar`).

    With e = log v - digamma(df/2) + log(df/2), the prior has d0 degrees of freedom, where trigamma(d0/2) is the variance of e about
    its fit minus the mean of trigamma(df/2); d0 is infinite if that is not positive. The squeezed variance is
    (d0 v0 + df v) / (d0 + df), with log v0 = fit + digamma(d0/2) - log(d0/2).

    Args:
        variances: (..., S), all positive; each of the leading axes is a problem of its own.
        degrees: (S,), the degrees of freedom df of each variance.
        points: (S,), the positions of the scales for a line; None for a constant.
        most_prior: the largest d0.

    Returns:
        The squeezed variances (..., S), and their degrees of freedom (..., S): d0 + df, but at most the sum of all df.
    """
    design = np.ones((len(degrees), 1)) if points is None else np.stack([np.ones_like(points), points], axis=1)
    logs = np.log(variances) - special.psi(degrees / 2) + np.log(degrees / 2)
    fit = logs @ np.linalg.pinv(design).T @ design.T
    left = ((logs - fit) ** 2).sum(axis=-1) / (design.shape[0] - design.shape[1])
    excess = left - trigamma(degrees / 2).mean()
    prior = np.full(np.shape(excess), np.inf)
    prior[excess > 0] = 2 * inverse_trigamma(excess[excess > 0])
    prior = np.minimum(prior, most_prior)[..., None]
    finite = np.where(np.isinf(prior), 1.0, prior)
    centre = np.exp(fit + np.where(np.isinf(prior), 0.0, special.psi(finite / 2) - np.log(finite / 2)))
    squeezed = np.where(np.isinf(prior), centre, (finite * centre + degrees * variances) / (finite + degrees))
    return squeezed, np.minimum(prior + degrees, degrees.sum())


def trigamma(x: Array) -> Array:
    """The second derivative of log gamma, which is a zeta function of Hurwitz; its own derivative is -2 zeta(3, x)."""
    return np.asarray(special.zeta(2, x), dtype=np.float64)  # type: ignore[no-untyped-call]


def inverse_trigamma(values: Array) -> Array:
    """The x at which trigamma(x) has each of these positive values: Newton's method on 1 / trigamma, which converges from below."""
    x = 0.5 + 1 / values
    for _ in range(60):
        reached = trigamma(x)
        step = reached * (1 - reached / values) / (-2 * special.zeta(3, x))  # type: ignore[no-untyped-call]
        x = x + step
        if not step.size or float(np.max(np.abs(step / x))) < 1e-12:
            break
    return x
