"""Cycles of relations against powers of their matrices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palinode.base.contract import is_acyclic


def by_powers(relation):
    """A relation has no cycles if some power of its matrix is zero."""
    power = relation.double()
    for _ in range(len(relation)):
        power = (power @ relation.double()).clamp_max(1)
    return not bool(power.any())


@settings(derandomize=True, deadline=None)
@given(tokens=st.integers(1, 7), density=st.sampled_from([0.05, 0.2, 0.4]), seed=st.integers(0, 10**6))
def test_cycles_are_those_of_the_powers_of_the_matrix(tokens, density, seed):
    rng = torch.Generator().manual_seed(seed)
    relation = torch.rand(tokens, tokens, generator=rng) < density
    assert is_acyclic(relation) == by_powers(relation)
    order = torch.randperm(tokens, generator=rng)
    assert is_acyclic(relation.triu(1)[order][:, order])


@pytest.mark.parametrize("reach", [1, 3, 8])
def test_a_window_that_slides_in_either_direction_has_no_cycle(reach):
    index = torch.arange(8)
    near = (index[:, None] - index).abs() <= reach
    assert is_acyclic(near.triu(1))
    assert is_acyclic(near.tril(-1))
    assert not is_acyclic(near.triu(1) | near.tril(-1))
    assert is_acyclic(torch.zeros(0, 0, dtype=torch.bool))
