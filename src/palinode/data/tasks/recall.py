"""Associative recall and the induction head, as the safari repository defines them.

    associative recall   k1 v1 k2 v2 k1 v1 ... => k2 v2        which value followed this key?
    induction head       a b => c d e ... f => c               which token followed the trigger?

Ids: `.` is 0, then keys and values (or content), `=>` is the last.
Shapes: B sequences, T tokens, P pairs.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from palinode.data.tasks.base import Sample, SizedTask, exp
from palinode.data.tasks.baselines import CACHES
from palinode.data.tasks.draws import digits_of, first_places, integers, one_true
from palinode.data.tasks.laws import distinct_law, mixture_nats

DOT = 0
SPECIAL = 2  # `.` and `=>`
MOST_KEY_TUPLES = 2**20
TABLE_SHARE = 4  # a table over all key tuples is drawn while it has at most this many times the entries of a sequence
MOST_LENGTH = 2**22


class AssociativeRecall(SizedTask):
    """Pairs of a key and a value, then one of the keys again: its value is the answer.

    A key is a tuple of `key_tokens` ids. Every tuple has one value in a sequence, drawn uniformly (two tuples may share it). The
    pairs draw tuples uniformly with replacement; the query is uniform over the *different* tuples of the pairs.

    Attributes:
        vocabulary: ids, `.` and `=>` included; of the others the first half are keys, the rest values.
        length: tokens of the pairs, rounded down to whole pairs.
        key_tokens: tokens of a key.
        allow_dot: the query is uniform over all key tuples, and `.` is the answer where the pairs do not have it.
    """

    kind: ClassVar[str] = "associative-recall"
    solved_by: ClassVar[tuple[str, ...]] = CACHES
    vocabulary: int = Field(default=20, ge=1, le=2**16)
    length: int = Field(default=40, ge=1, le=MOST_LENGTH)
    key_tokens: int = Field(default=1, ge=1, le=16)
    allow_dot: bool = False

    def check_sizes(self) -> None:
        self.require_at_least("vocabulary", 6, "`.`, `=>`, 2 keys and 2 values")
        self.require_at_least("length", self.key_tokens + 1, "a key and a value")
        message = f"{self.keys} keys of {self.key_tokens} tokens are more than {MOST_KEY_TUPLES} tuples"
        self.require(self.key_tuples <= MOST_KEY_TUPLES, message, "key_tokens")

    @property
    def keys(self) -> int:
        """Number of ids that keys are made of."""
        return (self.vocabulary - SPECIAL) // 2

    @property
    def values(self) -> int:
        """Number of ids that are values."""
        return self.vocabulary - SPECIAL - self.keys

    @property
    def key_tuples(self) -> int:
        """C: number of possible keys."""
        return int(self.keys**self.key_tokens)

    @property
    def pairs(self) -> int:
        """P: pairs of a sequence."""
        return self.length // (self.key_tokens + 1)

    @property
    def length_tokens(self) -> int:
        return self.pairs * (self.key_tokens + 1) + self.key_tokens + 2

    def legal_answers(self) -> Tensor:
        values = torch.arange(1 + self.keys, 1 + self.keys + self.values)
        return torch.cat([torch.tensor([DOT]), values]) if self.allow_dot else values

    def sample(self, count: int, rng: Generator) -> Sample:
        keys = integers(self.key_tuples, (count, self.pairs), rng)
        values, query, different = self._values_and_query(keys, rng)
        matches = keys == query[:, None]
        places = torch.arange(1, self.pairs + 1, dtype=torch.int32)
        last = (matches * places).amax(1).long() - 1  # -1 where no pair has the key of the query
        answer = values.gather(1, last.clamp_min(0)[:, None])[:, 0].masked_fill(last < 0, DOT)
        tokens, width = torch.empty(count, self.length_tokens, dtype=torch.long), self.key_tokens + 1
        body = tokens[:, : self.pairs * width].view(count, self.pairs, width)
        body[..., :-1] = self._key_ids(keys)
        body[..., -1] = values
        tokens[:, -width - 1] = self.vocabulary - 1
        tokens[:, -width:-1] = self._key_ids(query)
        tokens[:, -1] = answer
        gap = torch.where(last < 0, 0, self.length_tokens - (last + 1) * width)
        last_place = self.length_tokens - 1
        return Sample.answered_from(tokens, last_place, gap=gap, shown=matches.sum(1), pairs=different)

    def _values_and_query(self, keys: Tensor, rng: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The id of the value of every pair (B, P), the key tuple of the query (B,), and the number of different tuples (B,)."""
        count, first_value = len(keys), 1 + self.keys
        if self.key_tuples <= TABLE_SHARE * self.pairs:
            table = integers(self.values, (count, self.key_tuples), rng) + first_value
            values = table.gather(1, keys)
            first = torch.zeros(count, self.key_tuples, dtype=torch.bool).scatter_(1, keys, True)
            query = one_true(first, rng) if not self.allow_dot else None
        else:
            firsts = first_places(keys, self.key_tuples)
            values = integers(self.values, (count, self.pairs), rng).gather(1, firsts) + first_value
            first = firsts == torch.arange(self.pairs)
            query = keys.gather(1, one_true(first, rng)[:, None])[:, 0] if not self.allow_dot else None
        return values, integers(self.key_tuples, (count,), rng) if query is None else query, first.sum(1)

    def _key_ids(self, tuples: Tensor) -> Tensor:
        return 1 + (tuples[..., None] if self.key_tokens == 1 else digits_of(tuples, self.key_tokens, self.keys))

    def share_absent(self) -> float:
        """The probability that no pair has the key of the query; 0 without allow_dot."""
        return float((1 - 1 / self.key_tuples) ** self.pairs) if self.allow_dot else 0.0

    def _query_nats(self) -> float:
        if self.allow_dot:
            return math.log(self.key_tuples)
        law = distinct_law(self.pairs, self.key_tuples)
        return sum(float(p) * math.log(d) for d, p in enumerate(law) if d)

    def _mean_distinct(self) -> float:
        return float(self.key_tuples * (1 - (1 - 1 / self.key_tuples) ** self.pairs))

    def sequence_nats(self) -> float:
        """P ln C of the keys, ln(values) for each different key, and the entropy of the query."""
        pairs = self.pairs * math.log(self.key_tuples) + self._mean_distinct() * math.log(self.values)
        return pairs + self._query_nats()

    def first_token_nats(self) -> float:
        return math.log(self.keys)

    def last_token_nats(self) -> float:
        return mixture_nats(1 - self.share_absent(), math.log(self.values))

    def best_accuracy_all_tokens(self) -> float | None:
        """The optimum guesses each key and the value of each new key, and knows the rest. None for longer keys and with `.`."""
        if self.key_tokens > 1 or self.allow_dot:
            return None
        new = self._mean_distinct()
        law = distinct_law(self.pairs, self.keys)
        query = sum(float(p) / d for d, p in enumerate(law) if d)
        hits = (self.pairs - 1) / self.keys + new / self.values + (self.pairs - new) + 1 + query + 1
        return hits / (self.length_tokens - 1)

    def support(self) -> float:
        law = distinct_law(self.pairs, self.key_tuples)
        queries = [self.key_tuples if self.allow_dot else d for d in range(len(law))]
        logs = [
            math.log(p) + d * math.log(self.values) + math.log(queries[d]) for d, p in enumerate(law) if d and p > 0
        ]
        highest = max(logs)
        total = math.log(sum(math.exp(value - highest) for value in logs)) + highest
        return exp(total + self.pairs * math.log(self.key_tuples))


