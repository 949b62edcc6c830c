"""The batched Muon is torch's Muon, matrix for matrix, with exact orthogonalisation behind it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from palinode.base.seeds import generator
from palinode.models.decoder import gpt2, modern
from palinode.models.described import described
from palinode.models.encoder_decoder import EncoderDecoderConfig
from palinode.models.latent import hlb
from palinode.train import muon
from palinode.train.muon import Muon, orthogonalised
from palinode.train.optim import AdamW, MuonAdamW, optimizer_flops

JORDAN = (3.4445, -4.7750, 2.0315)
CONVERGENT = (2.0, -1.5, 0.5)
SHAPES = [(8, 8), (8, 32), (32, 8), (8, 8), (12, 5), (5, 12), (1, 7)]


def random(*shape, stream=0):
    return torch.randn(*shape, generator=generator(stream, "muon"))


def moved_by(optimizer_class, steps=3, **options):
    parameters = [torch.nn.Parameter(random(*shape, stream=i)) for i, shape in enumerate(SHAPES)]
    optimizer = optimizer_class(parameters, **options)
    for step in range(steps):
        for i, parameter in enumerate(parameters):
            parameter.grad = random(*parameter.shape, stream=100 * step + i)
        optimizer.step()
    return [parameter.detach() for parameter in parameters], optimizer


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.02},
        {"lr": 0.02, "momentum": 0.5, "weight_decay": 0.3},
        {"lr": 0.02, "nesterov": False},
        {"lr": 0.02, "adjust_lr_fn": "match_rms_adamw"},
        {"lr": 0.02, "ns_coefficients": CONVERGENT, "ns_steps": 12},
    ],
)
def test_three_steps_are_those_of_torchs_muon(options):
    """torch works in bfloat16 (relative error 2^-8 a product): the updates agree to a few percent of lr, not better."""
    ours, _ = moved_by(Muon, **options)
    theirs, _ = moved_by(torch.optim.Muon, **options)
    start, _ = moved_by(Muon, steps=0, **options)
    for one, two, first in zip(ours, theirs, start, strict=True):
        assert (one - two).norm() < 0.03 * (two - first).norm()


def test_in_the_same_precision_the_steps_are_the_same(monkeypatch):
    """With torch's casts to bfloat16 taken away, nothing but the order of additions differs."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    ours, _ = moved_by(Muon, lr=0.02)
    theirs, _ = moved_by(torch.optim.Muon, lr=0.02)
    for one, two in zip(ours, theirs, strict=True):
        assert torch.allclose(one, two, atol=1e-6, rtol=0)


def test_a_matrix_moves_the_same_alone_and_in_company(monkeypatch):
    together, _ = moved_by(Muon, lr=0.02)
    monkeypatch.setattr(muon, "AT_ONCE", 1)
    alone, _ = moved_by(Muon, lr=0.02)
    for one, two in zip(together, alone, strict=True):
        assert torch.allclose(one, two, atol=1e-6, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 24), st.integers(0, 40), st.floats(1e-3, 1e3))
def test_convergent_coefficients_give_the_polar_factor_at_any_scale(rows, extra, scale):
    """U diag(values) V^T becomes U V^T, whatever the values (condition number 5 here)."""
    left = torch.linalg.qr(random(rows, rows, stream=rows).double()).Q
    right = torch.linalg.qr(random(rows + extra, rows, stream=rows + extra).double()).Q.mT
    values = torch.linspace(0.2, 1.0, rows, dtype=torch.float64)
    directions = orthogonalised(scale * (left * values @ right)[None], CONVERGENT, 40)[0]
    assert torch.allclose(directions, left @ right, atol=1e-9)


def test_jordans_coefficients_bring_singular_values_near_one_in_five_steps():
    values = torch.linalg.svdvals(orthogonalised(random(3, 32, 64), JORDAN, 5))
    assert values.min() > 0.6
    assert values.max() < 1.25


