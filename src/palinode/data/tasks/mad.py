"""In-context recall, selective copying, compression and memorisation (definitions of the mad-lab repository).

multi-query         k1 v1 k2 v2 k1 v1 ...            every value whose key came before is an answer
single-query        k1 v1 k2 v2 ... COPY k1 v1       only the last value is an answer
fuzzy               PAD k k v k v v ... k k v        keys and values of one to three tokens, without separators
selective copying   _ a _ _ b c _ COPY a b c
compression         a b c C a b c
memorisation        k1 v1 k2 v2 ...

Unlike in the original, all answers are part of the sequence. An objective with `hide_answers` hides them from the input.
Shapes: B sequences, T tokens, P pairs before the last, M pairs that fuzzy recall draws, L `most_tokens`.
"""

from __future__ import annotations

import functools
import math
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor

from palinode.base.measures import Direction
from palinode.base.seeds import generator
from palinode.data.tasks import draws
from palinode.data.tasks.base import NO_VALUE, Sample, Shape, ShapedTask, exp
from palinode.data.tasks.baselines import CACHES

MOST_LENGTH = 2**22


class MadRecall(ShapedTask):
    """Pairs of a key and a value; the key of the last pair is uniform over the different keys of the pairs before it.

    Attributes:
        vocabulary: the number of ids of keys (the first half) and values; if `multi_query` is false, the last id is the copy token.
        length: the number of tokens of the pairs; it is even.
        multi_query: whether every value whose key came before is an answer; if false, only the last value is an answer.
        noise: the share of pairs that are replaced by two noise ids. One pair, drawn among those before the last pair, always
            stays. MAD draws it among all pairs, the last included, so in one sequence of 64 no pair before the last is protected.
        noise_vocabulary: the number of noise ids; noise ids come after all other ids.
    """

    kind: ClassVar[str] = "mad-recall"
    solved_by: ClassVar[tuple[str, ...]] = CACHES
    vocabulary: int = Field(default=16, ge=1, le=2**20)
    length: int = Field(default=128, ge=1, le=MOST_LENGTH)
    multi_query: bool = True
    noise: float = Field(default=0.0, ge=0, lt=1)
    noise_vocabulary: int = Field(default=0, ge=0, le=2**20)

    def check_sizes(self) -> None:
        self.require_at_least("vocabulary", 4 + (not self.multi_query), "2 keys, 2 values and perhaps the copy token")
        self.require_at_least("length", 4, "two pairs")
        self.require(self.length % 2 == 0, f"{self.length} is odd, a pair has 2 tokens", "length")
        has_ids = self.noise_vocabulary >= 1 or self.noise == 0
        self.require(has_ids, f"noise {self.noise:g} needs ids of its own", "noise_vocabulary")

    @property
    def keys(self) -> int:
        """The number of ids that are keys."""
        return (self.vocabulary - (not self.multi_query)) // 2

    @property
    def values(self) -> int:
        """The number of ids that are values."""
        return self.vocabulary - (not self.multi_query) - self.keys

    def shape(self) -> Shape:
        ids, tokens = self.vocabulary + self.noise_vocabulary, self.length + (not self.multi_query)
        return Shape(ids, tokens, answers=range(self.keys, self.keys + self.values))

    def sample(self, count: int, rng: Generator) -> Sample:
        shown = self.length // 2 - 1
        keys = draws.integers(self.keys, (count, shown), rng)
        noisy = self._noisy(count, shown, rng)
        # A noisy pair counts as one more kind of key, which is never new and never the query.
        kinds = torch.where(noisy, self.keys, keys)
        new = (draws.first_places(kinds, self.keys + 1) == torch.arange(shown)) & ~noisy
        query = draws.one_true(new, rng)[:, None]
        keys = torch.cat([keys, keys.gather(1, query)], 1)
        table = draws.integers(self.values, (count, self.keys), rng) + self.keys
        pairs = torch.stack([keys, table.gather(1, keys)], 2)
        if self.noise:
            meaningless = draws.integers(self.noise_vocabulary, (count, shown, 2), rng) + self.vocabulary
            pairs[:, :-1] = torch.where(noisy[..., None], meaningless, pairs[:, :-1])
        repeated = torch.cat([~new & ~noisy, torch.ones(count, 1, dtype=torch.bool)], 1)
        before = draws.previous_places(torch.cat([kinds, keys[:, -1:]], 1))
        back = torch.where(repeated, 2 * (torch.arange(shown + 1) - before), NO_VALUE)
        return self._assembled(pairs, back, new.sum(1))

    def _noisy(self, count: int, pairs: int, rng: Generator) -> Tensor:
        """(B, P) bool: true for each pair that noise replaces."""
        if not self.noise:
            return torch.zeros(count, pairs, dtype=torch.bool)
        noisy = torch.rand(count, pairs, generator=rng) < self.noise
        return noisy.scatter_(1, draws.integers(pairs, (count, 1), rng), False)

    def _assembled(self, pairs: Tensor, back: Tensor, different: Tensor) -> Sample:
        """The sequences of (B, P + 1, 2) pairs.

        Args:
            back: (B, P + 1) the number of tokens from each answer back to the value of the last earlier pair with the same key.
            different: (B,) the number of different keys.
        """
        count = len(pairs)
        tokens, gap = pairs.view(count, -1), torch.stack([torch.full_like(back, NO_VALUE), back], 2).view(count, -1)
        if not self.multi_query:
            copy = torch.full((count, 1), self.vocabulary - 1)
            tokens = torch.cat([tokens[:, :-2], copy, tokens[:, -2:]], 1)
            gap = torch.full_like(tokens, NO_VALUE)
            gap[:, -1] = back[:, -1] + 1  # the copy token stands between them
        return Sample.with_gaps(tokens, gap, pairs=different, asked=(gap != NO_VALUE).sum(1))


