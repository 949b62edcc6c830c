"""Random draws for many sequences at once, and the probability laws from which the floors of the tasks are computed.

Each draw has the same law as a loop over the sequences would have.
Shapes: B sequences (`rows`), P draws of a sequence (`count`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

FEW = 4  # up to this many draws without replacement are made one after the other
# From a pool of up to this many times their number, draws are sorted noise; from a larger pool, repeats are redrawn.
DENSE = 4
TABLE_KINDS = 1024  # up to this many kinds, a table for each sequence is faster than a sort


def integers(high: int, shape: tuple[int, ...], rng: Generator) -> Tensor:
    """Uniform int64 numbers below `high`. Where 32 random bits suffice: twice as fast, with a bias of at most high / 2^32."""
    if high <= 1 << 16:
        return torch.randint(high, shape, generator=rng, dtype=torch.int32).long()
    return torch.randint(high, shape, generator=rng)


def distinct(rows: int, count: int, pool: int, rng: Generator) -> Tensor:
    """(B, P) numbers below `pool`, no two of a row equal, uniform over ordered choices.

    Draws from a large pool are redrawn where they repeat an earlier one of their row. To rename the numbers of the pool renames the
    result and changes no probability, so all ordered choices are equally likely.
    """
    if count <= FEW:
        return _few_distinct(rows, count, pool, rng)
    if pool <= DENSE * count:
        return torch.rand(rows, pool, generator=rng).topk(count, dim=1).indices
    numbers = integers(pool, (rows, count), rng)
    open_rows = torch.arange(rows)
    while len(open_rows):
        repeats = first_places(numbers[open_rows], pool) != torch.arange(count)
        again = repeats.any(1)
        open_rows, repeats = open_rows[again], repeats[again]
        fresh = integers(pool, (len(open_rows), count), rng)
        numbers[open_rows] = torch.where(repeats, fresh, numbers[open_rows])
    return numbers


def _few_distinct(rows: int, count: int, pool: int, rng: Generator) -> Tensor:
    """Each is the r-th of the numbers that the earlier draws left, for a uniform r."""
    numbers = integers(pool, (rows, 1), rng)
    for draws in range(1, count):
        number = integers(pool - draws, (rows, 1), rng)
        for earlier in numbers.sort(1).values.T:
            number = number + (number >= earlier[:, None])
        numbers = torch.cat([numbers, number], 1)
    return numbers


def subset(rows: int, count: int, pool: int, rng: Generator) -> Tensor:
    """(B, P) ascending: a uniform subset of the numbers below `pool`."""
    return torch.rand(rows, pool, generator=rng).topk(count, dim=1).indices.sort(1).values


def one_true(allowed: Tensor, rng: Generator) -> Tensor:
    """(B,): the index of one true entry of each row, uniform among them. Every row must have one."""
    noise = torch.rand(allowed.shape, generator=rng) + 1.0
    return (noise * allowed).argmax(1)


def first_places(kinds: Tensor, count: int) -> Tensor:
    """(B, P): the first place in its row of the kind at each place. Kinds are numbers below `count`."""
    rows, places = kinds.shape
    index = torch.arange(places).expand(rows, places)
    if count <= TABLE_KINDS:
        table = torch.full((rows, count), places).scatter_reduce_(1, kinds, index, "amin")
        return table.gather(1, kinds)
    ordered, order = kinds.sort(dim=1, stable=True)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    firsts = order.gather(1, (index * starts).cummax(1).values)
    return torch.empty_like(kinds).scatter_(1, order, firsts)


def previous_places(kinds: Tensor) -> Tensor:
    """(B, P): the last place before it in its row of the kind at each place; -1 where there is none."""
    ordered, order = kinds.sort(dim=1, stable=True)
    before = torch.full_like(order, -1)
    before[:, 1:] = torch.where(ordered[:, 1:] == ordered[:, :-1], order[:, :-1], -1)
    return torch.empty_like(order).scatter_(1, order, before)


def digits_of(numbers: Tensor, count: int, base: int = 10) -> Tensor:
    """(..., count): the digits of each number, most significant first."""
    powers = base ** torch.arange(count - 1, -1, -1)
    return numbers[..., None] // powers % base


def entropy_nats(chances: Iterable[float]) -> float:
    """-sum p ln p."""
    return -sum(p * math.log(p) for p in chances if p > 0)


def mixture_nats(share: float, nats: float) -> float:
    """Entropy of a token that is a fixed one with probability 1 - share, and else one of another law with this entropy."""
    return entropy_nats((share, 1 - share)) + share * nats


def distinct_law(draws: int, kinds: int) -> NDArray[np.float64]:
    """P(D = d) for d = 0 .. kinds: D is the number of different kinds among uniform draws with replacement."""
    law = np.zeros(kinds + 1)
    law[0] = 1.0
    old = np.arange(kinds + 1) / kinds  # P(the next draw is a kind that came before)
    for _ in range(draws):
        law = law * old + np.concatenate(([0.0], (law * (1 - old))[:-1]))
    return law


def binomial_law(draws: int, chance: float) -> NDArray[np.float64]:
    """P(k successes) for k = 0 .. draws; the chance is above 0 and below 1."""
    k = np.arange(draws + 1)
    log_ways = np.array([log_choose(draws, int(i)) for i in k])
    law: NDArray[np.float64] = np.exp(log_ways + k * math.log(chance) + (draws - k) * math.log1p(-chance))
    return law


def log_choose(total: int, count: int) -> float:
    """ln of the number of subsets of `count` among `total`."""
    return math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)
