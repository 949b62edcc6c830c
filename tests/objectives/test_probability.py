"""Schedules of p are pure functions of the step; adaptive p goes where its rule says it must."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palinode.base.config import decode, encode
from palinode.base.errors import BadInput
from palinode.objectives import BothObjective, ChooseObjective, Progress
from palinode.objectives.probability import (
    PROBABILITIES,
    Adaptive,
    Constant,
    Cooldown,
    Cosine,
    Linear,
    StepAt,
)

STEPS = 101  # steps 0 to 100: the step is the percentage


def curve(probability):
    return [probability.at(Progress(step, STEPS)) for step in range(STEPS)]


def test_constant():
    assert set(curve(Constant(p=0.05))) == {0.05}


def test_linear():
    p = curve(Linear(p_start=0.2, p_end=0.7))
    assert (p[0], p[-1]) == (0.2, 0.7)
    assert p[50] == pytest.approx(0.45)
    assert p[10] - p[0] == pytest.approx(p[90] - p[80])


def test_cosine():
    p = curve(Cosine(p_start=0.0, p_end=0.8))
    assert (p[0], p[-1]) == (0.0, 0.8)
    assert p[50] == pytest.approx(0.4)
    assert p[25] == pytest.approx(0.8 * (1 - math.cos(math.pi / 4)) / 2)


def test_step_and_only_after():
    p = curve(StepAt(at_step=40, p_before=0.0, p_after=0.3))
    assert p[:40] == [0.0] * 40
    assert p[40:] == [0.3] * 61


def test_cooldown():
    p = curve(Cooldown(p=0.1))
    assert p[:81] == pytest.approx([0.1] * 81)
    assert p[90] == pytest.approx(0.05)
    assert p[100] == 0.0


SHARES = st.floats(0, 1)
SCHEDULES = st.one_of(
    st.builds(Constant, p=SHARES),
    st.builds(Linear, p_start=SHARES, p_end=SHARES),
    st.builds(Cosine, p_start=SHARES, p_end=SHARES),
    st.builds(StepAt, at_step=st.integers(0, 200), p_before=SHARES, p_after=SHARES),
    st.builds(Cooldown, p=SHARES, share=st.floats(0.01, 1)),
)


@given(schedule=SCHEDULES, total=st.integers(1, 200), step=st.integers(0, 250))
def test_every_schedule_is_a_probability_and_pure(schedule, total, step):
    p = schedule.at(Progress(step, total))
    assert 0.0 <= p <= 1.0
    assert schedule.at(Progress(step, total, {"p": 0.123, "gap_nats": 9.0})) == p
    assert schedule.state() == {}
    assert decode(type(schedule), {k: v for k, v in encode(schedule).items() if k != "kind"}) == schedule


def test_a_run_of_one_step_starts_at_the_start():
    assert Linear(p_start=0.2, p_end=0.7).at(Progress(0, 1)) == 0.2


@pytest.mark.parametrize("bad", [-0.01, 1.01, "0.5", True, float("nan")])
def test_p_must_be_a_probability(bad):
    with pytest.raises(BadInput):
        decode(Constant, {"p": bad})


def settle(adaptive, gap_of, steps=3000):
    """Train: at every step the two losses differ by gap_of(p)."""
    state = adaptive.state()
    for _ in range(steps):
        p = adaptive.at(Progress(state=state))
        state = adaptive.after_step(state, {"ltr": 3.0, "rtl": 3.0 + gap_of(p)})
    return adaptive.at(Progress(state=state))


def honest_gap(p):
    """An honest rtl loss is a little above ltr, the more the less often it is trained."""
    return 0.08 - 0.06 * p


def test_adaptive_starts_at_one():
    assert Adaptive().at(Progress(state=Adaptive().state())) == 1.0


@pytest.mark.parametrize("ema", [0.0, 0.98])
def test_the_published_rule_sits_at_one_when_rtl_is_honest(ema):
    assert settle(Adaptive(rule="ratio", ema=ema), honest_gap) == 1.0


def test_the_published_rule_falls_when_rtl_leaks():
    assert settle(Adaptive(rule="ratio"), lambda p: 0.756 - 3.29) == pytest.approx(math.exp(0.756 - 3.29))
    assert settle(Adaptive(rule="ratio"), lambda p: -9.0) == 0.01


@pytest.mark.parametrize("ema", [0.9, 0.98])
def test_the_difference_rule_has_an_interior_fixed_point(ema):
    # p = (.08 - .06 p) / .1 at p = .5
    assert settle(Adaptive(rule="difference", ema=ema), honest_gap) == pytest.approx(0.5, abs=1e-6)


def test_the_difference_rule_is_clipped():
    assert settle(Adaptive(rule="difference"), lambda p: 5.0) == 1.0
    assert settle(Adaptive(rule="difference", floor=0.02), lambda p: -5.0) == 0.02


def test_ema_smooths_the_difference_not_the_rate():
    adaptive = Adaptive(rule="difference", ema=0.75)
    state = adaptive.after_step(adaptive.state(), {"ltr": 3.0, "rtl": 3.04})
    assert state == {"gap_nats": pytest.approx(0.04), "p": pytest.approx(0.4)}  # the first gap counts whole
    state = adaptive.after_step(state, {"ltr": 3.0, "rtl": 3.08})
    assert state == {"gap_nats": pytest.approx(0.05), "p": pytest.approx(0.5)}


def test_a_step_without_rtl_changes_nothing():
    state = {"gap_nats": 0.03, "p": 0.3}
    assert Adaptive().after_step(state, {"ltr": 2.0}) == state


@pytest.mark.parametrize("kind", [BothObjective, ChooseObjective])
def test_the_objective_hands_its_state_on(kind):
    objective = kind(p=Adaptive(rule="difference", ema=0.0))
    state = objective.after_step(objective.state(), {"ltr": 3.0, "rtl": 3.02})
    assert objective.p.at(Progress(state=state)) == pytest.approx(0.2)
    assert kind(p=Constant(p=0.1)).state() == {}


def test_every_rule_is_in_the_table_under_its_kind():
    assert {name: cls.kind for name, cls in PROBABILITIES.items()} == {name: name for name in PROBABILITIES}
    assert len(PROBABILITIES) == 6
