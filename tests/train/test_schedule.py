"""Schedules are pure functions with known values at their ends."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palinode.train.schedule import SCHEDULES, Constant, Cosine, WarmDown

any_schedule = st.one_of(
    st.builds(Constant, warmup_steps=st.integers(0, 20)),
    st.builds(Cosine, warmup_steps=st.integers(0, 20), floor=st.floats(0, 1)),
    st.builds(WarmDown, warmup_steps=st.integers(0, 20), share=st.floats(0, 1), floor=st.floats(0, 1)),
)


@given(any_schedule, st.integers(21, 400))
def test_factor_stays_between_0_and_1_and_never_rises_after_the_warmup(schedule, total):
    factors = [schedule.factor(step, total) for step in range(total)]
    assert all(0 <= factor <= 1 + 1e-12 for factor in factors)
    after = factors[max(0, schedule.warmup_steps - 1) :]
    assert all(later <= earlier + 1e-12 for earlier, later in zip(after, after[1:], strict=False))


@given(st.integers(1, 20), st.integers(21, 400))
def test_warmup_is_a_straight_line_that_moves_at_the_first_step(warmup, total):
    schedule = Cosine(warmup_steps=warmup)
    assert schedule.factor(0, total) == pytest.approx(1 / warmup)
    assert schedule.factor(warmup - 1, total) == 1.0


def test_cosine_reaches_its_floor_at_the_last_step_and_the_middle_in_the_middle():
    schedule = Cosine(floor=0.1)
    assert schedule.factor(100, 101) == pytest.approx(0.1)
    assert schedule.factor(50, 101) == pytest.approx(0.55)
    assert schedule.factor(25, 101) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))


def test_warm_down_is_flat_then_straight():
    schedule = WarmDown(share=0.5)
    assert [schedule.factor(step, 101) for step in (0, 50, 75, 100)] == pytest.approx([1, 1, 0.5, 0])


def test_every_schedule_of_the_table_decays_to_its_end():
    for cls in SCHEDULES.values():
        assert 0 <= cls().factor(999, 1000) <= 1
