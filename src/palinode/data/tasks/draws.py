"""Draws for many sequences at once, each equal in law to what a loop over the sequences would draw.

Legend: n sequences, P draws of a sequence.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

DENSE = 4  # draws without replacement from up to so many times their number are sorted noise, sparser ones are redrawn
FEW = 4  # so many are drawn one after the other
TABLE_KINDS = 1024  # up to so many kinds a table per sequence beats a sort


def integers(high: int, shape: tuple[int, ...], rng: Generator) -> Tensor:
    """Uniform int64 numbers below `high`. 32 random bits where they suffice: twice as fast, biased by at most high / 2^32."""
    if high <= 1 << 16:
        return torch.randint(high, shape, generator=rng, dtype=torch.int32).long()
    return torch.randint(high, shape, generator=rng)


def distinct(rows: int, count: int, pool: int, rng: Generator) -> Tensor:
    """(rows, count) numbers below `pool`, no two of a row equal, uniform over ordered choices.

    Sparse draws redraw every number that an earlier one of its row has: renaming the pool renames the outcome and changes no
    probability, so all ordered choices are equally likely.
    """
    if count <= FEW:
        return _few_distinct(rows, count, pool, rng)
    if pool <= DENSE * count:
        return torch.rand(rows, pool, generator=rng).topk(count, dim=1).indices
    numbers = integers(pool, (rows, count), rng)
    at = torch.arange(rows)
    while len(at):
        repeated = first_places(numbers[at], pool) != torch.arange(count)
        again = repeated.any(1)
        at, repeated = at[again], repeated[again]
        fresh = integers(pool, (len(at), count), rng)
        numbers[at] = torch.where(repeated, fresh, numbers[at])
    return numbers


def _few_distinct(rows: int, count: int, pool: int, rng: Generator) -> Tensor:
    """Each among what is left: the r-th of the numbers that the earlier ones did not take."""
    chosen = integers(pool, (rows, 1), rng)
    for drawn in range(1, count):
        number = integers(pool - drawn, (rows, 1), rng)
        for taken in chosen.sort(1).values.T:
            number = number + (number >= taken[:, None])
        chosen = torch.cat([chosen, number], 1)
    return chosen


def subset(rows: int, count: int, pool: int, rng: Generator) -> Tensor:
    """(rows, count) ascending: a uniform subset of the numbers below `pool`."""
    return torch.rand(rows, pool, generator=rng).topk(count, dim=1).indices.sort(1).values


def one_true(allowed: Tensor, rng: Generator) -> Tensor:
    """(n,): the index of one true entry of each row, uniform among them. Every row needs one."""
    noise = torch.rand(allowed.shape, generator=rng) + 1.0
    return (noise * allowed).argmax(1)


def first_places(kinds: Tensor, count: int) -> Tensor:
    """(n, P): where the kind at each place (a number below `count`) occurs first in its row."""
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
    """(n, P): where the kind at each place last occurred before it in its row; -1 where it had not."""
    ordered, order = kinds.sort(dim=1, stable=True)
    before = torch.full_like(order, -1)
    before[:, 1:] = torch.where(ordered[:, 1:] == ordered[:, :-1], order[:, :-1], -1)
    return torch.empty_like(order).scatter_(1, order, before)


def digits_of(numbers: Tensor, count: int, base: int = 10) -> Tensor:
    """(..., count): the digits of each number, most significant first."""
    powers = base ** torch.arange(count - 1, -1, -1)
    return numbers[..., None] // powers % base
