"""Norms, MLPs and rotary positions against their formulas written out."""

import math

import pytest
import torch
from torch.nn import functional as F

from palinode.base.seeds import generator
from palinode.models.block import Mlp, hidden_width, relu2
from palinode.models.parts.linear import Norm
from palinode.models.parts.positions import rotary_table


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, "test", *shape), dtype=torch.float64)


@pytest.mark.parametrize("gain", [True, False])
def test_rms_norm_and_its_gradient_equal_the_formula(gain):
    norm = Norm(8, "rms", gain=gain).double()
    weight = normal(8) if gain else torch.ones(8, dtype=torch.float64)
    if gain:
        norm.gain.data.copy_(weight)
    x, upstream = normal(3, 5, 8).requires_grad_(), normal(3, 5, 8)
    wanted = x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float64).eps).sqrt() * weight
    (wanted_gradient,) = torch.autograd.grad(wanted, x, upstream)
    result = norm(x)
    result.backward(upstream)
    assert torch.allclose(result, wanted, atol=1e-13, rtol=0)
    assert torch.allclose(x.grad, wanted_gradient, atol=1e-13, rtol=0)
    if gain:
        normed = (wanted / weight).detach()
        assert torch.allclose(norm.gain.grad, (upstream * normed).sum((0, 1)), atol=1e-13, rtol=0)


@pytest.mark.parametrize(("gain", "shift"), [(True, True), (True, False), (False, False)])
def test_layer_norm_equals_the_formula(gain, shift):
    norm = Norm(8, "layer", gain=gain, shift=shift).double()
    for parameter in norm.parameters():
        parameter.data.copy_(normal(8))
    x = normal(3, 8)
    wanted = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    if norm.gain is not None:
        wanted = wanted * norm.gain
    if norm.shift is not None:
        wanted = wanted + norm.shift
    assert torch.allclose(norm(x), wanted, atol=1e-13, rtol=0)


def test_mlp_activations():
    x = normal(4, 8)
    for kind in ("gelu", "relu2", "swiglu"):
        mlp = Mlp(8, kind, 4.0, bias=True).double()
        for name, parameter in mlp.named_parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator(1, "mlp", kind, name)))
        up = x @ mlp.up.weight.T + mlp.up.bias
        if kind == "gelu":
            active = up * 0.5 * (1 + torch.erf(up / math.sqrt(2)))
        elif kind == "relu2":
            active = up.clamp_min(0) ** 2
        else:
            gate = x @ mlp.gate.weight.T + mlp.gate.bias
            active = gate * gate.sigmoid() * up
        assert torch.allclose(mlp(x), active @ mlp.down.weight.T + mlp.down.bias, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("kind", "mult", "expected"), [("gelu", 4, 512), ("relu2", 3, 384), ("swiglu", 4, 384)])
def test_hidden_width(kind, mult, expected):
    assert hidden_width(128, kind, mult) == expected


def test_relu2_has_autograds_gradients():
    x = normal(5, 8).requires_grad_()
    assert torch.equal(relu2(x), F.relu(x).square())
    assert torch.autograd.gradcheck(relu2, (x,))
    assert torch.autograd.gradgradcheck(relu2, (x,))
    by_row = torch.func.vmap(torch.func.grad(lambda row: relu2(row).sum()))(x.detach())
    assert torch.equal(by_row, 2 * F.relu(x.detach()))


@pytest.mark.parametrize("kind", ["full", "half"])
def test_rotary_keeps_lengths_and_depends_on_distance_only(kind):
    q, k = normal(2, 1, 8).split(1)
    scores = []
    for shift in (0, 5):
        where = torch.tensor([shift, shift + 3])
        table = rotary_table(where, 8, kind, 10_000.0, torch.float64)
        turned_q, turned_k = table.turn(q.expand(2, 1, 8)), table.turn(k.expand(2, 1, 8))
        assert torch.allclose(turned_q.norm(dim=-1), q.norm(dim=-1).expand(2, 1), atol=1e-13)
        scores.append((turned_q[0] * turned_k[1]).sum())
    assert torch.allclose(scores[0], scores[1], atol=1e-12)
    other_way = rotary_table(torch.tensor([3, 0]), 8, kind, 10_000.0, torch.float64)
    assert (other_way.turn(q.expand(2, 1, 8))[0] * other_way.turn(k.expand(2, 1, 8))[1]).sum() != scores[0]


def test_rotary_pairs_and_speeds():
    table = rotary_table(torch.tensor([1]), 8, "full", 10_000.0, torch.float64)
    speeds = 10_000.0 ** -(torch.arange(4, dtype=torch.float64) / 4)
    for pair in range(4):
        x = torch.zeros(1, 1, 8, dtype=torch.float64)
        x[..., pair] = 1.0
        turned = table.turn(x)[0, 0]
        assert turned[pair].item() == pytest.approx(math.cos(speeds[pair]))
        assert turned[pair + 4].item() == pytest.approx(-math.sin(speeds[pair]))
    half = rotary_table(torch.tensor([1]), 16, "half", 10_000.0, torch.float64)
    angles = torch.acos(half.cos[0, 0, :8])
    assert torch.allclose(
        angles, torch.cat((torch.logspace(0, -3, 4, 1024 ** (1 / 3)), torch.zeros(4))).double(), atol=1e-6
    )
