"""Statistics of a few numbers: mean, t interval, exact sign-flip test, number of seeds that a test needs, rank correlation.

All tests and intervals are two-sided. Of scipy only scipy.special is used, because its import takes a third of the time of
scipy.stats.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

POWER = 0.8  # the probability with which `seeds_needed` seeds show the effect; the usual choice
MOST_SEEDS = 10_000  # the largest number of seeds that is reported; nobody can train more
MOST_EXACT = 40  # the most pairs of an exact test: its two halves of 2^20 sums take 16 MB and a second
# A share of the sum of |differences|: two sums that differ by less than this share differ only by rounding.
TIE_TOLERANCE = 1e-12
# Below 6 pairs, unrelated pairs give an interval above 0 more often than the confidence allows: 1 time in 6 for three pairs.
# Above 10 pairs, there are too many resamples to count one by one: 10 pairs have 92,378 resamples.
LEAST_PAIRS, MOST_PAIRS = 6, 10
ROUNDING = 1e-12  # the rounding error that is allowed in a share of the resamples
Pairs = Sequence[tuple[float, float]]


class Interval(NamedTuple):
    """An interval from `low` to `high`, in the unit of the values it was computed from."""

    low: float
    high: float


def ends(interval: Interval | None) -> tuple[float, float] | tuple[None, None]:
    """The two ends (low, high) of an interval as columns of a table; both are None without an interval."""
    return interval or (None, None)


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, summed without rounding error.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("the mean of no values")
    return math.fsum(values) / len(values)


def spread(values: Sequence[float]) -> float | None:
    """The sample standard deviation (n - 1); None below two values."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def t_interval(values: Sequence[float], confidence: float) -> Interval | None:
    """The t interval of the mean; None below two values."""
    deviation = spread(values)
    if deviation is None:
        return None
    count = len(values)
    half = float(special.stdtrit(count - 1, (1 + confidence) / 2)) * deviation / math.sqrt(count)
    return Interval(mean(values) - half, mean(values) + half)


def share_interval(hits: int, count: int, confidence: float) -> Interval | None:
    """Wilson's interval of a share, computed from `hits` hits in `count` independent draws; None without draws."""
    if count < 1:
        return None
    z = float(special.ndtri((1 + confidence) / 2))
    share, shrunk = hits / count, 1 + z * z / count
    centre = (share + z * z / (2 * count)) / shrunk
    half = z / shrunk * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # Without the next lines, a rounding error could put the lower end above the share or the upper end below it.
    return Interval(max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """The exact p value of the sign-flip test: the share of the 2^n sign patterns whose |sum| is at least the observed |sum|.

    The test assumes only that a difference is as likely as its negative if the arms are equal. With n pairs, p is at least
    2 / 2^n: 0.25 for three seeds. The result is None without values or with more than 40 values. The n values are split into two
    halves. The sums of all sign patterns of one half are sorted. For each sum of the other half, a bisection counts how many sums
    of the first half make a total that is large enough.
    """
    if not 0 < len(differences) <= MOST_EXACT:
        return None
    half = len(differences) // 2
    left, right = _signed_sums(differences[:half]), np.sort(_signed_sums(differences[half:]))
    observed = abs(math.fsum(differences)) - TIE_TOLERANCE * math.fsum(map(abs, differences))
    if observed <= 0:
        return 1.0
    below = int(np.searchsorted(right, observed - left, side="left").sum())
    # The sums are symmetric around 0, so as many sums lie at or below minus the observed sum.
    return float(2 * (len(right) * len(left) - below) / 2 ** len(differences))


def seeds_needed(effect: float, deviation: float, confidence: float) -> int | None:
    """The least number of paired seeds whose t interval excludes 0 with probability POWER if the true mean is `effect`.

    Args:
        effect: the true mean of the paired differences, which is not zero.
        deviation: the standard deviation of the paired differences.

    Returns:
        The number of seeds, at least 2; None when more than 10,000 seeds would be needed (or the effect is zero).
    """
    if effect == 0:
        return None
    if deviation == 0:
        return 2
    low, high = 1, 2
    while _power(effect / deviation, high, confidence) < POWER:
        low, high = high, 2 * high
        if low > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(effect / deviation, middle, confidence) >= POWER else (middle, high)
    return high if high <= MOST_SEEDS else None


def _power(standardised: float, count: int, confidence: float) -> float:
    """The probability that the t interval of `count` pairs lies on the same side of 0 as the effect.

    The probability that the interval lies on the opposite side is below 2.5 % and is left out.
    """
    shift = abs(standardised) * math.sqrt(count)
    bound = float(special.stdtrit(count - 1, (1 + confidence) / 2))
    return 1.0 - float(special.nctdtr(count - 1, min(shift, 1e3), bound))


def _signed_sums(values: Sequence[float]) -> NDArray[np.float64]:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


# --- rank correlation, with an exact bootstrap interval over the pairs ------------------------------------------------


def rank_correlation(pairs: Pairs) -> float | None:
    """Spearman's rank correlation; equal values share their mean rank. None where all values of one side are equal."""
    if len(pairs) < 2:
        return None
    [value] = _correlations(np.asarray(pairs, dtype=float)[None])
    return None if math.isnan(value) else float(value)


def resampled_interval(pairs: Pairs, confidence: float) -> Interval | None:
    """The percentile interval of the rank correlation over every resample of the pairs (an exact bootstrap).

    Each resample counts by its probability. A resample in which all values of one side are equal has no correlation and is left
    out. The result is None with fewer than 3 or more than MOST_PAIRS pairs.
    """
    count = len(pairs)
    if not 3 <= count <= MOST_PAIRS:
        return None
    drawn = np.asarray(list(itertools.combinations_with_replacement(range(count), count)))
    values = _correlations(np.asarray(pairs, dtype=float)[drawn])
    defined = ~np.isnan(values)
    if not defined.any():
        return None
    times = (drawn[defined][:, :, None] == np.arange(count)).sum(axis=1)
    weights = math.factorial(count) / np.exp(special.gammaln(times + 1)).prod(axis=1)
    order = np.argsort(values[defined])
    shares = np.cumsum(weights[order]) / weights.sum()
    places = np.searchsorted(shares, np.array([1 - confidence, 1 + confidence]) / 2 - ROUNDING)
    low, high = values[defined][order][np.minimum(places, len(order) - 1)]
    return Interval(float(low), float(high))


def _correlations(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank correlation of each sample, of shape (samples, pairs, 2); NaN where a side has no spread."""
    one, other = samples[:, :, None], samples[:, None, :]
    ranks = (one > other).sum(axis=2) + ((one == other).sum(axis=2) + 1) / 2
    deviations = ranks - ranks.mean(axis=1, keepdims=True)
    scale = np.sqrt((deviations**2).sum(axis=1).prod(axis=1))
    products = deviations.prod(axis=2).sum(axis=1)
    values: NDArray[np.float64] = np.divide(products, scale, out=np.full(len(samples), np.nan), where=scale > 0)
    return values
