"""Hashes of every n-gram of a token array, in numpy, in time and memory linear in its length.

The hash is a polynomial modulo 2^64 over mixed symbols: one cumulative sum gives the hash at every offset for every n. Two
different n-grams share a hash with probability about 2^-64. So the checks trust counts of hashes, but compare the tokens of each
single match.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[Any]  # an array of any integer dtype and one dimension; often a memory map
Hashes = NDArray[np.uint64]

BASE = 0x9E3779B97F4A7C15  # an odd number has an inverse modulo 2^64
INVERSE = pow(BASE, -1, 1 << 64)
BLOCK_TOKENS = 1 << 20  # 8 MiB for each of the five arrays that a block needs
# A table of booleans excludes most wrong hashes before the binary search. With 16 places for each reference, about 6 % pass.
FILTER_PLACES_LOG2 = 4
FILTER_BITS = (16, 26)  # the smallest and the largest table; the largest takes 64 MiB


def mixed(values: Tokens) -> Hashes:
    """Integers spread over 64 bits by the SplitMix64 finaliser (Steele et al. 2014), so that neighbouring ids look unrelated."""
    spread = values.astype(np.uint64) + np.uint64(BASE)
    spread = (spread ^ (spread >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    spread = (spread ^ (spread >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return spread ^ (spread >> np.uint64(31))


def ngram_hashes(tokens: Tokens, n: int) -> Hashes:
    """The hash of tokens[i : i + n] for every i: shape (max(0, length - n + 1),). n = 0 gives length + 1 zeros."""
    offsets = len(tokens) - n + 1
    if offsets <= 0:
        return np.zeros(0, np.uint64)
    sums = _prefix_sums(tokens)
    return (sums[n:] - sums[:offsets]) * _powers(INVERSE, offsets)


def span_hashes(tokens: Tokens, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Hashes:
    """The hash of each span tokens[start:end]. It equals the `ngram_hashes` of the span alone."""
    sums = _prefix_sums(tokens)
    return (sums[ends] - sums[starts]) * _powers(INVERSE, len(tokens) + 1)[starts]


def row_hashes(rows: NDArray[Any]) -> Hashes:
    """The hash of each row of a (B, T) array. It equals the `ngram_hashes` of the row alone."""
    starts = np.arange(rows.shape[0], dtype=np.int64) * rows.shape[1]
    return span_hashes(np.ascontiguousarray(rows).reshape(-1), starts, starts + rows.shape[1])


def occurrences(
    tokens: Tokens, references: Hashes, n: int, block_tokens: int = BLOCK_TOKENS
) -> tuple[NDArray[np.int64], Hashes]:
    """Every offset whose n-gram hash is in `references` (sorted, distinct), and the hash at each offset; offsets ascend.

    The function works in blocks of bounded memory.
    """
    positions, matches = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    bits = max(FILTER_BITS[0], min(FILTER_BITS[1], len(references).bit_length() + FILTER_PLACES_LOG2))
    maybe = np.zeros(1 << bits, np.bool_)
    maybe[_slot(references, bits)] = True
    for start in range(0, len(tokens) - n + 1, block_tokens):
        hashes = ngram_hashes(np.asarray(tokens[start : start + block_tokens + n - 1]), n)
        near = np.flatnonzero(maybe[_slot(hashes, bits)])
        ordered = np.sort(hashes[near])  # among 5 million references, a search in order is 7 times faster
        hit = near[is_in(hashes[near], ordered[is_in(ordered, references)])]
        positions.append(hit + start)
        matches.append(hashes[hit])
    return np.concatenate(positions), np.concatenate(matches)


def distinct(hashes: Hashes) -> Hashes:
    """The distinct hashes, sorted. (This takes .05 s for a million hashes; `numpy.unique` takes .3 s.)"""
    ordered = np.sort(hashes)
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))[: len(ordered)]]


def is_in(hashes: Hashes, references: Hashes) -> NDArray[np.bool_]:
    """For each hash, whether it is in `references` (sorted)."""
    if not len(references):
        return np.zeros(len(hashes), np.bool_)
    place = np.minimum(np.searchsorted(references, hashes), len(references) - 1)
    return np.asarray(references[place] == hashes)


def _prefix_sums(tokens: Tokens) -> Hashes:
    sums = np.zeros(len(tokens) + 1, np.uint64)
    np.cumsum(_mixed_ids(tokens) * _powers(BASE, len(tokens)), out=sums[1:])
    return sums


def _mixed_ids(tokens: Tokens) -> Hashes:
    """The `mixed` ids. An id of one or two bytes is looked up where there are more tokens than ids."""
    if tokens.dtype in (np.uint8, np.uint16) and len(tokens) > (ids := np.iinfo(tokens.dtype).max + 1):
        return mixed(np.arange(ids))[tokens]
    return mixed(tokens)


def _slot(hashes: Hashes, bits: int) -> NDArray[np.int64]:
    return (hashes >> np.uint64(64 - bits)).astype(np.int64)


def _powers(base: int, count: int) -> Hashes:
    return _block_of_powers(base)[:count] if count <= 2 * BLOCK_TOKENS else _powers_of(base, count)


@cache
def _block_of_powers(base: int) -> Hashes:
    """The powers that a block needs, 16 MiB; a text has many blocks."""
    powers = _powers_of(base, 2 * BLOCK_TOKENS)
    powers.setflags(write=False)
    return powers


def _powers_of(base: int, count: int) -> Hashes:
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)
