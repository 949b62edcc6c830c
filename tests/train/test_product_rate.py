"""The products that are timed are those that a training step computes, and timing them changes nothing of a run."""

import pytest
import torch
from tiny_training import make_training
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from palinode.base.seeds import generator
from palinode.base.visibility import Ltr
from palinode.models import LanguageModel, gpt2, modern
from palinode.models.described import described
from palinode.train import product_rate as module
from palinode.train.checkpoint import weights_sha256
from palinode.train.loop import take_step
from palinode.train.product_rate import (
    LEAST_ROUNDS,
    SHARE_OF_RUN,
    LinearMap,
    Products,
    counted_flops,
    linear_maps,
    micro_batch_slots,
    product_rate,
    products_of,
    rates_of_run,
)

ROWS, SLOTS, VOCABULARY = 2, 24, 50
SMALL = {"layers": 3, "width": 32, "heads": 2}
CPU = torch.device("cpu")


class OwnModel(LanguageModel):
    """A model as a user may write it: one linear layer, and logits that are no `LinearHead`."""

    def __init__(self):
        super().__init__()
        self.table, self.layer, self.out = nn.Embedding(VOCABULARY, 8), nn.Linear(8, 8), nn.Linear(8, VOCABULARY)

    def hidden(self, tokens, sees):
        return self.layer(self.table(tokens))

    def logits(self, hidden):
        return self.out(hidden)


class WithoutMaps(LanguageModel):
    """A model of one table, without any linear map."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, VOCABULARY)

    def logits(self, hidden):
        return hidden


MODELS = {
    "gpt2, whose table of tokens is the head": lambda: gpt2(**SMALL).build(VOCABULARY, SLOTS, 0),
    "modern, without gains": lambda: modern(**SMALL, preset="N").build(VOCABULARY, SLOTS, 0),
    "a user's model": OwnModel,
}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
def test_the_products_of_the_maps_are_those_of_a_step(build):
    """PyTorch's counter sees the products of linear maps as `mm` and `addmm`, and those of attention as other operators.

    It would also count the gradient of a norm's gain, which is a product of a vector with a matrix.
    """
    model = build()
    tokens = torch.randint(0, VOCABULARY, (ROWS, SLOTS), generator=generator(0, "test tokens"))
    with FlopCounterMode(display=False) as counter:
        model.logits(model.hidden(tokens, Ltr())).sum().backward()
    by_operator = counter.get_flop_counts()["Global"]
    counted = sum(by_operator.get(operator, 0) for operator in (torch.ops.aten.mm, torch.ops.aten.addmm))
    maps = linear_maps(model)
    assert counted == ROWS * SLOTS * sum(count * one.flops_per_slot for one, count in maps.items()) > 0


@pytest.mark.parametrize("slots", [5, 100_000])
def test_a_round_computes_the_flops_that_it_says(monkeypatch, slots):
    monkeypatch.setattr(module, "ROUND_FLOPS", 1e7)
    monkeypatch.setattr(module, "LEAST_SLOTS", 8)
    monkeypatch.setattr(module, "MOST_SIDE", 40)
    products = Products(linear_maps(modern(**SMALL).build(VOCABULARY, SLOTS, 0)), slots, CPU)
    assert products.slots <= slots
    with FlopCounterMode(display=False) as counter:
        assert products.rate() > 0
    assert counter.get_total_flops() == products.round_flops <= 1e7


def test_a_map_counts_by_its_flops_in_a_step(monkeypatch):
    """Time does not pass but for the second map, which takes a second for three products: the first one is infinitely fast."""
    maps = {LinearMap(4, 4, torch.float32): 3, LinearMap(4, 8, torch.float32): 2}
    products = Products(maps, 10, CPU)
    ticks = iter([0.0, 0.0, 0.0, 1.0])
    second, of_step = 10 * 6 * 32, 10 * 6 * (3 * 16 + 2 * 32)
    assert products.rate(lambda: next(ticks)) == pytest.approx(of_step / (2 * 1.0))
    assert second < products.round_flops


def test_bfloat16_leaves_the_head_as_it_is():
    maps = linear_maps(modern(**SMALL).build(VOCABULARY, SLOTS, 0), "bfloat16")
    assert {one.outputs for one in maps if one.dtype == torch.float32} == {VOCABULARY}
    assert {one.dtype for one in maps if one.outputs != VOCABULARY} == {torch.bfloat16}


def test_a_description_has_the_maps_of_its_model():
    config = modern(**SMALL)
    assert described(config, VOCABULARY, SLOTS).answer(linear_maps) == linear_maps(config.build(VOCABULARY, SLOTS, 0))


def test_a_model_without_maps_has_no_rate():
    training = make_training("speedrun")
    training.model = WithoutMaps()
    training.counters.train_flops = 1e15
    assert products_of(training) is None
    assert rates_of_run(training, 1.0) == {}


@pytest.mark.parametrize("recipe", ["gpt2-adamw", "hlb-gpt", "speedrun"])
def test_timing_the_products_changes_nothing(recipe):
    torch.manual_seed(5)
    plain, timed = make_training(recipe), make_training(recipe)
    for step in range(4):
        take_step(plain)
        take_step(timed)
        if step == 1:
            before = torch.get_rng_state()
            assert product_rate(products_of(timed), most_rounds=2) > 0
            assert torch.equal(torch.get_rng_state(), before)
    assert weights_sha256(timed.model) == weights_sha256(plain.model)
    assert timed.counters == plain.counters


@pytest.mark.parametrize("recipe", ["gpt2-adamw", "hlb-gpt"])
def test_the_slots_are_those_of_a_micro_batch(recipe):
    training = make_training(recipe)
    assert micro_batch_slots(training) == 1, "before the first step"
    sizes = []
    for _ in range(12):
        read, parts = training.counters.tokens_read, training.reads().parts
        take_step(training)
        sizes.append((training.counters.tokens_read - read) / parts)
    assert min(sizes) <= micro_batch_slots(training) <= max(sizes)


def test_a_short_run_is_not_measured_and_a_longer_one_has_a_share():
    training = make_training("speedrun")
    take_step(training)
    products = products_of(training)
    least_flops = (LEAST_ROUNDS + 1) * products.round_flops / SHARE_OF_RUN
    training.counters.train_flops = 0.99 * least_flops - training.counters.optimizer_flops
    assert rates_of_run(training, 2.0) == {}
    training.counters.train_flops = 1.01 * least_flops - training.counters.optimizer_flops
    assert rates_of_run(training, 0.0) == {}, "no seconds are known"
    rates = rates_of_run(training, 2.0)
    expected = counted_flops(training.counters) / 2.0 / rates["product_flops_per_second"]
    assert rates["product_share"] == pytest.approx(expected)
