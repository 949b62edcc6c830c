"""A synthetic task as the data of a run: an endless or a fixed stream of training sequences, and fixed sequences to score.

The splits share no prompt: a hash of the prompt decides the split of a sequence (`tasks/splits.py`). Every run scores the same
sequences; the seed of a run decides its training sequences.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from palinode.base.config import Config, content_hash, identity, one_of
from palinode.base.errors import BadInput
from palinode.base.example import Windows
from palinode.base.seeds import derive, generator
from palinode.data.config import TEST, TRAIN, TUNING, VALIDATION, Split, WindowChoice
from palinode.data.document_starts import Units
from palinode.data.tasks import TASKS
from palinode.data.tasks.base import Sample, Task
from palinode.data.tasks.splits import check_support, draw
from palinode.data.tokenizer import IdsTokenizer, Tokenizer
from palinode.data.windows import ROUNDS, Stream, permuted

EVALUATION_SEED = 0  # the seed of the scored sequences, which are the same for every run
STREAM = "task"
BLOCK_TOKENS = 2**18
MOST_BLOCK_SEQUENCES = 1024
BLOCKS_KEPT = 2
HELD_OUT: tuple[Split, ...] = (VALIDATION, TEST, TUNING)


class TaskData(Config):
    """The settings of a task that is the data of a run. A window is one sequence.

    Attributes:
        task: the task with its options.
        train_sequences: the number of training sequences, which every epoch reads again; None if every training sequence is a
            new draw (a new draw may repeat an earlier prompt by chance, see `tasks.splits.repeated_share`).
        validation_sequences, test_sequences, tuning_sequences: the number of sequences of each split that are scored.
    """

    task: Annotated[Task, one_of(lambda: TASKS, "task")]
    train_sequences: int | None = Field(default=None, ge=1, le=10**7)
    validation_sequences: int = Field(default=1000, ge=1, le=10**7)
    test_sequences: int = Field(default=1000, ge=1, le=10**7)
    tuning_sequences: int = Field(default=1000, ge=1, le=10**7)

    @property
    def window_tokens(self) -> int:
        """The number of tokens of a sequence."""
        return self.task.length_tokens

    def keeps(self, split: Split) -> bool:
        """True: every split of a task has sequences."""
        return True

    def longer(self, factor: int) -> TaskData:
        """These settings with sequences that are `factor` times as long; nothing else changes.

        Raises:
            BadInput: the length of the task cannot be changed, or cannot be so large.
        """
        return self.with_(task=self.task.with_length(factor))

    def sequences(self, split: Split) -> int:
        """The number of sequences of a held-out split that are scored."""
        counts = {VALIDATION: self.validation_sequences, TEST: self.test_sequences, TUNING: self.tuning_sequences}
        return counts[split]


class TaskStream:
    """The training sequences of a task, by index.

    Sequence i is a pure function of (task, seed, i): sequences are drawn in blocks of a fixed size, and each block has its own
    generator. So the stream is the same for any batch size and micro-batching, and reading can start at any sequence.

    Args:
        task: the task.
        seed: the seed of the run.
        sequences: the number of sequences that every epoch reads in its own order, as for published training sets of a fixed size;
            None if every sequence is a new, independent draw.
    """

    def __init__(self, task: Task, seed: int, sequences: int | None = None):
        self.task = task
        self.seed = seed
        self.sequences = sequences
        self.window_tokens = task.length_tokens
        self.block_sequences = max(1, min(MOST_BLOCK_SEQUENCES, BLOCK_TOKENS // task.length_tokens))
        self._block = functools.lru_cache(BLOCKS_KEPT)(self._drawn_block)
        self._fixed: Sample | None = None

    def batch(self, first: int, count: int) -> Sample:
        """The sequences of the stream with the indices `first` to `first + count - 1`."""
        if self.sequences is None:
            return self._drawn(first, count)
        if self._fixed is None:
            self._fixed = self._drawn(0, self.sequences)
        return self._fixed.rows(self._places(first, count, self.sequences))

    def read(self, first: int, count: int) -> Windows:
        """The sequences of `batch`, as windows."""
        return self.batch(first, count)

    def of_length(self, window_tokens: int) -> TaskStream:
        """This stream, if its sequences have `window_tokens` tokens. Sequences of a task are never cut.

        Raises:
            BadInput: the sequences have another length.
        """
        if window_tokens == self.window_tokens:
            return self
        message = f"sequences of {self.task.kind_name()} have {self.window_tokens} tokens, they are not cut to {window_tokens}"
        raise BadInput(message, field="window_tokens")

    def _places(self, first: int, count: int, total: int) -> Tensor:
        """(count,): the index of each sequence of the stream among the `total` fixed sequences."""
        epochs, places = np.divmod(np.arange(first, first + count, dtype=np.int64), total)
        for epoch in np.unique(epochs):
            keys = [derive(self.seed, STREAM, TRAIN, "order", int(epoch), number) for number in range(ROUNDS)]
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

    def _drawn_block(self, number: int) -> Sample:
        return draw(self.task, TRAIN, self.block_sequences, generator(self.seed, STREAM, TRAIN, number))


class TaskStore:
    """The sequences of a task, which are drawn when they are read. See `data.source.Source`.

    Raises:
        BadInput: the held-out splits together would contain more than a twentieth of all prompts.
    """

    def __init__(self, config: TaskData):
        check_support(config.task, {split: config.sequences(split) for split in HELD_OUT})
        self.config = config
        self.vocab_size = config.task.vocab_size
        self.tokenizer: Tokenizer = IdsTokenizer(self.vocab_size)
        self.bytes_per_token = self.tokenizer.bytes_per_token()
        self.sha256 = content_hash(identity(config))
        self._held_out: dict[Split, Sample] = {}

    def training(self, window_tokens: int, seed: int) -> Stream:
        """The stream of training sequences.

        Raises:
            BadInput: `window_tokens` is not the length of the task's sequences.
        """
        return TaskStream(self.config.task, seed, self.config.train_sequences).of_length(window_tokens)

    def evaluation(
        self,
        split: Split,
        window_tokens: int,
        *,
        batch_windows: int,
        max_tokens: int | None,
        windows: WindowChoice = "first",
    ) -> Iterator[Windows]:
        """The batches to score: as many sequences of a split as fit into `max_tokens` tokens, but at least one."""
        sample = self.held_out(split)
        count = self.scored_tokens(split, max_tokens) // self.config.window_tokens
        for first in range(0, count, batch_windows):
            last = min(count, first + batch_windows)
            yield replace(sample.rows(slice(first, last)), starts=torch.arange(first, last) * self.config.window_tokens)

    def units(self, split: Split) -> Units:
        """The scored sequences of a split."""
        return Units(np.arange(self.config.sequences(split) + 1) * self.config.window_tokens, "sequences")

    def scored_tokens(self, split: Split, max_tokens: int | None) -> int:
        """The number of tokens that an evaluation of a split reads, in whole sequences."""
        sequences = self.config.sequences(split)
        if max_tokens is not None:
            sequences = min(sequences, max(1, max_tokens // self.config.window_tokens))
        return sequences * self.config.window_tokens

    def held_out(self, split: Split) -> Sample:
        """The scored sequences of a split."""
        if split not in self._held_out:
            rng = generator(EVALUATION_SEED, STREAM, split)
            self._held_out[split] = draw(self.config.task, split, self.config.sequences(split), rng)
        return self._held_out[split]
