"""The scores of a model that keeps only its first k blocks, for every k. The metrics rows `layer_cut` store these scores."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ConfigDict, Field

from palinode.base.config import Config
from palinode.base.errors import BadInput

LAYER_CUT_EVENT = "layer_cut"


class CutScores(Config):
    """The scores of a model that keeps its first `blocks` blocks.

    Attributes:
        blocks: the number of blocks that the model keeps, counted from the input.
        accuracy: the share of scored tokens whose prediction is right; None in some imported runs.

    Other measures and sums of the evaluation are stored as further fields.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | int | None]

    blocks: int = Field(ge=1)
    nats_per_token: float
    accuracy: float | None = None


Curves = Mapping[str, tuple[CutScores, ...]]


class LayerCut(Config):
    """The scores of a model of L blocks that keeps 1, 2, .. L blocks, for each evaluation pass.

    Attributes:
        scores: the scores with the final norm and head of the whole model.
        refitted: the scores with a final norm and head that were trained again for each pass and number of blocks; empty if no norm
            and head were trained again.
    """

    scores: Curves = Field(default_factory=dict)
    refitted: Curves = Field(default_factory=dict)

    @property
    def depths(self) -> int:
        """L, the number of blocks of the whole model."""
        return max((item.blocks for curve in self.scores.values() for item in curve), default=0)

    def with_blocks(self, blocks: int) -> LayerCut:
        """A LayerCut with only the scores of the model that keeps its first `blocks` blocks.

        Raises:
            BadInput: the model has fewer blocks, or `blocks` is below 1.
        """
        if not 1 <= blocks <= self.depths:
            raise BadInput(
                f"the model has {self.depths} blocks, so it cannot keep {blocks}",
                field="blocks",
                hint=f"1 to {self.depths}",
            )
        return LayerCut(scores=_only(self.scores, blocks), refitted=_only(self.refitted, blocks))


def _only(curves: Curves, blocks: int) -> dict[str, tuple[CutScores, ...]]:
    return {name: tuple(item for item in curve if item.blocks == blocks) for name, curve in curves.items()}
