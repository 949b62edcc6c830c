"""Rows of one pattern, such as the dots of a table of contents: two texts that hold them need not have anything in common.

An n-gram is such a row if it has few kinds of tokens: at most one kind for each PLACES_OF_A_KIND places, and at most a quarter of
the kinds that an n-gram of this text has. The second limit keeps texts with a small alphabet: all n-grams of DNA have four kinds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from palinode.checks.rolling import Tokens

# 4 kinds in 32 BPE tokens, 6 in 50 bytes. In three abstracts of SciFact, the rows of dots have 2 or 3 kinds of tokens.
PLACES_OF_A_KIND = 8
SHARE_OF_THE_TYPICAL = 4
SAMPLED = 1000  # the number of n-grams whose median is the typical number of kinds
ROWS_AT_ONCE = 1 << 16


def kinds(tokens: Tokens, places: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """The number of different tokens in the n-gram at each of these places."""
    counts = [np.zeros(0, np.int64)]
    for start in range(0, len(places), ROWS_AT_ONCE):
        rows = np.sort(np.asarray(tokens)[places[start : start + ROWS_AT_ONCE, None] + np.arange(n)], axis=1)
        counts.append(1 + (rows[:, 1:] != rows[:, :-1]).sum(1))
    return np.concatenate(counts)


def most_kinds_of_a_pattern(tokens: Tokens, n: int) -> int:
    """The largest number of kinds that an n-gram of this text has if it is a row of one pattern."""
    offsets = len(tokens) - n + 1
    if offsets <= 0:
        return 0
    sampled = np.linspace(0, offsets - 1, min(SAMPLED, offsets)).astype(np.int64)
    typical = int(np.median(kinds(tokens, sampled, n)))
    return min(n // PLACES_OF_A_KIND, typical // SHARE_OF_THE_TYPICAL)


def is_text(tokens: Tokens, places: NDArray[np.int64], n: int, most: int) -> NDArray[np.bool_]:
    """For each place, whether the n-gram there is no row of one pattern.

    Args:
        most: the largest number of kinds that a row of one pattern has, see `most_kinds_of_a_pattern`.
    """
    return kinds(tokens, places, n) > most if most else np.ones(len(places), np.bool_)