class MadNoisyRecall(MadRecall):
    """In-context recall in which noise replaces a fifth of the pairs."""

    kind: ClassVar[str] = "mad-noisy-recall"
    noise: float = Field(default=0.2, ge=0, lt=1)
    noise_vocabulary: int = Field(default=16, ge=0, le=2**20)


class MadFuzzyRecall(ShapedTask):
    """Keys and values of several tokens without separators; one pair is planted at a random place and is the query at the end.

    The place of this pair is uniform among the places between pairs (the original draws a token offset and may plant no pair).
    The end of a key is ambiguous on purpose, so the task has no known floor.

    Attributes:
        vocabulary: the number of ids. The last id is the padding on the left. If `multi_query` is false, the id before the last is
            the copy token. The first half of the other ids are letters of keys, the rest are letters of values.
        length: T, the number of tokens of a sequence.
        most_tokens: the largest number of letters of a key, and of a value; the letters of one key or value are all different.
        key_sizes: the rule for the lengths of keys: `mixed`, or `longest` for all keys (the original trains on `mixed` and tests on
            `longest`).
        multi_query: whether every value whose key came before is an answer; if false, only the last value is an answer.
    """

    kind: ClassVar[str] = "mad-fuzzy-recall"
    vocabulary: int = Field(default=16, ge=1, le=2**16)
    length: int = Field(default=128, ge=1, le=MOST_LENGTH)
    most_tokens: int = Field(default=3, ge=1, le=3)
    key_sizes: Literal["mixed", "longest"] = "mixed"
    multi_query: bool = True

    def check_sizes(self) -> None:
        enough = self.keys >= max(self.most_tokens, 2)
        message = f"{self.vocabulary} ids are too few for keys of {self.most_tokens} letters"
        self.require(enough, message, "vocabulary")
        self.require_at_least("length", 6 * self.most_tokens + 1, "three pairs of the longest and the copy token")

    @property
    def _letters(self) -> int:
        return self.vocabulary - (1 if self.multi_query else 2)

    @property
    def keys(self) -> int:
        """The number of ids that are letters of keys."""
        return self._letters // 2

    def shape(self) -> Shape:
        return Shape(self.vocabulary, self.length, answers=range(self.keys, self._letters))

    def best_answer_accuracy(self, train_sequences: int | None = None) -> float | None:
        return None

    def sample(self, count: int, rng: Generator) -> Sample:
        letters, sizes = self._pairs(count, rng)
        widths = sizes.sum(2)
        planted, slot = widths[:, :1], torch.arange(widths.shape[1] - 1)
        before = widths[:, 1:].cumsum(1) - widths[:, 1:]
        room = self.length - 2 * planted - 2 * self.most_tokens  # the longest pair still leaves room for the end
        fits = before < room
        place = (torch.rand(count, 1, generator=rng) * (fits.sum(1, keepdim=True) + 1)).long()
        starts = before + planted * (slot >= place)
        planted_start = (widths[:, 1:] * (fits & (slot < place))).sum(1, keepdim=True)
        end_start = (widths[:, 1:] * fits).sum(1, keepdim=True) + planted + (not self.multi_query)
        starts = torch.cat([planted_start, starts, end_start], 1)
        always = torch.ones(count, 1, dtype=torch.bool)
        fits = torch.cat([always, fits, always], 1)
        order = torch.cat([torch.arange(widths.shape[1]), torch.zeros(1, dtype=torch.long)])  # the end repeats pair 0
        back = self._back(self._first_with_key(letters, sizes)[:, order], starts, fits)
        pad = self.length - (starts[:, -1:] + planted)
        return self._written(letters[:, order], sizes[:, order], starts + pad, fits, back)

    def _pairs(self, count: int, rng: Generator) -> tuple[Tensor, Tensor]:
        """The letters (B, M, 2, L) and sizes (B, M, 2) of keys and values. Pair 0 is the query; equal keys have equal values."""
        most, pairs = self.most_tokens, 1 + self.length // 2
        shape = (count, pairs)
        key_sizes = draws.integers(most, shape, rng) + 1 if self.key_sizes == "mixed" else torch.full(shape, most)
        value_sizes = draws.integers(most, shape, rng) + 1
        keys = draws.distinct(count * pairs, most, self.keys, rng).view(count, pairs, most)
        values = (
            draws.distinct(count * pairs, most, self._letters - self.keys, rng).view(count, pairs, most) + self.keys
        )
        letters, sizes = torch.stack([keys, values], 2), torch.stack([key_sizes, value_sizes], 2)
        firsts = self._first_with_key(letters, sizes)
        letters[:, :, 1] = values.gather(1, firsts[..., None].expand(values.shape))
        sizes[:, :, 1] = value_sizes.gather(1, firsts)
        return letters, sizes

    def _first_with_key(self, letters: Tensor, sizes: Tensor) -> Tensor:
        """(B, M): the index of the first pair with the same key as each pair."""
        most, base = self.most_tokens, self.keys + 1
        digits = (letters[:, :, 0] + 1) * (torch.arange(most) < sizes[:, :, :1])
        return draws.first_places((digits * base ** torch.arange(most)).sum(2), base**most)

    def _back(self, kinds: Tensor, starts: Tensor, fits: Tensor) -> Tensor:
        """(B, M + 1): the number of tokens from each pair back to the last earlier pair with the same key.

        NO_VALUE stands for a pair whose key is new, and for a pair whose value is not an answer.
        """
        order = torch.where(fits, starts, self.length).sort(dim=1, stable=True).indices
        before, places = draws.previous_places(kinds.gather(1, order)), starts.gather(1, order)
        back = torch.where(before < 0, NO_VALUE, places - places.gather(1, before.clamp_min(0)))
        back = torch.empty_like(back).scatter_(1, order, back)
        if not self.multi_query:
            back[:, :-1] = NO_VALUE
        return back

    def _written(self, letters: Tensor, sizes: Tensor, starts: Tensor, fits: Tensor, back: Tensor) -> Sample:
        """The sample with the letters at their places. Letters beyond the size of a word and pairs that do not fit are dropped."""
        count, letter, outside = len(letters), torch.arange(self.most_tokens), self.length
        tokens = torch.full((count, self.length + 1), self.vocabulary - 1)
        gap = torch.full_like(tokens, NO_VALUE)
        begins = torch.stack([starts, starts + sizes[:, :, 0]], 2)
        real = (letter < sizes[..., None]) & fits[..., None, None]
        places = torch.where(real, begins[..., None] + letter, outside).view(count, -1)
        gaps = torch.stack([torch.full_like(back, NO_VALUE), back], 2)[..., None].expand(letters.shape)
        tokens.scatter_(1, places, letters.reshape(count, -1))
        gap.scatter_(1, places, gaps.reshape(count, -1))
        if not self.multi_query:
            tokens.scatter_(1, starts[:, -1:] - 1, self.vocabulary - 2)
        tokens, gap = tokens[:, :-1].contiguous(), gap[:, :-1].contiguous()
        return Sample.with_gaps(tokens, gap, asked=(gap != NO_VALUE).sum(1))


