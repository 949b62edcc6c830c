"""Copying, reversal, parity, majority, counting and addition: exact answers about independent uniform tokens.

copy      x1 .. xn SEP x1 .. xn          parity     b1 .. bn END p         cumulative: b1 p1 b2 p2 ..
reversal  x1 .. xn SEP xn .. x1          majority   b1 .. bn END m         counting:   x1 .. xn ? c count
addition  0 4 7 + 3 8 5 = 0 4 3 2        lsd_first  0 4 7 + 3 8 5 = 2 3 4 0
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from palinode.base.measures import Direction
from palinode.data.tasks.base import Sample, Shape, ShapedTask
from palinode.data.tasks.baselines import CACHES
from palinode.data.tasks.draws import binomial_law, digits_of, entropy_nats, integers

MOST_LENGTH = 2**22
BITS = 2
PLUS, EQUALS = 10, 11
MOST_DIGITS = 17  # the sum of two numbers of this many digits still fits into 63 bits


class Copy(ShapedTask):
    """A random string, a separator, and the same string again.

    Attributes:
        vocabulary: the number of ids that the string is drawn from; the separator is the next id.
        length: the number of tokens of the string.
    """

    kind: ClassVar[str] = "copy"
    solved_by: ClassVar[tuple[str, ...]] = ("position_only", *CACHES)
    vocabulary: int = Field(default=16, ge=2, le=2**20)
    length: int = Field(default=16, ge=1, le=MOST_LENGTH)

    def shape(self) -> Shape:
        letters, drawn = range(self.vocabulary), (self.length, self.vocabulary)
        return Shape(self.vocabulary + 1, 2 * self.length + 1, answers=letters, drawn=drawn)

    def sample(self, count: int, rng: Generator) -> Sample:
        string = integers(self.vocabulary, (count, self.length), rng)
        separator = torch.full((count, 1), self.vocabulary)
        return Sample.answered_from(torch.cat([string, separator, self._answer(string)], 1), self.length + 1)

    def _answer(self, string: Tensor) -> Tensor:
        return string

    def best_accuracy_all_tokens(self) -> float:
        return ((self.length - 1) / self.vocabulary + 1 + self.length) / (2 * self.length)


class Reversal(Copy):
    """A random string, a separator, and the reversed string. A sequence is its own mirror image, so ltr and rtl must agree."""

    kind: ClassVar[str] = "reversal"
    solved_by: ClassVar[tuple[str, ...]] = ("position_only",)

    def _answer(self, string: Tensor) -> Tensor:
        return string.flip(1)


class BitTask(ShapedTask):
    """Random bits and a question about them.

    Attributes:
        length: the number of bits.
        cumulative: whether an answer follows every bit, `b1 a1 b2 a2 ..`; a model that reads earlier answers has a far easier task.
    """

    length: int = Field(default=16, ge=1, le=MOST_LENGTH)
    cumulative: bool = False

    def shape(self) -> Shape:
        ids, tokens = (BITS, 2 * self.length) if self.cumulative else (BITS + 1, self.length + 2)
        return Shape(ids, tokens, answers=range(BITS), drawn=(self.length, BITS))

    def sample(self, count: int, rng: Generator) -> Sample:
        bits = integers(BITS, (count, self.length), rng)
        ones = bits.cumsum(1)
        if self.cumulative:
            return Sample.of_pairs(bits, self._answer(ones, torch.arange(1, self.length + 1)), ones=ones[:, -1])
        end = torch.full((count, 1), BITS)
        answer = self._answer(ones[:, -1:], torch.tensor([self.length]))
        return Sample.answered_from(torch.cat([bits, end, answer], 1), self.length + 1, ones=ones[:, -1])

    @abstractmethod
    def _answer(self, ones: Tensor, bits: Tensor) -> Tensor:
        """The answer (0 or 1) if `ones` of `bits` bits are ones."""

    def edge_nats(self, direction: Direction) -> float | None:
        if direction == "ltr":
            return super().edge_nats(direction)
        law = binomial_law(self.length, 0.5)
        answers = self._answer(torch.arange(self.length + 1), torch.tensor([self.length]))
        chance_of_one = float((torch.from_numpy(law) * answers).sum())
        return entropy_nats((chance_of_one, 1 - chance_of_one))


class Parity(BitTask):
    """Random bits; the answer is 1 if the number of ones is odd, so no statistic of only some of the bits helps."""

    kind: ClassVar[str] = "parity"

    def _answer(self, ones: Tensor, bits: Tensor) -> Tensor:
        return ones % 2


class Majority(BitTask):
    """Random bits; the answer is 1 if more than half of the bits are ones (cumulative: if at least half of the bits so far are).

    If the answer is not cumulative, a tie gives 0, so 0 is the better guess.
    """

    kind: ClassVar[str] = "majority"

    @property
    def solved_by(self) -> tuple[str, ...]:
        return () if self.cumulative else ("in_context_mode",)

    def _answer(self, ones: Tensor, bits: Tensor) -> Tensor:
        return ((2 * ones >= bits) if self.cumulative else (2 * ones > bits)).long()


class Counting(ShapedTask):
    """A string, `?`, and one letter: the answer is one token, the number of times that the letter occurs in the string.

    Attributes:
        alphabet: A, the number of letters; their ids are 0 .. A - 1, the id of `?` is A, and the id of the count k is A + 1 + k.
        length: the number of letters of the string.
        most: the largest count that has an id; None for `length`. A task can be made longer only up to `most` letters.
    """

    kind: ClassVar[str] = "counting"
    alphabet: int = Field(default=4, ge=2, le=2**16)
    length: int = Field(default=32, ge=1, le=2**16)
    most: int | None = Field(default=None, ge=1, le=2**20)

    def check_sizes(self) -> None:
        self._check_room(self.length)

    def _check_room(self, length: int) -> None:
        message = f"counts up to {length} need as many ids, there is room up to {self._room}"
        self.require(length <= self._room, message, "most")

    @property
    def _room(self) -> int:
        return self.length if self.most is None else self.most

    def shape(self) -> Shape:
        zero = self.alphabet + 1  # the id of a count of 0
        counts, drawn = range(zero, zero + self.length + 1), (self.length + 1, self.alphabet)
        return Shape(zero + self._room + 1, self.length + 3, answers=counts, drawn=drawn)

    def sample(self, count: int, rng: Generator) -> Sample:
        letters = integers(self.alphabet, (count, self.length), rng)
        query = integers(self.alphabet, (count, 1), rng)
        occurrences = (letters == query).sum(1, keepdim=True)
        mark = torch.full((count, 1), self.alphabet)
        tokens = torch.cat([letters, mark, query, occurrences + self.alphabet + 1], 1)
        return Sample.answered_from(tokens, self.length + 2, count=occurrences[:, 0])

    def with_length(self, factor: int) -> Counting:
        """The task with a string `factor` times as long and the same ids: the vocabulary has ids for counts up to `most` already.

        Raises:
            BadInput: the string would have more than `most` letters.
        """
        length = self.length * factor
        self._check_room(length)
        return self.resized(length=length, most=self._room)

    def edge_nats(self, direction: Direction) -> float | None:
        if direction == "ltr":
            return super().edge_nats(direction)
        return entropy_nats(binomial_law(self.length, 1 / self.alphabet).tolist())


class Addition(ShapedTask):
    """Two uniform numbers of `digits` digits, padded with zeros, and their sum, which is one digit longer.

    In an ltr pass, the sum has entropy 0. In an rtl pass, the sum is read first and has a part of the entropy, the second number
    has the rest, and the first number has entropy 0; the total is the same. If the most significant digit of the sum comes first, a
    digit can depend on carries from far away; if the least significant digit comes first, carries are local.

    Attributes:
        digits: the number of digits of each of the two numbers.
        lsd_first: whether the least significant digit of the sum comes first.
    """

    kind: ClassVar[str] = "addition"
    length_field: ClassVar[str] = "digits"
    digits: int = Field(default=5, ge=1, le=MOST_DIGITS)
    lsd_first: bool = False

    def shape(self) -> Shape:
        return Shape(EQUALS + 1, 3 * self.digits + 3, answers=range(10), drawn=(2 * self.digits, 10))

    def sample(self, count: int, rng: Generator) -> Sample:
        numbers = torch.randint(10**self.digits, (count, 2), generator=rng)
        total = digits_of(numbers.sum(1), self.digits + 1)
        parts = digits_of(numbers, self.digits)
        sign = torch.full((count, 1), PLUS)
        written_total = total.flip(1) if self.lsd_first else total
        tokens = torch.cat([parts[:, 0], sign, parts[:, 1], sign + 1, written_total], 1)
        # A carry takes ten out of one column and puts one into the next column: each carry makes the digit sum smaller by nine.
        carries = (parts.sum((1, 2)) - total.sum(1)) // 9
        return Sample.answered_from(tokens, 2 * self.digits + 2, carries=carries)

    def split_key(self, sample: Sample) -> Tensor:
        """(B, 2): the two numbers, the smaller first, because a + b and b + a count as the same prompt."""
        size = self.digits
        places = 10 ** torch.arange(size - 1, -1, -1)
        first = (sample.tokens[:, :size] * places).sum(1)
        second = (sample.tokens[:, size + 1 : 2 * size + 1] * places).sum(1)
        return torch.stack([first, second], 1).sort(1).values

    def edge_nats(self, direction: Direction) -> float:
        """The entropy of the token read first. The units digit of the sum is uniform; the leading digit is the last carry."""
        carry = (1 - 10.0**-self.digits) / 2
        return entropy_nats((carry, 1 - carry)) if self.lsd_first and direction == "rtl" else math.log(10)

    def support(self) -> float:
        return 10.0**self.digits * (10.0**self.digits + 1) / 2
