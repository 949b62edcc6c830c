"""A replacement, in plans, for a text that is not on this machine; the tokenizer's name must state the number of ids."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from palinode.base.errors import EnvironmentProblem
from palinode.base.example import Windows
from palinode.data.config import BYTE_VALUES, DataConfig, Split, WindowChoice
from palinode.data.document_starts import Units, units_of
from palinode.data.tokenizer import IdsTokenizer, Tokenizer

GPT2_IDS = 50_257


def known_vocabulary(config: DataConfig) -> int | None:
    """The number of ids that the name of the tokenizer states; None if the name states no number.

    A tokenizer `bpe:N` has N ids, or fewer if it is trained on a very short text.
    """
    kind, _, size = config.tokenizer.partition(":")
    if kind in ("bpe", "ids"):
        return int(size)
    return {"byte": BYTE_VALUES, "gpt2": GPT2_IDS}.get(config.tokenizer)


class AbsentText:
    """A `data.source.Source` that replaces an absent text when a plan counts costs: every id is 0, and no split has tokens."""

    sha256 = ""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size
        self.tokenizer: Tokenizer = IdsTokenizer(vocab_size)
        self.bytes_per_token: NDArray[np.int64] = np.zeros(vocab_size, dtype=np.int64)

    def training(self, window_tokens: int, seed: int) -> Zeros:
        """A stream of windows that have the right shape and hold zeros."""
        return Zeros(window_tokens)

    def evaluation(
        self,
        split: Split,
        window_tokens: int,
        *,
        batch_windows: int,
        max_tokens: int | None,
        windows: WindowChoice = "first",
    ) -> Iterator[Windows]:
        """Refuse: an absent text has no windows to score.

        Raises:
            EnvironmentProblem: on every call.
        """
        raise EnvironmentProblem("the text is not on this machine", field="data.corpus")

    def units(self, split: Split) -> Units:
        """One unit without tokens, because the documents of an absent text are not known."""
        return units_of(np.zeros(2, dtype=np.int64))

    def scored_tokens(self, split: Split, max_tokens: int | None) -> int:
        """0, because the length of an absent text is not known."""
        return 0


class Zeros:
    """An endless stream of windows of zeros (`data.windows.Stream`)."""

    def __init__(self, window_tokens: int):
        self.window_tokens = window_tokens

    def read(self, first: int, count: int) -> Windows:
        """`count` windows in which every token id is 0."""
        return Windows(torch.zeros(count, self.window_tokens, dtype=torch.long))

    def of_length(self, window_tokens: int) -> Zeros:
        """The stream of zeros whose windows have `window_tokens` tokens."""
        return Zeros(window_tokens)
