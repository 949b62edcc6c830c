"""The draws of the tasks are those of `topk`, bit for bit: the sequences of a seed must stay the same."""

import pytest
import torch

from palinode.base.seeds import generator
from palinode.data.tasks import draws

SHAPES = [(1, 1), (5, 5), (19, 8), (56, 8), (111, 16), (129, 2), (256, 64), (300, 7)]


def few_bits(monkeypatch, bits):
    """Let `torch.randint` keep only the upper bits of 24, as few different numbers are often equal."""
    randint, step = torch.randint, 1 << 24 - bits
    monkeypatch.setattr(
        torch, "randint", lambda *how, **more: randint(*how, **more).div_(step, rounding_mode="floor").mul_(step)
    )


@pytest.mark.parametrize(("pool", "count"), SHAPES)
@pytest.mark.parametrize("bits", [1, 6, 24])
def test_sorted_numbers_are_chosen_as_by_topk(pool, count, bits, monkeypatch):
    """Numbers of few bits are often equal, and only `topk` itself knows the order of equal numbers."""
    few_bits(monkeypatch, bits)
    chosen, drawn = generator(0, "draws"), generator(0, "draws")
    noise = torch.rand(400, pool, generator=drawn)
    noise = (noise * 2**bits).floor() / 2**bits if pool <= 128 else noise
    assert torch.equal(draws._indices_of_largest(400, pool, count, chosen), noise.topk(count, dim=1).indices)
    assert torch.equal(chosen.get_state(), drawn.get_state()), "more or fewer numbers were drawn"
    times = -noise.log() / torch.arange(1, pool + 1)
    assert torch.equal(draws.indices_of_smallest(times, count), times.topk(count, dim=1, largest=False).indices)


@pytest.mark.parametrize(("pool", "count"), SHAPES)
def test_a_subset_ascends_and_no_row_is_no_draw(pool, count):
    chosen = draws.subset(50, count, pool, generator(1, "draws"))
    noise = torch.rand(50, pool, generator=generator(1, "draws"))
    assert torch.equal(chosen, noise.topk(count, dim=1).indices.sort(1).values)
    assert draws.subset(0, count, pool, generator(1, "draws")).shape == (0, count)
