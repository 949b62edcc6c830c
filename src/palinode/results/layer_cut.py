"""What a model scored with its first k blocks alone, for every k (metrics rows with the event `layer_cut`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field

from palinode.base.config import Config
from palinode.base.errors import BadInput

LAYER_CUT_EVENT = "layer_cut"


class CutScores(Config):
    """The scores of a model with this many blocks left.

    Attributes:
        blocks: how many are left, counted from the input.
        accuracy: an imported run may lack it.

    Every other measure and every sum of an evaluation that its row holds is kept beside these.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | int | None]

    blocks: int = Field(ge=1)
    nats_per_token: float
    accuracy: float | None = None


Curves = Mapping[str, tuple[CutScores, ...]]


class LayerCut(Config):
    """A model cut off after each number of blocks 1, 2, .. L, by evaluation pass.

    Attributes:
        scores: with the final norm and head as they were trained, for L blocks.
        refitted: with a final norm and head trained for this pass and this number of blocks; empty when it was not asked for.
    """

    scores: Curves = Field(default_factory=dict)
    refitted: Curves = Field(default_factory=dict)

    @property
    def depths(self) -> int:
        """L, the number of blocks of the whole model."""
        return max((item.blocks for curve in self.scores.values() for item in curve), default=0)

    def with_blocks(self, blocks: int) -> LayerCut:
        """Only the scores with this many blocks left.

        Raises:
            BadInput: the model has fewer blocks, or none were asked for.
        """
        if not 1 <= blocks <= self.depths:
            raise BadInput(
                f"the model has {self.depths} blocks, so {blocks} cannot be left",
                field="blocks",
                hint=f"1 to {self.depths}",
            )
        return LayerCut(scores=_only(self.scores, blocks), refitted=_only(self.refitted, blocks))


def is_layer_cut_row(row: Mapping[str, Any]) -> bool:
    """Whether a metrics row of this event has its shape: pass -> list of tables, one for each number of blocks."""
    parts = (row.get(name, {}) for name in LayerCut.model_fields)
    return all(isinstance(part, dict) and all(_is_curve(curve) for curve in part.values()) for part in parts)


def _only(curves: Curves, blocks: int) -> dict[str, tuple[CutScores, ...]]:
    return {name: tuple(item for item in curve if item.blocks == blocks) for name, curve in curves.items()}


def _is_curve(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict) and isinstance(item.get("blocks"), int) for item in value
    )
