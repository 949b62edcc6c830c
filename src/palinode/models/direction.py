"""How a model reads an Example: rows that are read from the end are flipped before the model, and the states are flipped back.

Because rows are flipped, every causal mixer reads both directions at full speed, and ltr and rtl rows run as one batch. The flip
has the same result as an upper-triangular mask with positions counted from the right end (tested to 1e-12).
Legend: B rows, T slots, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from palinode.base.example import Example, Group
from palinode.base.visibility import Ltr, Visibility
from palinode.models.base import AuxiliaryTerm, LanguageModel, together


def read(model: LanguageModel, example: Example) -> Tensor:
    """The (B, T, D) states in the slot order of the example; all causal passes run as one batch, other passes run one by one."""
    return _ordered(example, [model.hidden(tokens, sees) for tokens, sees in _readings(example)])


def read_and_terms(model: LanguageModel, example: Example) -> tuple[Tensor, dict[str, AuxiliaryTerm]]:
    """The states of `read`, and the model's auxiliary terms averaged over all rows; in eval mode there are no terms."""
    states, terms = zip(*(model.hidden_and_terms(tokens, sees) for tokens, sees in _readings(example)), strict=True)
    return _ordered(example, states), together(terms)


def residuals(model: LanguageModel, example: Example) -> Iterator[Tensor]:
    """Yield the (B, T, D) states after 1, 2, .. L blocks, before `finished`, in the slot order of the example.

    The model reads the example once for all depths.

    Raises:
        NotImplementedError: the model does not define `residuals`.
    """
    for states in zip(*(model.residuals(tokens, sees) for tokens, sees in _readings(example)), strict=True):
        yield _ordered(example, states)


def finished(example: Example, residual: Tensor, finish: Callable[[Tensor], Tensor]) -> Tensor:
    """(B, T, D) residuals in the slot order of the example -> (B, T, D) states in the slot order of the example.

    Args:
        finish: `model.finished` or another function of the residuals. This function gets the slots in the order in which the
            model read them, because the function may depend on positions.
    """
    turned = [_is_turned(group) for group, _ in example.by_group()]
    if not any(turned):
        return finish(residual)
    pieces = zip((residual[rows] for _, rows in example.by_group()), turned, strict=True)
    return torch.cat([finish(piece.flip(1)).flip(1) if turn else finish(piece) for piece, turn in pieces])


def logits_for(model: LanguageModel, example: Example) -> Tensor:
    """The (B, T, V) logits of the model in the slot order of the example."""
    return model.logits(read(model, example))


class AsModule(nn.Module):
    """A module that calls a function of a model, because `torch.func.functional_call` replaces the parameters of modules only.

    The parameters of the module `AsModule` are named `model.<name>`.
    """

    def __init__(self, model: LanguageModel, function: Callable[..., Any]):
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, *arguments: Any) -> Any:
        return self.function(self.model, *arguments)


def _readings(example: Example) -> Iterator[tuple[Tensor, Visibility]]:
    """Yield the inputs of the model: first all causal passes as one batch that is read from the left, then each other pass."""
    passes = [(group, example.inputs[rows]) for group, rows in example.by_group()]
    causal = [tokens.flip(1) if _is_turned(group) else tokens for group, tokens in passes if _is_causal(group)]
    if causal:
        yield causal[0] if len(causal) == 1 else torch.cat(causal), Ltr()
    yield from ((tokens, group.sees) for group, tokens in passes if not _is_causal(group))


def _ordered(example: Example, read_states: Sequence[Tensor]) -> Tensor:
    """Join the states of all readings to (B, T, D) states in the example's order of rows and slots."""
    groups = [group for group, _ in example.by_group()]
    waiting = iter(read_states)
    counts = [group.rows for group in groups if _is_causal(group)]
    causal = iter(torch.split(next(waiting), counts) if counts else ())
    states = [next(causal if _is_causal(group) else waiting) for group in groups]
    ordered = [part.flip(1) if _is_turned(group) else part for group, part in zip(groups, states, strict=True)]
    return ordered[0] if len(ordered) == 1 else torch.cat(ordered)


def _is_causal(group: Group) -> bool:
    return group.sees.native == "causal"


def _is_turned(group: Group) -> bool:
    """Whether the rows of the group are flipped before the model: causal rows that are read from the end are flipped."""
    return _is_causal(group) and group.sees.reads_from_end
