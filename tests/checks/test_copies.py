"""Copies for measuring: float64 to the core, every path open, nothing of the original touched."""

import copy
import hashlib

import pytest
import torch
from small_stacks import SmallStack
from test_planted_defects import stack
from torch import nn
from torch.nn import functional as F

from palinode.base.seeds import generator
from palinode.checks.copies import (
    double_copy,
    exact_arithmetic,
    randomised_copy,
    rounding_noise,
    seeded_passes,
    trainable_copy,
)


def hash_of(module: nn.Module) -> str:
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in module.state_dict().values())).hexdigest()


class Caster(nn.Module):
    """Casts down in all the ways that models do."""

    def __init__(self, way: str):
        super().__init__()
        self.way = way
        self.linear = nn.Linear(4, 4)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-0.5, 0.5, generator=generator(2, "test"))

    def forward(self, x):
        x = self.linear(x)
        if self.way == "float()":
            return x.float().exp()
        if self.way == "to(dtype)":
            return x.to(torch.float32).exp()
        if self.way == "to(dtype=)":
            return x.to(dtype=torch.bfloat16).exp()
        if self.way == "softmax dtype":
            return F.softmax(x, -1, dtype=torch.float32)
        if self.way == "factory":
            out = torch.zeros(x.shape)
            out[:] = x
            return out
        raise AssertionError(self.way)


@pytest.mark.parametrize("way", ["float()", "to(dtype)", "to(dtype=)", "softmax dtype", "factory"])
def test_casts_down_are_undone(way):
    module = double_copy(Caster(way))
    # As many values as a window has logits: of a dozen, float32 can round every second difference to exactly 0.
    x = torch.randn(256, 4, dtype=torch.float64, generator=generator(0, "test"))
    with torch.no_grad():
        lowered = module(x)
        with exact_arithmetic():
            exact = module(x)
            noise = rounding_noise(lambda m: m(x), module, generator(1, "test"))
        coarse = rounding_noise(lambda m: m(x).double(), module, generator(1, "test"))
    assert lowered.dtype != torch.float64
    assert exact.dtype == torch.float64
    assert noise < 1e-12
    assert coarse > 1e-10


def test_the_default_dtype_is_put_back_even_after_an_error():
    with pytest.raises(RuntimeError), exact_arithmetic():
        raise RuntimeError("inside")
    assert torch.get_default_dtype() == torch.float32
    assert torch.zeros(1).dtype == torch.float32


def test_nothing_stays_zero_and_the_original_is_untouched():
    module = stack()
    nn.init.zeros_(module.head.weight)
    before = hash_of(module)
    opened = randomised_copy(module, 1.0, generator(0, "test"))
    assert hash_of(module) == before
    assert all(p.dtype == torch.float64 and (p != 0).all() for p in opened.parameters())
    assert float(opened.embedding.weight.detach().std()) == pytest.approx(1.0, rel=0.1)
    assert float(opened.head.weight.detach().std()) == pytest.approx(32**-0.5, rel=0.1)
    assert float(opened.head.bias.detach().mean()) == pytest.approx(1.0, abs=0.1)


def test_gain_scales_matrices_alone():
    module = stack()
    one, four = (randomised_copy(module, gain, generator(0, "test")) for gain in (1.0, 4.0))
    assert torch.allclose(4 * one.head.weight, four.head.weight)
    assert torch.equal(one.embedding.weight, four.embedding.weight)
    assert torch.equal(one.head.bias, four.head.bias)


def test_tied_weights_stay_tied():
    module = stack()
    module.head.weight = module.embedding.weight
    opened = randomised_copy(module, 1.0, generator(0, "test"))
    assert opened.head.weight is opened.embedding.weight


class Filter(nn.Module):
    def __init__(self):
        super().__init__()
        self.taps = nn.Parameter(torch.zeros(8))

    def open_for_audit(self, gain, rng):
        with torch.no_grad():
            self.taps.fill_(gain)


def test_a_submodule_may_open_itself():
    assert torch.equal(randomised_copy(Filter(), 4.0, generator(0, "test")).taps, torch.full((8,), 4.0).double())


class Dropping(nn.Module):
    def __init__(self, how: str):
        super().__init__()
        self.linear, self.module_dropout, self.how = nn.Linear(8, 8), nn.Dropout(0.5), how

    def forward(self, x):
        x = self.linear(x)
        if self.how == "module":
            return self.module_dropout(x)
        if self.how == "function":
            return F.dropout(x, 0.5, self.training)
        q = x[None, None]
        if self.how == "attention, positional":
            return F.scaled_dot_product_attention(q, q, q, None, 0.5)
        return F.scaled_dot_product_attention(q, q, q, dropout_p=0.5)


@pytest.mark.parametrize("how", ["module", "function", "attention", "attention, positional"])
def test_dropout_is_off_unless_it_is_asked_for(how):
    module = double_copy(Dropping(how)).train()
    x = torch.randn(5, 8, dtype=torch.float64, generator=generator(0, "test"))

    def passes(dropout: bool):
        result = []
        for seed in range(2):
            with torch.no_grad(), exact_arithmetic(dropout=dropout), seeded_passes(seed, "test"):
                result.append(module(x))
        return result

    assert torch.equal(*passes(dropout=False))
    assert not torch.equal(*passes(dropout=True))


def test_seeded_passes_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    with seeded_passes(0, "test"):
        first = torch.rand(3)
    with seeded_passes(0, "test"):
        again = torch.rand(3)
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_trainable_copy_learns_from_open_weights_and_a_closed_head():
    module = SmallStack(43, [])
    before = copy.deepcopy(module.state_dict())
    started = trainable_copy(module, 43, generator(0, "test"))
    assert (started.head.weight == 0).all()
    assert float(started.embedding.weight.detach().std()) == pytest.approx(32**-0.5, rel=0.1)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
