"""Several looks at growing numbers of seeds: what each look may spend, and an interval that stays valid at any look.

An interval of 95 % that is computed anew after every seed excludes the true value at some look far more often than 1 time in 20.
Two rules of this file prevent that:

- An experiment that plans its looks (`seeds = "until decided"`) uses a smaller error at each look (`look_alpha`). Looks at the same
  seeds are not independent, so the table below was made by simulation.
- An experiment that adds seeds which it did not plan uses `mixture_interval`, which is valid whenever one stops.

Sources of the mixture: arXiv:2210.08589 and arXiv:2310.03722. `benchmarks/verdict_statistics.py` measures both rules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from palinode.analysis.intervals import Interval, mean, spread

FIRST = 3  # seeds at the first look of the table; later first looks spend less
MOST = 40  # the largest number of seeds in the table
# The alpha of each look as a share of the alpha of all looks together. Columns: the alpha of all looks. Rows: the number of seeds
# at the last look; the looks are at 3, 4, .. seeds. Each is a quantile of the smallest p value of t tests on 12,000,000 paths of
# normal noise.
ALPHAS = (0.2, 0.1, 0.05, 0.0125, 0.00625, 0.05 / 24, 0.0005)
SHARES = {
    4: (0.687, 0.643, 0.610, 0.565, 0.550, 0.533, 0.520),
    5: (0.543, 0.494, 0.457, 0.409, 0.392, 0.375, 0.364),
    6: (0.460, 0.411, 0.375, 0.330, 0.313, 0.294, 0.284),
    8: (0.365, 0.320, 0.287, 0.246, 0.232, 0.216, 0.200),
    10: (0.312, 0.270, 0.241, 0.203, 0.190, 0.175, 0.160),
    12: (0.278, 0.238, 0.211, 0.177, 0.165, 0.150, 0.138),
    16: (0.235, 0.200, 0.175, 0.145, 0.134, 0.122, 0.111),
    20: (0.209, 0.176, 0.154, 0.127, 0.117, 0.105, 0.096),
    30: (0.172, 0.144, 0.125, 0.101, 0.093, 0.084, 0.075),
    40: (0.153, 0.127, 0.110, 0.088, 0.081, 0.072, 0.064),
}
# The variance of the mixture: of the effect in standard deviations of one paired difference, before any seed is seen.
MIXTURE_VARIANCE = 4.0


def look_alpha(alpha: float, most: int, comparisons: int = 1) -> float:
    """The alpha of the t interval of each look, if looks are taken after 3, 4, .. `most` pairs, for one comparison.

    With this alpha at each look, some look excludes the true value with probability `alpha` / `comparisons`. So of C comparisons,
    some errs at some look with a probability of at most `alpha`, however the comparisons depend on each other.

    Comparisons that share their variance (`family_intervals`) may use `look_alpha(alpha, most)` / C, which is simpler: their joint
    error is below `alpha` in simulations. With plain t intervals that division alone would make 6 to 7 % of 5 %.

    A value between two rows of the table is taken from the row with more looks, and between two columns from the column with the
    smaller alpha, so the error is never larger than asked for. Below the last column, alpha is divided by the number of looks,
    which is safe for any kind of dependence.

    Raises:
        ValueError: `most` is not in 3..40, or `alpha` is not between 0 and 1.
    """
    if not FIRST <= most <= MOST:
        raise ValueError(f"the largest number of seeds is between {FIRST} and {MOST}, got {most}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is between 0 and 1, got {alpha:g}")
    each = alpha / comparisons
    if most == FIRST:
        return each
    column = next((place for place, known in enumerate(ALPHAS) if known <= each * (1 + 1e-9)), None)
    if column is None:
        return each / (most - FIRST + 1)
    row = min(count for count in SHARES if count >= most)
    return each * SHARES[row][column]


def look_confidence(most: int, confidence: float = 0.95, comparisons: int = 1) -> float:
    """The confidence of the t interval of each look, if all looks together hold with `confidence`; see `look_alpha`."""
    return 1 - look_alpha(1 - confidence, most, comparisons)


def mixture_interval(differences: Sequence[float], alpha: float) -> Interval | None:
    """The interval of the mean of the differences that is valid at every number of pairs at once, by the t mixture.

    With K = (sqrt(1 + n g) / alpha)^(2/n) and the standard deviation s of n differences, the half-width is
    s sqrt((n - 1)/n (K - 1) / (1 - K/(1 + n g))). At its ends, `mixture_evidence` is 1 / alpha.

    Returns:
        The interval; None while it is infinite, which K >= 1 + n g means, and with fewer than two differences.
    """
    count, deviation = len(differences), spread(differences)
    if deviation is None:
        return None
    room = 1 + count * MIXTURE_VARIANCE
    bound = (math.sqrt(room) / alpha) ** (2 / count)
    if bound >= room:
        return None
    half = deviation * math.sqrt((count - 1) / count * (bound - 1) / (1 - bound / room))
    centre = mean(differences)
    return Interval(centre - half, centre + half)


def mixture_evidence(differences: Sequence[float], value: float) -> float:
    """The evidence against the true mean `value`: how much likelier the mixture makes the observed t than `value` does.

    The mixture draws the effect, in standard deviations, from a normal distribution with variance g = 4. Under the true mean, the
    evidence exceeds 1 / alpha at any number of pairs with probability at most alpha. Undefined for differences that are all equal.

    Raises:
        ValueError: there are fewer than two differences, or they are all equal.
    """
    count, deviation = len(differences), spread(differences)
    if not deviation:
        raise ValueError("the evidence needs two differences that are not equal")
    room = 1 + count * MIXTURE_VARIANCE
    square = ((mean(differences) - value) / deviation) ** 2 * count / (count - 1)
    return math.exp(count / 2 * (math.log1p(square) - math.log1p(square / room)) - math.log(room) / 2)
