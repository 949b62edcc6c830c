"""Rank correlation of a few pairs, and the exact bootstrap over them."""

import itertools
import math

import pytest

from palinode.analysis.intervals import LEAST_PAIRS, MOST_PAIRS, rank_correlation, resampled_interval


def test_a_rank_correlation_is_that_of_ranks_with_ties():
    assert rank_correlation([(1, 10), (2, 20), (3, 900)]) == pytest.approx(1)
    assert rank_correlation([(1, 3), (2, 2), (3, 1)]) == pytest.approx(-1)
    assert rank_correlation([(1, 1), (1, 2), (2, 3)]) == pytest.approx(0.75**0.5)
    assert rank_correlation([(1, 1), (1, 2)]) is None
    assert rank_correlation([(1, 1)]) is None


def test_resamples_are_counted_as_often_as_they_come():
    """Against all 4^4 resamples in order, one by one."""
    pairs = [(0.9, 2.0), (0.5, 1.0), (0.7, 3.0), (0.2, 1.5)]
    drawn = [rank_correlation([pairs[i] for i in chosen]) for chosen in itertools.product(range(4), repeat=4)]
    values = sorted(value for value in drawn if value is not None)
    result = resampled_interval(pairs, 0.5)
    assert result.low == pytest.approx(values[math.ceil(0.25 * len(values)) - 1])
    assert result.high == pytest.approx(values[math.ceil(0.75 * len(values)) - 1])


@pytest.mark.parametrize("count", [9, MOST_PAIRS])
def test_as_many_pairs_as_can_be_counted_have_an_interval(count):
    falling = resampled_interval([(place, -place) for place in range(count)], 0.95)
    assert (falling.low, falling.high) == pytest.approx((-1, -1))
    assert resampled_interval([(place, place) for place in range(MOST_PAIRS + 1)], 0.95) is None
    assert resampled_interval([(1, 1), (2, 2)], 0.95) is None


def test_few_pairs_would_claim_a_correlation_too_often():
    """All orders of three unrelated pairs: one side of a 95 % interval should be wrong 2.5 times in a hundred."""
    orders = list(itertools.permutations(range(3)))
    wrong = sum(resampled_interval(list(enumerate(order)), 0.95).low > 0 for order in orders)
    assert wrong / len(orders) == pytest.approx(1 / 6)
    assert LEAST_PAIRS > 3
