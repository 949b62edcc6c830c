"""The loss of an Example: the weighted sum of nats, by pass, without ever holding all logits when they are large.

Legend: R rows, S slots, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from palinode.base.example import Example

DIRECT_LOGITS = 2**23  # up to 8 million logits (32 MiB of float32) are made at once
CHUNK_LOGITS = 2**22  # else about 4 million at a time (16 MiB)


@dataclass(frozen=True)
class ScoredLoss:
    """Sums over the scored slots of a batch; dividing is left to whoever knows the whole batch.

    Attributes:
        total: sum of weight * nats, with gradient.
        nats_by_group: the part of each pass in the total, detached scalars, by group name.
        scored_by_group: slots with a weight other than 0, by group name.
    """

    total: Tensor
    nats_by_group: dict[str, Tensor]
    scored_by_group: dict[str, int]


def weighted_nats(
    example: Example, hidden: Tensor, logits_of: Callable[[Tensor], Tensor], chunk_slots: int | None = None
) -> ScoredLoss:
    """Score (R, S, D) states against the example's targets; slots with weight 0 never reach the head.

    Args:
        logits_of: (slots, D) -> (slots, V), usually `model.logits`.
        chunk_slots: slots whose logits exist at once. Default: all while they are at most 8 million numbers, else 4 million
            numbers' worth at a time; the logits of a chunk are then made again in the backward pass.
    """
    weight = example.loss_weight.flatten()
    states, targets = hidden.flatten(0, 1), example.targets.flatten()
    scored = weight.count_nonzero().item()
    if scored == len(weight):
        nats = _nats(states, targets, logits_of, chunk_slots) * weight
    else:
        kept = weight.nonzero().flatten()
        some = _nats(states[kept], targets[kept], logits_of, chunk_slots) * weight[kept]
        nats = torch.zeros(len(weight), dtype=some.dtype, device=some.device).index_put((kept,), some)
    return _by_group(example, nats.view(example.targets.shape))


def _nats(states: Tensor, targets: Tensor, logits_of: Callable[[Tensor], Tensor], chunk_slots: int | None) -> Tensor:
    """(slots,) nats of the targets, float32 or better."""

    def nats_of(some_states: Tensor, some_targets: Tensor) -> Tensor:
        logits = logits_of(some_states)
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(exact, some_targets, reduction="none")

    slots = len(states)
    chunk = chunk_slots or _slots_at_once(slots, logits_of(states[:0]).shape[-1])
    if slots <= chunk:
        return nats_of(states, targets)
    chunks = zip(torch.split(states, chunk), torch.split(targets, chunk), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([nats_of(*pair) for pair in chunks])
    return torch.cat([checkpoint(nats_of, *pair, use_reentrant=False) for pair in chunks])


def _slots_at_once(slots: int, vocab_size: int) -> int:
    return slots if slots * vocab_size <= DIRECT_LOGITS else max(1, CHUNK_LOGITS // vocab_size)


def _by_group(example: Example, nats: Tensor) -> ScoredLoss:
    """The sums of (R, S) weighted nats; passes of one name are added up."""
    nats_by_group: dict[str, Tensor] = {}
    scored_by_group: dict[str, int] = {}
    for group, rows in example.by_group():
        part = nats[rows].detach().sum()
        scored = int(example.loss_weight[rows].count_nonzero())
        nats_by_group[group.name] = nats_by_group[group.name] + part if group.name in nats_by_group else part
        scored_by_group[group.name] = scored_by_group.get(group.name, 0) + scored
    return ScoredLoss(nats.sum(), nats_by_group, scored_by_group)
