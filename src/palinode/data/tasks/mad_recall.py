"""In-context recall, noisy and fuzzy, as the mad-lab repository defines them.

multi-query    k1 v1 k2 v2 k1 v1 ...            every value whose key was shown before is asked for
single-query   k1 v1 k2 v2 ... COPY k1 v1       the last one alone
fuzzy          PAD k k v k v v ... k k v        keys and values of one to three tokens, in no recognisable frame
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor

from palinode.data.tasks.base import NO_VALUE, Sample, Task, require
from palinode.data.tasks.baselines import CACHES
from palinode.data.tasks.draws import distinct, first_places, integers, one_true, previous_places

MOST_LENGTH = 2**22


class MadRecall(Task):
    """Pairs of a key and a value; the last pair repeats a key that is uniform over the different keys shown.

    Attributes:
        vocabulary: ids of keys (the first half) and values; single-query takes the last of them for the copy token.
        length: tokens of the pairs; even.
        multi_query: every value whose key was shown before is an answer, not the last alone.
        noise: share of pairs replaced by two noise ids; one pair is never replaced (the original draws which among all with the
            last, so that in one sequence of 64 none is protected).
        noise_vocabulary: ids of the noise, after all others.
    """

    kind: ClassVar[str] = "mad-recall"
    length_field: ClassVar[str] = "length"
    vocabulary: int = Field(default=16, ge=1, le=2**20)
    length: int = Field(default=128, ge=1, le=MOST_LENGTH)
    multi_query: bool = True
    noise: float = Field(default=0.0, ge=0, lt=1)
    noise_vocabulary: int = Field(default=0, ge=0, le=2**20)

    @model_validator(mode="after")
    def _fits(self) -> MadRecall:
        least = 4 if self.multi_query else 5
        require(self.vocabulary >= least, f"{self.vocabulary} ids are too few, {least} make 2 keys", "vocabulary")
        require(self.length >= 4, f"{self.length} tokens are too few: two pairs have 4", "length")
        require(self.length % 2 == 0, f"{self.length} tokens are not whole pairs of a key and a value", "length")
        voiced = self.noise_vocabulary >= 1 or self.noise == 0
        require(voiced, f"noise {self.noise:g} needs ids of its own", "noise_vocabulary")
        return self

    @property
    def keys(self) -> int:
        """Ids of keys."""
        return (self.vocabulary - (not self.multi_query)) // 2

    @property
    def values(self) -> int:
        """Ids of values."""
        return self.vocabulary - (not self.multi_query) - self.keys

    @property
    def vocab_size(self) -> int:
        return self.vocabulary + self.noise_vocabulary

    @property
    def length_tokens(self) -> int:
        return self.length + (not self.multi_query)

    @property
    def solved_by(self) -> tuple[str, ...]:
        return CACHES

    def legal_answers(self) -> Tensor:
        return torch.arange(self.keys, self.keys + self.values)

    def sample(self, count: int, rng: Generator) -> Sample:
        shown = self.length // 2 - 1
        keys = integers(self.keys, (count, shown), rng)
        noisy = self._noisy(count, shown, rng)
        # a noisy pair is a key of its own kind, so that it is neither shown nor asked for
        kinds = torch.where(noisy, self.keys, keys)
        new = first_places(kinds, self.keys + 1) == torch.arange(shown)
        asked = one_true(new & ~noisy, rng)[:, None]
        keys = torch.cat([keys, keys.gather(1, asked)], 1)
        table = integers(self.values, (count, self.keys), rng) + self.keys
        pairs = torch.stack([keys, table.gather(1, keys)], 2)
        if self.noise:
            meaningless = integers(self.noise_vocabulary, (count, shown, 2), rng) + self.vocabulary
            pairs[:, :-1] = torch.where(noisy[..., None], meaningless, pairs[:, :-1])
        known = torch.cat([~new & ~noisy, torch.ones(count, 1, dtype=torch.bool)], 1)
        before = previous_places(torch.cat([kinds, keys[:, -1:]], 1))
        back = torch.where(known, 2 * (torch.arange(shown + 1) - before), NO_VALUE)
        return self._assembled(pairs, back, (new & ~noisy).sum(1))

    def _noisy(self, count: int, pairs: int, rng: Generator) -> Tensor:
        """(n, P): which pairs are replaced by noise."""
        if not self.noise:
            return torch.zeros(count, pairs, dtype=torch.bool)
        noisy = torch.rand(count, pairs, generator=rng) < self.noise
        return noisy.scatter_(1, integers(pairs, (count, 1), rng), False)

    def _assembled(self, pairs: Tensor, back: Tensor, shown: Tensor) -> Sample:
        """The sequences of (n, P + 1, 2) pairs, each so many tokens behind the last with its key: the values of these are asked."""
        count = len(pairs)
        tokens, gap = pairs.view(count, -1), torch.stack([torch.full_like(back, NO_VALUE), back], 2).view(count, -1)
        if not self.multi_query:
            copy = torch.full((count, 1), self.vocabulary - 1)
            tokens = torch.cat([tokens[:, :-2], copy, tokens[:, -2:]], 1)
            gap = torch.full_like(tokens, NO_VALUE)
            gap[:, -1] = back[:, -1] + 1  # for the copy token
        answers = gap != NO_VALUE
        return Sample(tokens, answers, {"gap": gap, "pairs": shown, "asked": answers.sum(1)})


class MadNoisyRecall(MadRecall):
    """In-context recall with a fifth of the pairs replaced by noise."""

    kind: ClassVar[str] = "mad-noisy-recall"
    noise: float = Field(default=0.2, ge=0, lt=1)
    noise_vocabulary: int = Field(default=16, ge=0, le=2**20)


class MadFuzzyRecall(Task):
    """Keys and values of several tokens without separators; one pair is planted at a random place and asked for at the end.

    The place is uniform among those between pairs (the original draws a token offset, and may then plant nothing). Parsing is
    ambiguous on purpose, so that no floor is known.

    Attributes:
        vocabulary: ids; the last pads from the left, single-query takes the one before for the copy token, the first half of the
            others are letters of keys, the rest letters of values.
        length: S tokens.
        most_tokens: longest key and longest value; letters of one are all different.
        key_sizes: `mixed` lengths of keys, or all `longest` (the original trains on the first and tests on the second).
        multi_query: every value whose key was shown before is an answer, not the last alone.
    """

    kind: ClassVar[str] = "mad-fuzzy-recall"
    length_field: ClassVar[str] = "length"
    vocabulary: int = Field(default=16, ge=1, le=2**16)
    length: int = Field(default=128, ge=1, le=MOST_LENGTH)
    most_tokens: int = Field(default=3, ge=1, le=3)
    key_sizes: Literal["mixed", "longest"] = "mixed"
    multi_query: bool = True

    @model_validator(mode="after")
    def _fits(self) -> MadFuzzyRecall:
        least = 2 * self.most_tokens + 2 - self.multi_query
        enough = self.keys >= max(self.most_tokens, 2)
        require(enough, f"{self.vocabulary} ids are too few for keys of {self.most_tokens} letters", "vocabulary")
        least = 6 * self.most_tokens + 1
        require(self.length >= least, f"{self.length} tokens are too few: three pairs may have {least}", "length")
        return self

    @property
    def _letters(self) -> int:
        return self.vocabulary - (1 if self.multi_query else 2)

    @property
    def keys(self) -> int:
        """Letters of keys."""
        return self._letters // 2

    @property
    def vocab_size(self) -> int:
        return self.vocabulary

    @property
    def length_tokens(self) -> int:
        return self.length

    def legal_answers(self) -> Tensor:
        return torch.arange(self.keys, self._letters)

    def best_answer_accuracy(self, train_sequences: int | None = None) -> float | None:
        return None

    def sample(self, count: int, rng: Generator) -> Sample:
        keys, key_sizes, values, value_sizes = self._pairs(count, rng)
        sizes = key_sizes + value_sizes
        planted, slot = sizes[:, :1], torch.arange(sizes.shape[1] - 1)
        before = sizes[:, 1:].cumsum(1) - sizes[:, 1:]
        fits = (
            before < self.length - 2 * planted - 2 * self.most_tokens
        )  # the longest pair still leaves room for the end
        place = (torch.rand(count, 1, generator=rng) * (fits.sum(1, keepdim=True) + 1)).long()
        starts = before + planted * (slot >= place)
        probe_start = (sizes[:, 1:] * (fits & (slot < place))).sum(1, keepdim=True)
        used = (sizes[:, 1:] * fits).sum(1, keepdim=True) + planted
        starts = torch.cat([probe_start, starts, used + (not self.multi_query)], 1)
        fits = torch.cat([torch.ones(count, 1, dtype=torch.bool), fits, torch.ones(count, 1, dtype=torch.bool)], 1)
        again = torch.cat([torch.arange(sizes.shape[1]), torch.zeros(1, dtype=torch.long)])  # the end repeats pair 0
        pad = self.length - (starts[:, -1:] + planted)
        back = self._back(keys, key_sizes, starts, fits, again)
        return self._written(
            keys[:, again], key_sizes[:, again], values[:, again], value_sizes[:, again], starts + pad, fits, back
        )

    def _pairs(self, count: int, rng: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Letters (n, M, most) and sizes (n, M) of keys and values. Pair 0 is the planted one; equal keys have equal values."""
        most, pairs = self.most_tokens, 1 + self.length // 2
        shape = (count, pairs)
        key_sizes = integers(most, shape, rng) + 1 if self.key_sizes == "mixed" else torch.full(shape, most)
        value_sizes = integers(most, shape, rng) + 1
        keys = distinct(count * pairs, most, self.keys, rng).view(count, pairs, most)
        values = distinct(count * pairs, most, self._letters - self.keys, rng).view(count, pairs, most) + self.keys
        firsts = self._first_with_key(keys, key_sizes)
        values = values.gather(1, firsts[..., None].expand(values.shape))
        return keys, key_sizes, values, value_sizes.gather(1, firsts)

    def _first_with_key(self, keys: Tensor, sizes: Tensor) -> Tensor:
        most, base = self.most_tokens, self.keys + 1
        letters = (keys + 1) * (torch.arange(most) < sizes[..., None])
        return first_places((letters * base ** torch.arange(most)).sum(2), base**most)

    def _back(self, keys: Tensor, sizes: Tensor, starts: Tensor, fits: Tensor, again: Tensor) -> Tensor:
        """(n, M + 1): tokens back to the last pair before it with the same key, NO_VALUE where there is none or it is not asked."""
        kinds = self._first_with_key(keys, sizes)[:, again]
        order = torch.where(fits, starts, self.length).sort(dim=1, stable=True).indices
        before, places = previous_places(kinds.gather(1, order)), starts.gather(1, order)
        back = torch.where(before < 0, NO_VALUE, places - places.gather(1, before.clamp_min(0)))
        back = torch.empty_like(back).scatter_(1, order, back)
        asked = torch.arange(len(again)) >= (0 if self.multi_query else len(again) - 1)
        return torch.where(asked, back, NO_VALUE)

    def _written(
        self,
        keys: Tensor,
        key_sizes: Tensor,
        values: Tensor,
        value_sizes: Tensor,
        starts: Tensor,
        fits: Tensor,
        back: Tensor,
    ) -> Sample:
        """Letters put where they belong; those that do not count fall off the end."""
        count, most = len(keys), self.most_tokens
        letter, outside = torch.arange(most), self.length
        tokens = torch.full((count, self.length + 1), self.vocabulary - 1)
        gap = torch.full_like(tokens, NO_VALUE)
        for letters, sizes, begin, told in (
            (keys, key_sizes, starts, torch.full_like(back, NO_VALUE)),
            (values, value_sizes, starts + key_sizes, back),
        ):
            real = (letter < sizes[..., None]) & fits[..., None]
            place = torch.where(real, begin[..., None] + letter, outside).view(count, -1)
            tokens.scatter_(1, place, letters.reshape(count, -1))
            gap.scatter_(1, place, told[..., None].expand(letters.shape).reshape(count, -1))
        if not self.multi_query:
            tokens.scatter_(1, starts[:, -1:] - 1, self.vocabulary - 2)
        tokens, gap = tokens[:, :-1].contiguous(), gap[:, :-1].contiguous()
        answers = gap != NO_VALUE
        return Sample(tokens, answers, {"gap": gap, "asked": answers.sum(1)})
