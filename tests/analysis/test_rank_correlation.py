"""Rank correlation of a few pairs, and its exact permutation test."""

import itertools
import random

import pytest
from scipy.stats import spearmanr

from palinode.analysis.intervals import LEAST_PAIRS, _orders, rank_correlation, rank_correlation_p


def test_a_rank_correlation_is_that_of_ranks_with_ties():
    assert rank_correlation([(1, 10), (2, 20), (3, 900)]) == pytest.approx(1)
    assert rank_correlation([(1, 3), (2, 2), (3, 1)]) == pytest.approx(-1)
    assert rank_correlation([(1, 1), (1, 2), (2, 3)]) == pytest.approx(0.75**0.5)
    assert rank_correlation([(1, 1), (1, 2)]) is None
    assert rank_correlation([(1, 1)]) is None


def test_all_orders_are_computed_once():
    assert sorted(map(tuple, _orders(5))) == list(itertools.permutations(range(5)))


def in_order(*order):
    return list(enumerate(order))


def test_the_p_value_counts_the_orders_with_at_least_this_correlation():
    """Of 9! orders, two have the correlation 1 or -1; with ties, the orders of equal values count as often as they come."""
    assert rank_correlation_p(in_order(*range(9))) == pytest.approx(2 / 362_880)
    assert rank_correlation_p(in_order(*range(8, -1, -1))) == pytest.approx(2 / 362_880)
    only_one_differs = [(place, int(place == 8)) for place in range(9)]  # its |correlation| is largest at either end
    assert rank_correlation_p(only_one_differs) == pytest.approx(2 / 9)


@pytest.mark.parametrize("count", [9, 12])
def test_p_is_near_that_of_the_t_distribution_and_does_not_depend_on_order_or_sign(count):
    drawn = random.Random(3)
    pairs = [(place + drawn.gauss(0, 3), place) for place in range(count)]
    rho, expected = spearmanr(*zip(*pairs, strict=True))
    p = rank_correlation_p(pairs)
    assert rank_correlation(pairs) == pytest.approx(rho)
    assert p == pytest.approx(expected, abs=0.01)
    assert rank_correlation_p(pairs) == p
    assert rank_correlation_p([(one, -other) for one, other in pairs]) == pytest.approx(p, abs=0.003)


def test_the_smallest_correlation_that_can_be_shown_with_nine_pairs():
    """rho = 1 - 6 S / (n^3 - n) with the sum S of squared differences of ranks: .70 has S = 36, and .683 has S = 38."""
    shown, not_shown = (2, 4, 0, 5, 1, 3, 7, 6, 8), (5, 0, 1, 4, 2, 3, 7, 6, 8)
    for order, rho, is_shown in ((shown, 0.7, True), (not_shown, 0.683, False)):
        assert rank_correlation(in_order(*order)) == pytest.approx(rho, abs=0.001)
        assert (rank_correlation_p(in_order(*order)) <= 0.05) == is_shown


def test_few_or_equal_values_have_no_p_value():
    assert LEAST_PAIRS == 9
    assert rank_correlation_p(in_order(*range(8))) is None
    assert rank_correlation_p([(place, 1) for place in range(9)]) is None
