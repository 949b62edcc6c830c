"""Trains the merges of a byte-pair encoding. The time grows linearly with the length of the text, also where words are very long.

The trainer of `tokenizers` moves the rest of a word in memory at each merge. A text without spaces (DNA, Chinese) is one word, so
the time of that trainer grows with the square of the length. In this module a word is a linked list in arrays, and a merge changes
only the places of its pair (Larsson and Moffat 2000). This module follows the rules of `tokenizers`, so it makes the same merges:

- The pair with the highest count is merged. Where counts are equal, the pair with the lower ids is merged.
- Overlapping places of a pair all count. A merge goes through a word from left to right. A pair keeps its count when it is merged.
- Two merges that make the same token make one id. A pair that arises again is queued again, with the words where the pair arose.

Shapes: n bytes of all distinct words, P places of a pair.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Group = tuple[int, int, Ints]  # a pair or an id, the number of its occurrences, and its places
ID_BITS = 32  # a pair of ids is one whole number: left << ID_BITS | right
LOW_BITS = (1 << ID_BITS) - 1


def train_merges(
    words: Mapping[bytes, int], alphabet: Sequence[str], vocab_size: int, fewest: int
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary, and the merges in the order in which they are applied.

    Args:
        words: the number of occurrences of each distinct word. The bytes of a word are indices into the alphabet.
        alphabet: the characters that are the first tokens.
        vocab_size: the largest allowed number of tokens.
        fewest: the smallest number of occurrences at which a pair is merged.
    """
    vocabulary = {token: number for number, token in enumerate(alphabet)}
    names, ranks = list(alphabet), dict[tuple[str, str], int]()
    state = _Words(words, vocab_size)
    while len(vocabulary) < vocab_size and (found := state.next_pair(fewest)):
        left, right, places = found
        pair = names[left], names[right]
        merged = vocabulary.setdefault("".join(pair), len(names))
        if merged == len(names):
            names.append("".join(pair))
        ranks.pop(pair, None)  # a pair that is merged twice keeps the rank of its second merge, as in `tokenizers`
        ranks[pair] = len(ranks)
        state.merge(left, right, merged, places)
    return vocabulary, list(ranks)


