"""Addition of two numbers, digit by digit.

    0 4 7 + 3 8 5 = 0 4 3 2                   lsd_first:  0 4 7 + 3 8 5 = 2 3 4 0

Read ltr, the sum has entropy 0. Read rtl, the sum comes first and has an entropy, the second number has the rest, and the first
number has none; the total is the same. With the most significant digit first, a digit can depend on carries from far away; with the
least significant first, carries are local.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from palinode.data.tasks.base import Sample, UniformTask
from palinode.data.tasks.draws import digits_of
from palinode.data.tasks.laws import entropy_nats

PLUS, EQUALS = 10, 11
MOST_DIGITS = 17  # the sum of two such numbers still fits 63 bits


class Addition(UniformTask):
    """Two uniform numbers of `digits` digits, padded with zeros, and their sum, one digit longer.

    Attributes:
        digits: of each number.
        lsd_first: the least significant digit of the sum comes first.
    """

    kind: ClassVar[str] = "addition"
    length_field: ClassVar[str] = "digits"
    digits: int = Field(default=5, ge=1, le=MOST_DIGITS)
    lsd_first: bool = False

    @property
    def vocab_size(self) -> int:
        return EQUALS + 1

    @property
    def length_tokens(self) -> int:
        return 3 * self.digits + 3

    @property
    def drawn(self) -> tuple[int, int]:
        return 2 * self.digits, 10

    def legal_answers(self) -> Tensor:
        return torch.arange(10)

    def sample(self, count: int, rng: Generator) -> Sample:
        numbers = torch.randint(10**self.digits, (count, 2), generator=rng)
        total = digits_of(numbers.sum(1), self.digits + 1)
        parts = digits_of(numbers, self.digits)
        sign = torch.full((count, 1), PLUS)
        written_total = total.flip(1) if self.lsd_first else total
        tokens = torch.cat([parts[:, 0], sign, parts[:, 1], sign + 1, written_total], 1)
        # Each carry takes ten out of one column and puts one into the next: the digit sums differ by nine for each carry.
        carries = (parts.sum((1, 2)) - total.sum(1)) // 9
        return Sample.answered_from(tokens, 2 * self.digits + 2, carries=carries)

    def split_key(self, sample: Sample) -> Tensor:
        """(B, 2): the two numbers, the smaller first, because a + b and b + a are one prompt."""
        size = self.digits
        places = 10 ** torch.arange(size - 1, -1, -1)
        first = (sample.tokens[:, :size] * places).sum(1)
        second = (sample.tokens[:, size + 1 : 2 * size + 1] * places).sum(1)
        return torch.stack([first, second], 1).sort(1).values

    def last_token_nats(self) -> float:
        """The units digit is uniform; the leading digit is the last carry."""
        carry = (1 - 10.0**-self.digits) / 2
        return entropy_nats((carry, 1 - carry)) if self.lsd_first else math.log(10)

    def support(self) -> float:
        return 10.0**self.digits * (10.0**self.digits + 1) / 2
