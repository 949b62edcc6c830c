"""What a run reads: text cut into windows, or a synthetic task whose sequences are the windows. One interface for both.

A `data` table with a `task` is a task, any other is text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, ValidationInfo

from palinode.base.errors import BadInput
from palinode.base.example import Windows
from palinode.data import store
from palinode.data.config import DataConfig, Split
from palinode.data.task_store import TaskData, TaskStore
from palinode.data.tokenizer import Tokenizer
from palinode.data.windows import Stream

Data = DataConfig | TaskData


class Source(Protocol):
    """Data that is ready to be read.

    Attributes:
        vocab_size: ids of the data, without the special tokens of objectives.
        tokenizer: turns text into ids and back; ids of a task are written as numbers.
        bytes_per_token: (vocab_size,) int64; all 0 where ids have no text.
        sha256: hash of what it holds.
    """

    tokenizer: Tokenizer
    bytes_per_token: NDArray[np.int64]

    @property
    def vocab_size(self) -> int: ...

    @property
    def sha256(self) -> str: ...

    def training(self, window_tokens: int, seed: int) -> Stream:
        """The stream of training windows."""

    def evaluation(
        self, split: Split, window_tokens: int, *, batch_windows: int, max_tokens: int | None
    ) -> Iterator[Windows]:
        """Fixed batches that cover a split, or its first tokens."""

    def scored_tokens(self, split: Split, max_tokens: int | None) -> int:
        """How many tokens an evaluation of a split reads."""


def _chosen(value: Any, info: ValidationInfo) -> Any:
    """A table becomes text or a task by what it holds, so that its mistakes are said as that kind's."""
    if not isinstance(value, Mapping):
        return value
    chosen: type[DataConfig] | type[TaskData] = TaskData if "task" in value else DataConfig
    try:
        return chosen.model_validate(dict(value), context=info.context)
    except BadInput as refusal:  # pydantic gives places to its own errors alone
        raise refusal.inside(info.field_name) from None


DATA = BeforeValidator(_chosen)  # for a field that holds either: `Annotated[Data, DATA]`


def prepare(config: Data, cache: Path | None = None) -> Source:
    """The data of a config, ready to be read; text is tokenised on first use.

    Raises:
        BadInput, EnvironmentProblem: see `data.store.prepare`.
    """
    return TaskStore(config) if isinstance(config, TaskData) else store.prepare(config, cache)


def resolve(config: Data) -> Data:
    """The config with the hashes of its text filled in; a task is what its config says."""
    return config if isinstance(config, TaskData) else store.resolve(config)
