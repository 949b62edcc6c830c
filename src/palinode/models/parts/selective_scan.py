"""The recurrence of a selective state-space layer, from its inputs to its outputs, without keeping the states of all slots.

h_t = exp(-step_t rate) h_(t-1) + step_t u_t into_t; y_t = sum over N of out_of_t h_t, for E channels of N numbers each. Channels
are independent, so rows and channels are read in blocks that fit a core's cache, and backward computes the states of each block
again. One layer of E = 128, N = 16, 32 rows of 128 slots, forward and backward on one busy core: 1.02 s with the states of all
slots kept as tensors of 33 MB, .55 s in blocks of 1 MiB (.76 in blocks of 256 KiB, .57 of 4 MiB).
Legend: B rows, T slots, E channels, N numbers of state a channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from palinode.models.parts.exact import exact_products
from palinode.models.parts.scan import scanned, scanned_back

BLOCK_NUMBERS = 1 << 18  # B T E N of a block on a CPU: 1 MiB of float32
BLOCK_NUMBERS_ELSEWHERE = 1 << 26  # on a GPU, where each kernel has to be started and memory is large


def selective_scan(
    u: Tensor, step: Tensor, rate: Tensor, into: Tensor, out_of: Tensor, first: Tensor
) -> tuple[Tensor, Tensor]:
    """(B, T, E) y, and the (B, E, N) state after the last slot, which takes no gradient.

    Args:
        u, step: (B, T, E), the step above 0.
        rate: (E, N), above 0.
        into, out_of: (B, T, N).
        first: (B, E, N) the state before the first slot; it gets no gradient either.
    """
    y, last = _SelectiveScan.apply(u, step, rate, into, out_of, first)  # type: ignore[no-untyped-call]
    return y, last


class _SelectiveScan(torch.autograd.Function):
    """See `selective_scan`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        u: Tensor, step: Tensor, rate: Tensor, into: Tensor, out_of: Tensor, first: Tensor
    ) -> tuple[Tensor, Tensor]:
        outputs, last = [], []
        with exact_products(u):
            for rows in _rows(u, rate):
                parts = []
                for channels in _channels(u, rate):
                    one = step[rows, :, channels]
                    _, h = _states(u[rows, :, channels], one, rate[channels], into[rows], first[rows, channels])
                    parts.append(((h @ out_of[rows, :, :, None])[..., 0], h[:, -1]))
                outputs.append(torch.cat(tuple(y for y, _ in parts), -1))
                last.append(torch.cat(tuple(h for _, h in parts), 1))
        return torch.cat(tuple(outputs)), torch.cat(tuple(last))

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u, step, rate, into, out_of, first = ctx.saved_tensors
        by_row: list[tuple[Tensor, ...]] = []
        to_rate = torch.zeros_like(rate)
        with exact_products(u):
            for rows in _rows(u, rate):
                parts = [
                    _gradients(
                        grads[0][rows, :, channels],
                        (u[rows, :, channels], step[rows, :, channels], rate[channels], into[rows]),
                        out_of[rows],
                        first[rows, channels],
                    )
                    for channels in _channels(u, rate)
                ]
                to_u, to_step, rates, *shared = zip(*parts, strict=True)
                to_rate = to_rate + torch.cat(rates)
                summed = [torch.stack(each).sum(0) for each in shared]
                by_row.append((torch.cat(to_u, -1), torch.cat(to_step, -1), *summed))
        for_u, for_step, for_into, for_out = (torch.cat(each) for each in zip(*by_row, strict=True))
        return for_u, for_step, to_rate, for_into, for_out, None


def _rows(u: Tensor, rate: Tensor) -> Iterator[slice]:
    yield from _slices(len(u), u, u.shape[1] * rate.numel())


def _channels(u: Tensor, rate: Tensor) -> Iterator[slice]:
    yield from _slices(len(rate), u, u.shape[1] * rate.shape[1])


def _slices(count: int, u: Tensor, numbers_each: int) -> Iterator[slice]:
    """Slices that cover 0..count - 1, each with as many items as a block holds, at least 1."""
    size = max(1, (BLOCK_NUMBERS if u.device.type == "cpu" else BLOCK_NUMBERS_ELSEWHERE) // numbers_each)
    yield from (slice(start, start + size) for start in range(0, count, size))


def _states(u: Tensor, step: Tensor, rate: Tensor, into: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T, E, N) decays and states."""
    decay = torch.exp(step[..., None] * -rate)
    added = (step * u)[..., None] * into[:, :, None]
    if added.shape[1] == 1:
        return decay, torch.addcmul(added, decay, first[:, None])
    added = torch.cat((torch.addcmul(added[:, :1], decay[:, :1], first[:, None]), added[:, 1:]), 1)
    return decay, scanned(decay, added)


def _gradients(
    to_y: Tensor, read: tuple[Tensor, Tensor, Tensor, Tensor], out_of: Tensor, first: Tensor
) -> tuple[Tensor, ...]:
    """Gradients for u, step, rate, into and out_of of one block."""
    u, step, rate, into = read
    decay, h = _states(u, step, rate, into, first)
    to_h = scanned_back(decay, to_y[..., None] * out_of[:, :, None])
    to_added = (to_h @ into[..., None])[..., 0]
    before = torch.cat((first[:, None], h[:, :-1]), 1)
    to_log = to_h * before * decay  # for -step rate
    return (
        to_added * step,
        to_added * u - (to_log * rate).sum(-1),
        -(to_log * step[..., None]).sum((0, 1)),
        ((step * u)[:, :, None] @ to_h)[:, :, 0],
        (to_y[:, :, None] @ h)[:, :, 0],
    )
