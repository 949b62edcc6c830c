"""The statistics against other people's code, and against counting by hand."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from palinode.analysis import intervals

values = st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 6)), min_size=2, max_size=9)


@given(values, st.sampled_from([0.8, 0.95, 0.99]))
def test_the_t_interval_is_statsmodels(numbers, confidence):
    ours = intervals.t_interval(numbers, confidence)
    low, high = DescrStatsW(numbers).tconfint_mean(alpha=1 - confidence)
    assert (ours.low, ours.high) == pytest.approx((low, high), rel=1e-9, abs=1e-7)


@given(values)
def test_the_sign_flip_test_is_a_count_of_all_patterns(numbers):
    total = abs(math.fsum(numbers)) - 1e-12 * math.fsum(map(abs, numbers))
    patterns = list(itertools.product((1, -1), repeat=len(numbers)))
    reached = sum(abs(math.fsum(s * x for s, x in zip(signs, numbers, strict=True))) >= total for signs in patterns)
    assert intervals.sign_flip_p(numbers) == pytest.approx(reached / len(patterns), abs=1e-15)


def test_the_sign_flip_test_is_scipys_permutation_test():
    numbers = [0.3, 0.1, -0.05, 0.2, 0.4, 0.15, -0.01]
    oracle = scipy.stats.permutation_test(
        (numbers,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", n_resamples=10**6, vectorized=True
    )
    assert intervals.sign_flip_p(numbers) == pytest.approx(oracle.pvalue, abs=1e-15)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12, 25])
def test_equal_signs_give_the_least_p_there_is(count):
    assert intervals.sign_flip_p([1.0 + i / 7 for i in range(count)]) == 2 / 2**count


def test_no_difference_at_all_has_p_one_and_a_point_interval():
    assert intervals.sign_flip_p([0.0, 0.0, 0.0]) == 1.0
    assert intervals.t_interval([0.25, 0.25], 0.95) == intervals.Interval(0.25, 0.25)


def test_too_few_values_are_missing_not_zero():
    assert intervals.spread([1.0]) is None
    assert intervals.t_interval([1.0], 0.95) is None
    assert intervals.sign_flip_p([]) is None
    assert intervals.sign_flip_p([1.0] * 41) is None
    with pytest.raises(ValueError, match="no values"):
        intervals.mean([])


@settings(max_examples=40)
@given(st.floats(0.05, 1.5), st.sampled_from([0.9, 0.95, 0.99]))
def test_seeds_needed_is_the_least_number_with_power_by_statsmodels(effect, confidence):
    count = intervals.seeds_needed(effect, 1.0, confidence)
    power = TTestPower().power
    assert power(effect, count, 1 - confidence) >= 0.8 - 1e-4
    assert power(effect, count - 1, 1 - confidence) < 0.8 + 1e-4


@settings(max_examples=25, deadline=None)
@given(st.floats(1, 30), st.sampled_from([0.9, 0.95, 0.99]))
def test_seeds_needed_by_integrating_over_the_observed_spread(effect, confidence):
    """statsmodels has no numbers for large effects; the definition of the test does."""
    count = intervals.seeds_needed(effect, 1.0, confidence)
    assert integrated_power(effect, count, confidence) >= 0.8 - 1e-6
    assert count == 2 or integrated_power(effect, count - 1, confidence) < 0.8 + 1e-6


def integrated_power(effect, count, confidence):
    freedom = count - 1
    bound = scipy.stats.t.ppf((1 + confidence) / 2, freedom)
    shift = effect * math.sqrt(count)
    reach = np.linspace(0, scipy.stats.chi.ppf(1 - 1e-12, freedom), 200_001)
    seen = scipy.stats.norm.sf(bound * reach / math.sqrt(freedom) - shift) * scipy.stats.chi.pdf(reach, freedom)
    return float(np.trapezoid(seen, reach))


def test_seeds_needed_at_its_edges():
    assert intervals.seeds_needed(0.0, 1.0, 0.95) is None
    assert intervals.seeds_needed(1e-6, 1.0, 0.95) is None
    assert intervals.seeds_needed(1.0, 0.0, 0.95) == 2
    assert intervals.seeds_needed(-0.5, 1.0, 0.95) == intervals.seeds_needed(0.5, 1.0, 0.95) == 34
