"""Runs trained together end as they would alone, whatever differs between them: steps, rates, shapes, divergence, interruptions."""

from typing import ClassVar

import pytest
import torch
from tiny_training import WINDOW_TOKENS, make_training

from palinode.base.example import Draw, joined
from palinode.models.decoder import DecoderConfig, gpt2
from palinode.models.mixers.state_space import H3Config
from palinode.objectives import ChooseObjective, LtrObjective, MaskedObjective
from palinode.objectives.probability import Constant
from palinode.train.loop import DivergedError, take_step
from palinode.train.optim import AdamW, build_optimizers
from palinode.train.recipe import Gpt2AdamW
from palinode.train.schedule import Cosine
from palinode.train.stacked import train_together

SMALL = gpt2(layers=2, width=16, heads=2)
MASKED = MaskedObjective(rate=0.3, hide_answers=False)
RATES = (3e-3, 1e-2, 3e-2)
LOSS = 1e-4  # a loss of 3 nats after ten steps of rounding that differs in the last bits


def member(seed, steps=10, rate=1e-2, objective=None, config=SMALL):
    training = make_training("gpt2-adamw", seed)
    model = config.build(training.specials.vocab_size, WINDOW_TOKENS, seed)
    training.recipe = Gpt2AdamW(
        steps=steps, batch_windows=4, schedule=Cosine(warmup_steps=2), optimizer=AdamW(learning_rate=rate)
    )
    training.model = model.train()
    training.optimizers = build_optimizers(training.recipe.optimizer, model, model.parameter_groups())
    training.objective = objective or LtrObjective()
    training.objective_state = training.objective.state()
    return training


def alone(training):
    losses = []
    while not training.finished:
        losses.append(take_step(training).nats_by_group)
    return losses


def together(members, should_stop=lambda: False):
    losses = [[] for _ in members]
    ends = train_together(
        members, after_step=lambda i, report: losses[i].append(report.nats_by_group), should_stop=should_stop
    )
    return losses, ends


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert one == pytest.approx(other, abs=LOSS)


def test_seeds_and_rates_of_their_own():
    losses, ends = together([member(seed, rate=rate) for seed, rate in enumerate(RATES)])
    assert ends == [True] * 3
    for seed, rate in enumerate(RATES):
        assert_same(losses[seed], alone(member(seed, rate=rate)))
    assert len({round(result[-1]["ltr"], 3) for result in losses}) == 3


def test_the_counters_are_those_of_separate_runs():
    members, other = [member(seed) for seed in range(2)], member(1)
    together(members)
    alone(other)
    assert members[1].counters == other.counters


def test_the_weights_stay_each_runs_own():
    """What a run saves is its own storage's content, and its optimizer moves nobody else's."""
    members = [member(seed) for seed in range(3)]
    together(members)
    before = [parameter.detach().clone() for parameter in members[1].model.parameters()]
    members[0].recipe = members[0].recipe.with_(steps=12)
    alone(members[0])
    assert all(torch.equal(a, b) for a, b in zip(before, members[1].model.parameters(), strict=True))


def test_runs_of_different_lengths_leave_when_they_end():
    losses, ends = together([member(0, steps=4), member(1), member(2, steps=7)])
    assert ends == [True] * 3
    assert [len(result) for result in losses] == [4, 10, 7]
    assert_same(losses[1], alone(member(1)))


def test_one_that_was_further_on_waits_for_the_others():
    ahead, behind = member(0), member(1)
    for _ in range(3):
        take_step(ahead)
    losses, ends = together([ahead, behind])
    assert ends == [True, True]
    assert_same(losses[0], alone(member(0))[3:])
    assert_same(losses[1], alone(member(1)))


def test_one_diverges_and_the_others_go_on():
    members = [member(seed) for seed in range(3)]
    with torch.no_grad():
        next(members[1].model.parameters()).fill_(float("nan"))
    losses, ends = together(members)
    assert ends[0] is True
    assert ends[2] is True
    assert isinstance(ends[1], DivergedError)
    assert ends[1].step == 0
    assert losses[1] == []
    assert_same(losses[2], alone(member(2)))


def test_an_end_that_is_asked_for_comes_between_steps():
    members = [member(0, steps=3), member(1)]
    losses, ends = together(members, should_stop=lambda: members[1].step >= 5)
    assert ends == [True, False]
    assert members[1].step == 5
    rest, ends = together([members[1], member(2)])
    assert_same(losses[1] + rest[0], alone(member(1)))


class MaskedLater(LtrObjective):
    """Left to right, and from step 3 on a second pass that reads both sides."""

    kind: ClassVar[str] = "masked-later"

    def draw(self, batch, window_tokens, generator, progress):
        drawn = MASKED.draw(batch, window_tokens, generator, progress)
        return Draw({**drawn.decisions, "begun": torch.full((batch,), progress.step >= 3)})

    def example(self, windows, draw, specials):
        ltr = super().example(windows, Draw(), specials)
        return joined([ltr, MASKED.example(windows, draw, specials)]) if draw["begun"].any() else ltr

    def groups(self):
        return ("ltr", *MASKED.groups())


def test_what_a_later_pass_reads_is_trained_from_then_on():
    """The weights for what comes after a slot have no gradient before: no Adam moves them, and no decay."""
    two_sided = DecoderConfig(layers=1, width=16, heads=2, position="none", mixer=H3Config(two_sided=True))
    members = [member(seed, objective=MaskedLater(), config=two_sided) for seed in range(2)]
    other = member(0, objective=MaskedLater(), config=two_sided)
    untouched = {name: weight.detach().clone() for name, weight in other.model.named_parameters() if "future" in name}
    together(members)
    alone(other)
    same = dict(members[0].model.named_parameters())
    assert untouched
    for name, weight in other.model.named_parameters():
        assert torch.allclose(weight, same[name], atol=1e-3), name
        if name in untouched:
            assert float((same[name] - untouched[name]).detach().norm()) > 1e-2, name


def test_models_with_buffers_are_refused_as_what_a_pass_writes_there_would_be_lost():
    members = [member(seed) for seed in range(2)]
    for training in members:
        training.model.register_buffer("mean", torch.zeros(16))
    with pytest.raises(RuntimeError, match="mean"):
        together(members)


def test_passes_of_different_shapes_are_read_alone_and_then_to_the_bit():
    """`choose` draws how many rows each pass has: two runs rarely agree."""
    choose = ChooseObjective(p=Constant(p=0.5), granularity="row")
    losses, _ = together([member(seed, objective=choose) for seed in range(2)])
    expected = [alone(member(seed, objective=choose)) for seed in range(2)]
    assert_same(losses[0], expected[0])
    assert any(one == other for one, other in zip(losses[0], expected[0], strict=True))


def test_dropout_is_refused_as_every_run_draws_its_own():
    with pytest.raises(RuntimeError, match="random"):
        together([member(seed, config=SMALL.with_(dropout=0.1)) for seed in range(2)])
