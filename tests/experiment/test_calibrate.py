"""Which settings of a grid are measured, and what is said of the others."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palinode.experiment.calibrate import (
    MOST_SECONDS,
    SHARE_OF_RUNS,
    Calibration,
    Setting,
    Work,
    completed,
    filled_in,
    goes_on,
    spanning_order,
)

ARMS, DEPTHS, WIDTHS = ("ltr", "both", "published"), (2, 8), (64, 128, 256)
VOCABULARY = 2048


def setting(arm: str, depth: int, width: int) -> Setting:
    tensors, stack, head = 3.0 + 5 * depth, 2.0 * depth * 7 * width**2, 2.0 * width * VOCABULARY
    parameters = stack / 2 + 2 * width * VOCABULARY
    return Setting(arm, f"{depth}x{width}", Work(tensors, parameters, stack, head, tensors * head))


GRID = [setting(arm, depth, width) for arm in ARMS for depth in DEPTHS for width in WIDTHS]
FACTOR = {"ltr": 1.0, "both": 1.4, "published": 2.5}


def true_seconds(place: Setting) -> float:
    """A machine that is paid for operations and for FLOPs."""
    work = place.work
    return FACTOR[place.arm] * (1e-3 + 2e-4 * work.tensors + 3e-8 * (work.stack_flops + work.head_flops))


@given(st.lists(st.floats(0.1, 30.0), min_size=1, max_size=60), st.floats(0, 1e5), st.integers(1, 8))
def test_a_process_measures_no_longer_than_its_budget(durations, worth, least):
    """Settings that take no longer than those before them end within the budget; the first is always measured."""
    took, spent = [], 0.0
    for duration in sorted(durations, reverse=True):
        if not goes_on(took, spent, worth, least):
            break
        took.append(duration)
        spent += duration
    assert took
    assert spent <= max(took[0], MOST_SECONDS) + 1e-6
    if len(took) > least:
        assert spent <= max(took[0], SHARE_OF_RUNS * worth) + 1e-6 or spent <= max(took[0], MOST_SECONDS)
    short = sum(durations) + max(durations) <= MOST_SECONDS
    if short and len(durations) <= least:
        assert len(took) == len(durations)  # every setting, when there are few


def test_short_runs_are_not_measured_for_longer_than_a_tenth_of_them():
    assert goes_on([2.0] * 3, 6.0, runs_seconds=10.0, least=4)
    assert not goes_on([2.0] * 4, 8.0, runs_seconds=10.0, least=4)
    assert goes_on([2.0] * 4, 8.0, runs_seconds=101.0, least=4)


def test_any_beginning_of_the_order_spans_the_grid():
    order = spanning_order(GRID)
    assert sorted(order) == list(range(len(GRID)))
    assert GRID[order[0]].scale == "8x256"
    for beginning in range(1, len(GRID) + 1):
        chosen = [GRID[index] for index in order[:beginning]]
        for places, cost in (
            (ARMS, [c.arm for c in chosen]),
            ({g.scale for g in GRID}, [c.scale for c in chosen]),
        ):
            assert len(set(cost)) == min(len(places), beginning)


@pytest.mark.parametrize("count", [6, 8, 10])
def test_what_was_not_measured_is_predicted_from_what_was(count):
    chosen = spanning_order(GRID)[:count]
    seconds = filled_in(GRID, {index: true_seconds(GRID[index]) for index in chosen})
    truth = [true_seconds(place) for place in GRID]
    assert sum(seconds) == pytest.approx(sum(truth), rel=0.1)
    for index, place in enumerate(GRID):
        assert seconds[index] == pytest.approx(truth[index], rel=1e-9 if index in chosen else 0.35), place


@given(st.lists(st.floats(0.5, 2.0), min_size=2, max_size=2), st.integers(65, 255))
def test_a_prediction_between_two_measured_ones_lies_between_them(noise, width):
    places = [setting("ltr", 4, 64), setting("ltr", 4, 256), setting("ltr", 4, width)]
    low, high = sorted([noise[0], noise[1] * 4])
    between = filled_in(places, {0: low, 1: high})[2]
    assert low * 0.999 <= between <= high * 1.001


def test_beyond_the_measured_ones_a_prediction_grows():
    places = [setting("ltr", 4, width) for width in (64, 128, 256, 512, 1024)]
    seconds = filled_in(places, {0: true_seconds(places[0]), 1: true_seconds(places[1])})
    assert all(smaller < larger for smaller, larger in pairwise(seconds))
    assert seconds[4] == pytest.approx(true_seconds(places[4]), rel=0.5)


def test_a_part_that_takes_no_time_is_predicted_to_take_none():
    assert filled_in(GRID, {0: 0.0, 1: 0.0}) == [0.0] * len(GRID)


def calibration(seconds: float) -> Calibration:
    return Calibration(seconds, seconds, seconds, seconds, seconds, 0.0)


def test_what_failed_has_no_prediction_and_takes_its_arm_along():
    measurements = {index: calibration(true_seconds(place)) for index, place in enumerate(GRID) if place.arm == "ltr"}
    both = next(index for index, place in enumerate(GRID) if place.arm == "both")
    seconds = completed(GRID, measurements, failed={both})
    by_arm = {arm: [cost for cost, place in zip(seconds, GRID, strict=True) if place.arm == arm] for arm in ARMS}
    assert all(cost is None for cost in by_arm["both"])
    assert all(cost is not None and math.isfinite(cost.audit_seconds) for cost in by_arm["published"])
    assert completed(GRID, {}, failed={both}) == [None] * len(GRID)