@pytest.mark.parametrize("coefficients", [JORDAN, CONVERGENT])
@pytest.mark.parametrize("steps", [1, 4, 5, 6, 12])
@pytest.mark.parametrize("shape", [(6, 11), (6, 12), (8, 32), (1, 7)])
def test_the_gram_form_is_the_plain_form(coefficients, steps, shape):
    """The oracle: X <- a X + (b A + c A^2) X with A = X X^T, in float64; one matrix is of rank 1 and one is zero."""
    a, b, c = coefficients
    matrices = random(4, *shape, stream=steps).double()
    matrices[1] = matrices[1, :1].clone() * matrices[1, :, :1].clone()
    matrices[2] = 0
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    assert torch.allclose(orthogonalised(matrices, coefficients, steps), x, atol=1e-10, rtol=0)


def test_rounding_errors_of_lost_directions_stay_small():
    """A matrix of rank 2 has Gram eigenvalues that are rounding errors: after many steps too, no singular value runs away."""
    matrix = (random(16, 2) @ random(2, 64, stream=1))[None]
    exact = orthogonalised(matrix.double(), JORDAN, 5)
    assert torch.allclose(orthogonalised(matrix, JORDAN, 5).double(), exact, atol=1e-4, rtol=0)
    assert torch.linalg.svdvals(orthogonalised(matrix, JORDAN, 25)).max() < 1.25


def test_bfloat16_is_chosen_by_the_options():
    matrices = random(2, 8, 32)
    half = orthogonalised(matrices, JORDAN, 5, precision="bfloat16")
    full = orthogonalised(matrices, JORDAN, 5)
    assert half.dtype == full.dtype == torch.float32
    assert torch.equal(half, half.bfloat16().float())
    assert 1e-4 < (half - full).abs().max() < 0.1
    parameter = torch.nn.Parameter(random(8, 32))
    parameter.grad = random(8, 32, stream=1)
    (muon_alone,) = MuonAdamW(newton_schulz_precision="bfloat16").build({"matrix": [("map", parameter)]})
    assert muon_alone.newton_schulz_precision == "bfloat16"


def test_a_zero_gradient_moves_nothing_but_the_decay():
    parameter = torch.nn.Parameter(torch.ones(3, 4))
    optimizer = Muon([parameter], lr=0.1, weight_decay=0.5)
    parameter.grad = torch.zeros(3, 4)
    optimizer.step()
    assert torch.allclose(parameter, torch.full((3, 4), 0.95))


def test_a_parameter_without_gradient_stays_and_gets_no_state():
    still, moving = torch.nn.Parameter(torch.ones(3, 4)), torch.nn.Parameter(torch.ones(3, 4))
    optimizer = Muon([still, moving], lr=0.1)
    moving.grad = random(3, 4)
    optimizer.step()
    assert torch.equal(still, torch.ones(3, 4))
    assert still not in optimizer.state
    assert list(optimizer.state[moving]) == ["momentum_buffer"]


def test_what_is_not_a_matrix_is_refused_and_so_is_a_closure():
    with pytest.raises(ValueError, match="2D"):
        Muon([torch.nn.Parameter(torch.ones(3))])
    with pytest.raises(ValueError, match="closure"):
        Muon([torch.nn.Parameter(torch.ones(3, 3))]).step(lambda: 0.0)


SHIPPED = {
    "2x64": modern(layers=2, width=64, heads=2),
    "4x128": modern(layers=4, width=128, heads=4),
    "6x256": modern(layers=6, width=256, heads=8),
    "gpt2 4x128": gpt2(layers=4, width=128, heads=4),
    "latent": hlb(),
    "encoder-decoder": EncoderDecoderConfig(),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_counted_flops_are_those_of_pytorchs_counter(name):
    """On the meta device: its tensors have shapes and no numbers, so a step of any size takes milliseconds."""
    roles = described(SHIPPED[name], 259, 128).model.parameter_groups()
    matrices = [torch.nn.Parameter(torch.empty(one.shape, device="meta")) for _, one in roles["matrix"]]
    optimizer = Muon(matrices, lr=0.02)
    assert optimizer.flops_per_step() == 0, "a matrix without a gradient is not moved"
    for matrix in matrices:
        matrix.grad = torch.empty_like(matrix)
    counted = optimizer.flops_per_step()
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    assert counted == counter.get_total_flops() == MuonAdamW().flops_per_step(roles) > 0
    assert AdamW().flops_per_step(roles) == optimizer_flops([torch.optim.SGD(matrices, lr=0.1)]) == 0
    if name == "2x64":
        assert counted == 2 * 220 * 64**3
