"""The draws of the tasks are those of `topk`, bit for bit: the sequences of a seed must stay the same."""

import pytest
import torch

from palinode.base.seeds import generator
from palinode.data.tasks import draws

SHAPES = [(1, 1), (5, 5), (19, 8), (56, 8), (111, 16), (129, 2), (256, 64), (300, 7)]


@pytest.mark.parametrize(("pool", "count"), SHAPES)
@pytest.mark.parametrize("kinds", [2, 64, 1 << 24])
def test_sorted_numbers_are_chosen_as_by_topk(pool, count, kinds):
    """Few kinds of numbers make equal ones, whose order only `topk` itself knows."""
    noise = torch.rand(400, pool, generator=generator(0, "draws"))
    noise = (noise * kinds).floor() / kinds
    assert torch.equal(draws._indices_of_largest(noise, count), noise.topk(count, dim=1).indices)
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
@pytest.mark.parametrize("kinds", [4, 1 << 24])
def test_numbers_of_several_pools_are_those_of_each_pool_in_turn(pools, count, kinds, monkeypatch):
    """Also where the pools are drawn together, and where few kinds of numbers make equal ones."""
    rand = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *shape, **how: (rand(*shape, **how) * kinds).floor() / kinds)
    together, in_turn = generator(2, "draws"), generator(2, "draws")
    drawn = draws.distinct_of_each(300, count, pools, together)
    expected = [draws.distinct(300, count, pool, in_turn) for pool in pools]
    assert all(torch.equal(*pair) for pair in zip(drawn, expected, strict=True))
    assert torch.equal(together.get_state(), in_turn.get_state()), "more or fewer numbers were drawn"
