"""The shapes that readers expect of metrics rows. A store may come from a stranger, so every row is checked.

A shape names only the fields that a reader uses. Other fields are allowed.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[str, Field(pattern="^[0-9]+$")]  # a whole number that is a key of a JSON table
Tables = dict[str, dict[str, Any]]  # such as direction -> measure -> number


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class MetricsRow(_Shape):
    """A row of any event, such as `train` and `eval`."""

    event: str
    step: int = 0


class ScoresRow(MetricsRow):
    """A row of an evaluation or of a training step."""

    scores: Tables = {}
    auxiliary: Tables = {}
    nats_by_group: dict[str, Any] = {}


class ContextLengthsRow(MetricsRow):
    """The scores at each window length."""

    scores: dict[Count, Tables] = {}


class _Cut(_Shape):
    blocks: int


class LayerCutRow(MetricsRow):
    """The scores of the first k blocks, by evaluation pass."""

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
    """The scores on a synthetic task: chance levels, slices by evaluation pass, and scores at other lengths."""

    levels: _Levels
    by_pass: dict[str, _PassScores]
    lengths: dict[Count, Tables]


class _Geometry(_Shape):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]

    position_cosine_by_distance: dict[Count, float] = {}


class EmbeddingsRow(MetricsRow):
    """Numbers that describe the tables of tokens and positions."""

    geometry: _Geometry
