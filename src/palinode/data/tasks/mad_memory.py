"""Selective copying, compression and memorisation, as the mad-lab repository defines them, but with the answers in the sequence.

selective copying   _ a _ _ b c _ COPY a b c        compression   a b c C a b c        memorisation   k1 v1 k2 v2 ...
"""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from palinode.base.seeds import generator
from palinode.data.tasks.base import NO_VALUE, Sample, SizedTask, UniformTask, exp
from palinode.data.tasks.baselines import CACHES
from palinode.data.tasks.draws import integers, subset
from palinode.data.tasks.laws import log_choose, mixture_nats


class SelectiveCopy(SizedTask):
    """Content tokens among blanks, then a copy token: the content in order is the answer.

    Attributes:
        vocabulary: ids; the last is the copy token, the one before it the blank.
        length: T tokens, the answers included.
        content_tokens: number of tokens to copy.
        as_published: each blank stands before a random content token, so the last content token always stands next to the copy
            token. Otherwise the places of the content are a uniform subset.
    """

    kind: ClassVar[str] = "mad-selective-copy"
    vocabulary: int = Field(default=16, ge=1, le=2**20)
    length: int = Field(default=256, ge=1, le=2**22)
    content_tokens: int = Field(default=16, ge=1)
    as_published: bool = False

    def check_sizes(self) -> None:
        self.require_at_least("vocabulary", 4, "the blank, the copy token and 2 others")
        self.require_at_least("length", 2 * self.content_tokens + 2, "the content twice, the copy token and a blank")

    @property
    def body(self) -> int:
        """Tokens before the copy token."""
        return self.length - self.content_tokens - 1

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
        return Sample.with_gaps(tokens, gap)

    def _places(self, count: int, rng: Generator) -> Tensor:
        if not self.as_published:
            return subset(count, self.content_tokens, self.body, rng)
        before = integers(self.content_tokens, (count, self.body - self.content_tokens), rng)
        blanks = torch.zeros(count, self.content_tokens, dtype=torch.long)
        blanks.scatter_add_(1, before, torch.ones_like(before))
        return blanks.cumsum(1) + torch.arange(self.content_tokens)

    def sequence_nats(self) -> float | None:
        """The entropy of the content and of its places."""
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
        """As published, the last place is fixed: every order of blanks that ends with content is possible, not equally often."""
        fixed = int(self.as_published)
        places = log_choose(self.body - fixed, self.content_tokens - fixed)
        return exp(places + self.content_tokens * math.log(self.vocabulary - 2))


class Compression(UniformTask, SizedTask):
    """Uniform tokens and a compression token, then all again: a model that must pass through one state shows what it stores.

    The task gives only the tokens. The `bottleneck` objective makes the model write them again from the compression token alone, as
    the task intends; under any other objective the model reads the tokens themselves and copies them.

    Attributes:
        vocabulary: ids; the last is the compression token.
        length: tokens to store, the compression token included.
        as_published: the compression token is an answer too, though it is always the same: every guesser gains 1 / length.
    """

    kind: ClassVar[str] = "mad-compression"
    solved_by: ClassVar[tuple[str, ...]] = ("position_only", *CACHES)
    vocabulary: int = Field(default=16, ge=3, le=2**20)
    length: int = Field(default=32, ge=2, le=2**22)
    as_published: bool = False

    @property
    def length_tokens(self) -> int:
        return 2 * self.length if self.as_published else 2 * self.length - 1

    @property
    def drawn(self) -> tuple[int, int]:
        return self.length - 1, self.vocabulary - 1

    def legal_answers(self) -> Tensor:
        return torch.arange(self.vocabulary if self.as_published else self.vocabulary - 1)

    def sample(self, count: int, rng: Generator) -> Sample:
        content = integers(self.vocabulary - 1, (count, self.length - 1), rng)
        whole = torch.cat([content, torch.full((count, 1), self.vocabulary - 1)], 1)
        return Sample.answered_from(torch.cat([whole, whole if self.as_published else content], 1), self.length)

    def last_token_nats(self) -> float | None:
        return 0.0 if self.as_published else super().last_token_nats()


class Memorisation(UniformTask):
    """Keys whose values never change: no sequence says what they are, so a model has them in its weights or nowhere.

    Splits share keys, not sequences. A key that training never showed can only be guessed: `best_answer_accuracy` is the limit.
    The original shows an insert token instead of each value, as does an objective that hides answers.

    Attributes:
        vocabulary: ids; the last is reserved for the insert token, the first half of the others are keys.
        pairs: of a sequence.
        map_seed: chooses the map from keys to values.
    """

    kind: ClassVar[str] = "mad-memorisation"
    length_field: ClassVar[str] = "pairs"
    solved_by: ClassVar[tuple[str, ...]] = ("bigram",)  # the map, as far as the sequences that it is fitted on show it
    vocabulary: int = Field(default=256, ge=5, le=2**20)
    pairs: int = Field(default=16, ge=1, le=2**20)
    map_seed: int = Field(default=0, ge=0)

    @property
    def keys(self) -> int:
        """Number of ids that are keys."""
        return (self.vocabulary - 1) // 2

    @property
    def vocab_size(self) -> int:
        return self.vocabulary

    @property
    def length_tokens(self) -> int:
        return 2 * self.pairs

    @property
    def drawn(self) -> tuple[int, int]:
        return self.pairs, self.keys

    def legal_answers(self) -> Tensor:
        return torch.arange(self.keys, self.vocabulary - 1)

    def value_of(self) -> Tensor:
        """(keys,): the value of each key; no two keys share one."""
        return _value_map(self.keys, self.vocabulary - 1 - self.keys, self.map_seed) + self.keys

    def sample(self, count: int, rng: Generator) -> Sample:
        keys = integers(self.keys, (count, self.pairs), rng)
        return Sample.of_pairs(keys, self.value_of()[keys])

    def best_answer_accuracy(self, train_sequences: int | None = None) -> float:
        """The expected share of keys that the training sequences show at least once; guesses of the others are not counted."""
        if train_sequences is None:
            return 1.0
        return float(1 - (1 - 1 / self.keys) ** (train_sequences * self.pairs))


@functools.cache
def _value_map(keys: int, values: int, seed: int) -> Tensor:
    return torch.randperm(values, generator=generator(seed, "memorisation-map"))[:keys]
