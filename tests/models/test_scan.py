"""The scan against its definition: values, gradients, lengths around squares, decays of 0 and 1, vmap."""

import pytest
import torch

from palinode.base.seeds import generator
from palinode.models.parts.scan import linear_scan, selective_scan


def noise(name: str, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=generator(0, "scan", name, *shape), dtype=torch.float64)


def by_definition(decay, added, first):
    states, h = [], first
    for slot in range(added.shape[1]):
        h = decay[:, slot] * h + added[:, slot]
        states.append(h)
    return torch.stack(states, 1)


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 5, 8, 9, 10, 15, 16, 17, 50])
def test_equals_the_definition_with_its_gradients(slots):
    inputs = [noise("decay", 2, slots, 3), noise("added", 2, slots, 3) - 0.5, noise("first", 2, 3)]
    inputs = [x.requires_grad_() for x in inputs]
    weight = noise("weight", 2, slots, 3)
    result, wanted = (fn(*inputs) for fn in (linear_scan, by_definition))
    assert torch.allclose(result, wanted, atol=1e-14, rtol=0)
    ours, theirs = (torch.autograd.grad((h * weight).sum(), inputs) for h in (result, wanted))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-12, rtol=0)


def test_without_a_first_state_it_begins_at_zero():
    decay, added = noise("decay", 2, 7, 3), noise("added", 2, 7, 3)
    assert torch.equal(linear_scan(decay, added), linear_scan(decay, added, torch.zeros(2, 3).double()))


def test_fast_decay_over_a_long_row_neither_overflows_nor_lingers():
    """The sum of log decays is -4000 here: exp of it is 0, of its opposite infinite."""
    decay = torch.full((1, 1000, 1), 0.018)
    decay[0, ::7] = 0.0
    h = linear_scan(decay, torch.ones_like(decay))
    assert torch.isfinite(h).all()
    assert torch.allclose(h, by_definition(decay, torch.ones_like(decay), torch.zeros(1, 1)), atol=1e-6)


def test_without_decay_it_is_a_cumulative_sum():
    added = noise("added", 2, 33, 3)
    assert torch.allclose(linear_scan(torch.ones_like(added), added), added.cumsum(1), atol=1e-13)


def test_stacked_runs_scan_together():
    decay, added = noise("decay", 4, 2, 6, 3), noise("added", 4, 2, 6, 3)
    together = torch.vmap(linear_scan)(decay, added)
    assert torch.allclose(together, torch.stack([linear_scan(a, b) for a, b in zip(decay, added, strict=True)]))
    gradient = torch.func.vmap(torch.func.grad(lambda a, b: linear_scan(a, b).square().sum()))(decay, added)
    one = decay[1].clone().requires_grad_()
    linear_scan(one, added[1]).square().sum().backward()
    assert torch.allclose(gradient[1], one.grad)


@pytest.mark.parametrize("slots", [1, 2, 7, 30])
@pytest.mark.parametrize("numbers", [1, 60, 1 << 18])
def test_the_selective_scan_equals_its_definition_in_blocks_of_any_size(slots, numbers, monkeypatch):
    monkeypatch.setattr("palinode.models.parts.scan.BLOCK_NUMBERS", numbers)
    shapes = {"u": (3, slots, 4), "step": (3, slots, 4), "rate": (4, 2), "into": (3, slots, 2), "out": (3, slots, 2)}
    inputs = [noise(name, *shape).requires_grad_() for name, shape in shapes.items()]
    u, step, rate, into, out_of = inputs
    first, weight = noise("first", 3, 4, 2), noise("weight", 3, slots, 4)
    y, last = selective_scan(*inputs, first)
    h = by_definition(torch.exp(-step[..., None] * rate), (step * u)[..., None] * into[:, :, None], first)
    wanted = (h * out_of[:, :, None]).sum(-1)
    assert torch.allclose(y, wanted, atol=1e-13, rtol=0)
    assert torch.allclose(last, h[:, -1], atol=1e-13, rtol=0)
    ours, theirs = (torch.autograd.grad((scanned * weight).sum(), inputs) for scanned in (y, wanted))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-12, rtol=0)


def test_stacked_runs_take_the_selective_scan_together():
    inputs = [noise(name, 3, *shape) for name, shape in {"u": (2, 5, 4), "s": (2, 5, 4), "r": (4, 2)}.items()]
    inputs += [noise(name, 3, 2, 5, 2) for name in ("into", "out")] + [noise("first", 3, 2, 4, 2)]
    together = torch.vmap(torch.func.grad(lambda *args: selective_scan(*args)[0].square().sum()))(*inputs)
    one = [x[1].clone().requires_grad_() for x in inputs]
    selective_scan(*one)[0].square().sum().backward()
    assert torch.allclose(together[1], one[0].grad)
