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


@pytest.mark.parametrize(
    ("pools", "count"), [((19, 20), 8), ((8, 20), 8), ((128, 127), 40), ((19, 40), 8), ((5, 6), 3), ((300, 200), 80)]
)
@pytest.mark.parametrize("bits", [2, 24])
def test_numbers_of_several_pools_are_those_of_each_pool_in_turn(pools, count, bits, monkeypatch):
    """Pools are drawn together or one by one; with numbers of few bits, many rows have equal numbers."""
    if bits < 24 and count > 3 and max(pools) <= 4 * count:  # elsewhere numbers of few bits would not end
        few_bits(monkeypatch, bits)
    together, in_turn = generator(2, "draws"), generator(2, "draws")
    drawn = draws.distinct_of_each(300, count, pools, together)
    expected = torch.stack([draws.distinct(300, count, pool, in_turn) for pool in pools])
    assert torch.equal(drawn, expected)
    assert torch.equal(together.get_state(), in_turn.get_state()), "more or fewer numbers were drawn"
