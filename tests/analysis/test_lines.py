"""Lines over a logarithm: the slope is that of least squares, and the line of the mean slope goes through the mean points."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palinode.analysis.intervals import mean, t_interval
from palinode.analysis.lines import points_over_seeds, slope_per_decade

counts = st.lists(st.integers(1, 10**9), min_size=2, max_size=6, unique=True)
effects = st.floats(-1, 1)


@given(counts, st.floats(-2, 2), st.floats(-2, 2))
def test_points_on_a_line_give_its_slope(at, slope, height):
    points = [(x, height + slope * math.log10(x)) for x in at]
    spread = math.log10(max(at) / min(at))
    assert slope_per_decade(points) == pytest.approx(slope, abs=1e-9 / spread)


@pytest.mark.parametrize("points", [[], [(10, 1.0)], [(10, 1.0), (10, 3.0)]])
def test_one_count_has_no_slope(points):
    assert slope_per_decade(points) is None


def test_slope_of_three_points_by_hand():
    """At 1, 10, 100 the slope of least squares is (y3 - y1) / 2."""
    assert slope_per_decade([(1, 0.5), (10, 9.0), (100, 2.5)]) == pytest.approx(1.0)


@given(st.lists(st.tuples(st.integers(1, 10**9), st.lists(effects, min_size=3, max_size=3)), min_size=1, max_size=5))
def test_points_are_means_whose_intervals_allow_for_each_other(values):
    points = points_over_seeds(values, 0.95)
    assert [point.at for point in points] == sorted(at for at, _ in values)
    expected = sorted((at, mean(here), *t_interval(here, 1 - 0.05 / len(values))) for at, here in values)
    assert [tuple(point[:4]) for point in points] == expected


def test_a_count_without_seeds_gives_no_point_and_one_seed_no_interval():
    assert points_over_seeds([(10, []), (100, [0.5])], 0.95, ["a", "b"]) == ((100, 0.5, None, None, "b"),)
