"""What a run keeps of its last evaluation besides the scores: what the nats are about, and the scores of each document.

Each target counts for the unit of text that it stands in: a document, a block of a text without documents, or a sequence of a task.
All passes and all arms that read the same windows have the same units, also where a pass scores no token of a unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palinode.data.document_starts import Units
from palinode.evaluate.losses import PassBatch, ScoredSlots
from palinode.evaluate.scored import ScoredTextOf
from palinode.objectives import Objective
from palinode.results.documents import MOST_UNITS, DocumentNats
from palinode.results.scored import ScoredText

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Details:
    """The details of an evaluation of one split, by pass. Windows that are too long to be judged have no entry in `scored`."""

    scored: Mapping[str, ScoredText]
    documents: Mapping[str, DocumentNats]


class DetailsOf:
    """Collects the details of an evaluation while `evaluate` scores its batches.

    Args:
        passes: the passes of the evaluation.
        units: the units of text of the split.
    """

    def __init__(self, passes: Mapping[str, Objective], units: Units):
        self._scored = {name: ScoredTextOf(objective) for name, objective in passes.items()}
        self._documents = {name: _DocumentSums(units) for name in passes}

    def add(self, batch: PassBatch, slots: ScoredSlots) -> None:
        """Add one batch of one pass; an argument `observe` of `evaluate`."""
        self._scored[batch.name].add(batch)
        self._documents[batch.name].add(batch, slots)

    def result(self) -> Details:
        """The details of all batches. A pass that scored no token has none."""
        documents = {name: sums.result() for name, sums in self._documents.items()}
        kept = {name: found for name, found in documents.items() if found is not None and found.tokens.any()}
        scored = {name: about for name, of in self._scored.items() if name in kept and (about := of.result())}
        return Details(scored, kept)


class _DocumentSums:
    """The sums over the scored targets of one pass, for each unit that a window reads."""

    def __init__(self, units: Units):
        self._units = units
        self._read: list[NDArray[np.int64]] = []  # for each batch, the units that its windows read
        self._sums: list[tuple[NDArray[np.int64], Array]] = []  # for each batch, units and (tokens, nats, hits) of each

    def add(self, batch: PassBatch, slots: ScoredSlots) -> None:
        """Add the windows of one batch. Windows without a place in the split are left out."""
        if batch.windows.starts is None:
            return
        starts, length = batch.windows.starts.numpy(), batch.windows.tokens.shape[1]
        first, last = self._units.of_tokens(starts), self._units.of_tokens(starts + length - 1)
        read = [np.arange(low, high + 1) for low, high in zip(first.tolist(), last.tolist(), strict=True)]
        self._read.append(np.unique(np.concatenate(read)))
        row, slot = (place.numpy() for place in slots.scored.cpu().nonzero(as_tuple=True))
        window, token = batch.example.window_row.numpy()[row], batch.example.target_source.numpy()[row, slot]
        units, which = np.unique(self._units.of_tokens(starts[window] + token), return_inverse=True)
        of_slots = (np.ones(len(row)), slots.nats.cpu().numpy()[row, slot], slots.hit.cpu().numpy()[row, slot])
        self._sums.append((units, np.stack([np.bincount(which, values, len(units)) for values in of_slots], axis=1)))

    def result(self) -> DocumentNats | None:
        """The sums of all units in order, neighbours merged into at most MOST_UNITS; None without windows."""
        if not self._read:
            return None
        units = np.unique(np.concatenate(self._read))
        group = np.arange(len(units)) * min(len(units), MOST_UNITS) // len(units)
        found = group[np.searchsorted(units, np.concatenate([of_batch for of_batch, _ in self._sums]))]
        sums = np.concatenate([sums for _, sums in self._sums])
        tokens, nats, hits = (np.bincount(found, column, group[-1] + 1).astype(np.float64) for column in sums.T)
        return DocumentNats(tokens.astype(np.int32), nats, hits.astype(np.int32), self._units.kind)
