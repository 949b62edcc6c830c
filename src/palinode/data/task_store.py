"""A synthetic task as the data of a run: an endless or a fixed stream to train on, and fixed sequences to score.

The splits share no prompt: a hash of the prompt says which split a sequence may be in (`tasks/splits.py`). Every run scores the
same sequences; which ones it trains on follows from its seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from palinode.base.config import Config, content_hash, identity, one_of
from palinode.base.example import Windows
from palinode.base.seeds import generator
from palinode.data.config import TRAIN, Split
from palinode.data.tasks import TASKS
from palinode.data.tasks.base import Sample, Task
from palinode.data.tasks.splits import check_support, draw
from palinode.data.tasks.stream import TaskStream
from palinode.data.tokenizer import IdsTokenizer, Tokenizer
from palinode.data.windows import Stream

EVALUATION_SEED = 0  # of the sequences that are scored: the same for every run
STREAM = "task"
HELD_OUT: tuple[Split, ...] = ("validation", "test", "tuning")


class TaskData(Config):
    """A task as data. A window is one sequence.

    Attributes:
        task: which, with its options.
        train_sequences: so many draws, read again and again in epochs; None: every sequence is a fresh draw, and comes again only
            by the chance that few prompts make (`tasks.splits.repeated_share`).
        validation_sequences, test_sequences, tuning_sequences: how many are scored.
    """

    task: Annotated[Task, one_of(lambda: TASKS, "task")]
    train_sequences: int | None = Field(default=None, ge=1, le=10**7)
    validation_sequences: int = Field(default=1000, ge=1, le=10**7)
    test_sequences: int = Field(default=1000, ge=1, le=10**7)
    tuning_sequences: int = Field(default=1000, ge=1, le=10**7)

    @property
    def window_tokens(self) -> int:
        """N: tokens of a sequence."""
        return self.task.length_tokens

    def keeps(self, split: Split) -> bool:
        """Whether there is anything in a split: always, prompts are set aside for each."""
        return True

    def longer(self, factor: int) -> TaskData:
        """The same task with sequences `factor` times as long, everything else as it was.

        Raises:
            BadInput: the task has no length, or cannot be that long.
        """
        return self.with_(task=self.task.with_length(factor))

    def sequences(self, split: Split) -> int:
        """How many are scored of a split."""
        held_out = {
            "validation": self.validation_sequences,
            "test": self.test_sequences,
            "tuning": self.tuning_sequences,
        }
        return held_out[split]


class TaskStore:
    """The sequences of a task, made when they are asked for. See `data.store.Source`.

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
            BadInput: of another length than the task's.
        """
        return TaskStream(self.config.task, seed, TRAIN, self.config.train_sequences).of_length(window_tokens)

    def evaluation(
        self, split: Split, window_tokens: int, *, batch_windows: int, max_tokens: int | None
    ) -> Iterator[Windows]:
        """Fixed batches of a split's sequences, as many as fit into `max_tokens` (at least one)."""
        sample = self.held_out(split)
        count = self.scored_tokens(split, max_tokens) // self.config.window_tokens
        for first in range(0, count, batch_windows):
            yield _windows(sample.rows(slice(first, min(count, first + batch_windows))))

    def scored_tokens(self, split: Split, max_tokens: int | None) -> int:
        """How many tokens an evaluation of a split reads: whole sequences."""
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


def _windows(sample: Sample) -> Windows:
    return Windows(sample.tokens, sample.answers, sample.slices)
