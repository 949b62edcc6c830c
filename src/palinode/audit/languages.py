"""What the canary is trained on: languages whose true probabilities are known for any set of visible tokens.

Legend: B windows, N tokens of a window, V states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from palinode.data.tasks.markov import NO_NEIGHBOUR, MarkovChain

NOT_BET_ON = -1


@dataclass(frozen=True)
class Context:
    """What one window's targets of one pass may see.

    Attributes:
        left, right: (N,) nearest allowed token before and after each target, -1 where there is none.
        bets: (N,) scored targets that may not see themselves.
        acyclic: the targets can be put in an order in which none is seen by an earlier one.
        nested: they can be put in an order in which each sees all that the earlier ones saw, and those themselves.
    """

    left: Tensor
    right: Tensor
    bets: Tensor
    acyclic: bool
    nested: bool

    @classmethod
    def of(cls, allowed: Tensor, scored: Tensor) -> Context:
        """From the (N, N) contract by source and target, and which targets are scored."""
        length = len(scored)
        index = torch.arange(length)
        before = allowed & (index[:, None] < index)
        after = allowed & (index[:, None] > index)
        left = torch.where(before, index[:, None], NO_NEIGHBOUR).amax(0)
        right = torch.where(after, index[:, None], length).amin(0)
        bets = scored & ~allowed.diagonal()
        targets = bets.nonzero().flatten()
        return cls(
            left=left,
            right=torch.where(right == length, NO_NEIGHBOUR, right),
            bets=bets,
            acyclic=_acyclic(allowed[targets][:, targets]),
            nested=_nested(allowed[:, targets], targets),
        )


class Language:
    """Base class. `streams`: names of the sets of rows that are bet on apart."""

    name = "language"
    streams: tuple[str, ...] = ("all",)

    def windows(self, count: int, length_tokens: int, rng: Generator) -> tuple[Tensor, Tensor]:
        """(B, N) states, and (B,) the stream of each row (-1: not bet on)."""
        raise NotImplementedError

    def log_probability(self, windows: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """(B, N) nats (negative): the true ln probability of every token given its nearest allowed neighbours."""
        raise NotImplementedError

    def in_sequence(self, context: Context) -> bool:
        """May the targets of such a window be bet on one after the other?"""
        return context.acyclic


@dataclass(frozen=True)
class UniformLanguage(Language):
    """I.i.d. uniform tokens. Half of the rows are independent; the others are pairs of a row and its shifted twin."""

    vocabulary: int
    name = "uniform"
    streams = ("independent rows", "rows with a twin")

    def windows(self, count: int, length_tokens: int, rng: Generator) -> tuple[Tensor, Tensor]:
        windows = torch.randint(self.vocabulary, (count, length_tokens), generator=rng)
        stream = torch.zeros(count, dtype=torch.long)
        for pair, first in enumerate(range(count - count // 4 * 2, count, 2)):
            row, twin = (first, first + 1) if pair % 2 else (first + 1, first)
            fresh = torch.randint(self.vocabulary, (1,), generator=rng)
            to_left = torch.cat([windows[row, 1:], fresh])
            to_right = torch.cat([fresh, windows[row, :-1]])
            windows[twin] = to_left if pair // 2 % 2 == 0 else to_right
            stream[row], stream[twin] = 1, NOT_BET_ON
        return windows, stream

    def log_probability(self, windows: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return torch.full(windows.shape, -math.log(self.vocabulary), dtype=torch.float64)


@dataclass(frozen=True)
class DoubledLanguage(Language):
    """Every second token is the one before it plus one, all claimed to be uniform: what a stack that learns must be caught on.

    Plus one, because a tied head says "the same again" before it has learned anything.
    """

    vocabulary: int
    name = "doubled"

    def windows(self, count: int, length_tokens: int, rng: Generator) -> tuple[Tensor, Tensor]:
        singles = torch.randint(self.vocabulary, (count, length_tokens // 2 + 1), generator=rng)
        pairs = torch.stack([singles, (singles + 1) % self.vocabulary], 2).flatten(1)
        return pairs[:, :length_tokens], torch.zeros(count, dtype=torch.long)

    def log_probability(self, windows: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return torch.full(windows.shape, -math.log(self.vocabulary), dtype=torch.float64)


@dataclass(frozen=True)
class ChainLanguage(Language):
    """A Markov chain; contexts that are not nested may not be bet on one after the other, because hidden neighbours depend."""

    chain: MarkovChain
    name: str = "Markov"

    def windows(self, count: int, length_tokens: int, rng: Generator) -> tuple[Tensor, Tensor]:
        return self.chain.sample(count, length_tokens, rng), torch.zeros(count, dtype=torch.long)

    def log_probability(self, windows: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return self.chain.log_probability(windows, left, right)

    def in_sequence(self, context: Context) -> bool:
        return context.nested


def _acyclic(relation: Tensor) -> bool:
    """Is a boolean relation free of cycles? Then some power of it is empty."""
    power = relation.double()
    for _ in range(max(1, len(relation) - 1).bit_length()):
        power = (power @ power).clamp_max(1)
    return not bool((power > 0).any())


def _nested(allowed: Tensor, targets: Tensor) -> bool:
    """Sorted by how much they see, does each target see what the one before saw, and that one itself?"""
    if len(targets) < 2:
        return True
    order = allowed.sum(0).argsort()
    sorted_columns, sorted_targets = allowed[:, order], targets[order]
    keeps = (sorted_columns[:, 1:] | ~sorted_columns[:, :-1]).all()
    sees_previous = sorted_columns[sorted_targets[:-1], torch.arange(1, len(targets))].all()
    return bool(keeps & sees_previous)
