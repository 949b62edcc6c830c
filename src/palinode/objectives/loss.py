"""The loss of an Example: the weighted sum of nats, for each pass. Large logits are computed in chunks, never all at once.

Logits are the largest tensor when a small model is trained: the logits of 1024 slots at GPT-2's vocabulary take 196 MiB, and three
times as much with their log-softmax and gradient. When the logits are large, the slots go through the head chunk by chunk, and the
gradient of each chunk is computed in the forward pass. The gradient can be computed so early because the loss is a sum: the
backward pass gets one number and only multiplies the gradients by this number. If the head is a matrix (`LinearHead`), the
gradient of this matrix is added up in place, because the matrix has 147 MiB at GPT-2's size.
For a matrix with a `SoftCap` the derivatives of soft-cap and cross-entropy are written out, so that they need one more buffer of
the logits' size and not eight. On a CPU small logits are computed in this way, too.
There are two alternatives. Checkpointing of each chunk costs more: the logits are computed twice, and autograd makes one more
gradient of the head for each chunk. `torch.nn.functional.linear_cross_entropy` does less: it has neither soft-cap nor weights.
The script benchmarks/loss_memory.py measures the memory.
Legend: B rows, T slots, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F

from palinode.base.example import Example
from palinode.base.head import LinearHead, SoftCap

DIRECT_LOGITS = 2**23  # up to 8 million logits (32 MiB of float32) are made at once
CHUNK_LOGITS = 2**22  # more than DIRECT_LOGITS logits are made in chunks of about 4 million logits (16 MiB of float32)
# The factor of DIRECT_LOGITS and CHUNK_LOGITS on a GPU: a GPU needs larger chunks to be busy, and has the memory for them.
GPU_FACTOR = 32
# On a CPU, a head that is a matrix of at most PIECE_VOCABULARY rows makes about a million logits (4 MiB of float32) at once. Pieces
# of 256 KiB, which fit a second-level cache, were slower: 6.6 ms and not 5.1 for 2,048 slots of 259 logits (7.3 through autograd).
PIECE_VOCABULARY, PIECE_LOGITS = 4096, 2**20
LogitsOf = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ScoredLoss:
    """Sums over the scored slots of one part of a batch; the caller adds the sums of all parts and computes means.

    Attributes:
        total: the sum of weight * nats, with a gradient; a total that was computed in chunks has only first derivatives.
        nats_by_group: the sum of weight * nats of each pass, as detached scalars, by group name.
        scored_by_group: the number of slots with a weight other than 0, by group name.
    """

    total: Tensor
    nats_by_group: dict[str, Tensor]
    scored_by_group: dict[str, int]


def weighted_nats(example: Example, hidden: Tensor, logits_of: LogitsOf, chunk_slots: int | None = None) -> ScoredLoss:
    """The loss of (B, T, D) states on the example's targets; slots with weight 0 do not go through the head.

    Args:
        logits_of: the function (slots, D) -> (slots, V), usually `model.logits_map()`; a slot's logits depend only on its state.
        chunk_slots: the number of slots whose logits are in memory at once. Default: all slots if they have at most 8 million
            logits, else so many slots that a chunk has about 4 million logits (on a GPU, both limits are 32 times as large). On
            a CPU, a matrix of at most 4,096 rows makes about a million logits at once.
    """
    weight = example.loss_weight.flatten()
    states, targets = hidden.flatten(0, 1), example.targets.flatten()
    kept = None if bool(weight.all()) else weight.nonzero().flatten()
    if kept is not None:
        states, targets = states[kept], targets[kept]
    total, nats = loss_of_slots(states, targets, weight if kept is None else weight[kept], logits_of, chunk_slots)
    if kept is not None:
        nats = torch.zeros_like(weight, dtype=nats.dtype).index_put((kept,), nats)
    return _by_group(example, total, nats.view(example.targets.shape))


def every_nats(logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """The (B, T) weighted nats of all slots, computed from their (B, T, V) logits.

    Slots with weight 0 are computed too, so that every batch takes the same path through the code.
    """
    return _nats(logits.flatten(0, 1), targets.flatten()).view(targets.shape) * weight


def loss_of_slots(
    states: Tensor, targets: Tensor, weight: Tensor, logits_of: LogitsOf, chunk_slots: int | None
) -> tuple[Tensor, Tensor]:
    """Return two tensors: the sum of the weighted nats, with a gradient, and the (slots,) weighted nats, without a gradient."""
    slots, in_pieces = len(states), _in_pieces(states, logits_of)
    chunk = chunk_slots or _slots_at_once(states, logits_of, in_pieces=in_pieces)
    if slots <= chunk and not in_pieces:
        nats = _nats(logits_of(states), targets) * weight
        return nats.sum(), nats.detach()
    leaves = leaves_of(logits_of, states) if torch.is_grad_enabled() else []
    if leaves or (torch.is_grad_enabled() and states.requires_grad):
        total, terms = _ChunkedTotal.apply(states, targets, weight, logits_of, chunk, *leaves)  # type: ignore[no-untyped-call]
        return total, terms
    terms = _terms(_Chunk(states, targets, weight, None), logits_of, chunk, (), [])
    return terms.sum(), terms


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    """The (slots,) nats of the targets, in float32 or better."""
    return F.cross_entropy(_exact(logits), targets, reduction="none")


class _ChunkedTotal(torch.autograd.Function):
    """The sum of the weighted nats; the forward pass makes the gradients chunk by chunk, the backward pass scales them in place."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, targets: Tensor, weight: Tensor, logits_of: LogitsOf, chunk: int, *leaves: Tensor
    ) -> tuple[Tensor, Tensor]:
        state_gradient = torch.empty_like(states) if states.requires_grad else None
        sums = [torch.zeros_like(leaf) for leaf in leaves]
        terms = _terms(_Chunk(states.detach(), targets, weight, state_gradient), logits_of, chunk, leaves, sums)
        ctx.gradients = (state_gradient, *sums)
        ctx.mark_non_differentiable(terms)
        return terms.sum(), terms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("a chunked loss can be differentiated once: its gradients were handed over, not copied")
        gradients, ctx.gradients = ctx.gradients, None
        state_gradient, *sums = (None if gradient is None else gradient.mul_(upstream) for gradient in gradients)
        return state_gradient, None, None, None, None, *sums


