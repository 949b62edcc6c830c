"""The interface of an objective, which makes Examples from windows, and says which token may inform which prediction.

To write an objective, subclass `Objective` and define `example` (usually one call of `base.example.one_pass` per direction) and
`may_inform`. If the objective makes random decisions, define `draw`; no entry of a Draw may depend on token ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Generator, Tensor

from palinode.base.config import Part
from palinode.base.errors import Unfinished
from palinode.base.example import Draw, Example, SpecialTokens


@dataclass(frozen=True)
class Progress:
    """How far training has come.

    Attributes:
        step, total_steps: the number of the optimizer step, and the planned number of optimizer steps.
        state: the state of the objective, such as an adaptive p.
        schedule_step: the step that the schedule of the learning rate has reached. The schedule may be ahead of `step`, because a
            limit of tokens can end a run before its planned steps. None: equal to `step`.
    """

    step: int = 0
    total_steps: int = 1
    state: Mapping[str, float] = field(default_factory=dict)
    schedule_step: int | None = None

    @property
    def share(self) -> float:
        """The share of the run that is done, from 0 at the first step to 1 at the last step."""
        reached = self.step if self.schedule_step is None else self.schedule_step
        return min(1.0, reached / max(1, self.total_steps - 1))


class Objective(Part):
    """Base class of all objectives.

    Derive `may_inform` from the *definition* of the objective, never from `sees` or `input_source`: otherwise the audit would
    compare the code with itself.

    Attributes:
        scores_itself: True only if the model is meant to predict tokens that it sees.
        reads_in_a_direction: False if a model that is trained on the objective can neither continue a text nor be scored ltr or
            rtl.
    """

    scores_itself: ClassVar[bool] = False
    reads_in_a_direction: ClassVar[bool] = True

    def draw(self, batch: int, window_tokens: int, generator: Generator, progress: Progress) -> Draw:
        """Every random decision for `batch` windows; the first dimension of each tensor is `batch`."""
        return Draw()

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        """Make an Example from (B, window_tokens) windows. All random decisions must come from `draw`."""
        raise Unfinished(self, "must define example(windows, draw, specials)")

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        """Whether window token `source` may influence the prediction of window token `target`: boolean, of the broadcast shape.

        Args:
            source, target: window indices of any shapes that broadcast.
            group: the name of the pass.
            draw: the decisions for this window.
        """
        raise Unfinished(self, "must define may_inform(source, target, group, draw)")

    def scorable(self, window_tokens: int) -> Tensor:
        """(window_tokens,) boolean: the tokens of a window that some pass can score with some draw.

        A run whose label mask keeps none of these tokens is refused before any training.
        """
        return torch.ones(window_tokens, dtype=torch.bool)

    def groups(self) -> tuple[str, ...]:
        """The names of the passes that this objective can make."""
        return ("ltr",)

    def state(self) -> dict[str, float]:
        """The state of the objective before the first step (empty unless the objective adapts to its losses)."""
        return {}

    def after_step(self, state: Mapping[str, float], nats_by_group: Mapping[str, float]) -> dict[str, float]:
        """The state of the objective after a step with these training losses (nats per token, by pass)."""
        return dict(state)

    def pass_probabilities(self, progress: Progress) -> dict[str, float]:
        """The probability of each pass for a window at this point of training.

        `palinode plan` and the check C5.counters use these probabilities.
        """
        return {self.groups()[0]: 1.0}

    def evaluation(self) -> dict[str, Objective]:
        """The objectives, by name, that evaluate a model which was trained on this objective. Empty: the causal ltr and rtl passes.

        An objective that trains with a visibility other than causal adds an evaluation with this visibility. An objective that is
        neither ltr nor rtl adds itself under its own name.
        """
        return {}
