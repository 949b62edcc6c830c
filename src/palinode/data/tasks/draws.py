"""Random draws for many sequences at once, and the probability laws from which the floors of the tasks are computed.

Each function draws by the same law as a loop over the sequences.
Shapes: B sequences (`rows`), P draws of a sequence (`count`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

FEW = 4  # up to this many draws without replacement are made one after the other
# From a pool of up to this many times their number, draws are sorted noise; from a larger pool, repeats are redrawn.
DENSE = 4
TABLE_KINDS = 1024  # up to this many kinds, a table for each sequence is faster than a sort
# torch draws a float32 below 1 as a whole number below 2^24, times 2^-24. `torch.randint` draws the same whole numbers.
NOISE_BITS = 24
SORTED_WHOLE = 256  # up to this many numbers in a row, NumPy sorts the row faster than torch finds the largest numbers
LOWER = 0 if sys.byteorder == "little" else 1  # the place of the lower half of a 64-bit number


def integers(high: int, shape: tuple[int, ...], rng: Generator) -> Tensor:
    """Uniform int64 numbers below `high`. For `high` up to 2^16 a number uses 32 random bits, with a bias of at most high / 2^32.

    Numbers from 32 random bits are drawn twice as fast.
    """
    if high <= 1 << 16:
        return torch.randint(high, shape, generator=rng, dtype=torch.int32).long()
    return torch.randint(high, shape, generator=rng)


def distinct(rows: int, count: int, pool: int, rng: Generator) -> Tensor:
    """(B, P) numbers below `pool`, all different in a row, uniform over ordered choices.

    A draw from a large pool is drawn again if it repeats an earlier number of its row. A permutation of the numbers of the pool
    changes no probability, so all ordered choices are equally likely.
    """
    if count <= FEW:
        return _few_distinct(rows, count, pool, rng)
    if pool <= DENSE * count:
        return _indices_of_largest(rows, pool, count, rng)
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
    """(B, P) different numbers: each number is the r-th of the numbers that earlier draws of the row left, for a uniform r."""
    numbers = integers(pool, (rows, 1), rng)
    for draws in range(1, count):
        number = integers(pool - draws, (rows, 1), rng)
        for earlier in numbers.sort(1).values.T:
            number = number + (number >= earlier[:, None])
        numbers = torch.cat([numbers, number], 1)
    return numbers


def subset(rows: int, count: int, pool: int, rng: Generator) -> Tensor:
    """(B, P) ascending numbers: each row is a uniform subset of the numbers below `pool`."""
    chosen = _indices_of_largest(rows, pool, count, rng).numpy()
    chosen.sort(axis=1)
    return torch.from_numpy(chosen)


def _indices_of_largest(rows: int, pool: int, count: int, rng: Generator) -> Tensor:
    """(B, P) what `torch.rand(rows, pool).topk(count)` gives: the indices of the largest numbers of each row, in order.

    The upper bits of a key are a number, its lower bits are the number's index. NumPy sorts short rows of whole numbers without
    branches: for 256 rows of 111 numbers that takes .04 ms, `topk` .4 to .6 ms.
    """
    index_bits = (pool - 1).bit_length()
    if pool > SORTED_WHOLE or NOISE_BITS + index_bits > 31:
        return torch.rand(rows, pool, generator=rng).topk(count, dim=1).indices
    noise = torch.randint(1 << NOISE_BITS, (rows, pool), generator=rng, dtype=torch.int32)  # 2^24 times `torch.rand`
    keys = np.left_shift(noise.numpy(), index_bits)
    keys += np.arange(pool, dtype=np.int32)
    keys.sort(axis=1)
    # One key more than the result has, because the last number of the result may equal the next number.
    largest = keys[:, -min(count + 1, pool) :]
    chosen = torch.from_numpy((largest[:, ::-1][:, :count] & ((1 << index_bits) - 1)).astype(np.int64))
    apart = largest[:, 1:] ^ largest[:, :-1]
    if apart.size and apart.min() < 1 << index_bits:  # two numbers are equal, and only `topk` knows their order
        open_rows = torch.from_numpy(np.flatnonzero((apart < 1 << index_bits).any(axis=1)))
        chosen[open_rows] = (noise[open_rows] * 2.0**-NOISE_BITS).topk(count, dim=1).indices
    return chosen


def indices_of_smallest(times: Tensor, count: int) -> Tensor:
    """(B, P) what `times.topk(count, largest=False)` gives for (B, pool) float32 numbers that are not negative."""
    rows, pool = times.shape
    if pool > SORTED_WHOLE:
        return times.topk(count, dim=1, largest=False).indices
    # The bits of floats that are not negative, read as whole numbers, have the order of the floats. A pair has the index of a float
    # in its lower half, so its 64 bits are one number, whose order is that of the floats.
    pairs = np.empty((rows, pool, 2), np.int32)
    pairs[..., LOWER] = np.arange(pool, dtype=np.int32)
    pairs[..., 1 - LOWER] = times.numpy().view(np.int32)
    pairs.view(np.int64)[..., 0].sort(axis=1)
    chosen = torch.from_numpy(pairs[:, :count, LOWER].astype(np.int64))
    smallest = pairs[:, : count + 1, 1 - LOWER]
    equal = smallest[:, 1:] == smallest[:, :-1]
    if equal.any():  # only `topk` knows the order of equal numbers
        open_rows = torch.from_numpy(np.flatnonzero(equal.any(axis=1)))
        chosen[open_rows] = times[open_rows].topk(count, dim=1, largest=False).indices
    return chosen


def one_true(allowed: Tensor, rng: Generator) -> Tensor:
    """(B,): the index of one true entry of each row, uniform among the true entries. Every row must have a true entry."""
    noise = torch.rand(allowed.shape, generator=rng) + 1.0
    return (noise * allowed).argmax(1)


def first_places(kinds: Tensor, count: int) -> Tensor:
    """(B, P): for each place, the first place in the row that has the same kind. Kinds are numbers below `count`."""
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
    """(B, P): for each place, the last earlier place in the row that has the same kind; -1 if there is no such place."""
    ordered, order = kinds.sort(dim=1, stable=True)
    before = torch.full_like(order, -1)
    before[:, 1:] = torch.where(ordered[:, 1:] == ordered[:, :-1], order[:, :-1], -1)
    return torch.empty_like(order).scatter_(1, order, before)


def digits_of(numbers: Tensor, count: int, base: int = 10) -> Tensor:
    """(..., count): the digits of each number, most significant first."""
    powers = base ** torch.arange(count - 1, -1, -1)
    return numbers[..., None] // powers % base


def entropy_nats(chances: Iterable[float]) -> float:
    """The entropy -sum p ln p of a law, in nats."""
    return -sum(p * math.log(p) for p in chances if p > 0)


def mixture_nats(share: float, nats: float) -> float:
    """The entropy of a token that is a fixed id with probability 1 - `share`, and else follows a law with entropy `nats`."""
    return entropy_nats((share, 1 - share)) + share * nats


def distinct_law(draws: int, kinds: int) -> NDArray[np.float64]:
    """P(D = d) for d = 0 .. `kinds`: D is the number of different kinds among `draws` uniform draws with replacement."""
    law = np.zeros(kinds + 1)
    law[0] = 1.0
    old = np.arange(kinds + 1) / kinds  # P(the next draw is a kind that came before)
    for _ in range(draws):
        law = law * old + np.concatenate(([0.0], (law * (1 - old))[:-1]))
    return law


def binomial_law(draws: int, chance: float) -> NDArray[np.float64]:
    """P(k successes) for k = 0 .. `draws`; the chance of a success must be above 0 and below 1."""
    k = np.arange(draws + 1)
    log_ways = np.array([log_choose(draws, int(i)) for i in k])
    law: NDArray[np.float64] = np.exp(log_ways + k * math.log(chance) + (draws - k) * math.log1p(-chance))
    return law


def log_choose(total: int, count: int) -> float:
    """The natural logarithm of the number of subsets of `count` items among `total` items."""
    return math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)
