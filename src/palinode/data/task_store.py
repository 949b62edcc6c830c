"""A synthetic task as the data of a run: an endless or a fixed stream to train on, and fixed sequences to score.

The splits share no prompt: a hash of the prompt decides the split of a sequence (`tasks/splits.py`). Every run scores the same
sequences; the seed of a run decides which it trains on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from palinode.base.config import Config, content_hash, identity, one_of
from palinode.base.example import Windows
from palinode.base.seeds import generator
from palinode.data.config import TEST, TRAIN, TUNING, VALIDATION, Split
from palinode.data.tasks import TASKS
from palinode.data.tasks.base import Sample, Task
from palinode.data.tasks.splits import check_support, draw
from palinode.data.tasks.stream import TaskStream
from palinode.data.tokenizer import IdsTokenizer, Tokenizer
from palinode.data.windows import Stream

EVALUATION_SEED = 0  # of the scored sequences: the same for every run
STREAM = "task"
HELD_OUT: tuple[Split, ...] = (VALIDATION, TEST, TUNING)


class TaskData(Config):
    """A task as data. A window is one sequence.

    Attributes:
        task: the task with its options.
        train_sequences: this many draws are read again and again in epochs; None: every sequence is a fresh draw, which repeats an
            earlier one by chance (`tasks.splits.repeated_share`).
        validation_sequences, test_sequences, tuning_sequences: how many sequences of each split are scored.
    """

    task: Annotated[Task, one_of(lambda: TASKS, "task")]
    train_sequences: int | None = Field(default=None, ge=1, le=10**7)
    validation_sequences: int = Field(default=1000, ge=1, le=10**7)
    test_sequences: int = Field(default=1000, ge=1, le=10**7)
    tuning_sequences: int = Field(default=1000, ge=1, le=10**7)

    @property
    def window_tokens(self) -> int:
        """Tokens of a sequence."""
        return self.task.length_tokens

    def keeps(self, split: Split) -> bool:
        """Whether a split has sequences: always, each has its own prompts."""
        return True

    def longer(self, factor: int) -> TaskData:
        """The same task with sequences `factor` times as long; everything else stays.

        Raises:
            BadInput: the task has no length, or cannot be that long.
        """
        return self.with_(task=self.task.with_length(factor))

    def sequences(self, split: Split) -> int:
        """How many sequences of a held-out split are scored."""
        return {
            VALIDATION: self.validation_sequences,
            TEST: self.test_sequences,
            TUNING: self.tuning_sequences,
        }[split]


class TaskStore:
    """The sequences of a task, drawn when they are read. See `data.source.Source`.

    Raises:
        BadInput: the held-out splits together would show more than a twentieth of all prompts.
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
        return TaskStream(self.config.task, seed, TRAIN, self.config.train_sequences).of_length(window_tokens)

    def evaluation(
        self, split: Split, window_tokens: int, *, batch_windows: int, max_tokens: int | None
    ) -> Iterator[Windows]:
        """Fixed batches of a split's sequences, as many sequences as fit into `max_tokens` (at least one)."""
        sample = self.held_out(split)
        count = self.scored_tokens(split, max_tokens) // self.config.window_tokens
        for first in range(0, count, batch_windows):
            rows = sample.rows(slice(first, min(count, first + batch_windows)))
            yield Windows(rows.tokens, rows.answers, rows.slices)

    def scored_tokens(self, split: Split, max_tokens: int | None) -> int:
        """How many tokens an evaluation of a split reads; it reads whole sequences."""
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
