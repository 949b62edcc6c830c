"""The numbers of runs that tests need: with so many, the tests show the effect about 4 times in 5."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from palinode.analysis.intervals import MOST_SEEDS
from palinode.analysis.runs_needed import MOST_COUNTED, of_counts, of_p
from palinode.analysis.two_valued import boschloo_p


@given(st.floats(0.1, 3), st.integers(4, 50), st.floats(1e-4, 0.2))
def test_a_z_test_of_the_runs_needed_shows_the_effect_four_times_in_five(effect, count, alpha):
    p = 2 * special.ndtr(-effect * count**0.5)
    needed = of_p(p, count, alpha) if p > 1e-12 else None
    if needed is not None and needed <= MOST_SEEDS:
        power = [special.ndtr(effect * n**0.5 - special.ndtri(1 - alpha / 2)) for n in (needed - 1, needed)]
        assert power[0] < 0.8 + 1e-6
        assert power[1] > 0.8 - 1e-6


@pytest.mark.parametrize("correlation", [0.3, -0.45])
def test_a_rank_correlation_of_the_groups_needed_is_shown_about_four_times_in_five(correlation):
    stream = np.random.default_rng(5)
    pearson = 2 * np.sin(np.pi * correlation / 6)  # of normal values with this rank correlation

    def p_of(count):
        first, noise = stream.normal(size=(2, count))
        return stats.spearmanr(first, pearson * first + (1 - pearson**2) ** 0.5 * noise).pvalue

    needed = round(np.median([of_p(p_of(40), 40, 0.05) or 10_000 for _ in range(400)]))
    assert 0.7 <= np.mean([p_of(needed) <= 0.05 for _ in range(400)]) <= 0.9


@pytest.mark.parametrize("alpha", [0.05, 0.00625, 0.05 / 27])
@pytest.mark.parametrize("shares", [(1.0, 2 / 3), (0.2, 0.8), (0.9, 0.5), (1 / 6, 1.0)])
def test_boschloos_test_of_the_seeds_needed_shows_the_shares_four_times_in_five(shares, alpha):
    needed = of_counts(*shares, alpha)
    stream = np.random.default_rng(11)
    drawn = [stream.binomial(needed, share, 4000) for share in shares]
    table = np.array([[boschloo_p(one, other, needed) for other in range(needed + 1)] for one in range(needed + 1)])
    assert np.mean(table[drawn[0], drawn[1]] <= alpha) >= 0.78


def test_no_number_of_runs_is_named_where_no_effect_came():
    assert of_p(1.0, 6, 0.05) is None
    assert of_p(0.99, 60, 0.05) == MOST_SEEDS + 1
    assert of_counts(0.5, 0.5, 0.05) is None
    assert of_counts(0.5, 0.45, 0.05) == MOST_COUNTED + 1