class _Chunk(NamedTuple):
    """A chunk of slots.

    Attributes:
        states: the (slots, D) states.
        targets: the (slots,) target ids.
        weight: the (slots,) weights of the loss.
        gradient: the (slots, D) tensor into which the gradient of the states is written; None if the states need no gradient.
    """

    states: Tensor
    targets: Tensor
    weight: Tensor
    gradient: Tensor | None

    def part(self, first: int, slots: int) -> _Chunk:
        """The chunk of the slots from `first` on."""
        some = slice(first, first + slots)
        into = None if self.gradient is None else self.gradient[some]
        return _Chunk(self.states[some], self.targets[some], self.weight[some], into)

    def nats_and_gradient(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The (slots,) weighted nats, and the (slots, V) gradient of their sum with respect to the logits."""
        log_chances = _exact(logits.detach()).log_softmax(dim=-1)
        column = self.targets[:, None]
        nats = -log_chances.gather(1, column)[:, 0] * self.weight
        gradient = log_chances.exp_().scatter_add_(1, column, log_chances.new_full((len(column), 1), -1.0))
        return nats, gradient.mul_(self.weight[:, None]).to(logits.dtype)


def _terms(whole: _Chunk, logits_of: LogitsOf, chunk: int, leaves: Sequence[Tensor], sums: list[Tensor]) -> Tensor:
    """The (slots,) weighted nats, computed chunk by chunk.

    The function writes the gradient of the states into `whole.gradient`, and adds the gradients of `leaves` to `sums`. Without
    leaves and without `whole.gradient` it computes no gradient.
    """
    parts = [whole.part(first, chunk) for first in range(0, len(whole.states), chunk)]
    dtype = torch.promote_types(whole.states.dtype, torch.float32)
    if (head := _soft_capped(logits_of)) is not None:
        buffers = whole.states.new_empty(2, min(chunk, len(whole.states)), len(head.weight), dtype=dtype)
        nats = [_linear_chunk(part, head, sums, buffers) for part in parts]
    elif sums or whole.gradient is not None:
        nats = [_any_chunk(part, logits_of, leaves, sums) for part in parts]
    else:
        nats = [_nats(logits_of(part.states), part.targets) * part.weight for part in parts]
    return torch.cat(nats) if nats else whole.states.new_zeros(0, dtype=dtype)


def _any_chunk(chunk: _Chunk, logits_of: LogitsOf, leaves: Sequence[Tensor], sums: list[Tensor]) -> Tensor:
    """The (slots,) weighted nats of a chunk, for any head.

    The function writes the gradient of the chunk's states into `chunk.gradient`, and adds the gradients of `leaves` to `sums`.
    """
    states = chunk.states.requires_grad_(chunk.gradient is not None)
    with torch.enable_grad():
        logits = logits_of(states)
    made_by = get_gradient_edge(logits)
    nats, upstream = chunk.nats_and_gradient(logits)
    del logits  # free the logits, so that only one tensor of this size is in memory while the head's gradient is made
    inputs = leaves if chunk.gradient is None else (*leaves, states)
    gradients = list(torch.autograd.grad(made_by, inputs, upstream, retain_graph=True))
    if chunk.gradient is not None:
        chunk.gradient.copy_(gradients.pop())
    for total in reversed(sums):
        total += gradients.pop()
    return nats


def _linear_chunk(chunk: _Chunk, head: _SoftCapped, sums: list[Tensor], buffers: Tensor) -> Tensor:
    """The (slots,) weighted nats of a chunk, for a head that is a matrix; the result is that of `_any_chunk`.

    With z = W x + b, y = cap(z) and p = softmax(y), the nats are -ln p[target], and their gradient by z is (p - onehot) cap'(z).
    The gradient of the matrix is added up in place, so that only one tensor of the matrix's size exists, and not two.

    Args:
        buffers: (2, slots or more, V) numbers that are overwritten: the logits, then their gradient; and what the cap keeps.
    """
    logits, spare = buffers[:, : len(chunk.states)]
    _raw_into(logits, head, chunk.states)
    head.finish.apply_(logits, spare)
    column, weight = chunk.targets[:, None], chunk.weight.to(logits.dtype)
    logits.sub_(logits.amax(dim=1, keepdim=True))
    chosen = logits.gather(1, column)[:, 0]
    total = logits.exp_().sum(dim=1)
    if sums or chunk.gradient is not None:
        logits.mul_((weight / total)[:, None]).scatter_add_(1, column, -weight[:, None])
        head.finish.times_slope_(logits, spare)
        _add_gradients(chunk, head, logits.to(head.weight.dtype), sums)
    nats: Tensor = (total.log_() - chosen) * weight
    return nats


def _raw_into(logits: Tensor, head: LinearHead, states: Tensor) -> None:
    """Write the raw logits of (slots, D) states into (slots, V) numbers in float32 or better."""
    if states.dtype != logits.dtype or head.weight.dtype != logits.dtype:
        logits.copy_(head.raw(states))
    elif head.bias is None:
        torch.mm(states, head.weight.T, out=logits)
    else:
        torch.addmm(head.bias, states, head.weight.T, out=logits)


def _add_gradients(chunk: _Chunk, head: LinearHead, upstream: Tensor, sums: list[Tensor]) -> None:
    """For the (slots, V) gradient `upstream`: add the gradients of matrix and bias to `sums`, and write that of the states."""
    if chunk.gradient is not None:
        torch.mm(upstream, head.weight, out=chunk.gradient)
    totals = iter(sums)
    if head.weight.requires_grad:
        next(totals).addmm_(upstream.T, chunk.states)
    if head.bias is not None and head.bias.requires_grad:
        next(totals).add_(upstream.sum(dim=0))


def _exact(logits: Tensor) -> Tensor:
    """The logits in float32, or in their own dtype if it is more exact."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def leaves_of(logits_of: LogitsOf, states: Tensor) -> list[Tensor]:
    """The parameters of the head that need a gradient.

    For a `LinearHead` these are the matrix and its bias; for another head they are the leaves of the autograd graph of one slot.
    """
    if isinstance(logits_of, LinearHead):
        return [part for part in (logits_of.weight, logits_of.bias) if part is not None and part.requires_grad]
    leaves: list[Tensor] = []
    waiting, seen = [logits_of(states[:1].detach()).grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return leaves


def parameters_read(model: nn.Module, logits_of: LogitsOf, states: Tensor) -> list[str]:
    """The names of the model's parameters that `logits_of` reads: those of the head or tied table, and of norms in `logits_of`."""
    with torch.enable_grad():
        leaves = {id(leaf) for leaf in leaves_of(logits_of, states)}
    return [name for name, parameter in model.named_parameters() if id(parameter) in leaves]


def _in_pieces(states: Tensor, logits_of: LogitsOf) -> bool:
    """Whether the loss is computed with written-out derivatives, however few logits there are."""
    head = _soft_capped(logits_of)
    return head is not None and states.device.type == "cpu" and len(head.weight) <= PIECE_VOCABULARY


class _SoftCapped(LinearHead):
    """A head whose derivative is written out in `_linear_chunk`."""

    finish: SoftCap


def _soft_capped(logits_of: LogitsOf) -> _SoftCapped | None:
    is_one = isinstance(logits_of, LinearHead) and isinstance(logits_of.finish, SoftCap)
    return cast(_SoftCapped, logits_of) if is_one else None


def _slots_at_once(states: Tensor, logits_of: LogitsOf, *, in_pieces: bool) -> int:
    slots, vocab_size = len(states), logits_of(states[:0]).shape[-1]
    if in_pieces:
        return PIECE_LOGITS // vocab_size
    scale = GPU_FACTOR if states.is_cuda else 1
    if slots * vocab_size <= DIRECT_LOGITS * scale:
        return max(1, slots)
    return max(1, CHUNK_LOGITS * scale // vocab_size)


def _by_group(example: Example, total: Tensor, nats: Tensor) -> ScoredLoss:
    """The sums of the (B, T) weighted nats for each pass; passes that have the same name are added up."""
    nats_by_group: dict[str, Tensor] = {}
    scored_by_group: dict[str, int] = {}
    for group, rows in example.by_group():
        part = nats[rows].sum()
        scored = int(example.loss_weight[rows].count_nonzero())
        nats_by_group[group.name] = nats_by_group[group.name] + part if group.name in nats_by_group else part
        scored_by_group[group.name] = scored_by_group.get(group.name, 0) + scored
    return ScoredLoss(total, nats_by_group, scored_by_group)
