"""Linear recurrences over the slots of a row: an elementwise recurrence, and the recurrence of a selective state-space layer.

Rows are cut into about sqrt(T) chunks of sqrt(T) slots. All chunks run in parallel from a state of zero; then the state before each
chunk is added, multiplied by the product of the decays up to each slot. The code makes only products of decays, which never
overflow because decays are in [0, 1]; a cumulative sum would need exp(-sum log decay), which is infinite after a few hundred slots.
The backward pass is the same recurrence from the other end of the row.
Legend: B rows, T slots, E channels, N state numbers for each channel.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from palinode.models.parts.exact import exact_products


def linear_scan(decay: Tensor, added: Tensor, first: Tensor | None = None) -> Tensor:
    """The (B, T, ..) states h_t = decay_t h_(t-1) + added_t after each slot.

    Args:
        decay, added: the decays, in [0, 1], and the inputs, (B, T, ..) each, of the same shape and dtype.
        first: the (B, ..) state before the first slot; by default 0.
    """
    if first is not None and added.shape[1] == 1:
        return torch.addcmul(added, decay, first[:, None])
    h: Tensor = _Scan.apply(decay, added, torch.zeros_like(added[:, 0]) if first is None else first)  # type: ignore[no-untyped-call]
    return h


class _Scan(torch.autograd.Function):
    """The autograd function of `linear_scan`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(decay: Tensor, added: Tensor, first: Tensor) -> Tensor:
        return scanned(decay, torch.cat((added[:, :1] + decay[:, :1] * first[:, None], added[:, 1:]), 1))

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        decay, _, first = inputs
        ctx.save_for_backward(decay, first, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, first, h = ctx.saved_tensors
        added = scanned_back(decay, grads[0])
        before = torch.cat((first[:, None], h[:, :-1]), 1)
        return added * before, added, added[:, 0] * decay[:, 0]


def scanned_back(decay: Tensor, grads: Tensor) -> Tensor:
    """Compute the gradients of `added` from the gradients of the states: g_t = grads_t + decay_(t+1) g_(t+1)."""
    later = torch.cat((decay[:, 1:], torch.zeros_like(decay[:, :1])), 1)
    return scanned(later.flip(1), grads.flip(1)).flip(1)


def scanned(decay: Tensor, added: Tensor) -> Tensor:
    """The (B, T, ..) states of a recurrence that starts at zero; no gradient goes through these states."""
    slots = added.shape[1]
    size = math.isqrt(slots - 1) + 1
    chunks = -(-slots // size)
    decay, added = (_chunked(x, chunks, size) for x in (decay, added))
    products, states = [decay[:, :, 0]], [added[:, :, 0]]
    for slot in range(1, size):
        states.append(torch.addcmul(added[:, :, slot], decay[:, :, slot], states[-1]))
        products.append(decay[:, :, slot] * products[-1])
    carried = [torch.zeros_like(states[-1][:, 0])]
    for chunk in range(chunks - 1):
        carried.append(torch.addcmul(states[-1][:, chunk], products[-1][:, chunk], carried[-1]))
    before = torch.stack(tuple(carried), 1)[:, :, None]
    h = torch.addcmul(torch.stack(tuple(states), 2), torch.stack(tuple(products), 2), before)
    return h.flatten(1, 2)[:, :slots]


def _chunked(x: Tensor, chunks: int, size: int) -> Tensor:
    """Cut rows into chunks, (B, T, ..) -> (B, chunks, size, ..), with zeros after the last slot."""
    missing = chunks * size - x.shape[1]
    if missing:
        x = torch.cat((x, torch.zeros_like(x[:, :1]).expand(-1, missing, *x.shape[2:])), 1)
    return torch.unflatten(x, 1, (chunks, size))


BLOCK_NUMBERS = 1 << 18  # the largest B T E N of a block on a CPU: 1 MiB of float32
# The largest B T E N of a block on a GPU, where each kernel start costs time and memory is large.
BLOCK_NUMBERS_ELSEWHERE = 1 << 26


def selective_scan(
    u: Tensor, step: Tensor, rate: Tensor, into: Tensor, out_of: Tensor, first: Tensor
) -> tuple[Tensor, Tensor]:
    """The (B, T, E) output y, and the (B, E, N) state after the last slot, which has no gradient.

    Args:
        u, step: the inputs and the steps, (B, T, E) each; steps are above 0.
        rate: the rates of decay, (E, N), above 0.
        into, out_of: the weights of the input into the state and of the state into the output, (B, T, N) each.
        first: the (B, E, N) state before the first slot, which gets no gradient.
    """
    y, last = _SelectiveScan.apply(u, step, rate, into, out_of, first)  # type: ignore[no-untyped-call]
    return y, last


class _SelectiveScan(torch.autograd.Function):
    """The autograd function of `selective_scan`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        u: Tensor, step: Tensor, rate: Tensor, into: Tensor, out_of: Tensor, first: Tensor
    ) -> tuple[Tensor, Tensor]:
        outputs, last = [], []
        with exact_products(u):
            for rows in _slices(len(u), u, u.shape[1] * rate.numel()):
                parts = []
                for channels in _slices(len(rate), u, u.shape[1] * rate.shape[1]):
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
            for rows in _slices(len(u), u, u.shape[1] * rate.numel()):
                parts = [
                    _gradients(
                        grads[0][rows, :, channels],
                        (u[rows, :, channels], step[rows, :, channels], rate[channels], into[rows]),
                        out_of[rows],
                        first[rows, channels],
                    )
                    for channels in _slices(len(rate), u, u.shape[1] * rate.shape[1])
                ]
                to_u, to_step, rates, *shared = zip(*parts, strict=True)
                to_rate = to_rate + torch.cat(rates)
                summed = [torch.stack(each).sum(0) for each in shared]
                by_row.append((torch.cat(to_u, -1), torch.cat(to_step, -1), *summed))
        for_u, for_step, for_into, for_out = (torch.cat(each) for each in zip(*by_row, strict=True))
        return for_u, for_step, to_rate, for_into, for_out, None


def _slices(count: int, u: Tensor, numbers_each: int) -> list[slice]:
    """The slices that cover 0..count - 1; each slice has as many items as a block holds, but at least 1."""
    size = max(1, (BLOCK_NUMBERS if u.device.type == "cpu" else BLOCK_NUMBERS_ELSEWHERE) // numbers_each)
    return [slice(start, start + size) for start in range(0, count, size)]


def _states(u: Tensor, step: Tensor, rate: Tensor, into: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """The decays and the states, (B, T, E, N) each."""
    decay = torch.exp(step[..., None] * -rate)
    added = (step * u)[..., None] * into[:, :, None]
    if added.shape[1] == 1:
        return decay, torch.addcmul(added, decay, first[:, None])
    added = torch.cat((torch.addcmul(added[:, :1], decay[:, :1], first[:, None]), added[:, 1:]), 1)
    return decay, scanned(decay, added)


def _gradients(
    to_y: Tensor, read: tuple[Tensor, Tensor, Tensor, Tensor], out_of: Tensor, first: Tensor
) -> tuple[Tensor, ...]:
    """The gradients of u, step, rate, into and out_of for one block."""
    u, step, rate, into = read
    decay, h = _states(u, step, rate, into, first)
    to_h = scanned_back(decay, to_y[..., None] * out_of[:, :, None])
    to_added = (to_h @ into[..., None])[..., 0]
    before = torch.cat((first[:, None], h[:, :-1]), 1)
    to_log = to_h * before * decay  # the gradient of -step rate
    return (
        to_added * step,
        to_added * u - (to_log * rate).sum(-1),
        -(to_log * step[..., None]).sum((0, 1)),
        ((step * u)[:, :, None] @ to_h)[:, :, 0],
        (to_y[:, :, None] @ h)[:, :, 0],
    )
