"""Spearman's rank correlation of a few pairs, with an exact bootstrap interval over the pairs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from palinode.analysis.intervals import Interval

# Below 6 pairs, unrelated pairs give an interval above 0 more often than the confidence allows: 1 time in 6 for three pairs.
# Above 10, there are too many resamples to count one by one: 10 pairs have 92,378.
LEAST_PAIRS, MOST_PAIRS = 6, 10
ROUNDING = 1e-12
Pairs = Sequence[tuple[float, float]]


def rank_correlation(pairs: Pairs) -> float | None:
    """Spearman's correlation; equal values share their mean rank. None where all values of one side are equal."""
    if len(pairs) < 2:
        return None
    [value] = _correlations(np.asarray(pairs, dtype=float)[None])
    return None if math.isnan(value) else float(value)


def resampled_interval(pairs: Pairs, confidence: float) -> Interval | None:
    """Percentiles of the correlation over every resample of the pairs, each counted as often as it comes.

    A resample in which all values of one side are equal has no correlation and is left out. None outside 3 to MOST_PAIRS pairs.
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
    ends = np.searchsorted(shares, np.array([1 - confidence, 1 + confidence]) / 2 - ROUNDING)
    low, high = values[defined][order][np.minimum(ends, len(order) - 1)]
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
