"""Multi-query associative recall, as the zoology repository defines it.

    k1 v1 k2 v2 ... kN vN | 0 0 k2 v2 0 0 k1 v1 0 0       each key is asked for once, at an even place after the pairs

Keys are N different ids of 1 .. V/2 - 1, values N different ids of the upper half. A pair's place is drawn without replacement
with weight i^(power - 1): pairs draw in their order, so early pairs are asked for early, and a guesser that knows nothing but
the position beats 1/N. Here a value stands after its key also when it is the answer (the original leaves filler there).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor

from palinode.data.tasks.base import NO_VALUE, Sample, Task, require
from palinode.data.tasks.baselines import CACHES
from palinode.data.tasks.draws import distinct, integers


class MultiQueryRecall(Task):
    """Many keys, each asked for once.

    Attributes:
        vocabulary: V ids; 0 is the filler, keys are below V/2, values from V/2 on.
        length: S tokens, pairs and queries together; even.
        pairs: N.
        passes: how often the pairs are shown, in the same order.
        filler: what stands where nothing is asked: `zero`, or `uniform` ids of all V (which may look like keys).
        power: the smaller, the earlier the queries come.
    """

    kind: ClassVar[str] = "mqar"
    length_field: ClassVar[str] = "length"
    vocabulary: int = Field(default=8192, ge=1, le=2**20)
    length: int = Field(default=64, ge=1, le=2**22)
    pairs: int = Field(default=4, ge=1)
    passes: int = Field(default=1, ge=1)
    filler: Literal["zero", "uniform"] = "zero"
    power: float = Field(default=0.01, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> MultiQueryRecall:
        require(self.vocabulary >= 4, f"{self.vocabulary} ids are too few: filler, a key and 2 values", "vocabulary")
        keys = self.vocabulary // 2 - 1
        require(self.pairs <= keys, f"{self.pairs} pairs need as many keys, {self.vocabulary} ids have {keys}", "pairs")
        least = 2 * self.pairs * (self.passes + 1)
        require(self.length >= least, f"{self.length} tokens are too few: pairs and queries need {least}", "length")
        require(self.length % 2 == 0, f"{self.length} tokens are not whole pairs of a key and a value", "length")
        return self

    @property
    def shown_tokens(self) -> int:
        """Tokens before the first query."""
        return 2 * self.pairs * self.passes

    @property
    def vocab_size(self) -> int:
        return self.vocabulary

    @property
    def length_tokens(self) -> int:
        return self.length

    @property
    def solved_by(self) -> tuple[str, ...]:
        return CACHES

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
        places = shown + 2 * self._slots(count, rng)
        tokens.scatter_(1, places, keys).scatter_(1, places + 1, values)
        answers = torch.zeros_like(tokens, dtype=torch.bool).scatter_(1, places + 1, True)
        seen = shown - 2 * self.pairs + 2 * torch.arange(self.pairs)  # a pair's key the last time it is shown
        gap = torch.full_like(tokens, NO_VALUE).scatter_(1, places + 1, places - seen)
        return Sample(tokens, answers, {"gap": gap})

    def _slots(self, count: int, rng: Generator) -> Tensor:
        """(n, N): the slot of each pair. The first N of exponential clocks of these rates ring in the order of such draws."""
        slots = (self.length - self.shown_tokens) // 2
        rates = torch.arange(1, slots + 1, dtype=torch.float64) ** (self.power - 1)
        clocks = -torch.rand(count, slots, generator=rng).log() / rates.float()
        return clocks.topk(self.pairs, dim=1, largest=False).indices