class _Words:
    """The words of a text while their bytes are merged, the count of each pair, and the queue of pairs."""

    def __init__(self, words: Mapping[bytes, int], vocab_size: int):
        kind = np.uint16 if vocab_size < 1 << 16 else np.uint32  # numpy sorts ids of 2 bytes in linear time
        # This id stands after each word, and where a byte is a part of the token to its left.
        self._no_id = int(np.iinfo(kind).max)
        self._ends = np.cumsum([len(word) + 1 for word in words], dtype=np.int64)
        size = int(self._ends[-1]) if words else 0
        self._ids = np.frombuffer(b"".join(word + b"\0" for word in words), dtype=np.uint8).astype(kind)
        self._ids[self._ends - 1] = self._no_id
        self._after = np.arange(1, size + 1)  # the place of the next token
        self._before = np.arange(-1, size - 1)  # the place of the token before; index -1 is the end of the last word
        # The number of occurrences of the word at each place; None if every word occurs once.
        self._weights = (
            np.repeat([*words.values()], np.diff(self._ends, prepend=0)) if set(words.values()) - {1} else None
        )
        self._counts: dict[int, int] = {}
        self._places: dict[int, list[Ints]] = {}
        self._queue: list[tuple[int, int, int, Ints]] = []  # (-count, pair, entry, the places where the pair arose)
        self._entries = 0
        places = np.flatnonzero((self._ids[:-1] != self._no_id) & (self._ids[1:] != self._no_id))
        pairs = np.left_shift(self._ids[places], ID_BITS, dtype=np.int64) | self._ids[places + 1]
        self._add(self._grouped(pairs, places), None)

    def next_pair(self, fewest: int) -> tuple[int, int, Ints] | None:
        """The ids of the pair to merge, and the (P,) places where this pair may stand; None if no pair occurs `fewest` times."""
        while self._queue:
            count, pair, entry, arrivals = self._queue[0]
            if -count != self._counts[pair]:  # the count of the pair has changed since the pair was queued
                heapq.heapreplace(self._queue, (-self._counts[pair], pair, entry, arrivals))
            elif -count < fewest:
                return None
            else:
                heapq.heappop(self._queue)
                return pair >> ID_BITS, pair & LOW_BITS, self._take(pair, arrivals)
        return None

    def merge(self, left: int, right: int, merged: int, places: Ints) -> None:
        """Replace the pair by one token at each of these (P,) ascending places, unless an earlier merge has changed it there."""
        places = places[self._ids[places] == left]
        seconds = self._after[places]
        stands = self._ids[seconds] == right
        places, seconds = places[stands], seconds[stands]
        if left == right:
            chosen = _every_second(places, seconds)
            places, seconds = places[chosen], seconds[chosen]
        before, after = self._before[places], self._after[seconds]
        left_ids, right_ids = self._ids[before], self._ids[after]
        just_merged = np.flatnonzero(before[1:] == seconds[:-1]) + 1  # their left neighbour is the token just merged
        before[just_merged], left_ids[just_merged] = places[just_merged - 1], merged
        has_left, has_right = left_ids != self._no_id, right_ids != self._no_id
        on_left = self._grouped(left_ids[has_left], before[has_left])
        on_right = self._grouped(right_ids[has_right], places[has_right])
        # A merge can make a pair and break it again. Such a pair is counted down first, so its count is below 0 for a moment.
        counts, get = self._counts, self._counts.get
        for neighbour, count, _ in on_left:
            pair = neighbour << ID_BITS | left
            counts[pair] = get(pair, 0) - count
        first = right << ID_BITS
        for neighbour, count, _ in on_right:
            counts[first | neighbour] = get(first | neighbour, 0) - count
        new = [(neighbour << ID_BITS | merged, count, at) for neighbour, count, at in on_left]
        first = merged << ID_BITS
        self._add(new + [(first | neighbour, count, at) for neighbour, count, at in on_right], first | merged)
        self._ids[places], self._ids[seconds] = merged, self._no_id
        self._after[places], self._before[after] = after, places

    def _grouped(self, keys: NDArray[np.integer], places: Ints) -> list[Group]:
        """Each distinct key of these (P,) places, with the number of its occurrences and its places."""
        if not len(keys):
            return []
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
        starts_group = np.ones(len(keys), dtype=np.bool_)
        np.not_equal(keys[1:], keys[:-1], out=starts_group[1:])
        starts = starts_group.nonzero()[0]
        firsts = starts.tolist()
        ends = [*firsts[1:], len(keys)]
        if self._weights is None:
            sums = [end - first for first, end in zip(firsts, ends, strict=True)]
        else:
            sums = np.add.reduceat(self._weights[places], starts).tolist()
        cut = [places[first:end] for first, end in zip(firsts, ends, strict=True)]
        return list(zip(keys[starts].tolist(), sums, cut, strict=True))

    def _add(self, groups: list[Group], twins: int | None) -> None:
        """Add new pairs to the counts and to the queue.

        Args:
            twins: the pair of two copies of the new token. Only this pair can be in `groups` twice, if one copy is older.
        """
        counts, stored, queue, entry = self._counts, self._places, self._queue, self._entries
        again: dict[int, Ints] = {}  # the few pairs that were counted before, or that are in `groups` twice
        for pair, count, places in groups:
            if pair not in counts and pair != twins:
                counts[pair] = count
                stored[pair] = [places]
                entry += 1
                heapq.heappush(queue, (-count, pair, entry, places))
            else:
                counts[pair] = counts.get(pair, 0) + count
                again[pair] = np.concatenate([again[pair], places]) if pair in again else places
        for pair, places in again.items():
            if (count := counts[pair]) > 0:
                stored.setdefault(pair, []).append(places)
                entry += 1
                heapq.heappush(queue, (-count, pair, entry, places))
        self._entries = entry

    def _take(self, pair: int, arrivals: Ints) -> Ints:
        """The ascending places of a pair in the words where the pair arose; the other places of the pair stay stored."""
        stored = self._places.pop(pair)
        if len(stored) == 1 and stored[0] is arrivals:
            return np.sort(arrivals, kind="stable")
        places = np.unique(np.concatenate(stored))
        chosen = np.isin(self._word_of(places), self._word_of(arrivals))
        self._places[pair] = [places[~chosen]]
        return places[chosen]

    def _word_of(self, places: Ints) -> NDArray[np.intp]:
        return np.searchsorted(self._ends, places, side="right")


def _every_second(places: Ints, seconds: Ints) -> Ints:
    """The indices of the places that do not overlap, from left to right: the 1st, 3rd, 5th place of each run, and so on."""
    index = np.arange(len(places))
    starts_run = np.ones(len(places), dtype=np.bool_)
    starts_run[1:] = places[1:] != seconds[:-1]
    in_run = index - np.maximum.accumulate(np.where(starts_run, index, 0))
    return np.flatnonzero(in_run % 2 == 0)
