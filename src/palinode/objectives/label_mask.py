"""Label masks: a label mask decides which targets of an objective are scored. A mask changes only weights of the loss.

The mask `all` scores every target, `answer` the targets that a task marks as answers, and `last` the last answer of each window, or
the last token of a window of text. A label mask does not change inputs, visibility and passes. So a run that is trained on every
token and a run that is trained only on answers read equally many tokens.

A masked language model scores a token that the label mask keeps only if this token is also hidden at random, so a batch may have no
token to score. An optimizer step without a scored token changes no weight (`Counters.empty_steps` counts these steps). The function
`check_scores_some` refuses a run in which no batch can ever have a token to score.
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
    """The example with a loss weight of 0 for each target that the label mask does not keep.

    An example whose loss is the sum of two mean losses has a fixed `loss_denominator`. This function multiplies the denominator by
    the share of the first pass's weight that the label mask keeps. If the mask keeps no weight of the first pass, the share of the
    second pass is used, and the loss is then the mean loss of the second pass.

    Args:
        labels: the name of the label mask.

    Raises:
        BadInput: the label mask is `answer`, but the data marks no answers.
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
    """Refuse an objective that never scores a token, or that never scores a token that the label mask keeps.

    Args:
        labels: the name of the label mask.
        windows_of: a function that makes some windows of the data; it is called only if some token is never scored.
        field: the name of the setting that holds the label mask, for the message.

    Raises:
        BadInput: no token can ever be scored.
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
    """The tokens that the label mask keeps, (B, window_tokens) boolean."""
    if labels == "answer" and windows.answers is None:
        raise BadInput("only a task marks answers; on text, labels are 'all' or 'last'", field="labels")
    answers = torch.ones_like(windows.tokens, dtype=torch.bool) if windows.answers is None else windows.answers
    if labels == "all":
        return torch.ones_like(answers)
    return answers if labels == "answer" else answers & (answers.flip(1).cumsum(1).flip(1) == 1)
