"""The languages that canaries are trained on. Their true probabilities are known for any set of visible tokens.

Legend: B windows, T tokens of a window, V states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from palinode.base.contract import is_acyclic
from palinode.base.markov import NO_NEIGHBOUR, MarkovChain


@dataclass(frozen=True)
class Context:
    """The tokens that the targets of one window may see in one pass.

    Attributes:
        left, right: (T,) the nearest allowed token before and after each target, -1 where there is none.
        bets: (T,) boolean: the scored targets that may not see themselves.
        acyclic: whether the targets have an order in which no target sees a later target.
        nested: whether the targets have an order in which each target sees the earlier targets, and all tokens that the earlier
            targets see.
    """

    left: Tensor
    right: Tensor
    bets: Tensor
    acyclic: bool
    nested: bool

    @classmethod
    def of(cls, allowed: Tensor, scored: Tensor) -> Context:
        """The context from `allowed` (T, T), which says whether a source may inform a target, and from `scored` (T,)."""
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
            acyclic=is_acyclic(allowed[targets][:, targets]),
            nested=_nested(allowed[:, targets], targets),
        )


class Language:
    """The base class of all languages."""

    name = "language"

    def windows(self, count: int, length_tokens: int, rng: Generator) -> tuple[Tensor, Tensor]:
        """(B, T) states, and (B,) which windows the canary learns from and bets on.

        These windows are independent of one another.
        """
        raise NotImplementedError(f"{type(self).__name__} must define windows(count, length_tokens, rng)")

    def log_probability(self, windows: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """(B, T) the true ln probability of every token in nats (negative), given the token's nearest allowed neighbours."""
        raise NotImplementedError(f"{type(self).__name__} must define log_probability(windows, left, right)")

    def in_sequence(self, context: Context) -> bool:
        """Whether the targets of a window with this context may be bet on one after the other."""
        return context.acyclic


@dataclass(frozen=True)
class UniformLanguage(Language):
    """A language of independent tokens with a uniform distribution."""

    vocabulary: int
    name = "uniform"

    def windows(self, count: int, length_tokens: int, rng: Generator) -> tuple[Tensor, Tensor]:
        windows = torch.randint(self.vocabulary, (count, length_tokens), generator=rng)
        return windows, torch.ones(count, dtype=torch.bool)

    def log_probability(self, windows: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return torch.full(windows.shape, -math.log(self.vocabulary), dtype=torch.float64)


@dataclass(frozen=True)
class NeighbourLanguage(UniformLanguage):
    """Two uniform windows, each among copies of itself shifted by one token: to the left for one window, to the right for the
    other.

    A copy that is shifted to the left contains at every slot the token that ltr must predict there. The canary learns from the two
    windows only, and bets on them only. A model cannot use the neighbours of a copy, and the loss on all copies would outweigh the
    loss on the window.
    """

    name = "neighbours"

    def windows(self, count: int, length_tokens: int, rng: Generator) -> tuple[Tensor, Tensor]:
        windows, bet_on = super().windows(count, length_tokens, rng)
        bet_on.fill_(False)
        half = count // 2
        for first in (0, half):
            row = first + half // 2  # the row of a window has copies before it and after it
            bet_on[row] = True
            for copy in range(first, first + half):
                if copy != row:
                    fresh = windows[copy, :1]
                    windows[copy] = torch.cat([fresh, windows[row, :-1]] if first else [windows[row, 1:], fresh])
        return windows, bet_on


@dataclass(frozen=True)
class AlternatingLanguage(UniformLanguage):
    """Windows in which two ids alternate, half the vocabulary apart. The bets assume uniform ids, so a model that learns raises the
    alarm.

    One visible token determines every hidden token, for every objective. Two neighbouring ids are never equal, because a model with
    a tied head predicts a repetition before it has learned anything.
    """

    name = "alternating"

    def windows(self, count: int, length_tokens: int, rng: Generator) -> tuple[Tensor, Tensor]:
        first = torch.randint(self.vocabulary, (count, 1), generator=rng)
        turn = torch.arange(length_tokens) % 2 * (self.vocabulary // 2)
        return (first + turn) % self.vocabulary, torch.ones(count, dtype=torch.bool)


@dataclass(frozen=True)
class ChainLanguage(Language):
    """A Markov chain.

    Bets on one target after the other are allowed only in nested contexts, because hidden neighbours in a chain depend on each
    other.
    """

    chain: MarkovChain
    name: str = "Markov"

    def windows(self, count: int, length_tokens: int, rng: Generator) -> tuple[Tensor, Tensor]:
        return self.chain.sample(count, length_tokens, rng), torch.ones(count, dtype=torch.bool)

    def log_probability(self, windows: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return self.chain.log_probability(windows, left, right)

    def in_sequence(self, context: Context) -> bool:
        return context.nested


def _nested(allowed: Tensor, targets: Tensor) -> bool:
    """Whether, in the order of how many tokens they see, each target sees the previous target and all tokens that the previous one
    sees.
    """
    if len(targets) < 2:
        return True
    order = allowed.sum(0).argsort()
    sorted_columns, sorted_targets = allowed[:, order], targets[order]
    keeps = (sorted_columns[:, 1:] | ~sorted_columns[:, :-1]).all()
    sees_previous = sorted_columns[sorted_targets[:-1], torch.arange(1, len(targets))].all()
    return bool(keeps & sees_previous)
