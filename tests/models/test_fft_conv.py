"""Convolutions against a double loop, at every length that has gone wrong somewhere: T < C, T = C, and around powers of two."""

import pytest
import torch

from palinode.base.seeds import generator
from palinode.models.parts.fft_conv import KeptInputs, ShortConv, conv_flops, convolve, fast_length

LENGTHS = [1, 2, 3, 5, 7, 15, 16, 17, 31, 32, 33]
TAPS = 33
WIDTH = 3


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, "conv", *shape), dtype=torch.float64).to(dtype)


def summed(u: torch.Tensor, past: torch.Tensor, future: torch.Tensor | None = None) -> torch.Tensor:
    """The definition, term by term; taps that are missing are 0."""
    y = torch.zeros_like(u)
    for i in range(u.shape[-1]):
        for j in range(u.shape[-1]):
            kernel, lag = (past, i - j) if j <= i else (future, j - i - 1)
            if kernel is not None and lag < kernel.shape[-1]:
                y[..., i] += kernel[..., lag] * u[..., j]
    return y


@pytest.mark.parametrize("taps", [1, 4, TAPS])
@pytest.mark.parametrize("slots", LENGTHS)
def test_both_forms_equal_their_sums(slots, taps):
    u, past, future = noise(2, WIDTH, slots), noise(WIDTH, taps), noise(2, WIDTH, taps)[1]
    assert (convolve(u, past) - summed(u, past)).abs().max() < 1e-12
    assert (convolve(u, past, future) - summed(u, past, future)).abs().max() < 1e-12


@pytest.mark.parametrize("slots", [2, 31, 32, 33])
def test_the_future_does_not_reach_the_past_by_value_or_gradient(slots):
    u, kernel = noise(1, WIDTH, slots).requires_grad_(), noise(WIDTH, TAPS)
    jacobian = torch.autograd.functional.jacobian(lambda x: convolve(x, kernel), u)[0, :, :, 0]
    flow = jacobian.abs().amax((0, 2))
    later = torch.ones(slots, slots, dtype=torch.bool).triu(1)
    assert flow[later].max() < 1e-13
    assert flow[~later].min() > 1e-3


@pytest.mark.parametrize("wrong", [lambda u, k: (u.shape[-1], k), lambda u, k: (fast_length(2 * u.shape[-1]), k)])
def test_what_the_cut_and_the_padding_are_for(wrong):
    """Too few points wrap the end into the start (M12); so does the whole kernel where points are made for the row alone."""
    u, kernel = noise(1, WIDTH, 17), noise(WIDTH, 2 * TAPS)
    points, taps = wrong(u, kernel)
    folded = taps[:, :points] if points == 17 else taps
    y = torch.fft.irfft(torch.fft.rfft(u, points) * torch.fft.rfft(_wrapped(folded, points), points), points)[..., :17]
    assert (y - summed(u, kernel)).abs().max() > 0.1


def _wrapped(kernel: torch.Tensor, points: int) -> torch.Tensor:
    """A kernel longer than the transform, folded as a circle folds it."""
    short = torch.nn.functional.pad(kernel, (0, -kernel.shape[-1] % points))
    return short.unflatten(-1, (-1, points)).sum(-2)


def test_kernels_broadcast_over_rows_and_groups():
    u, kernel = noise(2, 4, 1, 9), noise(4, 5, 9)
    assert torch.allclose(convolve(u, kernel), summed(u.expand(2, 4, 5, 9).clone(), kernel), atol=1e-12)


def test_transforms_are_float32_under_autocast_and_the_dtype_is_kept():
    u, kernel = noise(2, WIDTH, 31), noise(WIDTH, TAPS)
    coarse = u.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = convolve(coarse, kernel.float())
        assert convolve(u.float(), kernel.float()).dtype == torch.float32
    assert y.dtype == torch.bfloat16
    exact = summed(coarse.double(), kernel)
    assert ((y - exact).abs() <= 2**-8 * exact.abs() + 1e-4).all()  # one rounding, at the end
    assert convolve(coarse, kernel.float(), kernel.float()).dtype == torch.bfloat16
    assert convolve(coarse, kernel).dtype == torch.bfloat16


@pytest.mark.parametrize("slots", [128, 1024])
def test_float32_is_as_exact_as_a_float32_transform_can_be(slots):
    u, kernel = noise(1, 2, slots), noise(2, slots)
    error = convolve(u.float(), kernel.float()) - convolve(u, kernel)
    assert error.abs().max() < {128: 2e-5, 1024: 1e-4}[slots]


def test_gradients_are_those_of_the_sums():
    u, past, future = (x.requires_grad_() for x in (noise(2, WIDTH, 9), noise(WIDTH, TAPS), noise(2, WIDTH, TAPS)[0]))
    upstream = noise(2, WIDTH, 9)
    fast = torch.autograd.grad(convolve(u, past, future), (u, past, future), upstream)
    slow = torch.autograd.grad(summed(u, past, future), (u, past, future), upstream)
    assert all(torch.allclose(one, other, atol=1e-11) for one, other in zip(fast, slow, strict=True))


def test_fast_lengths_are_even_smooth_and_never_too_short():
    assert [fast_length(n) for n in (1, 2, 7, 11, 62, 64, 66, 2048, 2050)] == [2, 2, 8, 12, 64, 64, 72, 2048, 2160]
    assert all(n <= fast_length(n) <= max(2, 1.35 * n) for n in range(1, 2000))
    assert conv_flops(128) == 86.0


@pytest.mark.parametrize("taps", [12, 14, TAPS])
@pytest.mark.parametrize("chunks", [[12], [1] * 12, [5, 1, 1, 3, 2]])
def test_reading_on_equals_one_pass(chunks, taps):
    u, kernel = noise(2, WIDTH, 12), noise(WIDTH, taps)
    state, parts = KeptInputs.empty(kernel, 2, WIDTH), []
    for part in u.split(chunks, -1):
        y, state = state.extend(part)
        parts.append(y)
    assert (torch.cat(parts, -1) - convolve(u, kernel)).abs().max() < 1e-12
    assert state.filled == 12


def short(taps: int) -> ShortConv:
    conv = ShortConv(WIDTH, taps).double()
    with torch.no_grad():
        for name, parameter in conv.named_parameters():
            conv.start(name, parameter, generator(0, "short", name))
    return conv


@pytest.mark.parametrize("taps", [1, 3, 5])
@pytest.mark.parametrize("slots", [1, 2, 3, 7, 12])
def test_short_convolutions_equal_their_sums(slots, taps):
    conv, x = short(taps), noise(2, slots, WIDTH)
    half = (taps - 1) // 2
    for native, ahead in (("causal", 0), ("full", half)):
        wanted = torch.zeros_like(x) + conv.bias
        for i in range(slots):
            for tap in range(taps):
                if 0 <= (j := i + ahead - tap) < slots:
                    wanted[:, i] += conv.taps[:, tap] * x[:, j]
        assert torch.allclose(conv(x, native), wanted, atol=1e-14)
    assert conv.taps.abs().max() <= taps**-0.5


@pytest.mark.parametrize("chunks", [[1] * 7, [2, 5], [4, 1, 1, 1]])
def test_short_convolutions_read_on(chunks):
    conv, x = short(5), noise(2, 7, WIDTH)
    last, parts = conv.begin(2), []
    for part in x.split(chunks, 1):
        y, last = conv.extend(part, last)
        parts.append(y)
    assert torch.allclose(torch.cat(parts, 1), conv(x), atol=1e-14)
    assert last[0].numel() == conv.state_elements()
