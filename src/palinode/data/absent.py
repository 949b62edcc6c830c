"""Text that is not on this machine. A plan needs none of it where the name of the tokenizer says how many ids there are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from palinode.base.errors import EnvironmentProblem
from palinode.base.example import Windows
from palinode.data.config import BYTE_VALUES, DataConfig, Split
from palinode.data.tokenizer import IdsTokenizer, Tokenizer

GPT2_IDS = 50_257


def known_vocabulary(config: DataConfig) -> int | None:
    """How many ids the tokenizer has, as far as its name says it. `bpe:N` has at most N, and fewer on a very short text."""
    kind, _, size = config.tokenizer.partition(":")
    if kind in ("bpe", "ids"):
        return int(size)
    return {"byte": BYTE_VALUES, "gpt2": GPT2_IDS}.get(config.tokenizer)


class AbsentText:
    """In the place of a text (`data.source.Source`) for what is counted before a run: every id is 0, and no split has tokens."""

    sha256 = ""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size
        self.tokenizer: Tokenizer = IdsTokenizer(vocab_size)
        self.bytes_per_token: NDArray[np.int64] = np.zeros(vocab_size, dtype=np.int64)

    def training(self, window_tokens: int, seed: int) -> Zeros:
        """Windows of the right shape."""
        return Zeros(window_tokens)

    def evaluation(
        self, split: Split, window_tokens: int, *, batch_windows: int, max_tokens: int | None
    ) -> Iterator[Windows]:
        """Nothing can be scored.

        Raises:
            EnvironmentProblem: always.
        """
        raise EnvironmentProblem("the text is not on this machine", field="data.corpus")

    def scored_tokens(self, split: Split, max_tokens: int | None) -> int:
        """0: how long the text is can only be counted on the text."""
        return 0


class Zeros:
    """An endless stream of windows of zeros (`data.windows.Stream`)."""

    def __init__(self, window_tokens: int):
        self.window_tokens = window_tokens

    def read(self, first: int, count: int) -> Windows:
        """`count` windows."""
        return Windows(torch.zeros(count, self.window_tokens, dtype=torch.long))

    def of_length(self, window_tokens: int) -> Zeros:
        """Windows of another length."""
        return Zeros(window_tokens)
