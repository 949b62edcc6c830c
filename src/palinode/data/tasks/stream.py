"""The sequences that training reads: fresh draws without an end, or epochs over a fixed number of sequences.

Fresh draws are independent of one another, so a task with few prompts repeats some of them (`splits.repeated_share`).

Sequence i is a pure function of (task, seed, split, i): sequences are drawn in blocks of a fixed size, each with its own generator.
So the stream is the same for any batch size and micro-batching, and reading can start at any sequence.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from palinode.base.errors import BadInput
from palinode.base.example import Windows
from palinode.base.seeds import derive, generator
from palinode.data.config import TRAIN, Split
from palinode.data.tasks.base import Sample, Task
from palinode.data.tasks.splits import check_support, drawn_until_full
from palinode.data.windows import ROUNDS, permuted

STREAM = "task"
BLOCK_TOKENS = 2**18
MOST_BLOCK_SEQUENCES = 1024
BLOCKS_KEPT = 2


class TaskStream:
    """Sequences of one split of a task, by index.

    Args:
        task: the task.
        seed: the run's seed; each split has a stream of its own.
        split: the split that every sequence belongs to.
        sequences: None: every sequence is a fresh draw. A number: only the first `sequences` of them are read, again and again,
            each epoch in its own order, as for published training sets of a fixed size.

    Raises:
        BadInput: fewer than one sequence.
    """

    def __init__(self, task: Task, seed: int, split: Split = TRAIN, sequences: int | None = None):
        if sequences is not None and sequences < 1:
            raise BadInput(f"an epoch has at least one sequence, not {sequences}", field="sequences")
        self.task = task
        self.seed = seed
        self.split = split
        self.sequences = sequences
        self.window_tokens = task.length_tokens
        self.block_sequences = max(1, min(MOST_BLOCK_SEQUENCES, BLOCK_TOKENS // task.length_tokens))
        self._blocks: dict[int, Sample] = {}
        self._fixed: Sample | None = None

    def batch(self, first: int, count: int) -> Sample:
        """Sequences `first`, `first + 1`, ... of the stream.

        Raises:
            BadInput: a held-out split would show more than a twentieth of all prompts.
        """
        if self.sequences is None:
            if self.split != TRAIN:
                check_support(self.task, {self.split: first + count})
            return self._drawn(first, count)
        if self._fixed is None:
            self._fixed = self._drawn(0, self.sequences)
        return self._fixed.rows(self.places(first, count))

    def read(self, first: int, count: int) -> Windows:
        """The sequences of `batch`, as windows."""
        sample = self.batch(first, count)
        return Windows(sample.tokens, sample.answers, sample.slices)

    def of_length(self, window_tokens: int) -> TaskStream:
        """This stream, which has one length: its sequences are not cut.

        Raises:
            BadInput: another length.
        """
        if window_tokens == self.window_tokens:
            return self
        message = f"sequences of {self.task.kind_name()} have {self.window_tokens} tokens, they are not cut to {window_tokens}"
        raise BadInput(message, field="window_tokens")

    def places(self, first: int, count: int) -> Tensor:
        """(count,): the index, among the fixed sequences, of each sequence of the stream."""
        total = self.sequences or 1
        epochs, places = np.divmod(np.arange(first, first + count, dtype=np.int64), total)
        for epoch in np.unique(epochs):
            keys = [derive(self.seed, STREAM, self.split, "order", int(epoch), number) for number in range(ROUNDS)]
            in_epoch = epochs == epoch
            places[in_epoch] = permuted(places[in_epoch], total, np.array(keys, dtype=np.uint64))
        return torch.from_numpy(places)

    def _drawn(self, first: int, count: int) -> Sample:
        size = self.block_sequences
        parts = []
        for number in range(first // size, max(first, first + count - 1) // size + 1):
            start = number * size
            parts.append(self._block(number).rows(slice(max(first - start, 0), max(first + count - start, 0))))
        return Sample.together(parts)

    def _block(self, number: int) -> Sample:
        if number not in self._blocks:
            rng = generator(self.seed, STREAM, self.split, number)
            block = drawn_until_full(self.task, self.split, self.block_sequences, rng)
            while len(self._blocks) >= BLOCKS_KEPT:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[number] = block
        return self._blocks[number]
