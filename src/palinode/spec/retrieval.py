"""The settings of a retriever that is trained from the last weights of a run, and scored on queries it was not trained on."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from palinode.base.config import Config
from palinode.base.measures import BM25, READINGS, Reading, mean_pooling_name, retrieval_name
from palinode.data.config import HEX_SHA256


class Retrieval(Config):
    """A late-interaction retriever on a copy of the run's weights; the run's own weights stay as they are.

    Attributes:
        folder: the collection in the layout of BEIR: a path, or `data:<path>` below $PALINODE_DATA; see `data.retrieval`.
        folder_sha256: its hash, which the resolution of a spec fills in; a run with this hash refuses other content.
        readings: how the texts are read: `ltr` (causal), `full` (no mask), `both` (causal states of both directions joined). A
            retriever is trained for each reading.
        depth: the number of the model's first blocks that are kept; the final norm is kept too.
        width: the width of a token's vector.
        query_tokens, document_tokens: the number of tokens of a text that are read; the rest is cut off.
        batch: the number of queries in a training step, each with one of its relevant documents.
        steps: the number of training steps.
        learning_rate, map_learning_rate: the rate of the model, and that of the linear map from states to vectors.
        temperature: what the scores in the loss are divided by, beside the number of query tokens.
        pool: the number of documents that are ranked for each query.
        folds: the number of folds of the queries. The fold `seed` modulo `folds` is tested, the others are trained on.
        queries: the number of queries that are used, of all folds together; None: all.
    """

    folder: str = Field(min_length=1)
    folder_sha256: str | None = Field(default=None, pattern=HEX_SHA256)
    readings: tuple[Reading, ...] = Field(default=("full",), min_length=1)
    depth: int = Field(default=12, ge=1, le=10**4)
    width: int = Field(default=64, ge=1, le=10**4)
    query_tokens: int = Field(default=32, ge=1, le=10**4)
    document_tokens: int = Field(default=160, ge=1, le=10**5)
    batch: int = Field(default=16, ge=2, le=10**4)
    steps: int = Field(default=60, ge=0, le=10**6)
    learning_rate: float = Field(default=3e-5, ge=0.0)
    map_learning_rate: float = Field(default=1e-3, gt=0.0)
    temperature: float = Field(default=0.05, gt=0.0)
    pool: int = Field(default=1500, ge=2, le=10**6)
    folds: int = Field(default=3, ge=2, le=100)
    queries: Annotated[int, Field(ge=4)] | None = None

    @field_validator("readings")
    @classmethod
    def _each_once(cls, readings: tuple[Reading, ...]) -> tuple[Reading, ...]:
        if len(set(readings)) != len(readings):
            raise ValueError("each reading is scored once")
        return tuple(sorted(readings, key=READINGS.index))

    @property
    def retrievers(self) -> tuple[str, ...]:
        """The names of the retrievers that are scored, as metrics write them."""
        late, mean = (map(name_of, self.readings) for name_of in (retrieval_name, mean_pooling_name))
        return (*late, *mean, BM25)
