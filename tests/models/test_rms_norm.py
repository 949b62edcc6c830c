"""The written-out RMSNorm has the values, gradients and second derivatives of PyTorch's, also for stacked runs."""

import pytest
import torch
from torch.nn import functional as F

from palinode.base.seeds import generator
from palinode.models.parts.norm import rms_norm


def random(*shape, stream=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(stream, "rms norm"), dtype=dtype)


@pytest.mark.parametrize("shape", [(8,), (5, 8), (3, 5, 8), (1, 1, 1)])
@pytest.mark.parametrize("has_gain", [True, False])
def test_values_and_gradients_are_pytorchs(shape, has_gain):
    x, gain = random(*shape).requires_grad_(), random(shape[-1], stream=1).requires_grad_() if has_gain else None
    inputs, upstream = [x] if gain is None else [x, gain], random(*shape, stream=2)
    theirs = F.rms_norm(x, shape[-1:], gain)
    ours = rms_norm(x, gain)
    assert torch.allclose(ours, theirs, atol=1e-12, rtol=0)
    wanted = torch.autograd.grad(theirs, inputs, upstream)
    for mine, other in zip(torch.autograd.grad(ours, inputs, upstream), wanted, strict=True):
        assert torch.allclose(mine, other, atol=1e-12, rtol=0)
    with torch.no_grad():
        assert torch.allclose(rms_norm(x, gain), ours, atol=1e-12, rtol=0)


@pytest.mark.parametrize("has_gain", [True, False])
def test_second_derivatives(has_gain):
    x, gain = random(2, 3, 4).requires_grad_(), random(4, stream=1).requires_grad_() if has_gain else None
    assert torch.autograd.gradgradcheck(rms_norm, (x, gain))


def test_a_slot_of_zeros_has_finite_gradients():
    x, gain = torch.zeros(2, 4, requires_grad=True), torch.ones(4, requires_grad=True)
    rms_norm(x, gain).sum().backward()
    assert x.grad.isfinite().all()
    assert torch.equal(gain.grad, torch.zeros(4))


def test_half_precision_is_computed_as_pytorch_does():
    x, gain = random(3, 8, dtype=torch.bfloat16).requires_grad_(), random(8, dtype=torch.bfloat16)
    assert torch.equal(rms_norm(x, gain), F.rms_norm(x, (8,), gain))


@pytest.mark.parametrize("dims", [(0, 0), (0, None), (None, 0)])
def test_stacked_runs_have_the_gradients_of_single_runs(dims):
    gains, states = random(4, 8), random(4, 3, 5, 8, stream=1)

    def gradients(gain, x):
        return torch.func.grad(lambda gain, x: rms_norm(x, gain).square().sum(), argnums=(0, 1))(gain, x)

    given = [many if dim == 0 else many[0] for many, dim in zip((gains, states), dims, strict=True)]
    stacked = torch.func.vmap(gradients, in_dims=dims)(*given)
    for run in range(4):
        alone = gradients(*(many[run] if dim == 0 else many for many, dim in zip(given, dims, strict=True)))
        for mine, wanted in zip(stacked, alone, strict=True):
            assert torch.allclose(mine[run], wanted, atol=1e-12, rtol=0)
