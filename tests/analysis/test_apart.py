"""Runs that end far from the others: found where a group stands apart, and rarely by chance."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palinode.analysis.apart import LEAST_GAPS, apart
from palinode.analysis.compare import Comparison, Pair
from palinode.analysis.reliability import apart_cautions

# The losses of one arm of encdec_published--laptop: three of its eight trainings went wrong.
LOSSES = [1.750, 1.751, 1.754, 2.259, 2.219, 2.056, 1.768, 1.763]
LOSS, ACCURACY = "validation.ltr.nats_per_token", "validation.own.accuracy"


def compared(scores, metric=LOSS):
    pairs = tuple(Pair(seed, score, 1.7 + 0.01 * (seed % 3)) for seed, score in enumerate(scores))
    return Comparison("odd", "plain", "2x64", metric, 0.95, pairs)


def test_the_runs_that_ended_elsewhere_are_told_apart():
    assert apart(LOSSES) == ([2.056, 2.219, 2.259], [1.750, 1.751, 1.754, 1.763, 1.768])
    assert apart([-one for one in LOSSES])[0] == [-2.259, -2.219, -2.056]
    assert apart([1.0, 1.0, 1.0, 1.0, 1.0, 2.0]) == ([2.0], [1.0] * 5)
    assert apart([1.0] * 8) is None
    assert apart(LOSSES[1:5]) is None
    assert apart([0.0, 0.001, 0.002, 9.0, 9.001, 9.002]) == ([9.0, 9.001, 9.002], [0.0, 0.001, 0.002])


@pytest.mark.parametrize("runs", [*LEAST_GAPS, 11, 16, 30])
def test_normal_scores_are_told_apart_in_at_most_one_of_200_cases(runs):
    drawn = np.random.default_rng(runs).standard_normal((20_000, runs))
    share = np.mean([apart(scores) is not None for scores in drawn.tolist()])
    assert share < 0.0065
    assert runs > max(LEAST_GAPS) or share > 0.0035


@given(st.permutations(LOSSES), st.floats(0.01, 100), st.floats(-10, 10))
def test_the_groups_do_not_depend_on_the_order_the_unit_or_the_zero(scores, unit, zero):
    few, many = apart([unit * one + zero for one in scores])
    assert few == pytest.approx([unit * one + zero for one in (2.056, 2.219, 2.259)])
    assert len(many) == 5


def test_the_caution_names_the_arm_and_both_groups_if_the_gap_matters():
    (caution,) = apart_cautions(compared(LOSSES), 0.005)
    assert caution == (
        "3 of 8 runs of odd ended far from the others, at 2.056 to 2.259 and not at 1.75 to 1.768: the mean describes none of them"
    )
    assert apart_cautions(compared(LOSSES), 0.3) == []
    assert apart_cautions(compared(LOSSES, metric=ACCURACY), 0.005) == []
    comparison = compared(LOSSES)
    turned = tuple(Pair(pair.seed, pair.baseline_value, pair.arm_value) for pair in comparison.pairs)
    assert apart_cautions(replace(comparison, pairs=turned), 0.005)[0].startswith("3 of 8 runs of plain ended")
