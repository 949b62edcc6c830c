"""Associative recall and the induction head (definitions of the safari repository), and multi-query recall (that of zoology).

    associative recall   k1 v1 k2 v2 k1 v1 ... => k2 v2        which value followed this key?
    induction head       a b => c d e ... f => c               which token followed the trigger?
    multi-query recall   k1 v1 ... kP vP | 0 0 k2 v2 0 0 k1 v1 0 0       each key is a query once, at an even place after the pairs

Shapes: B sequences, T tokens, V ids, P pairs.
"""

from __future__ import annotations

import functools
import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from palinode.base.measures import Direction
from palinode.data.tasks import draws
from palinode.data.tasks.base import NO_VALUE, Sample, Shape, ShapedTask, exp
from palinode.data.tasks.baselines import CACHES

DOT = 0
SPECIAL = 2  # `.` and `=>`
MOST_KEY_TUPLES = 2**20
TABLE_SHARE = 4  # a table of all key tuples is drawn if it has at most this many times the pairs of a sequence
MOST_LENGTH = 2**22


class AssociativeRecall(ShapedTask):
    """Pairs of a key and a value, then one of the keys again as the query: the value of this key is the answer.

    A key is a tuple of `key_tokens` ids. Every tuple has one value in a sequence, drawn uniformly; two tuples may have the
    same value. The pairs draw tuples uniformly with replacement; the query is uniform over the *different* tuples of the pairs. The
    id of `.` is 0, the ids of the keys come next, then the ids of the values; the id of `=>` is the last.

    Attributes:
        vocabulary: the number of ids, `.` and `=>` included; the first half of the other ids are keys, the rest are values.
        length: the number of tokens of the pairs, rounded down to whole pairs.
        key_tokens: the number of tokens of a key.
        allow_dot: whether the query is uniform over all key tuples; `.` is the answer if no pair has the key of the query.
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
        """The number of ids that keys are made of."""
        return (self.vocabulary - SPECIAL) // 2

    @property
    def values(self) -> int:
        """The number of ids that are values."""
        return self.vocabulary - SPECIAL - self.keys

    @property
    def key_tuples(self) -> int:
        """C, the number of possible keys."""
        return int(self.keys**self.key_tokens)

    @property
    def pairs(self) -> int:
        """P, the number of pairs in a sequence."""
        return self.length // (self.key_tokens + 1)

    def shape(self) -> Shape:
        tokens = self.pairs * (self.key_tokens + 1) + self.key_tokens + 2
        return Shape(self.vocabulary, tokens, answers=range(1 + self.keys, 1 + self.keys + self.values))

    def legal_answers(self) -> Tensor:
        values = super().legal_answers()
        return torch.cat([torch.tensor([DOT]), values]) if self.allow_dot else values

    def sample(self, count: int, rng: Generator) -> Sample:
        keys = draws.integers(self.key_tuples, (count, self.pairs), rng)
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
        """The value id of every pair (B, P), the key tuple of the query (B,), and the number of different key tuples (B,)."""
        count, first_value = len(keys), 1 + self.keys
        if self.key_tuples <= TABLE_SHARE * self.pairs:
            table = draws.integers(self.values, (count, self.key_tuples), rng) + first_value
            values = table.gather(1, keys)
            first = torch.zeros(count, self.key_tuples, dtype=torch.bool).scatter_(1, keys, True)
            query = draws.one_true(first, rng) if not self.allow_dot else None
        else:
            firsts = draws.first_places(keys, self.key_tuples)
            values = draws.integers(self.values, (count, self.pairs), rng).gather(1, firsts) + first_value
            first = firsts == torch.arange(self.pairs)
            query = keys.gather(1, draws.one_true(first, rng)[:, None])[:, 0] if not self.allow_dot else None
        return values, draws.integers(self.key_tuples, (count,), rng) if query is None else query, first.sum(1)

    def _key_ids(self, tuples: Tensor) -> Tensor:
        return 1 + (tuples[..., None] if self.key_tokens == 1 else draws.digits_of(tuples, self.key_tokens, self.keys))

    def share_absent(self) -> float:
        """The probability that no pair has the key of the query; 0 without allow_dot."""
        return float((1 - 1 / self.key_tuples) ** self.pairs) if self.allow_dot else 0.0

    def _query_nats(self) -> float:
        if self.allow_dot:
            return math.log(self.key_tuples)
        law = draws.distinct_law(self.pairs, self.key_tuples)
        return sum(float(p) * math.log(d) for d, p in enumerate(law) if d)

    def _mean_distinct(self) -> float:
        return float(self.key_tuples * (1 - (1 - 1 / self.key_tuples) ** self.pairs))

    def sequence_nats(self) -> float:
        """The sum of P ln C for the keys, ln(values) for each different key, and the entropy of the query."""
        pairs = self.pairs * math.log(self.key_tuples) + self._mean_distinct() * math.log(self.values)
        return pairs + self._query_nats()

    def edge_nats(self, direction: Direction) -> float:
        if direction == "ltr":
            return math.log(self.keys)
        return draws.mixture_nats(1 - self.share_absent(), math.log(self.values))

    def best_accuracy_all_tokens(self) -> float | None:
        """The best model guesses each key, the value of each new key and the query, and knows all other tokens.

        None where a key has more than one token, and where `allow_dot` is true.
        """
        if self.key_tokens > 1 or self.allow_dot:
            return None
        new = self._mean_distinct()
        law = draws.distinct_law(self.pairs, self.keys)
        query = sum(float(p) / d for d, p in enumerate(law) if d)
        hits = (self.pairs - 1) / self.keys + new / self.values + (self.pairs - new) + 1 + query + 1
        return hits / (self.length_tokens - 1)

    def support(self) -> float:
        law = draws.distinct_law(self.pairs, self.key_tuples)
        queries = [self.key_tuples if self.allow_dot else d for d in range(len(law))]
        logs = [
            math.log(p) + d * math.log(self.values) + math.log(queries[d]) for d, p in enumerate(law) if d and p > 0
        ]
        highest = max(logs)
        total = math.log(sum(math.exp(value - highest) for value in logs)) + highest
        return exp(total + self.pairs * math.log(self.key_tuples))


class InductionHead(ShapedTask):
    """Random tokens with a trigger `=>` among them, then a second trigger: the tokens that followed the first are the answer.

    Attributes:
        vocabulary: the number of ids; the first id, `.`, is never drawn; the last id is `=>`.
        length: the number of tokens before the last trigger.
        answer_tokens: the number of tokens after a trigger that are the answer.
        triggers: the number of places that are drawn for triggers. If the number is above 1, half of the sequences use one place;
            the other half draw the places with replacement, sort the places and drop each place within `answer_tokens` of the place
            kept before. The same tokens follow every trigger.
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
        """The number of places where a trigger may stand."""
        return self.length - 1 - self.answer_tokens

    @property
    def content(self) -> int:
        """The number of ids that are drawn."""
        return self.vocabulary - SPECIAL

    def shape(self) -> Shape:
        return Shape(self.vocabulary, self.length + 1 + self.answer_tokens, answers=range(1, 1 + self.content))

    def sample(self, count: int, rng: Generator) -> Sample:
        tokens = torch.empty(count, self.length_tokens, dtype=torch.long)
        tokens[:, : self.length] = 1 + draws.integers(self.content, (count, self.length), rng)
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
        """The ascending places (B, triggers), and a mask of the places that get a trigger; the first place always gets one."""
        places = draws.integers(self.places, (count, self.triggers), rng)
        used = torch.ones(count, 1, dtype=torch.bool)
        if self.triggers == 1:
            return places, used
        single = torch.rand(count, 1, generator=rng) < 0.5
        # The smallest of several uniform draws is not uniform. So a single trigger takes the place that was drawn first.
        places = torch.where(single, places[:, :1], places.sort(1).values)
        last = places[:, 0]
        for place in places[:, 1:].unbind(1):
            use = place > last + self.answer_tokens
            used = torch.cat([used, use[:, None]], 1)
            last = torch.where(use, place, last)
        return places, used

    def sequence_nats(self) -> float | None:
        """The entropy of the place of the trigger and of the random tokens; the answer adds no entropy."""
        if self.triggers > 1:
            return None
        return math.log(self.places) + (self.length - 1) * math.log(self.content)

    def edge_nats(self, direction: Direction) -> float | None:
        if self.triggers > 1:
            return None
        nats = math.log(self.content)
        return draws.mixture_nats(1 - 1 / self.places, nats) if direction == "ltr" else nats

    def best_accuracy_all_tokens(self) -> float | None:
        """For one trigger: the best model guesses the likelier of trigger and token at each place, and knows the end."""
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


