"""Objectives that replace tokens of the input by `[MASK]`, to hide these tokens; the slot of a hidden token keeps its position.

    window a b c d e f, hidden {b, e}    masked         in a [M] c d [M] f      target a b c d e f    scored 0 1 0 0 1 0
    window a b c d e f, hidden {b, d}    masked-input   in [L] a [M] c [M] e    target a b c d e f    scored 1 1 1 1 1 1
    window a b c C a b c                 bottleneck     in a b c C [M] [M] [M]  target         a b c  scored 0 0 0 0 1 1 1

With `masked` a slot sees the full row; with `masked-input` (MEAP, arXiv 2502.07490) a slot sees itself and the slots before it.
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
from palinode.objectives.directional import LtrObjective, exactly

# Audits and plans, whose results must hold for every task, take this share of the tokens, at random, as the answers of a task.
STAND_IN_SHARE = 0.25


class HiddenInPlace(Objective):
    """Base class of objectives that replace tokens by `[MASK]` and predict each hidden token at its own slot, in one pass."""

    reads_in_a_direction: ClassVar[bool] = False

    def hidden(self, draw: Draw) -> Tensor:
        """The tokens that are hidden and scored, (B, window_tokens) boolean."""
        raise Unfinished(self, "must define hidden(draw)")

    def visibility(self, hidden: Tensor) -> Visibility:
        """The visibility of the pass: the slots that each slot sees."""
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
    """Predict each hidden token at its own slot, from the tokens on both sides; for a model that does not read in one direction.

    With `hide_answers` the answers of a task are hidden, which trains a classifier of the answer. With a `rate` above 0 a random
    share of all tokens is hidden, which trains a masked language model.

    Attributes:
        hide_answers: whether the answers that a task marks are hidden, in training and in evaluation.
        rate: the share of tokens that are hidden at random, in training only: round(rate * window_tokens) tokens of each window.
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
        hidden = exactly(round(self.rate * window_tokens), batch, window_tokens, generator)
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
        """The tokens that can be scored: all, because each token may be hidden at random; none if the options hide no token.

        Label masks do not matter here, because they change which tokens are scored, not which tokens are hidden.
        """
        hides = self.hide_answers or round(self.rate * window_tokens) > 0
        return torch.full((window_tokens,), hides)

    def evaluation(self) -> dict[str, Objective]:
        """With `hide_answers` evaluation hides only the answers; without `hide_answers` it hides tokens as training does."""
        return {"masked": self.with_(rate=0.0) if self.hide_answers else self}


class MaskedInputObjective(Objective):
    """Next-token prediction with hidden inputs: a random share of the inputs in training, and a task's answers if `hide_answers`.

    With `rate = 0` and `hide_answers = true` a causal model reads the tasks `mqar`, `mad-selective-copy` and `mad-memorisation` as
    in their publications: each answer is predicted from the tokens before this answer, and no slot reads an answer.

    Attributes:
        rate: the share of inputs that are hidden at random, in training only: round(rate * n) of the n tokens of each window that
            are read as inputs. The last token is only a target. A hidden token stays a target.
        direction_token: whether the input starts with `[L]`, so that the first token is scored too.
        hide_answers: whether the answers that a task marks are hidden as inputs, in training and in evaluation. A hidden answer
            stays a target.
    """

    kind: ClassVar[str] = "masked-input"
    rate: float = Field(default=0.15, ge=0.0, lt=1.0)
    direction_token: bool = True
    hide_answers: Annotated[bool, LATER] = False

    def draw(self, batch: int, window_tokens: int, generator: Generator, progress: Progress) -> Draw:
        decisions = {"hidden": self._hidden_inputs(batch, window_tokens, generator)}
        if self.hide_answers:
            decisions["answers"] = _stand_in(batch, window_tokens, generator)
        return Draw(decisions)

    def _hidden_inputs(self, batch: int, window_tokens: int, generator: Generator) -> Tensor:
        """(B, window_tokens) boolean: the tokens that are hidden, drawn among the tokens that a slot reads."""
        sources, _ = self._unmasked().shifted(window_tokens)
        read = sources[sources != NO_SOURCE]
        hidden = torch.zeros(batch, window_tokens, dtype=torch.bool)
        hidden[:, read] = exactly(round(self.rate * len(read)), batch, len(read), generator)
        return hidden

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
        """The evaluation passes of the objective `ltr`; with `hide_answers`, its ltr pass hides the answers and no other token."""
        passes = self._unmasked().evaluation()
        return {**passes, "ltr": self.with_(rate=0.0)} if self.hide_answers else passes

    def _unmasked(self) -> LtrObjective:
        return LtrObjective(direction_token=self.direction_token)


def _hidden(objective: MaskedObjective | MaskedInputObjective, draw: Draw) -> Tensor:
    """The tokens that are hidden as inputs, (B, window_tokens) boolean."""
    return draw["hidden"] | draw["answers"] if objective.hide_answers else draw["hidden"]


def _stand_in(batch: int, window_tokens: int, generator: Generator) -> Tensor:
    """Random places of the windows, (B, window_tokens) boolean, which serve as answers if no task marks the answers."""
    return exactly(max(1, round(STAND_IN_SHARE * window_tokens)), batch, window_tokens, generator)


class BottleneckObjective(HiddenInPlace):
    """Predict the answers at the end of a task's windows from the state of the token before the answers.

    The score shows how much information this state holds. In MAD's compression task, the token C before the answers is the
    compression token, and the answers repeat the tokens before C. Each slot up to the compression token C sees itself and the
    slots before it; each later slot sees only C and itself.
    Source: MAD (arXiv 2403.17844), where the decoder also gets the last state and a position. Differences from MAD: in MAD an MLP
    reads one state of C; here the blocks of the stack read C at every depth. In a stack of L layers, L - 1 states of C have read
    other slots, so that two layers correspond to MAD, and one layer passes no information. The stack needs positions, because
    without positions the slots of the answers are all equal. A mixer that cannot read explicit masks is refused.
    Audits and plans, whose results must hold for every task, take the second half of a window as the answers.

    Attributes:
        sealed: whether the token before the answers sees only itself, so that no text can inform an answer. If `sealed` is set, a
            score above chance shows that information passes around the bottleneck.
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
    """The index of the token before the answers, which is the same in every window.

    Args:
        answers: the places of the answers, (B, window_tokens) boolean.

    Raises:
        BadInput: the windows do not all end with the same number of answers, or no token is before the answers.
    """
    first = int((~answers[0]).sum())
    at_the_end = torch.arange(answers.shape[1], device=answers.device) >= first
    if not 0 < first < answers.shape[1] or not bool((answers == at_the_end).all()):
        raise BadInput(
            "a bottleneck needs windows that all end with equally many answers and have a token before them",
            field="objective",
        )
    return first - 1
