"""Selective copying, compression and memorisation, as the mad-lab repository defines them, with their answers in place.

selective copying   _ a _ _ b c _ COPY a b c        compression   a b c C a b c        memorisation   k1 v1 k2 v2 ...
"""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor

from palinode.base.seeds import generator
from palinode.data.tasks.base import NO_VALUE, Sample, Task, exp, power, require
from palinode.data.tasks.baselines import CACHES
from palinode.data.tasks.draws import integers, subset
from palinode.data.tasks.laws import log_choose, mixture_nats
from palinode.data.tasks.strings import answers_after


class SelectiveCopy(Task):
    """Content tokens among blanks, then a copy token: the content in order is the answer.

    Attributes:
        vocabulary: ids; the last is the copy token, the one before it the blank.
        length: S tokens, the answers included.
        content_tokens: how many there are to copy.
        as_published: each blank is put before a random content token, so that the last content token always stands next to the copy
            token. Otherwise the content's places are a uniform subset.
    """

    kind: ClassVar[str] = "mad-selective-copy"
    length_field: ClassVar[str] = "length"
    vocabulary: int = Field(default=16, ge=1, le=2**20)
    length: int = Field(default=256, ge=1, le=2**22)
    content_tokens: int = Field(default=16, ge=1)
    as_published: bool = False

    @model_validator(mode="after")
    def _fits(self) -> SelectiveCopy:
        require(self.vocabulary >= 4, f"{self.vocabulary} ids are too few: blank, copy and 2 others", "vocabulary")
        least = 2 * self.content_tokens + 2
        require(self.length >= least, f"{self.length} tokens are too few to copy so many: {least} are needed", "length")
        return self

    @property
    def body(self) -> int:
        """Tokens before the copy token."""
        return self.length - self.content_tokens - 1

    @property
    def vocab_size(self) -> int:
        return self.vocabulary

    @property
    def length_tokens(self) -> int:
        return self.length

    def legal_answers(self) -> Tensor:
        return torch.arange(self.vocabulary - 2)

    def sample(self, count: int, rng: Generator) -> Sample:
        content = integers(self.vocabulary - 2, (count, self.content_tokens), rng)
        tokens = torch.full((count, self.length), self.vocabulary - 2)
        places = self._places(count, rng)
        tokens.scatter_(1, places, content)
        tokens[:, self.body] = self.vocabulary - 1
        tokens[:, self.body + 1 :] = content
        gap = torch.full_like(tokens, NO_VALUE)
        gap[:, self.body + 1 :] = torch.arange(self.body + 1, self.length) - places
        return Sample(tokens, answers_after(tokens, self.body + 1), {"gap": gap})

    def _places(self, count: int, rng: Generator) -> Tensor:
        if not self.as_published:
            return subset(count, self.content_tokens, self.body, rng)
        before = integers(self.content_tokens, (count, self.body - self.content_tokens), rng)
        blanks = torch.zeros(count, self.content_tokens, dtype=torch.long)
        blanks.scatter_add_(1, before, torch.ones_like(before))
        return blanks.cumsum(1) + torch.arange(self.content_tokens)

    def sequence_nats(self) -> float | None:
        """The content and its places."""
        if self.as_published:
            return None
        places = log_choose(self.body, self.content_tokens)
        return self.content_tokens * math.log(self.vocabulary - 2) + places

    def first_token_nats(self) -> float | None:
        share = self.content_tokens / self.body
        return None if self.as_published else mixture_nats(share, math.log(self.vocabulary - 2))

    def last_token_nats(self) -> float:
        return math.log(self.vocabulary - 2)

    def support(self) -> float:
        """As published every order of blanks that ends with content may come, though not equally often."""
        free, placed = (
            (self.body - 1, self.content_tokens - 1) if self.as_published else (self.body, self.content_tokens)
        )
        return exp(log_choose(free, placed) + self.content_tokens * math.log(self.vocabulary - 2))


