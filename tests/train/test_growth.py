"""hlb-gpt's recipe: its published numbers, and the laws of batches that change during a run."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import WINDOW_TOKENS, make_training

from palinode.base.config import identity
from palinode.train.growth import REAL_PARTS, WINDOWS_DRAWN, LengthGrowth, NormAccumulation
from palinode.train.loop import batch_examples, take_step, train
from palinode.train.optim import HlbAdamW, hlb_decay_base, hlb_learning_rate
from palinode.train.recipe import Hlb, Speedrun
from palinode.train.schedule import ExponentialDecay, PowerDecay

SIZES = {20_240_068: 3.842e-3, 46_011_272: 2.526e-3, 626_449_952: 7.498e-4}


@pytest.mark.parametrize(("parameters", "rate"), SIZES.items())
def test_published_learning_rates(parameters, rate):
    assert hlb_learning_rate(parameters) == pytest.approx(rate, rel=2e-4)


@pytest.mark.parametrize(("parameters", "base"), [(20_240_068, 8.739), (46_011_272, 7.222), (626_449_952, 4.158)])
def test_published_bases_of_the_weight_decay(parameters, base):
    assert hlb_decay_base(parameters) == pytest.approx(base, rel=1e-3)


@pytest.mark.parametrize(("loss", "decay"), [(0.0, 16.0), (3.8, 8.7e-3), (6.0, 1.1e-4)])
def test_published_weight_decay_by_loss(loss, decay):
    group = {"decay_base": hlb_decay_base(46_011_272)}
    optimizer = type("Optimizer", (), {"param_groups": [group, {"weight_decay": 0.0}]})()
    HlbAdamW().before_step([optimizer], loss)
    assert group["weight_decay"] == pytest.approx(decay, rel=0.03)
    assert optimizer.param_groups[1]["weight_decay"] == 0.0


@pytest.mark.parametrize(("step", "norm"), [(5, 1.47), (100, 0.469), (400, 0.277), (1000, 0.195)])
def test_published_targets_of_the_gradient_norm(step, norm):
    size = 46_011_272
    assert NormAccumulation().target(step, size) * math.sqrt(size) == pytest.approx(norm, rel=0.01)


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.02), (50, 0.51), (100, 1.0), (101, 0.946), (500, 0.619), (1000, 0.580)]
)
def test_published_schedule(step, factor):
    assert PowerDecay().factor(step, 1) == pytest.approx(factor, abs=6e-4)
    assert ExponentialDecay().factor(step, 1) == pytest.approx(0.995**step)


def test_published_lengths():
    growth = LengthGrowth()
    lengths = [growth.window_tokens(step, 1024) for step in (0, 79, 80, 160, 240, 320, 400, 10**8)]
    assert lengths == [32, 32, 64, 128, 256, 512, 1024, 1024]
    published = growth.with_(late_steps=1)
    assert [
        step for step in range(500) if published.window_tokens(step, 1024) != published.window_tokens(step + 1, 1024)
    ] == [
        80,
        160,
        240,
        320,
        400,
    ]


@given(
    start=st.integers(2, 64),
    every=st.integers(1, 20),
    full=st.integers(8, 300),
    batch=st.integers(1, 8),
    steps=st.integers(101, 250),
    late=st.integers(0, 3),
)
def test_growing_rows_read_every_window_of_a_length_once(start, every, full, batch, steps, late):
    """Within a length, steps read on where the one before stopped; phases say the same as step by step."""
    growth = LengthGrowth(start_tokens=start, double_every_steps=every, late_steps=late)
    recipe = Hlb(steps=steps, batch_windows=batch, growth=growth, accumulation=None)
    drawn: dict[int, int] = {}
    by_length: dict[int, int] = {}
    for step in range(steps):
        reads = recipe.reads(step, {}, 0, full)
        assert reads.first_window == drawn.get(reads.window_tokens, 0)
        drawn[reads.window_tokens] = reads.first_window + reads.windows * reads.parts
        by_length[reads.window_tokens] = by_length.get(reads.window_tokens, 0) + 1
        tokens = reads.windows * reads.window_tokens
        assert batch * full - reads.window_tokens < tokens <= batch * full or reads.windows == 1
    phases = recipe.growth.phases(steps, full)
    assert {length: taken for _, taken, length in phases} == by_length
    assert sum(taken for _, taken, _ in phases) == steps


def test_accumulation_is_steered_by_the_norm():
    law, state = NormAccumulation(), {REAL_PARTS: 2.0}
    loud, quiet = dict(state), dict(state)
    target = law.target(9, 1000) * math.sqrt(1000)
    law.after_step(loud, 9, 3 * target, 1000)
    law.after_step(quiet, 9, target / 3, 1000)
    assert loud[REAL_PARTS] == pytest.approx(2 * (1 + 5 * 0.1 * 2))
    assert quiet[REAL_PARTS] == pytest.approx(2 * (1 - 5 * 0.1 * 2 / 3))
    law.after_step(loud, 10, 100 * target, 1000)
    assert loud[REAL_PARTS] == pytest.approx(4.0), "only every fifth step steers"


@pytest.mark.parametrize(("from_first_step", "steers"), [(False, [4, 9, 14]), (True, [0, 5, 10])])
def test_the_steps_after_which_the_norm_steers(from_first_step, steers):
    law = NormAccumulation(from_first_step=from_first_step)
    moved = []
    for step in range(15):
        state = {REAL_PARTS: 2.0}
        law.after_step(state, step, 3 * law.target(step, 1000) * math.sqrt(1000), 1000)
        moved += [step] if state[REAL_PARTS] != 2.0 else []
    assert moved == steers


def test_without_a_limit_the_number_of_parts_grows_as_the_norm_asks():
    free, limited = NormAccumulation(most=None), NormAccumulation()
    for law, parts in ((free, 1000.0), (limited, 64.0)):
        state = {REAL_PARTS: 20.0}
        law.after_step(state, 9, 99 * law.target(9, 1000) * math.sqrt(1000), 1000)
        assert state[REAL_PARTS] == pytest.approx(parts)
        assert law.factor(state, 0, 10) == parts


def test_the_published_batches_are_options_that_change_no_id_by_default():
    assert identity(LengthGrowth()) == {"start_tokens": 32, "double_every_steps": 80}
    assert identity(NormAccumulation()) == {"every_steps": 5, "gain": 0.1, "most": 64}


def test_the_coin_has_the_mean_of_the_real_number():
    law = NormAccumulation()
    drawn = [law.factor({REAL_PARTS: 2.25}, 7, step) for step in range(4000)]
    assert set(drawn) == {2, 3}
    assert sum(drawn) / 4000 == pytest.approx(2.25, abs=0.03)
    assert law.factor({}, 7, 0) == 1


def test_a_run_grows_rows_and_batches_and_counts_what_it_reads():
    training = make_training("hlb-gpt")
    lengths, parts, tokens, stream = set(), set(), 0, {}
    while not training.finished:
        reads = training.reads()
        assert reads.first_window == stream.get(reads.window_tokens, 0)
        stream[reads.window_tokens] = reads.first_window + reads.windows * reads.parts
        examples = batch_examples(training)
        assert {example.inputs.shape[1] for example in examples} == {reads.window_tokens}
        lengths.add(reads.window_tokens)
        parts.add(reads.parts)
        tokens += reads.windows * reads.parts * reads.window_tokens
        take_step(training)
    assert lengths == {4, 8, 16}
    assert len(parts) > 1, "the number of parts must change for this test to mean something"
    assert training.counters.window_tokens == tokens == training.counters.tokens_scored_ltr
    assert training.recipe_state[WINDOWS_DRAWN] == stream[WINDOW_TOKENS]


def test_rates_follow_the_group_and_decay_follows_the_loss():
    training = make_training("hlb-gpt")
    for _ in range(3):
        take_step(training)
    groups = training.optimizers[0].param_groups
    size = sum(parameter.numel() for parameter in training.model.parameters())
    rate, warm = hlb_learning_rate(size), training.recipe.schedule.factor(2, 50)
    by_rate = {round(group["lr"] / rate / warm, 6) for group in groups}
    assert by_rate == {1.0, 32.0}
    (decaying,) = [group for group in groups if "decay_base" in group]
    before = decaying["weight_decay"]
    loss = training.recipe_state["last_loss_nats"]
    take_step(training)
    assert decaying["weight_decay"] == pytest.approx(16 * hlb_decay_base(size) ** -loss)
    assert decaying["weight_decay"] != before
    assert all(group["weight_decay"] == 0 for group in groups if group is not decaying)


@pytest.mark.parametrize("limit", ["max_tokens_read", "max_ltr_tokens"])
def test_a_run_ends_at_its_token_limit(limit):
    training = make_training("speedrun", **{limit: 1000})
    assert train(training, after_step=lambda report: None)
    counter = {"max_tokens_read": "tokens_read", "max_ltr_tokens": "tokens_scored_ltr"}[limit]
    used = getattr(training.counters, counter)
    assert 1000 <= used < 1000 + 4 * 2 * WINDOW_TOKENS
    assert training.step < 50


def test_the_schedule_ends_with_the_token_limit():
    """A limit that half the steps reach: the rate falls to 0 there, as it would have at the last step."""
    training = make_training("speedrun", steps=50, max_ltr_tokens=25 * 4 * WINDOW_TOKENS)
    factors = []
    train(training, after_step=lambda report: factors.append(report.learning_rate_factor))
    assert len(factors) == 25
    assert factors[0] == 1.0
    assert factors[-1] < 0.1
    assert sorted(factors, reverse=True) == factors


def test_without_growth_nothing_changes():
    reads = [Speedrun(batch_windows=6, micro_batches=2).reads(step, {}, 1, 64) for step in range(3)]
    assert [(r.window_tokens, r.windows, r.parts, r.first_window) for r in reads] == [
        (64, 3, 2, 0),
        (64, 3, 2, 6),
        (64, 3, 2, 12),
    ]
