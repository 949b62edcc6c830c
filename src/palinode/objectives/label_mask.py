"""Label masks: which of the targets that an objective makes are scored. They change the weights of the loss and nothing else.

`all`: every target; `answer`: those that a task marks as answers; `last`: of each window the last answer token, or the last
token of a window of text. Inputs, visibility and passes stay what they were, so the question "is it better to learn from
every token, or from the answer alone?" is asked at the same tokens read.

So a masked language model scores a labelled token where chance has hidden it, and a batch may have nothing to score: such a step
changes nothing (`Counters.empty_steps`). Where no batch can ever have anything, `check_scores_some` refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from palinode.base.errors import BadInput
from palinode.base.example import NO_SOURCE, Example, Windows
from palinode.base.objective import Objective

Labels = Literal["all", "answer", "last"]


def masked(example: Example, windows: Windows, labels: Labels) -> Example:
    """The example with the loss on these labels alone.

    A loss that is divided by a number of its own is divided by the share of it that its first pass keeps, or the first pass that
    keeps any: where one of two can score none of the labels, the sum of their mean losses is the other's.

    Raises:
        BadInput: the data marks no answers.
    """
    if labels == "all":
        return example
    wanted = chosen_tokens(windows, labels)[example.window_row]
    kept = wanted.gather(1, example.target_source.clamp_min(0)) & (example.target_source != NO_SOURCE)
    weight = example.loss_weight * kept
    denominator = example.loss_denominator
    if denominator is not None:
        shares = (_share(weight[part], example.loss_weight[part]) for _, part in example.by_group())
        denominator *= next((share for share in shares if share), 0.0)
    return replace(example, loss_weight=weight, loss_denominator=denominator)


def _share(kept: Tensor, weight: Tensor) -> float:
    return float(kept.sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny))


def check_scores_some(
    objective: Objective, labels: Labels, windows_of: Callable[[], Windows], window_tokens: int, field: str
) -> None:
    """Refuse an objective that never scores a token, or none of those that the labels leave.

    Args:
        windows_of: some windows of the data; asked only where an objective leaves places out.
        field: which labels these are.

    Raises:
        BadInput: nothing can ever be scored.
    """
    places = objective.scorable(window_tokens)
    if bool(places.all()):
        return
    kind = objective.kind_name()
    if not places.any():
        raise BadInput(
            f"{kind} hides none of {window_tokens} tokens at this rate, so it scores none", field="objective"
        )
    left = chosen_tokens(windows_of(), labels).any(0) & places
    if not left.any():
        never = ", ".join(str(place) for place in (~places).nonzero().flatten().tolist())
        raise BadInput(
            f"nothing is left to score: {kind} never scores token {never} of {window_tokens}, and '{labels}' keeps no other",
            field=field,
            hint="let it begin with a direction token",
        )


def chosen_tokens(windows: Windows, labels: Labels) -> Tensor:
    """(B, N): the window tokens that are scored under these labels."""
    if labels == "answer" and windows.answers is None:
        raise BadInput("only a task marks answers; text has 'all' and 'last'", field="labels")
    answers = torch.ones_like(windows.tokens, dtype=torch.bool) if windows.answers is None else windows.answers
    if labels == "all":
        return torch.ones_like(answers)
    return answers if labels == "answer" else answers & (answers.flip(1).cumsum(1).flip(1) == 1)
