"""Statistics of a few numbers: mean, t interval, exact sign-flip test, number of seeds that a test needs, rank correlation.

All tests and intervals are two-sided. This module imports scipy.special instead of scipy.stats, because the import of scipy.stats
takes three times as long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from palinode.base.derived_seed import derive

POWER = 0.8  # the usual power of a test: the probability that `seeds_needed` seeds show the effect
MOST_SEEDS = 10_000  # the largest number of seeds that `seeds_needed` reports; nobody can train more
MOST_EXACT = 40  # the largest number of pairs for an exact test: two lists of 2^20 sums take 16 MB and a second
# Two sums of signed differences count as equal if they differ by at most this share of the sum of |differences| (rounding errors).
TIE_TOLERANCE = 1e-12
# With fewer than 9 pairs, only nearly perfect rank correlations could be shown: |rho| >= .70 is needed at 9 pairs, .58 at 12.
LEAST_PAIRS = 9
MOST_PERMUTED_PAIRS = 9  # all 9! = 362,880 orders are computed; with more pairs, orders are drawn
DRAWS = 100_000  # the number of orders that are drawn
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
    """The sample standard deviation (with n - 1 in the denominator); None with fewer than two values.

    Equal values give exactly 0: their mean may be rounded, and the deviation would be about 1e-16 otherwise.
    """
    if len(values) < 2:
        return None
    if min(values) == max(values):
        return 0.0
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


def share_interval(hits: float, count: int, confidence: float) -> Interval | None:
    """Wilson's interval of a share, from `hits` hits (a tie is half a hit) in `count` independent draws; None if `count` is 0."""
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
    below = float(special.nctdtr(count - 1, shift, bound))
    # scipy 1.17 has nan in place of some probabilities below 1e-12, with shifts above 36.
    return 1.0 if math.isnan(below) else 1.0 - below


def _signed_sums(values: Sequence[float]) -> NDArray[np.float64]:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


# --- rank correlation, with an exact permutation test --------------------------------------------------------------


def rank_correlation(pairs: Pairs) -> float | None:
    """Spearman's rank correlation; equal values get their mean rank. None if all first or all second values are equal."""
    ranks = _standard_ranks(pairs)
    return None if ranks is None else float(ranks[0] @ ranks[1])


def rank_correlation_p(pairs: Pairs) -> float | None:
    """The exact two-sided p value of Spearman's rank correlation: the share of the orders whose |correlation| is at least as large.

    Up to 9 pairs, all n! orders of the second values are computed. With more pairs, 100,000 orders are drawn from a stream with a
    name (`base/derived_seed.py`), and the observed order counts as one of them.

    Returns:
        The p value; None with fewer than LEAST_PAIRS pairs, or if all first or all second values are equal.
    """
    ranks = _standard_ranks(pairs)
    if ranks is None or len(pairs) < LEAST_PAIRS:
        return None
    first, second = ranks
    least = abs(first @ second) - TIE_TOLERANCE
    if len(pairs) <= MOST_PERMUTED_PAIRS:
        return float((np.abs(second[_orders(len(pairs))] @ first) >= least).mean())
    draws = np.random.default_rng(derive(0, "rank_correlation", len(pairs))).random((DRAWS, len(pairs)))
    hits = int((np.abs(second[np.argsort(draws, axis=1)] @ first) >= least).sum())
    return (1 + hits) / (1 + DRAWS)


def _orders(count: int) -> NDArray[np.int64]:
    """All orders of `count` places (count!, count)."""
    orders = np.zeros((1, 1), dtype=np.int64)
    for place in range(1, count):
        orders = np.concatenate([np.insert(orders, at, place, axis=1) for at in range(place + 1)])
    return orders


def _standard_ranks(pairs: Pairs) -> NDArray[np.float64] | None:
    """The ranks of the first and of the second values (2, pairs), with mean 0 and length 1; equal values get their mean rank.

    None with fewer than two pairs, or if all first or all second values are equal.
    """
    if len(pairs) < 2:
        return None
    values = np.asarray(pairs, dtype=float).T
    one, other = values[:, :, None], values[:, None, :]
    ranks = (one > other).sum(axis=2) + (one == other).sum(axis=2) / 2
    deviations = ranks - ranks.mean(axis=1, keepdims=True)
    lengths = np.sqrt((deviations**2).sum(axis=1, keepdims=True))
    standard: NDArray[np.float64] | None = deviations / lengths if lengths.all() else None
    return standard
