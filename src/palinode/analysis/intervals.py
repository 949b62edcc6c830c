"""Statistics of a few numbers: mean, t interval, exact sign-flip test, number of seeds that a test needs, rank correlation.

All tests and intervals are two-sided. This module imports scipy.special instead of scipy.stats, because the import of scipy.stats
takes three times as long.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

POWER = 0.8  # the usual power of a test: the probability that `seeds_needed` seeds show the effect
MOST_SEEDS = 10_000  # the largest number of seeds that `seeds_needed` reports; nobody can train more
MOST_EXACT = 40  # the largest number of pairs for an exact test: two lists of 2^20 sums take 16 MB and a second
# Two sums of signed differences count as equal if they differ by at most this share of the sum of |differences| (rounding errors).
TIE_TOLERANCE = 1e-12
# With fewer than 6 unrelated pairs, the interval of the rank correlation lies above 0 too often: 1 time in 6 for three pairs.
# With more than 10 pairs, there are too many resamples to compute all of them: 10 pairs have 92,378 resamples.
LEAST_PAIRS, MOST_PAIRS = 6, 10
ROUNDING = 1e-12  # the rounding error that is allowed in a share of the resamples
Pairs = Sequence[tuple[float, float]]


class Interval(NamedTuple):
    """An interval from `low` to `high`, in the unit of the values from which the interval was computed."""

    low: float
    high: float


def ends(interval: Interval | None) -> tuple[float, float] | tuple[None, None]:
    """The two ends (low, high) of an interval, as two cells of a table. If the interval is None, both ends are None."""
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
    """The sample standard deviation (with n - 1 in the denominator); None with fewer than two values."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def t_interval(values: Sequence[float], confidence: float) -> Interval | None:
    """Student's t interval of the mean of the values; None with fewer than two values."""
    deviation = spread(values)
    if deviation is None:
        return None
    count = len(values)
    half = float(special.stdtrit(count - 1, (1 + confidence) / 2)) * deviation / math.sqrt(count)
    return Interval(mean(values) - half, mean(values) + half)


def share_interval(hits: int, count: int, confidence: float) -> Interval | None:
    """Wilson's interval of a share, computed from `hits` hits in `count` independent draws; None if `count` is 0."""
    if count < 1:
        return None
    z = float(special.ndtri((1 + confidence) / 2))
    share, shrunk = hits / count, 1 + z * z / count
    centre = (share + z * z / (2 * count)) / shrunk
    half = z / shrunk * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # A rounding error could put the lower end above the share or the upper end below the share; min and max prevent this.
    return Interval(max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """The exact p value of the sign-flip test: the share of the 2^n sign patterns whose |sum| is at least the observed |sum|.

    The test assumes only that, if the arms are equal, a difference and its negative are equally likely. With n pairs, p is at
    least 2 / 2^n: 0.25 for three seeds. The result is None without values or with more than 40 values. To save time, the n values
    are split into a left and a right half. The sums of all sign patterns of the right half are sorted. For each sum of the left
    half, a bisection counts the sums of the right half with which the total stays below the observed |sum|.
    """
    if not 0 < len(differences) <= MOST_EXACT:
        return None
    half = len(differences) // 2
    left, right = _signed_sums(differences[:half]), np.sort(_signed_sums(differences[half:]))
    observed = abs(math.fsum(differences)) - TIE_TOLERANCE * math.fsum(map(abs, differences))
    if observed <= 0:
        return 1.0
    below = int(np.searchsorted(right, observed - left, side="left").sum())
    # The totals are symmetric around 0: as many totals are at most -observed as at least observed. Hence the factor 2.
    return float(2 * (len(right) * len(left) - below) / 2 ** len(differences))


def seeds_needed(effect: float, deviation: float, confidence: float) -> int | None:
    """The least number of paired seeds whose t interval excludes 0 with probability at least POWER if the true mean is `effect`.

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
    while power(effect / deviation, high, confidence) < POWER:
        low, high = high, 2 * high
        if low > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect / deviation, middle, confidence) >= POWER else (middle, high)
    return high if high <= MOST_SEEDS else None


def power(standardised: float, count: int, confidence: float) -> float:
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
    """Spearman's rank correlation; equal values get their mean rank. None if all first or all second values are equal."""
    if len(pairs) < 2:
        return None
    [value] = _correlations(np.asarray(pairs, dtype=float)[None])
    return None if math.isnan(value) else float(value)


def resampled_interval(pairs: Pairs, confidence: float) -> Interval | None:
    """The percentile interval of the rank correlation over every resample of the pairs (an exact bootstrap).

    Each resample is weighted by its probability. A resample in which all first values or all second values are equal has no
    correlation and is left out. The result is None with fewer than 3 or more than MOST_PAIRS pairs.
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
    """The rank correlations of `samples` (samples, pairs, 2); NaN for a sample whose first or second values are all equal."""
    one, other = samples[:, :, None], samples[:, None, :]
    ranks = (one > other).sum(axis=2) + ((one == other).sum(axis=2) + 1) / 2
    deviations = ranks - ranks.mean(axis=1, keepdims=True)
    scale = np.sqrt((deviations**2).sum(axis=1).prod(axis=1))
    products = deviations.prod(axis=2).sum(axis=1)
    values: NDArray[np.float64] = np.divide(products, scale, out=np.full(len(samples), np.nan), where=scale > 0)
    return values
