"""Label masks: which of an objective's targets are scored. They change the weights of the loss and nothing else.

`all`: every target. `answer`: the targets that a task marks as answers. `last`: the last answer of each window, or the last token
of a window of text. Inputs, visibility and passes stay the same, so that learning from every token and learning only from
the answer are compared at equal tokens read.

A masked language model therefore scores a labelled token only where chance has hidden it, and a batch may have nothing to score.
Such a step changes nothing (`Counters.empty_steps`). `check_scores_some` refuses a run in which no batch can have anything to
score.
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
    """The example with the loss on only these labels.

    An example may have a fixed `loss_denominator` (the sum of two mean losses). It is then multiplied by the share of its weight
    that the first pass keeps under the labels. If that pass keeps none, the share of the next pass counts: the sum of the two
    means is then the mean of that pass.

    Raises:
        BadInput: the labels are `answer`, but the data marks no answers.
    """
    if labels == "all":
        return example
    chosen = chosen_tokens(windows, labels)[example.window_row]
    kept = chosen.gather(1, example.target_source.clamp_min(0)) & (example.target_source != NO_SOURCE)
    weight = example.loss_weight * kept
    denominator = example.loss_denominator
    if denominator is not None:
        least = torch.finfo(weight.dtype).tiny
        sums = ((weight[rows].sum(), example.loss_weight[rows].sum()) for _, rows in example.by_group())
        shares = (float(kept_sum / whole.clamp_min(least)) for kept_sum, whole in sums)
        denominator *= next((share for share in shares if share), 0.0)
    return replace(example, loss_weight=weight, loss_denominator=denominator)


def check_scores_some(
    objective: Objective, labels: Labels, windows_of: Callable[[], Windows], window_tokens: int, field: str
) -> None:
    """Refuse an objective that never scores a token, or none of the tokens that the labels keep.

    Args:
        windows_of: makes some windows of the data; called only where the objective never scores some token.
        field: the setting that holds the labels, for the message.

    Raises:
        BadInput: nothing can ever be scored.
    """
    places = objective.scorable(window_tokens)
    if bool(places.all()):
        return
    kind = objective.kind_name()
    if not places.any():
        message = f"{kind} hides none of {window_tokens} tokens at this rate, so it scores none"
        raise BadInput(message, field="objective")
    left = chosen_tokens(windows_of(), labels).any(0) & places
    if not left.any():
        never = ", ".join(str(place) for place in (~places).nonzero().flatten().tolist())
        message = f"{kind} never scores token {never} of {window_tokens}, and '{labels}' keeps no other"
        hint = "let it begin with a direction token"
        raise BadInput(f"nothing is left to score: {message}", field=field, hint=hint)


def chosen_tokens(windows: Windows, labels: Labels) -> Tensor:
    """(B, window_tokens) boolean: the tokens that these labels keep."""
    if labels == "answer" and windows.answers is None:
        raise BadInput("only a task marks answers; on text, labels are 'all' or 'last'", field="labels")
    answers = torch.ones_like(windows.tokens, dtype=torch.bool) if windows.answers is None else windows.answers
    if labels == "all":
        return torch.ones_like(answers)
    return answers if labels == "answer" else answers & (answers.flip(1).cumsum(1).flip(1) == 1)
