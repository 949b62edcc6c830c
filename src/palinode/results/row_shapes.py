"""The shapes that metrics rows must have. A store may come from a stranger, so every row is checked against its shape.

A shape names only the fields that Palinode reads. Other fields are allowed.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[str, Field(pattern="^[0-9]+$")]  # a whole number that is a key of a JSON table
Tables = dict[str, dict[str, Any]]  # such as direction -> measure -> number


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class MetricsRow(_Shape):
    """The fields that a metrics row of every event (such as `train` and `eval`) must have."""

    event: str
    step: int = 0


class ScoresRow(MetricsRow):
    """The shape of a row of an evaluation or of a training step."""

    scores: Tables = {}
    auxiliary: Tables = {}
    nats_by_group: dict[str, Any] = {}


class ContextLengthsRow(MetricsRow):
    """The shape of a row with the scores at each window length."""

    scores: dict[Count, Tables] = {}


class _Cut(_Shape):
    blocks: int


class LayerCutRow(MetricsRow):
    """The shape of a row with the scores of a model that keeps only its first k blocks, for each evaluation pass."""

    scores: dict[str, list[_Cut]] = {}
    refitted: dict[str, list[_Cut]] = {}


class _Levels(_Shape):
    trivial: dict[str, float | None] = {}


class _SliceCell(_Shape):
    value: int
    sequences: int
    tokens_scored: int
    hits: int


class _PassScores(_Shape):
    slices: dict[str, list[_SliceCell]] = {}


class TaskRow(MetricsRow):
    """The shape of a row with the scores on a synthetic task: chance levels, slices by pass, and scores at other lengths."""

    levels: _Levels
    by_pass: dict[str, _PassScores]
    lengths: dict[Count, Tables]


class _Geometry(_Shape):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]

    position_cosine_by_distance: dict[Count, float] = {}


class EmbeddingsRow(MetricsRow):
    """The shape of a row with numbers that describe the embedding tables of tokens and positions."""

    geometry: _Geometry


class Shown(_Shape):
    """A query that a page shows: its text, the titles of its relevant documents, and what each retriever ranks first."""

    query: str
    text: str
    relevant: list[str]
    first: dict[str, str] = {}
    rank: dict[str, int] = {}


class RetrievalRow(ScoresRow):
    """The shape of a row with the scores of a retriever: retriever -> measure -> a number for each query of the tested fold.

    `types` names the type of every query in each way to sort them: way -> a word for each query.
    """

    queries: list[str]
    by_query: dict[str, dict[str, list[float]]]
    types: dict[str, list[str]] = {}
    shown: list[Shown] = []

    @model_validator(mode="after")
    def _one_for_each_query(self) -> RetrievalRow:
        numbers = [values for table in self.by_query.values() for values in table.values()]
        counts = {len(values) for values in numbers} | {len(names) for names in self.types.values()}
        if counts - {len(self.queries)}:
            raise ValueError("a list has not one entry for each query")
        return self
