"""The recurrence h_t = decay_t h_(t-1) + added_t, elementwise, for every slot of a row.

Rows are cut into about sqrt(T) chunks of sqrt(T) slots. All chunks run in parallel from a state of zero; then the state before each
chunk is added, times the product of the decays since. The code makes only products of decays: with decays in [0, 1] these vanish
and never overflow, whereas exp(-sum log decay), which a cumulative sum needs, is infinite after a few hundred slots. Backward is
the same recurrence from the other end and keeps only decay and h.
Legend: B rows, T slots.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


def linear_scan(decay: Tensor, added: Tensor, first: Tensor | None = None) -> Tensor:
    """(B, T, ..) states after each slot.

    Args:
        decay, added: (B, T, ..), of one shape and dtype; decays in [0, 1].
        first: (B, ..) the state before the first slot, 0 by default.
    """
    if first is not None and added.shape[1] == 1:
        return torch.addcmul(added, decay, first[:, None])
    h: Tensor = _Scan.apply(decay, added, torch.zeros_like(added[:, 0]) if first is None else first)  # type: ignore[no-untyped-call]
    return h


class _Scan(torch.autograd.Function):
    """See `linear_scan`."""

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
    """Gradients of `added` from the gradients of the states: g_t = grads_t + decay_(t+1) g_(t+1)."""
    later = torch.cat((decay[:, 1:], torch.zeros_like(decay[:, :1])), 1)
    return scanned(later.flip(1), grads.flip(1)).flip(1)


def scanned(decay: Tensor, added: Tensor) -> Tensor:
    """The states (B, T, ..) from a state of zero; no gradient goes through them."""
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
    """(B, T, ..) -> (B, chunks, size, ..), zeros after the last slot."""
    missing = chunks * size - x.shape[1]
    if missing:
        x = torch.cat((x, torch.zeros_like(x[:, :1]).expand(-1, missing, *x.shape[2:])), 1)
    return torch.unflatten(x, 1, (chunks, size))
