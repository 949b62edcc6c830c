"""What a synthetic task is: sequences that include their answers, drawn by a pure function of a config and a generator.

A task knows its chance level and, where a closed form exists, the entropy of its sequences: a model can then be compared with
the optimum and not only with other models. The entropy of a whole sequence is the same read from either end; only its split
over the positions differs.
Legend: n sequences, S tokens of a sequence, nats are natural-log units.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

import torch
from pydantic import ValidationError
from torch import Generator, Tensor

from palinode.base.config import Part, bad_input, content_hash, identity
from palinode.base.errors import BadInput

T = TypeVar("T", bound="Task")
Direction = Literal["ltr", "rtl"]
LARGEST = math.log(1e300)
BLANK = -1  # stands for an answer in a prompt
NO_VALUE = -1  # of a slice that has one number for each token, where it has none


@dataclass(frozen=True)
class Sample:
    """Sequences of a task.

    Attributes:
        tokens: (n, S) int64 ids, the whole sequences with their answers.
        answers: (n, S) bool: the tokens that a reader is asked for.
        slices: by name int64 numbers that accuracy is told apart by: one for each sequence (n,), such as how many keys it shows,
            or one for each token (n, S), such as how far back an answer was seen; NO_VALUE where a token has none.
    """

    tokens: Tensor
    answers: Tensor
    slices: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, chosen: Tensor | slice) -> Sample:
        """The sequences at these indices, or where this mask is true."""
        slices = {name: values[chosen] for name, values in self.slices.items()}
        return Sample(self.tokens[chosen], self.answers[chosen], slices)

    def flipped(self) -> Sample:
        """The same sequences, last token first."""
        slices = {name: values.flip(1) if values.dim() == 2 else values for name, values in self.slices.items()}
        return Sample(self.tokens.flip(1), self.answers.flip(1), slices)

    @classmethod
    def together(cls, parts: Sequence[Sample]) -> Sample:
        """Several samples of one task as one."""
        names = parts[0].slices
        return cls(
            torch.cat([part.tokens for part in parts]),
            torch.cat([part.answers for part in parts]),
            {name: torch.cat([part.slices[name] for part in parts]) for name in names},
        )


def check_sample(task: Task, sample: Any, count: int) -> None:
    """Refuse what a task of a user's own gives where it is not `count` sequences of it.

    Raises:
        BadInput: naming what is not as `Task` says.
    """
    kind, shape = task.kind_name(), (count, task.length_tokens)
    if not isinstance(sample, Sample):
        raise BadInput(f"sample of {kind} gives {type(sample).__name__}, not a Sample", field="data.task")
    for name, wanted in (("tokens", torch.int64), ("answers", torch.bool)):
        given = getattr(sample, name)
        if given.shape != shape or given.dtype != wanted:
            told = f"{tuple(given.shape)} {given.dtype}, not {shape} {wanted}"
            raise BadInput(f"{name} of {kind} are {told}", field="data.task")
    low, high = int(sample.tokens.min()), int(sample.tokens.max())
    if low < 0 or high >= task.vocab_size:
        raise BadInput(f"ids of {kind} go from {low} to {high}, its vocab_size is {task.vocab_size}", field="data.task")


class Task(Part):
    """A synthetic task. Ids run from 0 to `vocab_size` - 1; `[MASK]` and direction tokens are appended elsewhere."""

    length_field: ClassVar[str] = ""  # the field that `with_length` multiplies

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of token ids."""

    @property
    @abstractmethod
    def length_tokens(self) -> int:
        """S, the same for every sequence."""

    @abstractmethod
    def sample(self, count: int, rng: Generator) -> Sample:
        """`count` sequences: a pure function of the config and the generator, without a loop over sequences."""

    @abstractmethod
    def legal_answers(self) -> Tensor:
        """The ids that may be an answer, ascending."""

    def chance(self) -> float:
        """Accuracy of guessing uniformly among the legal answers."""
        return 1 / len(self.legal_answers())

    def best_answer_accuracy(self, train_sequences: int | None = None) -> float | None:
        """Accuracy that no reader of the tokens before an answer can exceed; None where it is not known.

        Args:
            train_sequences: how many sequences were seen in training; None for an endless stream.
        """
        return 1.0

    @property
    def solved_by(self) -> tuple[str, ...]:
        """The baselines (`baselines.py`) that are the very skill this task asks for: their level is no level to beat."""
        return ()

    def sequence_nats(self) -> float | None:
        """Entropy of a whole sequence; None where there is no closed form."""
        return None

    def first_token_nats(self) -> float | None:
        """Entropy of the first token alone."""
        return None

    def last_token_nats(self) -> float | None:
        """Entropy of the last token alone, the first that rtl reads."""
        return None

    def nats_by_position(self, direction: Direction) -> Tensor | None:
        """(S,) float64: mean entropy of each token given those read before it; sums to `sequence_nats` either way."""
        return None

    def entropy_nats_per_token(self) -> float | None:
        """Entropy of a sequence over its S tokens: the floor of a loss that scores them all, in either direction."""
        total = self.sequence_nats()
        return None if total is None else total / self.length_tokens

    def floor_nats_all_tokens(self, direction: Direction = "ltr", first_scored: bool = False) -> float | None:
        """The least mean loss over the scored tokens of a sequence, in nats a token.

        Args:
            direction: which end is read first.
            first_scored: bare sequences (False) leave the token that is read first unscored, S - 1 are scored; with a direction
                token (True) all S are.
        """
        total = self.sequence_nats()
        if total is None or first_scored:
            return self.entropy_nats_per_token()
        unscored = self.first_token_nats() if direction == "ltr" else self.last_token_nats()
        return None if unscored is None else (total - unscored) / (self.length_tokens - 1)

    def best_accuracy_all_tokens(self) -> float | None:
        """The best accuracy over all tokens but the first, read ltr: "train accuracy 41 %" can be perfection."""
        return None

    def support(self) -> float | None:
        """Number of different prompts (infinity where it overflows); None where it is not known."""
        return None

    def with_length(self: T, factor: int) -> T:
        """The task `factor` times as long, everything else as it was.

        Raises:
            BadInput: the task has no length, or cannot be that long.
        """
        if factor < 1:
            raise BadInput(f"a length is multiplied by 1 or more, not by {factor}", field="factor")
        if not self.length_field:
            raise BadInput(f"{self.kind_name()} has no length to extrapolate", field="factor")
        return self.resized(**{self.length_field: getattr(self, self.length_field) * factor})

    def resized(self: T, **changes: int) -> T:
        """The task with other sizes.

        Raises:
            BadInput: a size is out of bounds.
        """
        try:
            return self.with_(**changes)
        except ValidationError as error:
            raise bad_input(type(self), error) from None

    def split_key(self, sample: Sample) -> Tensor:
        """(n, k) int64: what decides the split of each sequence: the prompt, its answers blanked."""
        return sample.tokens.masked_fill(sample.answers, BLANK)

    def split_identity(self) -> str:
        """What tells this task's prompts from another's in the hash of the splits."""
        return content_hash(identity(self))


class Language(Task):
    """A task without a prompt: every token is scored, and the whole sequence decides the split."""

    def legal_answers(self) -> Tensor:
        return torch.arange(self.vocab_size)

    def best_answer_accuracy(self, train_sequences: int | None = None) -> float | None:
        return None

    def split_key(self, sample: Sample) -> Tensor:
        return sample.tokens


def require(holds: bool, message: str, field: str) -> None:
    """One line about a field of a task that cannot be.

    Raises:
        BadInput: it does not hold.
    """
    if not holds:
        raise BadInput(message, field=field)


def power(base: float, exponent: float) -> float:
    """base ** exponent, infinity where a float cannot hold it."""
    return float(base) ** exponent if exponent * math.log(base) < LARGEST else math.inf


def exp(value: float) -> float:
    """e ** value, infinity where a float cannot hold it."""
    return math.exp(value) if value < LARGEST else math.inf