class MultiQueryRecall(ShapedTask):
    """Many pairs of a key and a value; then each key is a query once, and the value of this key is the answer.

    Keys are P different ids of 1 .. V/2 - 1; values are P different ids of the upper half. The places of the queries are drawn
    without replacement; place i has weight i^(power - 1). Pairs draw in their order, so early pairs get early queries, and a
    guesser that knows only the position scores more than 1/P. A value also follows its key where the value is the answer. The
    original task has filler in the place of an answer; an objective with `hide_answers` shows `[MASK]` in this place.

    Attributes:
        vocabulary: V, the number of ids; id 0 is the filler.
        length: T, the number of tokens of the pairs and queries together; it is even.
        pairs: P, the number of pairs.
        passes: the number of times that the pairs are shown, in the same order.
        filler: the kind of tokens between queries: `zero`, or `uniform` over all V ids (such a token may look like a key).
        power: the number that decides how early the queries come; a smaller number gives earlier queries.
    """

    kind: ClassVar[str] = "mqar"
    solved_by: ClassVar[tuple[str, ...]] = CACHES
    vocabulary: int = Field(default=8192, ge=1, le=2**20)
    length: int = Field(default=64, ge=1, le=2**22)
    pairs: int = Field(default=4, ge=1)
    passes: int = Field(default=1, ge=1)
    filler: Literal["zero", "uniform"] = "zero"
    power: float = Field(default=0.01, gt=0)

    def check_sizes(self) -> None:
        self.require_at_least("vocabulary", 4, "the filler, a key and 2 values")
        keys = self.vocabulary // 2 - 1
        message = f"{self.pairs} pairs need as many keys, {self.vocabulary} ids have {keys}"
        self.require(self.pairs <= keys, message, "pairs")
        self.require_at_least("length", 2 * self.pairs * (self.passes + 1), "pairs and queries")
        self.require(self.length % 2 == 0, f"{self.length} is odd, a pair has 2 tokens", "length")

    @property
    def shown_tokens(self) -> int:
        """The number of tokens before the first slot of a query."""
        return 2 * self.pairs * self.passes

    def shape(self) -> Shape:
        return Shape(self.vocabulary, self.length, answers=range(self.vocabulary // 2, self.vocabulary))

    def sample(self, count: int, rng: Generator) -> Sample:
        half, shown = self.vocabulary // 2, self.shown_tokens
        keys = draws.distinct(count, self.pairs, half - 1, rng).add_(1)
        values = draws.distinct(count, self.pairs, self.vocabulary - half, rng).add_(half)
        tokens = torch.zeros(count, self.length, dtype=torch.long)
        if self.filler == "uniform":
            tokens[:, shown:] = draws.integers(self.vocabulary, (count, self.length - shown), rng)
        written = tokens.numpy()  # the same memory: a slice of it costs a third of the time of a slice of a tensor
        for first in range(0, shown, 2 * self.pairs):
            written[:, first : first + 2 * self.pairs : 2] = keys
            written[:, first + 1 : first + 2 * self.pairs : 2] = values
        places = self._query_slots(count, rng).mul_(2).add_(shown)
        replies = places + 1
        tokens.scatter_(1, places, keys).scatter_(1, replies, values)
        # The last place of each pair's key before the queries.
        last_shown = torch.arange(shown - 2 * self.pairs, shown, 2)
        gap = torch.full_like(tokens, NO_VALUE).scatter_(1, replies, places - last_shown)
        are_answers = torch.ones_like(
            replies, dtype=torch.bool
        )  # `scatter_` takes twice as long for one number as for a tensor
        answers = torch.zeros_like(tokens, dtype=torch.bool).scatter_(1, replies, are_answers)
        return Sample(tokens, answers, {"gap": gap})

    def _query_slots(self, count: int, rng: Generator) -> Tensor:
        """(B, P): the slot of the query of each pair; a slot is two tokens.

        Slot i gets an exponential waiting time of rate i^(power - 1). The order of these times has the law of weighted draws
        without replacement.
        """
        slots = (self.length - self.shown_tokens) // 2
        times = torch.rand(count, slots, generator=rng).log_().div_(_minus_rates(slots, self.power))
        return draws.indices_of_smallest(times, self.pairs)


@functools.lru_cache(maxsize=4)
def _minus_rates(slots: int, power: float) -> Tensor:
    """(slots,) float32: minus the rates i^(power - 1) of the waiting times of the slots 1 .. `slots`."""
    return -(torch.arange(1, slots + 1, dtype=torch.float64) ** (power - 1)).float()
