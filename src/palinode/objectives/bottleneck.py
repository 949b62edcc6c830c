"""The answers at the end of every window are predicted from the state of one slot: how much of a text does that state hold?

`bottleneck` is for MAD's compression task, where C is the compression token and the tokens a, b, c before it are the answers.

    window a b c C a b c    in a b c C [M] [M] [M]    target         a b c    scored 0 0 0 0 1 1 1

Up to C, the token before the answers, each slot sees the slots before it; each later slot sees C and itself. The answers are
replaced by `[MASK]`: their slots have a position and no token, so that no answer can be copied from an input. MAD (arXiv
2403.17844) also gives its decoder the last state and a position.

Differs from MAD in: there an MLP reads one state, here the blocks of the stack read C at every depth (in a stack of L layers C has
L - 1 states that have read something, so two layers are MAD's case and one layer passes nothing on); the stack needs positions,
because without them the slots of the answers are all equal; a mixer without a form for explicit masks is refused.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor

from palinode.base.errors import BadInput
from palinode.base.example import NO_SOURCE, Draw, Example, SpecialTokens, one_pass
from palinode.base.objective import Objective, Progress
from palinode.base.visibility import Bottleneck, Native

GROUP = "bottleneck"


class BottleneckObjective(Objective):
    """Predict the answers at the end of a task's windows through the token before them.

    Audits and plans hold for every task: they take the second half of a window for its answers.

    Attributes:
        sealed: a control: the token before the answers sees itself alone, so that the text before it may inform no answer. A score
            above chance then shows a way around the bottleneck.
    """

    kind: ClassVar[str] = "bottleneck"
    reads_in_a_direction: ClassVar[bool] = False
    needs_answers: ClassVar[bool] = True
    native: ClassVar[Native] = Bottleneck.native
    sealed: bool = False

    def draw(self, batch: int, window_tokens: int, generator: Generator, progress: Progress) -> Draw:
        answers = torch.arange(window_tokens) >= window_tokens - window_tokens // 2
        return Draw({"answers": answers.expand(batch, window_tokens)})

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        answers, index = draw["answers"], torch.arange(windows.shape[1])
        return one_pass(
            windows,
            name=GROUP,
            sees=Bottleneck(slot=_narrow(answers), sealed=self.sealed),
            input_source=torch.where(answers, NO_SOURCE, index),
            target_source=index,
            special_input=specials["[MASK]"],
            loss_weight=answers,
        )

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        narrow = _narrow(draw["answers"][None])
        shown = source == narrow if self.sealed else source <= narrow
        return shown & torch.ones_like(target, dtype=torch.bool)

    def groups(self) -> tuple[str, ...]:
        return (GROUP,)

    def evaluation(self) -> dict[str, Objective]:
        return {GROUP: self}


def _narrow(answers: Tensor) -> int:
    """The index of the token before the answers, which are (B, window_tokens) boolean; the same in every window.

    Raises:
        BadInput: the windows do not all end with equally many answers, or no token stands before them.
    """
    first = int((~answers[0]).sum())
    at_the_end = torch.arange(answers.shape[1], device=answers.device) >= first
    if not 0 < first < answers.shape[1] or not bool((answers == at_the_end).all()):
        raise BadInput(
            "a bottleneck needs windows that all end with equally many answers and have a token before them",
            field="objective",
        )
    return first - 1
