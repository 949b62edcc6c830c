"""Multi-query associative recall, as the zoology repository defines it.

    k1 v1 k2 v2 ... kP vP | 0 0 k2 v2 0 0 k1 v1 0 0       each key is a query once, at an even place after the pairs

Keys are P different ids of 1 .. V/2 - 1, values P different ids of the upper half. The place of a query is drawn without
replacement with weight i^(power - 1). Pairs draw in their order, so early pairs get early queries, and a guesser that knows only
the position scores more than 1/P. Here a value follows its key also where it is the answer (the original has filler there).
Shapes: B sequences, T tokens, P pairs.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from palinode.data.tasks.base import NO_VALUE, Sample, SizedTask
from palinode.data.tasks.baselines import CACHES
from palinode.data.tasks.draws import distinct, integers


class MultiQueryRecall(SizedTask):
    """Many pairs of a key and a value; then each key is a query once, and its value is the answer.

    Attributes:
        vocabulary: V ids; 0 is the filler, keys are below V/2, values from V/2 on.
        length: T tokens, pairs and queries together; even.
        pairs: P.
        passes: how often the pairs are shown, in the same order.
        filler: the tokens between queries: `zero`, or `uniform` ids of all V (which may look like keys).
        power: the smaller, the earlier the queries come.
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
        """Tokens before the first query."""
        return 2 * self.pairs * self.passes

    def legal_answers(self) -> Tensor:
        return torch.arange(self.vocabulary // 2, self.vocabulary)

    def sample(self, count: int, rng: Generator) -> Sample:
        half, shown = self.vocabulary // 2, self.shown_tokens
        keys = 1 + distinct(count, self.pairs, half - 1, rng)
        values = half + distinct(count, self.pairs, self.vocabulary - half, rng)
        pairs = torch.stack([keys, values], 2)
        tokens = torch.zeros(count, self.length, dtype=torch.long)
        if self.filler == "uniform":
            tokens[:, shown:] = integers(self.vocabulary, (count, self.length - shown), rng)
        tokens[:, :shown] = pairs.view(count, -1).repeat(1, self.passes)
        places = shown + 2 * self._query_slots(count, rng)
        tokens.scatter_(1, places, keys).scatter_(1, places + 1, values)
        last_shown = (
            shown - 2 * self.pairs + 2 * torch.arange(self.pairs)
        )  # the last place of each pair's key before the queries
        gap = torch.full_like(tokens, NO_VALUE).scatter_(1, places + 1, places - last_shown)
        return Sample.with_gaps(tokens, gap)

    def _query_slots(self, count: int, rng: Generator) -> Tensor:
        """(B, P): where the query of each pair stands, in pairs of tokens.

        Slot i gets an exponential waiting time of rate i^(power - 1): the order of the times is that of weighted draws without
        replacement.
        """
        slots = (self.length - self.shown_tokens) // 2
        rates = torch.arange(1, slots + 1, dtype=torch.float64) ** (self.power - 1)
        times = -torch.rand(count, slots, generator=rng).log() / rates.float()
        return times.topk(self.pairs, dim=1, largest=False).indices
