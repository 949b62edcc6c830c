"""Costs, against PyTorch's own counter and against the formulas of the specification."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from palinode.base.seeds import generator
from palinode.base.visibility import FlippedLowerTriangle, Full, Ltr, Prefix
from palinode.models import DecoderConfig, gpt2, modern
from palinode.models.cost import visible_pairs

SMALL = {"layers": 3, "width": 32, "heads": 2}
CONFIGS = {
    "gpt2": gpt2(**SMALL),
    "modern": modern(**SMALL),
    "swiglu": DecoderConfig(**SMALL, mlp="swiglu", mlp_mult=2.0, position="none"),
}
ROWS, SLOTS, VOCABULARY = 2, 24, 50


def counted(model, sees, backward: bool) -> int:
    """PyTorch's count, with attention as plain matrix products: the counter does not know the fused CPU kernel."""
    tokens = torch.randint(0, VOCABULARY, (ROWS, SLOTS), generator=generator(0, "test tokens"))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = model.logits(model.hidden(tokens, sees))
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("sees", [Ltr(), Full()], ids=["causal", "full"])
def test_forward_flops_equal_the_counter(config, sees):
    model = config.build(VOCABULARY, SLOTS, 0)
    assert model.cost(SLOTS, sees).forward_flops(ROWS * SLOTS) == counted(model, sees, backward=False)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_training_flops_equal_the_counter(config):
    model = config.build(VOCABULARY, SLOTS, 0)
    assert model.cost(SLOTS, Ltr()).train_flops(ROWS * SLOTS) == counted(model, Ltr(), backward=True)


def test_useful_flops_count_visible_pairs_only():
    model = gpt2(**SMALL).build(VOCABULARY, SLOTS, 0)
    causal, full = model.cost(SLOTS, Ltr()), model.cost(SLOTS, Full())
    assert full.useful_flops_per_slot == full.executed_flops_per_slot == causal.executed_flops_per_slot
    published_formula = 2 * 12 * 3 * 32**2 + 2 * 3 * 32 * (SLOTS + 1)
    assert causal.useful_flops_per_slot == published_formula
    assert causal.head_flops_per_slot == 2 * 32 * VOCABULARY
    assert causal.state_elements == 2 * 32 * SLOTS * 3


def test_head_is_counted_only_where_it_is_evaluated():
    cost = gpt2(**SMALL).build(VOCABULARY, SLOTS, 0).cost(SLOTS, Ltr())
    assert cost.forward_flops(10, 4) == 10 * cost.executed_flops_per_slot + 4 * cost.head_flops_per_slot
    assert cost.train_flops(10, 4) == 3 * cost.forward_flops(10, 4)


def test_visible_pairs_equal_the_mask():
    for sees in (Ltr(), Full(), Prefix(length_slots=4), FlippedLowerTriangle(size=16)):
        assert visible_pairs(sees, 12) == int(sees.mask(12).sum())


def test_parameters_by_group():
    cost = gpt2(layers=4, width=128, heads=4).build(256, 128, 0).cost(128, Ltr())
    assert cost.total_parameters == 836_736
    assert cost.non_embedding_parameters == 836_736 - 256 * 128 - 128 * 128
