"""Any task read from its other end: ltr on it is rtl on the original, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from torch import Generator, Tensor

from palinode.base.config import Part, one_of
from palinode.data.tasks.base import Direction, Sample, Task


def _tasks() -> Mapping[str, type[Part]]:
    from palinode.data.tasks import TASKS  # imported late, because that table lists this file's class too

    return TASKS


class Reversed(Task):
    """Another task with its tokens and answers flipped. The same generator gives the same sequences, in the same splits."""

    kind: ClassVar[str] = "reversed"
    of: Annotated[Task, one_of(_tasks, "task")]

    @property
    def vocab_size(self) -> int:
        return self.of.vocab_size

    @property
    def length_tokens(self) -> int:
        return self.of.length_tokens

    def sample(self, count: int, rng: Generator) -> Sample:
        return self.of.sample(count, rng).flipped()

    def legal_answers(self) -> Tensor:
        return self.of.legal_answers()

    def chance(self) -> float:
        return self.of.chance()

    def best_answer_accuracy(self, train_sequences: int | None = None) -> float | None:
        """None: the answers are now read first, and are no function of the tokens before them."""
        return None

    @property
    def solved_by(self) -> tuple[str, ...]:
        return self.of.solved_by

    def sequence_nats(self) -> float | None:
        return self.of.sequence_nats()

    def first_token_nats(self) -> float | None:
        return self.of.last_token_nats()

    def last_token_nats(self) -> float | None:
        return self.of.first_token_nats()

    def nats_by_position(self, direction: Direction) -> Tensor | None:
        nats = self.of.nats_by_position("rtl" if direction == "ltr" else "ltr")
        return None if nats is None else nats.flip(0)

    def support(self) -> float | None:
        return self.of.support()

    def with_length(self, factor: int) -> Reversed:
        return Reversed(of=self.of.with_length(factor))

    def split_key(self, sample: Sample) -> Tensor:
        return self.of.split_key(sample.flipped())

    def split_identity(self) -> str:
        return self.of.split_identity()


def mirrored(task: Task) -> Task:
    """The task whose sequences are this one's, last token first."""
    return task.of if isinstance(task, Reversed) else Reversed(of=task)
