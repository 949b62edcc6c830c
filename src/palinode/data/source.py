"""One interface for the data of a run: text that is cut into windows, or a synthetic task whose sequences are the windows.

A `data` table that has the key `task` is a task; any other `data` table is text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, ValidationInfo

from palinode.base.errors import BadInput
from palinode.base.example import Windows
from palinode.data import store
from palinode.data.config import DataConfig, Split, WindowChoice
from palinode.data.document_starts import Units
from palinode.data.task_store import TaskData, TaskStore
from palinode.data.tokenizer import Tokenizer
from palinode.data.windows import Stream

Data = DataConfig | TaskData


class Source(Protocol):
    """Data that is ready to be read.

    Attributes:
        vocab_size: V, the number of ids of the data, without the special tokens of objectives.
        tokenizer: the tokenizer that turns text into ids and back; the ids of a task are written as numbers.
        bytes_per_token: (V,) int64, the number of bytes of text of each id; all 0 where ids have no text.
        sha256: the hash of the content of the data.
    """

    vocab_size: int
    tokenizer: Tokenizer

    @property
    def bytes_per_token(self) -> NDArray[np.int64]:
        """See the attributes."""

    @property
    def sha256(self) -> str:
        """See the attributes."""

    def training(self, window_tokens: int, seed: int) -> Stream:
        """The stream of training windows."""

    def evaluation(
        self,
        split: Split,
        window_tokens: int,
        *,
        batch_windows: int,
        max_tokens: int | None,
        windows: WindowChoice = "first",
    ) -> Iterator[Windows]:
        """The batches of windows to score, the same on every call: of a whole split, or of `max_tokens` of its tokens.

        Args:
            windows: with `max_tokens`: the first windows of the split, or windows that are spread over it. The sequences of a task
                are independent of each other, so a task always gives the first ones.
        """

    def units(self, split: Split) -> Units:
        """The documents of a split, or what stands for them: the parts whose scores are added up separately."""

    def scored_tokens(self, split: Split, max_tokens: int | None) -> int:
        """The number of tokens that an evaluation of a split reads."""


def _text_or_task(value: Any, info: ValidationInfo) -> Any:
    """Read a table with the key `task` as a task and any other table as text data, so that error messages fit the kind."""
    if not isinstance(value, Mapping):
        return value
    kind: type[DataConfig] | type[TaskData] = TaskData if "task" in value else DataConfig
    try:
        return kind.model_validate(dict(value), context=info.context)
    except BadInput as refusal:  # pydantic adds the path of a field only to its own errors
        raise refusal.inside(info.field_name) from None


DATA = BeforeValidator(_text_or_task)  # for a field that holds text data or a task: `Annotated[Data, DATA]`


class WithTokenizer:
    """Text data whose tokenizer is there already. The text is prepared when something first asks for more than the tokenizer, so
    that a trained model can be used where its corpus is gone. See `Source`.

    Raises:
        BadInput, EnvironmentProblem: on that first use, see `data.store.prepare`.
    """

    def __init__(self, config: DataConfig, tokenizer: Tokenizer):
        self.config = config
        self.tokenizer = tokenizer
        self.vocab_size = tokenizer.vocab_size

    @cached_property
    def _prepared(self) -> store.TokenStore:
        return store.prepare(self.config)

    @property
    def bytes_per_token(self) -> NDArray[np.int64]:
        """See `Source`. They are 0 where the ids do not spell the text, which only the text can show."""
        return self._prepared.bytes_per_token

    @property
    def sha256(self) -> str:
        """See `Source`."""
        return self._prepared.sha256

    def training(self, window_tokens: int, seed: int) -> Stream:
        return self._prepared.training(window_tokens, seed)

    def evaluation(
        self,
        split: Split,
        window_tokens: int,
        *,
        batch_windows: int,
        max_tokens: int | None,
        windows: WindowChoice = "first",
    ) -> Iterator[Windows]:
        return self._prepared.evaluation(
            split, window_tokens, batch_windows=batch_windows, max_tokens=max_tokens, windows=windows
        )

    def tokens(self, split: Split) -> NDArray[np.integer]:
        """The ids of a split, see `TokenStore.tokens`."""
        return self._prepared.tokens(split)

    def units(self, split: Split) -> Units:
        return self._prepared.units(split)

    def scored_tokens(self, split: Split, max_tokens: int | None) -> int:
        return self._prepared.scored_tokens(split, max_tokens)


def prepare(config: Data, cache: Path | None = None) -> Source:
    """The data of a config, ready to be read. The first call for a text tokenises this text.

    Raises:
        BadInput, EnvironmentProblem: see `data.store.prepare`.
    """
    return TaskStore(config) if isinstance(config, TaskData) else store.prepare(config, cache)


def resolve(config: Data) -> Data:
    """The config with the hashes of its text and tokenizer filled in; the config of a task stays as it is."""
    return config if isinstance(config, TaskData) else store.resolve(config)