class Compression(Task):
    """Uniform tokens and a compression token, then all again: a reader that must pass through one state shows what it holds.

    The task gives the tokens; that they may be said again from the compression token alone is the objective's affair: `bottleneck`
    trains the task that is meant, any other reads the tokens themselves and copies them.

    Attributes:
        vocabulary: ids; the last is the compression token.
        length: tokens to hold, the compression token included.
        as_published: the compression token is asked for too, though it is always the same: a guesser scores 1 / length more.
    """

    kind: ClassVar[str] = "mad-compression"
    length_field: ClassVar[str] = "length"
    vocabulary: int = Field(default=16, ge=3, le=2**20)
    length: int = Field(default=32, ge=2, le=2**22)
    as_published: bool = False

    @property
    def vocab_size(self) -> int:
        return self.vocabulary

    @property
    def length_tokens(self) -> int:
        return 2 * self.length if self.as_published else 2 * self.length - 1

    def legal_answers(self) -> Tensor:
        return torch.arange(self.vocabulary if self.as_published else self.vocabulary - 1)

    @property
    def solved_by(self) -> tuple[str, ...]:
        return ("position_only", *CACHES)

    def sample(self, count: int, rng: Generator) -> Sample:
        content = integers(self.vocabulary - 1, (count, self.length - 1), rng)
        held = torch.cat([content, torch.full((count, 1), self.vocabulary - 1)], 1)
        tokens = torch.cat([held, held if self.as_published else content], 1)
        return Sample(tokens, answers_after(tokens, self.length))

    def sequence_nats(self) -> float:
        return (self.length - 1) * math.log(self.vocabulary - 1)

    def first_token_nats(self) -> float:
        return math.log(self.vocabulary - 1)

    def last_token_nats(self) -> float:
        return 0.0 if self.as_published else math.log(self.vocabulary - 1)

    def support(self) -> float:
        return power(self.vocabulary - 1, self.length - 1)


class Memorisation(Task):
    """Keys whose values never change: nothing in a sequence tells them, they are in the weights or nowhere.

    Splits share keys, not sequences. A key that training never showed can only be guessed: `best_answer_accuracy` is the ceiling.
    The original shows an insert token instead of each value, as does a reading in which answers are hidden.

    Attributes:
        vocabulary: ids; the last is kept for the insert token, the first half of the others are keys.
        pairs: of a sequence.
        map_seed: which map.
    """

    kind: ClassVar[str] = "mad-memorisation"
    length_field: ClassVar[str] = "pairs"
    vocabulary: int = Field(default=256, ge=5, le=2**20)
    pairs: int = Field(default=16, ge=1, le=2**20)
    map_seed: int = Field(default=0, ge=0)

    @property
    def keys(self) -> int:
        """Ids of keys."""
        return (self.vocabulary - 1) // 2

    @property
    def vocab_size(self) -> int:
        return self.vocabulary

    @property
    def length_tokens(self) -> int:
        return 2 * self.pairs

    def legal_answers(self) -> Tensor:
        return torch.arange(self.keys, self.vocabulary - 1)

    @property
    def solved_by(self) -> tuple[str, ...]:
        return ("bigram",)  # the map, as far as the sequences it is counted on show it

    def value_of(self) -> Tensor:
        """(keys,): the value of each key; no two share one."""
        return _value_map(self.keys, self.vocabulary - 1 - self.keys, self.map_seed) + self.keys

    def sample(self, count: int, rng: Generator) -> Sample:
        keys = integers(self.keys, (count, self.pairs), rng)
        tokens = torch.stack([keys, self.value_of()[keys]], 2).view(count, -1)
        return Sample(tokens, torch.arange(2 * self.pairs).remainder(2).bool().expand(tokens.shape).clone())

    def best_answer_accuracy(self, train_sequences: int | None = None) -> float:
        """The share of keys that so many training sequences show at least once; a guess of the others is not counted."""
        if train_sequences is None:
            return 1.0
        return float(1 - (1 - 1 / self.keys) ** (train_sequences * self.pairs))

    def sequence_nats(self) -> float:
        return self.pairs * math.log(self.keys)

    def first_token_nats(self) -> float:
        return math.log(self.keys)

    def last_token_nats(self) -> float:
        return math.log(self.keys)

    def support(self) -> float:
        return power(self.keys, self.pairs)


@functools.cache
def _value_map(keys: int, values: int, seed: int) -> Tensor:
    return torch.randperm(values, generator=generator(seed, "memorisation-map"))[:keys]
