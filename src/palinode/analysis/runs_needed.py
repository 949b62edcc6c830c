"""How many runs a test without an interval needs, to show the effect that came 4 times in 5 if it is the true one."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import special

from palinode.analysis.intervals import MOST_SEEDS, POWER
from palinode.analysis.two_valued import boschloo_p

MOST_COUNTED = 64  # seeds up to which the power of Boschloo's test is computed


def of_p(p: float, count: int, alpha: float) -> int | None:
    """At most so many runs are needed for a p of at most `alpha` 4 times in 5, if `count` runs gave `p`.

    The statistic grows with the number of runs, and its standard deviation with the root of this number. So the number of standard
    deviations that belongs to p, by the normal law, grows with the root as well. An exact p of few runs, or of runs with equal
    steps, is larger than that of the normal law: where the runs of `recall--laptop` were drawn again, 1.2 to 2.2 times fewer were
    enough.

    Returns:
        The number of runs, MOST_SEEDS + 1 where it is larger than MOST_SEEDS; None if no effect came (p is 1).
    """
    came = float(special.ndtri(1 - p / 2))
    wanted = float(special.ndtri(1 - alpha / 2) + special.ndtri(POWER))
    return min(math.ceil(count * (wanted / came) ** 2), MOST_SEEDS + 1) if came > 0 else None


def of_counts(share: float, other_share: float, alpha: float) -> int | None:
    """Seeds of each arm with which Boschloo's test shows two shares of runs 4 times in 5.

    The power is exact. It rises with the seeds but for small steps, so that the result may be a few seeds too large.

    Returns:
        The number of seeds, MOST_COUNTED + 1 where it is larger than MOST_COUNTED; None if the shares are equal.
    """
    if share == other_share:
        return None
    if _power(share, other_share, MOST_COUNTED, alpha) < POWER:
        return MOST_COUNTED + 1
    low, high = 1, MOST_COUNTED
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(share, other_share, middle, alpha) >= POWER else (middle, high)
    return high


@lru_cache(maxsize=256)
def _power(share: float, other_share: float, seeds: int, alpha: float) -> float:
    hits = np.arange(seeds + 1)
    one, two = (special.binom(seeds, hits) * rate**hits * (1 - rate) ** (seeds - hits) for rate in (share, other_share))
    counts = range(seeds + 1)
    shown = np.array([[boschloo_p(first, second, seeds) <= alpha for second in counts] for first in counts])
    return float(one @ shown @ two)
