"""Copying, reversal, parity, majority and counting: exact answers about strings of independent uniform tokens.

copy      x1 .. xn SEP x1 .. xn          parity     b1 .. bn END p         cumulative: b1 p1 b2 p2 ..
reversal  x1 .. xn SEP xn .. x1          majority   b1 .. bn END m         counting:   x1 .. xn ? c count
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor

from palinode.data.tasks.base import Sample, Task, power, require
from palinode.data.tasks.baselines import CACHES
from palinode.data.tasks.draws import integers
from palinode.data.tasks.laws import binomial_law, entropy_nats

MOST_LENGTH = 2**22
BITS = 2


def answers_after(tokens: Tensor, place: int) -> Tensor:
    """(n, S) bool: everything from a place on."""
    return (torch.arange(tokens.shape[1]) >= place).expand(tokens.shape).clone()


class Copy(Task):
    """A string, a separator, and the string again.

    Attributes:
        vocabulary: V ids of the string; the separator is V.
        length: n tokens of the string.
    """

    kind: ClassVar[str] = "copy"
    length_field: ClassVar[str] = "length"
    vocabulary: int = Field(default=16, ge=2, le=2**20)
    length: int = Field(default=16, ge=1, le=MOST_LENGTH)

    @property
    def vocab_size(self) -> int:
        return self.vocabulary + 1

    @property
    def length_tokens(self) -> int:
        return 2 * self.length + 1

    def legal_answers(self) -> Tensor:
        return torch.arange(self.vocabulary)

    @property
    def solved_by(self) -> tuple[str, ...]:
        return ("position_only", *CACHES)

    def sample(self, count: int, rng: Generator) -> Sample:
        string = integers(self.vocabulary, (count, self.length), rng)
        separator = torch.full((count, 1), self.vocabulary)
        tokens = torch.cat([string, separator, self._said(string)], 1)
        return Sample(tokens, answers_after(tokens, self.length + 1))

    def _said(self, string: Tensor) -> Tensor:
        return string

    def sequence_nats(self) -> float:
        return self.length * math.log(self.vocabulary)

    def first_token_nats(self) -> float:
        return math.log(self.vocabulary)

    def last_token_nats(self) -> float:
        return math.log(self.vocabulary)

    def best_accuracy_all_tokens(self) -> float:
        return ((self.length - 1) / self.vocabulary + 1 + self.length) / (2 * self.length)

    def support(self) -> float:
        return power(self.vocabulary, self.length)


class Reversal(Copy):
    """A string, a separator, and the string from its end: its own mirror image, so ltr and rtl must agree."""

    kind: ClassVar[str] = "reversal"

    @property
    def solved_by(self) -> tuple[str, ...]:
        return ("position_only",)

    def _said(self, string: Tensor) -> Tensor:
        return string.flip(1)


class BitTask(Task):
    """n random bits and a question about them.

    Attributes:
        length: n bits.
        cumulative: the answer after every bit, `b1 a1 b2 a2 ..`; read with its earlier answers it is far easier.
    """

    length_field: ClassVar[str] = "length"
    length: int = Field(default=16, ge=1, le=MOST_LENGTH)
    cumulative: bool = False

    @property
    def vocab_size(self) -> int:
        return BITS if self.cumulative else BITS + 1

    @property
    def length_tokens(self) -> int:
        return 2 * self.length if self.cumulative else self.length + 2

    def legal_answers(self) -> Tensor:
        return torch.arange(BITS)

    def sample(self, count: int, rng: Generator) -> Sample:
        bits = integers(BITS, (count, self.length), rng)
        ones = bits.cumsum(1)
        if self.cumulative:
            tokens = torch.stack([bits, self._answer(ones, torch.arange(1, self.length + 1))], 2).view(count, -1)
            answers = torch.arange(2 * self.length).remainder(2).bool().expand(tokens.shape).clone()
        else:
            end = torch.full((count, 1), BITS)
            tokens = torch.cat([bits, end, self._answer(ones[:, -1:], torch.tensor([self.length]))], 1)
            answers = answers_after(tokens, self.length + 1)
        return Sample(tokens, answers, {"ones": ones[:, -1]})

    @abstractmethod
    def _answer(self, ones: Tensor, bits: Tensor) -> Tensor:
        """The answer (0 or 1) where so many of so many bits are ones."""

    def _last_answer(self) -> float:
        """P(the last answer is 1)."""
        law = binomial_law(self.length, 0.5)
        says = self._answer(torch.arange(self.length + 1), torch.tensor([self.length]))
        return float((torch.from_numpy(law) * says).sum())

    def sequence_nats(self) -> float:
        return self.length * math.log(BITS)

    def first_token_nats(self) -> float:
        return math.log(BITS)

    def last_token_nats(self) -> float:
        return entropy_nats((self._last_answer(), 1 - self._last_answer()))

    def support(self) -> float:
        return power(BITS, self.length)


class Parity(BitTask):
    """1 where the ones are odd in number: no statistic of fewer than n bits helps."""

    kind: ClassVar[str] = "parity"

    def _answer(self, ones: Tensor, bits: Tensor) -> Tensor:
        return ones % 2


class Majority(BitTask):
    """1 where more than half of the bits are ones; cumulative: at least half so far. A tie makes 0 the better guess."""

    kind: ClassVar[str] = "majority"

    @property
    def solved_by(self) -> tuple[str, ...]:
        return () if self.cumulative else ("in_context_mode",)

    def _answer(self, ones: Tensor, bits: Tensor) -> Tensor:
        return ((2 * ones >= bits) if self.cumulative else (2 * ones > bits)).long()


class Counting(Task):
    """A string, `?`, one of its letters: how often does it occur, as one token.

    Attributes:
        alphabet: A letters, ids 0 .. A - 1; `?` is A; the count k is A + 1 + k.
        length: n letters.
        most: the largest count that has an id; None for n. A task that is to be extrapolated needs room.
    """

    kind: ClassVar[str] = "counting"
    length_field: ClassVar[str] = "length"
    alphabet: int = Field(default=4, ge=2, le=2**16)
    length: int = Field(default=32, ge=1, le=2**16)
    most: int | None = Field(default=None, ge=1, le=2**20)

    @model_validator(mode="after")
    def _fits(self) -> Counting:
        enough = self.most is None or self.most >= self.length
        require(enough, f"counts up to {self.length} need as many ids, there is room up to {self.most}", "most")
        return self

    @property
    def _room(self) -> int:
        return self.length if self.most is None else self.most

    @property
    def vocab_size(self) -> int:
        return self.alphabet + 1 + self._room + 1

    @property
    def length_tokens(self) -> int:
        return self.length + 3

    def legal_answers(self) -> Tensor:
        return torch.arange(self.alphabet + 1, self.alphabet + 2 + self.length)

    def sample(self, count: int, rng: Generator) -> Sample:
        letters = integers(self.alphabet, (count, self.length), rng)
        asked = integers(self.alphabet, (count, 1), rng)
        found = (letters == asked).sum(1, keepdim=True)
        question = torch.full((count, 1), self.alphabet)
        tokens = torch.cat([letters, question, asked, found + self.alphabet + 1], 1)
        return Sample(tokens, answers_after(tokens, self.length + 2), {"count": found[:, 0]})

    def with_length(self, factor: int) -> Counting:
        """Longer, with the same ids: `most` must leave room, so that a model has seen the ids it is asked for."""
        wanted = self.length * factor
        require(wanted <= self._room, f"counts up to {wanted} need as many ids, there are {self._room}", "most")
        return self.resized(length=wanted, most=self._room)

    def sequence_nats(self) -> float:
        return (self.length + 1) * math.log(self.alphabet)

    def first_token_nats(self) -> float:
        return math.log(self.alphabet)

    def last_token_nats(self) -> float:
        return entropy_nats(binomial_law(self.length, 1 / self.alphabet).tolist())

    def support(self) -> float:
        return power(self.alphabet, self.length + 1)