class InductionHead(SizedTask):
    """Random tokens with a trigger `=>` among them; after a second trigger at the end, what followed the first is the answer.

    Attributes:
        vocabulary: ids, `.` (never drawn) and `=>` included.
        length: random tokens before the last trigger.
        answer_tokens: how many tokens after the trigger are the answer.
        triggers: above 1, half of the sequences have one trigger; the other half draw this many places with replacement, sort them
            and drop each within `answer_tokens` of the one before. The same tokens follow every trigger.
    """

    kind: ClassVar[str] = "induction-head"
    solved_by: ClassVar[tuple[str, ...]] = CACHES
    vocabulary: int = Field(default=20, ge=1, le=2**16)
    length: int = Field(default=30, ge=1, le=MOST_LENGTH)
    answer_tokens: int = Field(default=1, ge=1)
    triggers: int = Field(default=1, ge=1, le=1024)

    def check_sizes(self) -> None:
        self.require_at_least("vocabulary", 4, "`.`, `=>` and 2 others")
        self.require_at_least("length", self.answer_tokens + 2, "the trigger, the answer and a place to choose")

    @property
    def places(self) -> int:
        """Number of places where a trigger may stand."""
        return self.length - 1 - self.answer_tokens

    @property
    def content(self) -> int:
        """Number of ids that are drawn."""
        return self.vocabulary - SPECIAL

    @property
    def length_tokens(self) -> int:
        return self.length + 1 + self.answer_tokens

    def legal_answers(self) -> Tensor:
        return torch.arange(1, 1 + self.content)

    def sample(self, count: int, rng: Generator) -> Sample:
        tokens = torch.empty(count, self.length_tokens, dtype=torch.long)
        tokens[:, : self.length] = 1 + integers(self.content, (count, self.length), rng)
        tokens[:, self.length] = self.vocabulary - 1
        places, used = self._triggers(count, rng)
        answer = tokens.gather(1, places[:, :1] + torch.arange(1, self.answer_tokens + 1))
        insert = torch.cat([torch.full((count, 1), self.vocabulary - 1), answer], 1)
        last = places[:, 0]
        for place, use in zip(places.unbind(1), used.unbind(1), strict=True):
            inside = place[:, None] + torch.arange(self.answer_tokens + 1)
            tokens.scatter_(1, inside, torch.where(use[:, None], insert, tokens.gather(1, inside)))
            last = torch.where(use, place, last)
        tokens[:, self.length + 1 :] = answer
        return Sample.answered_from(tokens, self.length + 1, gap=self.length - last, triggers=used.sum(1))

    def _triggers(self, count: int, rng: Generator) -> tuple[Tensor, Tensor]:
        """Places (B, triggers) ascending, and which of them are used; the first always is."""
        places = integers(self.places, (count, self.triggers), rng)
        used = torch.ones(count, 1, dtype=torch.bool)
        if self.triggers == 1:
            return places, used
        single = torch.rand(count, 1, generator=rng) < 0.5
        # The least of several draws is no uniform draw: a single trigger is the one drawn first, unsorted.
        places = torch.where(single, places[:, :1], places.sort(1).values)
        last = places[:, 0]
        for place in places[:, 1:].unbind(1):
            use = place > last + self.answer_tokens
            used = torch.cat([used, use[:, None]], 1)
            last = torch.where(use, place, last)
        return places, used

    def sequence_nats(self) -> float | None:
        """The entropy of the trigger's place and of the other tokens; the answer adds nothing."""
        if self.triggers > 1:
            return None
        return math.log(self.places) + (self.length - 1) * math.log(self.content)

    def first_token_nats(self) -> float | None:
        return mixture_nats(1 - 1 / self.places, math.log(self.content)) if self.triggers == 1 else None

    def last_token_nats(self) -> float | None:
        return math.log(self.content) if self.triggers == 1 else None

    def best_accuracy_all_tokens(self) -> float | None:
        """For one trigger: at each place guess the trigger or a token, whichever is likelier; know the end."""
        if self.triggers > 1:
            return None
        hits = 1.0 + self.answer_tokens
        for place in range(1, self.length):
            before = max(self.places - place, 0) / self.places  # P(the trigger is still to come)
            here = 1 / (self.places - place) if before else 0.0
            hits += before * max(here, (1 - here) / self.content) + (1 - before) / self.content
        return hits / (self.length_tokens - 1)

    def support(self) -> float | None:
        total = self.sequence_nats()
        return None if total is None else exp(total)
