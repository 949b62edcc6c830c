"""The windows of a token array, and the order in which a run reads them: pure functions of (seed, window index).

Training: an epoch reads n windows, so window i of the stream belongs to epoch i // n. Each epoch cuts the train split into
windows from its own random offset on, and reads them in the order of a keyed permutation. The permutation is computed for each
index and never stored: a Feistel network permutes the numbers below the next power of four, and it is applied again until the
result is below n (Black and Rogaway 2002, cycle walking). So the stream is the same for any batch size and micro-batching, and
reading can start at any window. Shapes: B windows; a window has `window_tokens` tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palinode.base.errors import BadInput
from palinode.base.example import Windows
from palinode.base.seeds import derive

STREAM = "data"
EVALUATION_STREAM = "evaluation"
DERIVED_BITS = 63  # `derive` gives whole numbers below 2^63
ROUNDS = 8  # four are enough for a pseudorandom permutation of a large domain (Luby and Rackoff 1988)
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # splitmix64's finaliser
EVALUATION_BATCH_WINDOWS = 32


class Stream(Protocol):
    """The windows that training reads, in a fixed order; reading can start at any window."""

    window_tokens: int

    def read(self, first: int, count: int) -> Windows:
        """The windows of the stream with the indices `first` to `first + count - 1`."""

    def of_length(self, window_tokens: int) -> Stream:
        """The stream over the same data whose windows have `window_tokens` tokens."""


class TrainWindows:
    """The endless stream of training windows over a 1-D array of token ids.

    Args:
        tokens: (total tokens,) token ids, usually a memory map.
        window_tokens: the number of tokens of a window.
        seed: the seed of the run.

    Raises:
        BadInput: the array has fewer tokens than one window.
    """

    def __init__(self, tokens: NDArray[np.integer], window_tokens: int, seed: int):
        total = len(tokens)
        if total < window_tokens:
            message = f"a window has {window_tokens} tokens, the train split only {total}"
            raise BadInput(message, field="data.window_tokens")
        self.tokens = tokens
        self.window_tokens = window_tokens
        self.seed = seed
        # An epoch may have one window fewer than the tokens have room for, so that its first window can start at any offset
        # below `window_tokens`.
        self.windows_per_epoch = max(1, (total - window_tokens + 1) // window_tokens)

    def of_length(self, window_tokens: int) -> TrainWindows:
        """The stream over the same tokens whose windows have `window_tokens` tokens."""
        return self if window_tokens == self.window_tokens else TrainWindows(self.tokens, window_tokens, self.seed)

    def read(self, first: int, count: int) -> Windows:
        """The windows of the stream with the indices `first` to `first + count - 1`."""
        return Windows(self.batch(first, count))

    def batch(self, first: int, count: int) -> Tensor:
        """(count, window_tokens) int64: the token ids of the `count` windows of the stream from index `first` on."""
        return self.windows(np.arange(first, first + count, dtype=np.int64))

    def windows(self, index: NDArray[np.int64]) -> Tensor:
        """(B, window_tokens) int64: the token ids of the B windows of the stream that have these indices."""
        places = self.starts(index)[:, None] + np.arange(self.window_tokens)
        return torch.from_numpy(self.tokens[places].astype(np.int64))

    def starts(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """(B,): the place in the token array where each of the windows with these indices begins."""
        epochs, places = np.divmod(index, self.windows_per_epoch)
        starts = np.empty_like(index)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            tiles = permuted(places[in_epoch], self.windows_per_epoch, self._keys(int(epoch)))
            starts[in_epoch] = self.offset(int(epoch)) + tiles * self.window_tokens
        return starts

    def offset(self, epoch: int) -> int:
        """The number of tokens before the first window of this epoch: from 0 to the number of tokens that no window covers."""
        left_over = len(self.tokens) - self.windows_per_epoch * self.window_tokens
        return derive(self.seed, STREAM, epoch, "offset") % (left_over + 1)

    def _keys(self, epoch: int) -> NDArray[np.uint64]:
        keys = [derive(self.seed, STREAM, epoch, "key", number) for number in range(ROUNDS)]
        return np.array(keys, dtype=np.uint64)


def permuted(places: NDArray[np.int64], size: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The image of each place (0 .. size - 1) under the permutation of 0 .. size - 1 that these keys define."""
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    images = _feistel(places.astype(np.uint64), half_bits, keys)
    while (outside := images >= size).any():  # at most 3 in 4 numbers are outside, so few repetitions suffice
        images[outside] = _feistel(images[outside], half_bits, keys)
    return images.astype(np.int64)


