"""The base of synthetic tasks. A task draws sequences that include their answers, by a pure function of a config and a generator.

A task knows its chance level and, if there is a formula, the entropy of its sequences. So a model can be compared with the
optimum, and not only with other models. The entropy of a whole sequence is the same in both reading directions; the directions
differ only in the part of the entropy that each position has. Shapes: B sequences, T tokens of a sequence. Entropies are in
nats (natural logarithm).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import torch
from pydantic import ValidationError, model_validator
from torch import Generator, Tensor

from palinode.base.config import Part, bad_input, content_hash, identity, one_of
from palinode.base.errors import BadInput
from palinode.base.example import Windows
from palinode.base.measures import Direction

LARGEST = math.log(1e300)
BLANK = -1  # the number that replaces an answer in a prompt
NO_VALUE = -1  # in a slice with one number for each token, this number marks a token without a value


@dataclass(frozen=True)
class Sample(Windows):
    """Sequences of a task, with their answers.

    Attributes:
        tokens: (B, T) int64 ids: whole sequences with their answers.
        answers: (B, T) bool: true at the tokens that are answers.
        slices: int64 numbers by which accuracies are grouped (see `Windows`); NO_VALUE marks a token without a number.
    """

    answers: Tensor = field()

    @classmethod
    def answered_from(cls, tokens: Tensor, place: int, **slices: Tensor) -> Sample:
        """The sample of sequences in which the token at index `place` and every token after it are answers."""
        answers = (torch.arange(tokens.shape[1]) >= place).expand(tokens.shape).clone()
        return cls(tokens, answers, slices)

    @classmethod
    def of_pairs(cls, questions: Tensor, replies: Tensor, **slices: Tensor) -> Sample:
        """The sample of sequences q1 r1 q2 r2 ... from (B, T / 2) questions q and replies r; every reply is an answer."""
        tokens = torch.stack([questions, replies], 2).view(len(questions), -1)
        return cls(tokens, torch.arange(tokens.shape[1]).remainder(2).bool().expand(tokens.shape).clone(), slices)

    @classmethod
    def with_gaps(cls, tokens: Tensor, gap: Tensor, **slices: Tensor) -> Sample:
        """The sample of sequences in which every token that has a gap is an answer.

        Args:
            gap: (B, T) the number of tokens from each answer back to the place where the answer was shown; NO_VALUE for a token
                that is not an answer.
        """
        return cls(tokens, gap != NO_VALUE, {"gap": gap, **slices})

    def rows(self, chosen: Tensor | slice) -> Sample:
        """The sequences at the chosen indices, or those for which the chosen mask is true."""
        slices = {name: values[chosen] for name, values in self.slices.items()}
        return Sample(self.tokens[chosen], self.answers[chosen], slices)

    def flipped(self) -> Sample:
        """The same sequences with their tokens in reversed order."""
        slices = {name: values.flip(1) if values.dim() == 2 else values for name, values in self.slices.items()}
        return Sample(self.tokens.flip(1), self.answers.flip(1), slices)


def check_sample(task: Task, sample: Any, count: int) -> None:
    """Check that the sample which a user's own task returned holds `count` sequences of that task.

    Raises:
        BadInput: the sample has a wrong type, shape or id; the message names the fault.
    """
    kind, shape = task.kind_name(), (count, task.length_tokens)
    if not isinstance(sample, Sample):
        raise BadInput(f"sample of {kind} gives {type(sample).__name__}, not a Sample", field="data.task")
    for name, dtype in (("tokens", torch.int64), ("answers", torch.bool)):
        values = getattr(sample, name)
        if values.shape != shape or values.dtype != dtype:
            message = f"{name} of {kind} are {tuple(values.shape)} {values.dtype}, not {shape} {dtype}"
            raise BadInput(message, field="data.task")
    low, high = int(sample.tokens.min()), int(sample.tokens.max())
    if low < 0 or high >= task.vocab_size:
        raise BadInput(f"ids of {kind} go from {low} to {high}, its vocab_size is {task.vocab_size}", field="data.task")


class Task(Part):
    """A synthetic task. The token ids of a task are 0 to `vocab_size` - 1; other code appends `[MASK]` and direction tokens."""

    length_field: ClassVar[str] = ""  # the name of the field that `with_length` multiplies

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """The number of token ids."""

    @property
    @abstractmethod
    def length_tokens(self) -> int:
        """T, the number of tokens of every sequence."""

    @abstractmethod
    def sample(self, count: int, rng: Generator) -> Sample:
        """Draw `count` sequences: a pure function of the config and the generator, without a loop over sequences."""

    @abstractmethod
    def legal_answers(self) -> Tensor:
        """The ids that may be an answer, ascending."""

    def check_sizes(self) -> None:
        """Check that the fields fit one another. This check runs whenever a task is made.

        Raises:
            BadInput: a field does not fit; the error names the field.
        """

    @model_validator(mode="after")
    def _checked(self) -> Self:
        self.check_sizes()
        return self

    def chance(self) -> float:
        """The accuracy of a uniform guess among the legal answers."""
        return 1 / len(self.legal_answers())

    def best_answer_accuracy(self, train_sequences: int | None = None) -> float | None:
        """The highest possible accuracy on answers, given the tokens before each answer; None if there is no formula.

        Args:
            train_sequences: the number of sequences that the model saw in training; None for an endless stream.
        """
        return 1.0

    def best_hidden_accuracy(self, train_sequences: int | None = None) -> float | None:
        """The highest possible accuracy on answers for a model that sees no answer of the sequence; None if it is not known."""
        return self.best_answer_accuracy(train_sequences)

    @property
    def solved_by(self) -> tuple[str, ...]:
        """The baselines (`baselines.py`) that use the very skill which this task tests; a model need not beat their levels."""
        return ()

    def sequence_nats(self) -> float | None:
        """The entropy of a whole sequence in nats; None if there is no formula."""
        return None

    def edge_nats(self, direction: Direction) -> float | None:
        """The entropy of the token that is read first: the first token for ltr, the last token for rtl. None if it is unknown."""
        return None

    def entropy_nats_per_token(self) -> float | None:
        """`sequence_nats` / T: the least possible mean loss over all T tokens, in either direction."""
        total = self.sequence_nats()
        return None if total is None else total / self.length_tokens

    def floor_nats_all_tokens(self, direction: Direction = "ltr") -> float | None:
        """The least possible mean loss, in nats per token, over the T - 1 tokens other than the token that is read first."""
        total, unscored = self.sequence_nats(), self.edge_nats(direction)
        if total is None or unscored is None:
            return None
        return (total - unscored) / (self.length_tokens - 1)

    def best_accuracy_all_tokens(self) -> float | None:
        """The best possible accuracy of an ltr model over all tokens except the first; None if it is not known."""
        return None

    def support(self) -> float | None:
        """The number of different prompts (infinity if a float cannot hold the number); None if there is no formula."""
        return None

    def with_length(self, factor: int) -> Self:
        """The task with sequences that are `factor` times as long; nothing else changes.

        Raises:
            BadInput: the length of the task cannot be changed, or cannot be so large.
        """
        if factor < 1:
            raise BadInput(f"a length is multiplied by 1 or more, not by {factor}", field="factor")
        if not self.length_field:
            raise BadInput(f"{self.kind_name()} has no length to extrapolate", field="factor")
        return self.resized(**{self.length_field: getattr(self, self.length_field) * factor})

    def resized(self, **changes: int) -> Self:
        """The task with other sizes.

        Raises:
            BadInput: a size is out of bounds.
        """
        try:
            return self.with_(**changes)
        except ValidationError as error:
            raise bad_input(error) from None

    def split_key(self, sample: Sample) -> Tensor:
        """(B, any) int64: the prompt of each sequence, which decides its split: the tokens, with BLANK in place of every answer."""
        return sample.tokens.masked_fill(sample.answers, BLANK)

    def split_identity(self) -> str:
        """The string that the hash of the splits adds to a prompt: two tasks with different identities have different splits."""
        return content_hash(identity(self))

    def require(self, holds: bool, message: str, field: str) -> None:
        """Refuse the value of a field of this task if the condition `holds` is false.

        Raises:
            BadInput: `holds` is false.
        """
        if not holds:
            raise BadInput(message, field=field)

    def require_at_least(self, field: str, least: int, reason: str) -> None:
        """Refuse a field whose value is below `least`; `reason` names the parts that need this size."""
        value = getattr(self, field)
        self.require(value >= least, f"{value} is too few, {least} are needed: {reason}", field)


class Shape(NamedTuple):
    """The sizes of a task.

    Attributes:
        ids: the number of token ids.
        tokens: T, the number of tokens of a sequence.
        answers: the ids that may be an answer.
        drawn: (n, number of ids) if a sequence is a one-to-one function of n independent tokens that are uniform over this
            number of ids, and its first and last token are uniform too; None for any other task.
    """

    ids: int
    tokens: int
    answers: range
    drawn: tuple[int, int] | None = None


class ShapedTask(Task):
    """The base of the built-in tasks: the method `shape` gives all sizes of a task."""

    length_field: ClassVar[str] = "length"

    @abstractmethod
    def shape(self) -> Shape:
        """The sizes of the task."""

    @property
    def vocab_size(self) -> int:
        return self.shape().ids

    @property
    def length_tokens(self) -> int:
        return self.shape().tokens

    def legal_answers(self) -> Tensor:
        answers = self.shape().answers
        return torch.arange(answers.start, answers.stop)

    def sequence_nats(self) -> float | None:
        drawn = self.shape().drawn
        return None if drawn is None else drawn[0] * math.log(drawn[1])

    def edge_nats(self, direction: Direction) -> float | None:
        drawn = self.shape().drawn
        return None if drawn is None else math.log(drawn[1])

    def support(self) -> float | None:
        drawn = self.shape().drawn
        return None if drawn is None else power(drawn[1], drawn[0])


class Language(Task):
    """A task without a prompt: every token is scored, and the whole sequence decides the split."""

    def legal_answers(self) -> Tensor:
        return torch.arange(self.vocab_size)

    def best_answer_accuracy(self, train_sequences: int | None = None) -> float | None:
        return None

    def split_key(self, sample: Sample) -> Tensor:
        return sample.tokens


def _tasks() -> Mapping[str, type[Part]]:
    from palinode.data.tasks import TASKS  # imported here, because the table TASKS lists `Reversed` of this module

    return TASKS


class Reversed(Task):
    """Another task with the order of its tokens reversed. A generator draws the same sequences as for the other task, reversed.

    A reversed sequence is in the split of the original sequence. So an ltr pass over the reversed task is exactly an rtl pass
    over the original task.

    Attributes:
        of: the original task.
    """

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
        """None: in a reversed task the answers are read first, so the tokens before an answer do not decide the answer."""
        return None

    @property
    def solved_by(self) -> tuple[str, ...]:
        return self.of.solved_by

    def sequence_nats(self) -> float | None:
        return self.of.sequence_nats()

    def edge_nats(self, direction: Direction) -> float | None:
        return self.of.edge_nats("rtl" if direction == "ltr" else "ltr")

    def support(self) -> float | None:
        return self.of.support()

    def with_length(self, factor: int) -> Reversed:
        return Reversed(of=self.of.with_length(factor))

    def split_key(self, sample: Sample) -> Tensor:
        return self.of.split_key(sample.flipped())

    def split_identity(self) -> str:
        return self.of.split_identity()


def mirrored(task: Task) -> Task:
    """The task whose sequences are those of `task` with the last token first."""
    return task.of if isinstance(task, Reversed) else Reversed(of=task)


def power(base: float, exponent: float) -> float:
    """base ** exponent, or infinity if a float cannot hold the result."""
    return float(base) ** exponent if exponent * math.log(base) < LARGEST else math.inf


def exp(value: float) -> float:
    """e ** value, or infinity if a float cannot hold the result."""
    return math.exp(value) if value < LARGEST else math.inf
