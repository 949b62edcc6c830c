"""The answers that end every window, predicted from one slot's state: how much of a text does it hold?

`bottleneck`: a reader of MAD's compression task, where C is the compression token and a, b, c are asked for again.

    window a b c C a b c    in a b c C [M] [M] [M]    target         a b c    scored 0 0 0 0 1 1 1

Up to the token before the answers (C) each slot sees those before it; each slot behind sees C and itself. The answers stand as
`[MASK]`: a slot knows its place and no token, so that an answer can be copied from no input, neither its own slot's nor that of an
earlier answer. MAD (arXiv 2403.17844) gives its decoder the last state and a position as well.

Differs from MAD in: there an MLP reads one state, here the blocks of the stack itself read C at every depth (L - 1 states that have
read something in a stack of L layers, so two layers are MAD's case and one passes nothing on); the stack needs positions, else
the answers' slots are all the same; a mixer without a form for explicit masks is refused.
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

    Audits and plans, which hold for every task, take the second half of a window for its answers.

    Attributes:
        sealed: that token sees itself alone, so that nothing of the text before it may inform an answer: a control. What is
            answered above chance has gone round the bottleneck.
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
    """The window token before the answers (B, N), the same in every window.

    Raises:
        BadInput: the answers are not the last so many tokens of each window, or no token stands before them.
    """
    first = int((~answers[0]).sum())
    at_the_end = torch.arange(answers.shape[1], device=answers.device) >= first
    if not 0 < first < answers.shape[1] or not bool((answers == at_the_end).all()):
        raise BadInput(
            "a bottleneck needs windows that end with their answers, equally many in each, and a token before them",
            field="objective",
        )
    return first - 1
