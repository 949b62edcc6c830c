"""Random draws for many sequences at once, and the probability laws from which the floors of the tasks are computed.

Each function draws by the same law as a loop over the sequences.
Shapes: B sequences (`rows`), P draws of a sequence (`count`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

FEW = 4  # up to this many draws without replacement are made one after the other
# From a pool of up to this many times their number, draws are sorted noise; from a larger pool, repeats are redrawn.
DENSE = 4
TABLE_KINDS = 1024  # up to this many kinds, a table for each sequence is faster than a sort
NOISE_BITS = 24  # torch draws a float32 below 1 as a whole number below 2^24, times 2^-24
SORTED_WHOLE = (
    256  # up to this many numbers in a row, NumPy sorts the whole row faster than torch finds the largest numbers
)


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
        return _indices_of_largest(torch.rand(rows, pool, generator=rng), count)
    numbers = integers(pool, (rows, count), rng)
    open_rows = torch.arange(rows)
    while len(open_rows):
        repeats = first_places(numbers[open_rows], pool) != torch.arange(count)
        again = repeats.any(1)
        open_rows, repeats = open_rows[again], repeats[again]
        fresh = integers(pool, (len(open_rows), count), rng)
        numbers[open_rows] = torch.where(repeats, fresh, numbers[open_rows])
    return numbers


def distinct_of_each(rows: int, count: int, pools: Sequence[int], rng: Generator) -> list[Tensor]:
    """What `distinct` gives for each pool in turn, with the same random numbers. Small pools are drawn and sorted together.

    For 256 rows of 8 numbers below 19 and below 20, one draw and one sort take .07 ms; two draws and two sorts take .13 ms.
    """
    widest = max(pools)
    if count <= FEW or widest > DENSE * count or not _fits_sorted_keys(widest):
        return [distinct(rows, count, pool, rng) for pool in pools]
    drawn = torch.rand(rows * sum(pools), generator=rng).split([rows * pool for pool in pools])
    # -1 is below every number that is drawn, so it is never among the largest.
    noise = torch.full((len(pools), rows, widest), -1.0)
    for part, numbers, pool in zip(noise, drawn, pools, strict=True):
        part[:, :pool] = numbers.view(rows, pool)
    chosen, open_rows = _largest_by_sorting(noise.view(-1, widest), count)
    for row in [] if open_rows is None else open_rows.tolist():
        which, place = divmod(row, rows)
        chosen[row] = noise[which, place, : pools[which]].topk(count).indices
    return list(chosen.view(len(pools), rows, count))


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
    chosen = _indices_of_largest(torch.rand(rows, pool, generator=rng), count).numpy()
    chosen.sort(axis=1)
    return torch.from_numpy(chosen)


def _indices_of_largest(noise: Tensor, count: int) -> Tensor:
    """(B, P) what `noise.topk(count)` gives for (B, pool) numbers of `torch.rand`: the indices of the largest numbers in order."""
    if not _fits_sorted_keys(noise.shape[1]):
        return noise.topk(count, dim=1).indices
    chosen, open_rows = _largest_by_sorting(noise, count)
    if open_rows is not None:
        chosen[open_rows] = noise[open_rows].topk(count, dim=1).indices
    return chosen


def _fits_sorted_keys(pool: int) -> bool:
    """Whether `_largest_by_sorting` can sort rows of this many numbers: a number and its index must fit into 31 bits."""
    return pool <= SORTED_WHOLE and NOISE_BITS + (pool - 1).bit_length() <= 31


def _largest_by_sorting(noise: Tensor, count: int) -> tuple[Tensor, Tensor | None]:
    """(B, P) the indices of the largest numbers in order, and the rows where equal numbers leave the order open."""
    index_bits = (noise.shape[1] - 1).bit_length()
    keys = noise.numpy() * np.float32(1 << (NOISE_BITS + index_bits))  # exact, as only the power of two changes
    ordered = _sorted_with_indices(keys.astype(np.int32))
    return _cut_out(ordered[:, ::-1], index_bits, count)


def indices_of_smallest(times: Tensor, count: int) -> Tensor:
    """(B, P) what `times.topk(count, largest=False)` gives for (B, pool) float32 numbers that are not negative."""
    pool = times.shape[1]
    index_bits = (pool - 1).bit_length()
    if pool > SORTED_WHOLE:
        return times.topk(count, dim=1, largest=False).indices
    # The bits of floats that are not negative, read as whole numbers, have the order of the floats.
    keys = np.left_shift(times.numpy().view(np.int32), index_bits, dtype=np.int64)
    chosen, open_rows = _cut_out(_sorted_with_indices(keys), index_bits, count)
    if open_rows is not None:
        chosen[open_rows] = times[open_rows].topk(count, dim=1, largest=False).indices
    return chosen


def _sorted_with_indices(keys: NDArray[np.integer]) -> NDArray[np.integer]:
    """Add to each number of (B, pool) `keys`, whose low bits are zero, its index in the row, and sort each row.

    NumPy sorts short rows of whole numbers without branches: for 256 rows of 111 numbers that takes .04 ms, `topk` .4 to .6 ms.
    """
    keys += np.arange(keys.shape[1], dtype=keys.dtype)
    keys.sort(axis=1)
    return keys


def _cut_out(ordered: NDArray[np.integer], index_bits: int, count: int) -> tuple[Tensor, Tensor | None]:
    """The indices in the low bits of the first `count` keys of each row, and the rows where equal numbers leave the order open."""
    chosen = np.bitwise_and(ordered[:, :count], (1 << index_bits) - 1, dtype=np.int64)
    ties = ordered[:, : min(count, ordered.shape[1] - 1)] ^ ordered[:, 1 : count + 1] < 1 << index_bits
    open_rows = torch.from_numpy(np.flatnonzero(ties.any(axis=1))) if ties.any() else None
    return torch.from_numpy(chosen), open_rows


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
