"""Small probability laws from which the floors of the tasks are computed."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def entropy_nats(chances: Iterable[float]) -> float:
    """-sum p ln p."""
    return -sum(p * math.log(p) for p in chances if p > 0)


def mixture_nats(share: float, nats: float) -> float:
    """Entropy of a token that is a fixed one with probability 1 - share, and else one of another law with this entropy."""
    return entropy_nats((share, 1 - share)) + share * nats


def distinct_law(draws: int, kinds: int) -> NDArray[np.float64]:
    """P(D = d) for d = 0 .. kinds: D is the number of different kinds among uniform draws with replacement."""
    law = np.zeros(kinds + 1)
    law[0] = 1.0
    old = np.arange(kinds + 1) / kinds  # P(the next draw is a kind that came before)
    for _ in range(draws):
        law = law * old + np.concatenate(([0.0], (law * (1 - old))[:-1]))
    return law


def binomial_law(draws: int, chance: float) -> NDArray[np.float64]:
    """P(k successes) for k = 0 .. draws; the chance is above 0 and below 1."""
    k = np.arange(draws + 1)
    log_ways = np.array([log_choose(draws, int(i)) for i in k])
    law: NDArray[np.float64] = np.exp(log_ways + k * math.log(chance) + (draws - k) * math.log1p(-chance))
    return law


def log_choose(total: int, count: int) -> float:
    """ln of the number of subsets of `count` among `total`."""
    return math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)
