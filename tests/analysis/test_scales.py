"""One arm over several scales: against statsmodels, closed forms, and what must hold for any effects."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.meta_analysis import combine_effects

from palinode.analysis.intervals import t_interval
from palinode.analysis.scales import over_scales, paule_mandel

UNKNOWN = [None] * 12
numbers = st.floats(-2, 2).map(lambda x: round(x, 4))
scales = st.lists(st.tuples(numbers, st.floats(0.01, 1).map(lambda x: round(x, 4))), min_size=2, max_size=9)


@pytest.mark.parametrize("draw", range(12))
def test_mean_tau_and_interval_are_statsmodels(draw):
    generator = np.random.default_rng(draw)
    count, tau = 2 + draw % 7, (0.0, 0.3, 2.0)[draw % 3]
    errors = generator.uniform(0.1, 1, count)
    effects = errors * generator.standard_normal(count) + tau * generator.standard_normal(count)
    ours = over_scales(effects, errors, 0.95, UNKNOWN[:count])
    # Their Newton's method gives up with 0 when a rounding error takes it past the solution, so the tolerance is not smaller.
    theirs = combine_effects(effects, errors**2, method_re="iterated", use_t=True, atol=1e-10)
    assert ours.tau**2 == pytest.approx(theirs.tau2, abs=1e-8)
    assert ours.mean == pytest.approx(theirs.mean_effect_re, abs=1e-8)
    assert tuple(ours.interval) == pytest.approx(theirs.conf_int()[1], abs=1e-8)
    assert ours.share_between == pytest.approx(max(0, theirs.i2), abs=1e-8)


def test_equal_errors_have_a_closed_form():
    effects, error = [0.1, 0.4, 0.3, 0.9], 0.05
    ours = over_scales(effects, [error] * 4, 0.9, UNKNOWN[:4])
    variance = float(np.var(effects, ddof=1))
    assert ours.tau**2 == pytest.approx(variance - error**2, rel=1e-9)
    assert ours.mean == pytest.approx(np.mean(effects))
    assert tuple(ours.interval) == pytest.approx(tuple(t_interval(effects, 0.9)), rel=1e-9)
    assert ours.share_between == pytest.approx(1 - error**2 / variance, rel=1e-9)


def test_the_corrected_variance_of_hartung_and_knapp_is_already_there_when_tau_is_found():
    effects, errors = np.array([0.1, 0.4, 0.3, 0.9]), np.array([0.05, 0.1, 0.02, 0.1])
    fit = paule_mandel(effects, errors**2, np.ones((4, 1)))
    weights = 1 / (errors**2 + fit.tau_squared)
    assert fit.tau_squared > 0
    assert (weights * (effects - fit.coefficients[0]) ** 2).sum() == pytest.approx(3, rel=1e-9)


def test_a_line_without_noise_gives_its_slope_per_tenfold_parameters():
    parameters = [1_000, 10_000, 100_000, 1_000_000]
    ours = over_scales([0.1, 0.3, 0.5, 0.7], [0.01] * 4, 0.95, parameters)
    assert ours.slope == pytest.approx(0.2)
    half = (
        4.302652729749462 * 0.01 / np.sqrt(5)
    )  # t with 2 degrees of freedom; the centred decades have the sum of squares 5
    assert tuple(ours.slope_interval) == pytest.approx((0.2 - half, 0.2 + half))


def test_few_scales_or_unknown_or_equal_parameters_have_no_slope():
    effects, errors = [0.1, 0.2, 0.3, 0.4], [0.1] * 4
    assert over_scales(effects[:3], errors[:3], 0.95, [10, 100, 1000]).slope is None
    assert over_scales(effects, errors, 0.95, [10, 100, None, 1000]).slope is None
    assert over_scales(effects, errors, 0.95, [10] * 4).slope is None
    assert over_scales(effects[:1], errors[:1], 0.95, [10]) is None


@settings(max_examples=40)
@given(scales, st.sampled_from([0.001, 7.0, -3.0]), st.randoms(use_true_random=False))
def test_a_unit_and_the_order_of_scales_change_nothing_else(pairs, factor, random):
    parameters = [10**place for place in range(3, 3 + len(pairs))]
    one = over_scales(*zip(*pairs, strict=True), 0.95, parameters)
    order = list(range(len(pairs)))
    random.shuffle(order)
    scaled = [(factor * pairs[place][0], abs(factor) * pairs[place][1]) for place in order]
    other = over_scales(*zip(*scaled, strict=True), 0.95, [parameters[place] for place in order])
    unit = abs(factor)
    assert other.mean == pytest.approx(factor * one.mean, abs=1e-7 * unit)
    assert other.tau == pytest.approx(unit * one.tau, abs=1e-5 * unit)
    if one.slope is not None:
        assert other.slope == pytest.approx(factor * one.slope, abs=1e-7 * unit)


def test_errors_of_zero_are_allowed():
    assert over_scales([0.5, 0.5, 0.5], [0.0] * 3, 0.95, UNKNOWN[:3]).mean == 0.5
    ours = over_scales([0.1, 0.4, 0.3], [0.0] * 3, 0.95, UNKNOWN[:3])
    assert tuple(ours.interval) == pytest.approx(tuple(t_interval([0.1, 0.4, 0.3], 0.95)), rel=1e-6)
