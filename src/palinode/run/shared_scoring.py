"""An evaluation that several processes share: process r scores the batches r, r + W, .., and each process gets all slots.

The sums are made from the slots as in one process, in the same order and in float64. Legend: B rows, T slots, W processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from palinode.base.example import Example
from palinode.evaluate.losses import PassBatch, ScoreBatches, ScoredSlots, is_scored, slots_scored_by
from palinode.models.base import LanguageModel
from palinode.train.processes import SharedTraining


def scored_by(shared: SharedTraining) -> ScoreBatches:
    """How the processes of this training score batches. Every process has to score the same batches at the same time."""
    return partial(_score, shared)


def _score(shared: SharedTraining, batches: Iterable[PassBatch]) -> Iterator[tuple[PassBatch, ScoredSlots]]:
    rest = iter(batches)
    while turn := list(itertools.islice(rest, shared.group.count)):
        shared.group.tick()
        yield from _scored_in_turn(shared, turn)
    shared.cut_again()


def _scored_in_turn(shared: SharedTraining, turn: Sequence[PassBatch]) -> Iterator[tuple[PassBatch, ScoredSlots]]:
    """At most W batches with their slots. Each batch is scored by one process."""
    own = shared.group.rank
    if own < len(turn) or shared.parallel == "fsdp2":  # fsdp2: every process makes as many calls, see `called`
        example = turn[own if own < len(turn) else 0].example.to(shared.training.device)
        found = shared.called(_nats_and_hits, example).cpu()
    for rank, batch in enumerate(turn):
        scored = is_scored(batch.example)
        values = found if rank == own else torch.empty(2, *scored.shape, dtype=torch.float64)
        nats, hit = shared.group.sent(values, rank)
        yield batch, ScoredSlots(scored, nats, hit > 0)


def _nats_and_hits(model: LanguageModel, example: Example) -> Tensor:
    """(2, B, T) float64: weight * nats of each slot, and 1 for a right guess."""
    slots = slots_scored_by(model, example)
    return torch.stack([slots.nats.double(), slots.hit.double()])