def evaluation_windows(
    tokens: NDArray[np.integer],
    window_tokens: int,
    max_tokens: int | None = None,
    batch_windows: int = EVALUATION_BATCH_WINDOWS,
) -> Iterator[Windows]:
    """Fixed (B, window_tokens) batches that cover every token exactly once, in order; a last short window is a batch of its own.

    Args:
        tokens: (total tokens,) token ids.
        window_tokens: the number of tokens of a window.
        max_tokens: the number of tokens that the batches cover, from the first token on; None for all tokens.
        batch_windows: the largest B, the number of windows of a batch.
    """
    total = len(tokens) if max_tokens is None else min(len(tokens), max_tokens)
    whole = total // window_tokens
    for first in range(0, whole, batch_windows):
        last = min(whole, first + batch_windows)
        batch = tokens[first * window_tokens : last * window_tokens].astype(np.int64)
        starts = torch.arange(first, last) * window_tokens
        yield Windows(torch.from_numpy(batch.reshape(last - first, window_tokens)), starts=starts)
    if (start := whole * window_tokens) < total:
        last_window = torch.from_numpy(tokens[start:total].astype(np.int64)[None])
        yield Windows(last_window, starts=torch.tensor([start]))


def spread_windows(
    tokens: NDArray[np.integer], window_tokens: int, max_tokens: int, batch_windows: int, split: str
) -> Iterator[Windows]:
    """Fixed batches of whole windows that are spread evenly over a split, as many as fit into `max_tokens`, but at least one.

    The windows of one stretch of text are alike, so spread windows of the same number say more about the split. Where
    `max_tokens` holds the whole split, these are the windows of `evaluation_windows`.
    """
    every, wanted = len(tokens) // window_tokens, max(1, max_tokens // window_tokens)
    if wanted >= every:
        yield from evaluation_windows(tokens, window_tokens, max_tokens, batch_windows)
        return
    numbers = spread_numbers(every, wanted, split)
    for first in range(0, wanted, batch_windows):
        starts = numbers[first : first + batch_windows] * window_tokens
        batch = tokens[starts[:, None] + np.arange(window_tokens)].astype(np.int64)
        yield Windows(torch.from_numpy(batch), starts=torch.from_numpy(starts))


def spread_numbers(windows: int, wanted: int, split: str) -> NDArray[np.int64]:
    """(wanted,) the numbers floor((i + u) M / W) of W wanted windows among M, with one u in [0, 1) for each split of all runs."""
    u = derive(0, EVALUATION_STREAM, split)  # u is this number divided by 2^DERIVED_BITS
    numbers = [((i << DERIVED_BITS) + u) * windows // (wanted << DERIVED_BITS) for i in range(wanted)]
    return np.array(numbers, dtype=np.int64)


def _feistel(values: NDArray[np.uint64], half_bits: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A permutation of 0 .. 4^half_bits - 1: each round XORs one half with a hash of the other and swaps them."""
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (mixed(right + key) & mask)
    joined: NDArray[np.uint64] = (left << shift) | right
    return joined


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014), modulo 2^64: every input bit can change every output bit."""
    values = (values ^ (values >> np.uint64(30))) * MIX_1
    values = (values ^ (values >> np.uint64(27))) * MIX_2
    bits: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return bits
