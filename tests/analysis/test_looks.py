"""Looks at growing numbers of seeds: the table against a simulation, and the mixture against its definition."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from palinode.analysis.looks import (
    ALPHAS,
    MIXTURE_VARIANCE,
    SHARES,
    look_alpha,
    look_confidence,
    mixture_evidence,
    mixture_interval,
)

# The table of design page 11, section 4, from another simulation of 400,000 paths.
PUBLISHED = {4: 96.97, 5: 97.73, 6: 98.13, 8: 98.56, 10: 98.80, 12: 98.94, 16: 99.12, 20: 99.22, 30: 99.37, 40: 99.45}
DIFFERENCES = (0.31, 0.12, 0.45, -0.07, 0.28, 0.19)


@pytest.mark.parametrize(("most", "percent"), PUBLISHED.items())
def test_the_confidence_of_each_look_is_that_of_another_simulation(most, percent):
    assert 100 * look_confidence(most) == pytest.approx(percent, abs=0.04)


@pytest.mark.parametrize(("comparisons", "times"), [(4, 0.0064), (24, 0.0053)])
def test_plain_comparisons_in_a_family_are_those_of_another_simulation(comparisons, times):
    assert look_alpha(0.05, 20, comparisons) * comparisons == pytest.approx(times, abs=0.00006)


def test_a_simulation_of_few_paths_agrees_with_the_table():
    paths = np.random.default_rng(5).standard_normal((20_000, 8))
    excluded = np.zeros(len(paths), dtype=bool)
    for count in range(3, 9):
        seen = paths[:, :count]
        t = np.abs(seen.mean(axis=1)) / (seen.std(axis=1, ddof=1) / math.sqrt(count))
        excluded |= t > scipy.stats.t.isf(look_alpha(0.1, 8) / 2, count - 1)
    assert excluded.mean() == pytest.approx(0.1, abs=0.007)  # three standard errors


def test_the_next_row_and_column_are_the_safe_ones():
    assert look_confidence(7) == look_confidence(8)
    assert look_confidence(31) == look_confidence(40)
    assert look_alpha(0.03, 20) == pytest.approx(0.03 * SHARES[20][ALPHAS.index(0.0125)])
    assert look_alpha(0.05, 20, 1000) == pytest.approx(0.05 / 1000 / 18)
    assert look_confidence(3) == pytest.approx(0.95)


@given(st.integers(4, 39), st.floats(1e-6, 0.5))
def test_more_looks_or_less_error_leave_less_for_each_look(most, alpha):
    assert look_alpha(alpha, most + 1) <= look_alpha(alpha, most)
    assert look_alpha(alpha / 2, most) <= look_alpha(alpha, most)
    assert alpha / (most - 2) <= look_alpha(alpha, most) * (1 + 1e-9) <= alpha


@pytest.mark.parametrize("most", [2, 41])
def test_the_largest_number_of_seeds_is_in_the_table(most):
    with pytest.raises(ValueError, match=str(most)):
        look_alpha(0.05, most)


def test_alpha_is_a_probability():
    with pytest.raises(ValueError, match="between 0 and 1"):
        look_alpha(5, 20)


@pytest.mark.parametrize("value", [0.0, 0.3, -1.0])
def test_the_evidence_is_the_mean_of_likelihood_ratios_over_the_mixture(value):
    """The density of the observed t, averaged over effects, over its density without an effect. By quadrature."""
    count = len(DIFFERENCES)
    shifted = np.array(DIFFERENCES) - value
    t = shifted.mean() / (shifted.std(ddof=1) / math.sqrt(count))
    prior = scipy.stats.norm(scale=math.sqrt(MIXTURE_VARIANCE))

    def weighted(effect):
        return scipy.stats.nct.pdf(t, count - 1, math.sqrt(count) * effect) * prior.pdf(effect)

    density = scipy.integrate.quad(weighted, -14, 14, points=[0, t / math.sqrt(count)], epsabs=1e-13, limit=200)[0]
    expected = density / scipy.stats.t.pdf(t, count - 1)
    assert mixture_evidence(DIFFERENCES, value) == pytest.approx(expected, rel=1e-6)


@settings(max_examples=50)
@given(
    st.lists(st.floats(-3, 3).map(lambda x: round(x, 3)), min_size=2, max_size=20).filter(lambda x: len(set(x)) > 1),
    st.sampled_from([0.1, 0.05, 0.05 / 24]),
)
def test_the_evidence_at_both_ends_is_one_over_alpha(differences, alpha):
    interval = mixture_interval(differences, alpha)
    room = 1 + len(differences) * MIXTURE_VARIANCE
    if interval is None:  # no value has so much evidence against it, not even an infinite one
        assert mixture_evidence(differences, 1e9) < 1 / alpha
        assert room ** ((len(differences) - 1) / 2) <= (1 / alpha) * (1 + 1e-9)
    else:
        for end in interval:
            assert mixture_evidence(differences, end) == pytest.approx(1 / alpha, rel=1e-6)


@pytest.mark.parametrize(("alpha", "first"), [(0.05, 4), (0.05 / 4, 5), (0.05 / 24, 6)])
def test_the_mixture_is_finite_from_so_many_pairs(alpha, first):
    assert mixture_interval(DIFFERENCES[: first - 1], alpha) is None
    assert mixture_interval(DIFFERENCES[:first], alpha) is not None


def test_too_few_or_equal_differences():
    assert mixture_interval([0.1], 0.05) is None
    assert tuple(mixture_interval([0.5] * 6, 0.05)) == (0.5, 0.5)
    with pytest.raises(ValueError, match="two differences"):
        mixture_evidence([0.1], 0)
