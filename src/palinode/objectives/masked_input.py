"""Objectives that hide tokens from the input behind `[MASK]`; a hidden token's slot keeps its position.

    window a b c d e f, hidden {b, e}    masked         in a [M] c d [M] f      target a b c d e f    scored 0 1 0 0 1 0
    window a b c d e f, hidden {b, d}    masked-input   in [L] a [M] c [M] e    target a b c d e f    scored 1 1 1 1 1 1
    window a b c C a b c                 bottleneck     in a b c C [M] [M] [M]  target         a b c  scored 0 0 0 0 1 1 1

`masked` sees the full row, `masked-input` (MEAP, arXiv 2502.07490) the slots before.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor

from palinode.base.config import LATER
from palinode.base.errors import BadInput, Unfinished
from palinode.base.example import NO_SOURCE, Draw, Example, SpecialTokens, one_pass
from palinode.base.objective import Objective, Progress
from palinode.base.visibility import Bottleneck, Full, Ltr, Native, Visibility
from palinode.objectives.directional import LtrObjective

# Audits and plans hold for every task: they take this share of the tokens for its answers.
STAND_IN_SHARE = 0.25


class HiddenInPlace(Objective):
    """Base of objectives that hide tokens behind `[MASK]` and predict each of them at its own slot, in one pass."""

    reads_in_a_direction: ClassVar[bool] = False

    def hidden(self, draw: Draw) -> Tensor:
        """(B, window_tokens) boolean: the tokens that are hidden and scored."""
        raise Unfinished(self, "must define hidden(draw)")

    def visibility(self, hidden: Tensor) -> Visibility:
        """What the slots of the pass see."""
        return Full()

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        hidden, index = self.hidden(draw), torch.arange(windows.shape[1])
        return one_pass(
            windows,
            name=self.kind,
            sees=self.visibility(hidden),
            input_source=torch.where(hidden, NO_SOURCE, index),
            target_source=index,
            special_input=specials["[MASK]"],
            loss_weight=hidden,
        )

    def groups(self) -> tuple[str, ...]:
        return (self.kind,)


class MaskedObjective(HiddenInPlace):
    """Predict hidden tokens in place, from both sides; for a model without a reading direction.

    On a task the answers are hidden, which trains a classifier of the answer. A `rate` hides a random share of all tokens, which
    trains a masked language model.

    Attributes:
        hide_answers: the answers that a task marks are hidden, in training and in evaluation.
        rate: round(rate * window_tokens) of all tokens are hidden as well, in training only.
    """

    kind: ClassVar[str] = "masked"
    hide_answers: bool = True
    rate: float = Field(default=0.0, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _hides_something(self) -> MaskedObjective:
        if not self.hide_answers and not self.rate:
            raise BadInput("no token is hidden: set hide_answers = true, or a rate", field="objective.rate")
        return self

    def draw(self, batch: int, window_tokens: int, generator: Generator, progress: Progress) -> Draw:
        hidden = _exactly(round(self.rate * window_tokens), batch, window_tokens, generator)
        decisions = {"hidden": hidden}
        if self.hide_answers:
            decisions["answers"] = _stand_in(batch, window_tokens, generator)
        return Draw(decisions)

    def hidden(self, draw: Draw) -> Tensor:
        return _hidden(self, draw)

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        shown = ~self.hidden(draw)[source]
        return shown & torch.ones_like(target, dtype=torch.bool)

    def scorable(self, window_tokens: int) -> Tensor:
        """Every token, as chance may hide any: labels change what is scored, not what is hidden. None if nothing is hidden."""
        hides = self.hide_answers or round(self.rate * window_tokens) > 0
        return torch.full((window_tokens,), hides)

    def evaluation(self) -> dict[str, Objective]:
        """Only the answers hidden; without `hide_answers`, the tokens that training hides."""
        return {"masked": self.with_(rate=0.0) if self.hide_answers else self}


class MaskedInputObjective(Objective):
    """Next-token prediction with some inputs hidden: a random share in training, and on a task the answers if so chosen.

    With `rate = 0` and `hide_answers` a causal model reads a task as `mqar`, `mad-selective-copy` and `mad-memorisation` were
    published: each answer is predicted from the tokens before it, and no slot reads an answer.

    Attributes:
        rate: round(rate * window_tokens) tokens of a window are hidden as inputs; they stay targets. Evaluation does not hide them.
        direction_token: start with `[L]`, so that the first token is scored too.
        hide_answers: the answers that a task marks are hidden as inputs, in training and in evaluation; they stay targets.
    """

    kind: ClassVar[str] = "masked-input"
    rate: float = Field(default=0.15, ge=0.0, lt=1.0)
    direction_token: bool = True
    hide_answers: Annotated[bool, LATER] = False

    def draw(self, batch: int, window_tokens: int, generator: Generator, progress: Progress) -> Draw:
        decisions = {"hidden": _exactly(round(self.rate * window_tokens), batch, window_tokens, generator)}
        if self.hide_answers:
            decisions["answers"] = _stand_in(batch, window_tokens, generator)
        return Draw(decisions)

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        sources, targets = self._unmasked().shifted(windows.shape[1])
        hidden = _hidden(self, draw)[:, sources.clamp_min(0)] & (sources != NO_SOURCE)
        return one_pass(
            windows,
            name="ltr",
            sees=Ltr(),
            input_source=torch.where(hidden, NO_SOURCE, sources),
            target_source=targets,
            special_input=torch.where(hidden, specials["[MASK]"], specials["[L]"]),
        )

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        return (source < target) & ~_hidden(self, draw)[source]

    def scorable(self, window_tokens: int) -> Tensor:
        return self._unmasked().scorable(window_tokens)

    def evaluation(self) -> dict[str, Objective]:
        """The passes of `ltr`; with `hide_answers`, the ltr pass hides the answers and nothing else."""
        passes = self._unmasked().evaluation()
        return {**passes, "ltr": self.with_(rate=0.0)} if self.hide_answers else passes

    def _unmasked(self) -> LtrObjective:
        return LtrObjective(direction_token=self.direction_token)


def _hidden(objective: MaskedObjective | MaskedInputObjective, draw: Draw) -> Tensor:
    """(B, window_tokens) boolean: the tokens that are hidden as inputs."""
    return draw["hidden"] | draw["answers"] if objective.hide_answers else draw["hidden"]


def _stand_in(batch: int, window_tokens: int, generator: Generator) -> Tensor:
    """(B, window_tokens) boolean: random places that stand for the answers where no task marks any."""
    return _exactly(max(1, round(STAND_IN_SHARE * window_tokens)), batch, window_tokens, generator)


def _exactly(count: int, batch: int, window_tokens: int, generator: Generator) -> Tensor:
    """(B, window_tokens) boolean: `count` True entries in each row, at uniformly random places."""
    order = torch.rand(batch, window_tokens, generator=generator).argsort(1).argsort(1)
    return order < count


class BottleneckObjective(HiddenInPlace):
    """Predict the answers at the end of a task's windows from the state of the token before them: how much does that state hold?

    In MAD's compression task C is the compression token and the answers are the tokens before it. Up to C each slot sees the slots
    before it; each later slot sees C and itself.
    Source: MAD (arXiv 2403.17844), which also gives its decoder the last state and a position. Differs in: there an MLP reads one
    state, here the blocks of the stack read C at every depth (in a stack of L layers C has L - 1 states that have read something,
    so two layers are MAD's case and one layer passes nothing on); the stack needs positions, because without them the slots of the
    answers are all equal; a mixer without a form for explicit masks is refused.
    Audits and plans hold for every task: they take the second half of a window for its answers.

    Attributes:
        sealed: a control: the token before the answers sees only itself, so that the text before it may inform no answer. A score
            above chance then shows a way around the bottleneck.
    """

    kind: ClassVar[str] = "bottleneck"
    needs_answers: ClassVar[bool] = True
    native: ClassVar[Native] = Bottleneck.native
    sealed: bool = False

    def draw(self, batch: int, window_tokens: int, generator: Generator, progress: Progress) -> Draw:
        answers = torch.arange(window_tokens) >= window_tokens - window_tokens // 2
        return Draw({"answers": answers.expand(batch, window_tokens)})

    def hidden(self, draw: Draw) -> Tensor:
        return draw["answers"]

    def visibility(self, hidden: Tensor) -> Visibility:
        return Bottleneck(slot=_narrow(hidden), sealed=self.sealed)

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        narrow = _narrow(draw["answers"][None])
        shown = source == narrow if self.sealed else source <= narrow
        return shown & torch.ones_like(target, dtype=torch.bool)

    def evaluation(self) -> dict[str, Objective]:
        return {"bottleneck": self}


def _narrow(answers: Tensor) -> int:
    """The index of the token before the answers, which are (B, window_tokens) boolean; the same in every window.

    Raises:
        BadInput: the windows do not all end with equally many answers, or there is no token before them.
    """
    first = int((~answers[0]).sum())
    at_the_end = torch.arange(answers.shape[1], device=answers.device) >= first
    if not 0 < first < answers.shape[1] or not bool((answers == at_the_end).all()):
        raise BadInput(
            "a bottleneck needs windows that all end with equally many answers and have a token before them",
            field="objective",
        )
    return first - 1