class SelectiveCopy(ShapedTask):
    """Content tokens among blanks, then a copy token: the content tokens in their order are the answer.

    Attributes:
        vocabulary: the number of ids; the last id is the copy token, and the id before the last is the blank.
        length: T, the number of tokens of a sequence, the answers included.
        content_tokens: the number of tokens to copy.
        as_published: whether each blank stands before a random content token, so that the last content token always stands next to
            the copy token; if false, the places of the content tokens are a uniform subset.
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
        """The number of tokens before the copy token."""
        return self.length - self.content_tokens - 1

    def shape(self) -> Shape:
        return Shape(self.vocabulary, self.length, answers=range(self.vocabulary - 2))

    def sample(self, count: int, rng: Generator) -> Sample:
        content = draws.integers(self.vocabulary - 2, (count, self.content_tokens), rng)
        tokens = torch.full((count, self.length), self.vocabulary - 2)
        places = self._places(count, rng)
        tokens.scatter_(1, places, content)
        tokens[:, self.body] = self.vocabulary - 1
        tokens[:, self.body + 1 :] = content
        gap = torch.full_like(tokens, NO_VALUE)
        gap[:, self.body + 1 :] = torch.arange(self.body + 1, self.length) - places
        return Sample.answered_from(tokens, self.body + 1, gap=gap)

    def _places(self, count: int, rng: Generator) -> Tensor:
        if not self.as_published:
            return draws.subset(count, self.content_tokens, self.body, rng)
        before = draws.integers(self.content_tokens, (count, self.body - self.content_tokens), rng)
        blanks = torch.zeros(count, self.content_tokens, dtype=torch.long)
        blanks.scatter_add_(1, before, torch.ones_like(before))
        return blanks.cumsum(1) + torch.arange(self.content_tokens)

    def sequence_nats(self) -> float | None:
        """The entropy of the content tokens and of their places; None if `as_published` is true."""
        if self.as_published:
            return None
        places = draws.log_choose(self.body, self.content_tokens)
        return self.content_tokens * math.log(self.vocabulary - 2) + places

    def edge_nats(self, direction: Direction) -> float | None:
        nats = math.log(self.vocabulary - 2)
        if direction == "rtl":
            return nats
        return None if self.as_published else draws.mixture_nats(self.content_tokens / self.body, nats)

    def support(self) -> float:
        """The number of prompts. In the published form a content token is always last, and prompts are not equally likely."""
        fixed = int(self.as_published)
        places = draws.log_choose(self.body - fixed, self.content_tokens - fixed)
        return exp(places + self.content_tokens * math.log(self.vocabulary - 2))


class Compression(ShapedTask):
    """Uniform tokens and a compression token, then the same tokens again: a test of how much one state of a model can store.

    The task gives only the tokens. The `bottleneck` objective makes the model write the tokens again from the compression token
    alone, as the task intends; under any other objective the model reads the first tokens and copies them.

    Attributes:
        vocabulary: the number of ids; the last id is the compression token.
        length: the number of tokens to store, the compression token included.
        as_published: whether the compression token is an answer too; this answer never changes, so every guesser gains 1 / length.
    """

    kind: ClassVar[str] = "mad-compression"
    solved_by: ClassVar[tuple[str, ...]] = ("position_only", *CACHES)
    vocabulary: int = Field(default=16, ge=3, le=2**20)
    length: int = Field(default=32, ge=2, le=2**22)
    as_published: bool = False

    def shape(self) -> Shape:
        content, extra = self.vocabulary - 1, int(self.as_published)
        drawn = (self.length - 1, content)
        return Shape(self.vocabulary, 2 * self.length - 1 + extra, answers=range(content + extra), drawn=drawn)

    def sample(self, count: int, rng: Generator) -> Sample:
        content = draws.integers(self.vocabulary - 1, (count, self.length - 1), rng)
        whole = torch.cat([content, torch.full((count, 1), self.vocabulary - 1)], 1)
        return Sample.answered_from(torch.cat([whole, whole if self.as_published else content], 1), self.length)

    def edge_nats(self, direction: Direction) -> float | None:
        return 0.0 if self.as_published and direction == "rtl" else super().edge_nats(direction)


class Memorisation(ShapedTask):
    """Keys whose values are the same in every sequence, so that a model must store the values in its weights.

    Splits share keys, not sequences. The value of a key that training never showed can only be guessed: `best_answer_accuracy` is
    the limit. The original shows an insert token in place of each value; an objective with `hide_answers` shows `[MASK]`.

    Attributes:
        vocabulary: the number of ids; the last id is reserved for the insert token, the first half of the others are keys.
        pairs: the number of pairs in a sequence.
        map_seed: the seed that chooses the map from keys to values.
    """

    kind: ClassVar[str] = "mad-memorisation"
    length_field: ClassVar[str] = "pairs"
    # This guesser learns the map from the sequences that it is fitted on.
    solved_by: ClassVar[tuple[str, ...]] = ("bigram",)
    vocabulary: int = Field(default=256, ge=5, le=2**20)
    pairs: int = Field(default=16, ge=1, le=2**20)
    map_seed: int = Field(default=0, ge=0)

    @property
    def keys(self) -> int:
        """The number of ids that are keys."""
        return (self.vocabulary - 1) // 2

    def shape(self) -> Shape:
        values = range(self.keys, self.vocabulary - 1)
        return Shape(self.vocabulary, 2 * self.pairs, answers=values, drawn=(self.pairs, self.keys))

    def value_of(self) -> Tensor:
        """(keys,): the value of each key; no two keys have the same value."""
        return _value_map(self.keys, self.vocabulary - 1 - self.keys, self.map_seed) + self.keys

    def sample(self, count: int, rng: Generator) -> Sample:
        keys = draws.integers(self.keys, (count, self.pairs), rng)
        return Sample.of_pairs(keys, self.value_of()[keys])

    def best_answer_accuracy(self, train_sequences: int | None = None) -> float:
        """The expected share of keys that training or an earlier pair of the sequence shows. Lucky guesses are not counted."""
        new = (1 - 1 / self.keys) ** np.arange(self.pairs)  # the chance that no earlier pair has the key, by pair
        return 1.0 - self._not_trained(train_sequences) * float(new.mean())

    def best_hidden_accuracy(self, train_sequences: int | None = None) -> float:
        """The expected share of keys that the training sequences show at least once: the limit of the published task."""
        return 1.0 - self._not_trained(train_sequences)

    def _not_trained(self, train_sequences: int | None) -> float:
        """The chance that a key is in none of the training sequences."""
        return 0.0 if train_sequences is None else float((1 - 1 / self.keys) ** (train_sequences * self.pairs))


@functools.cache
def _value_map(keys: int, values: int, seed: int) -> Tensor:
    return torch.randperm(values, generator=generator(seed, "memorisation-map"))[:keys]
