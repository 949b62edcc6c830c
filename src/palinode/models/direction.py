"""How a model reads an Example: rows that are read from the end are flipped before the model, and the states are flipped back.

Because rows are flipped, every causal mixer reads both directions at full speed, and ltr and rtl rows run as one batch. The flip
has the same result as an upper-triangular mask with positions counted from the right end (tested to 1e-12).
Legend: B rows, T slots, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from palinode.base.example import Example, Group
from palinode.base.visibility import Ltr, Visibility
from palinode.models.base import AuxiliaryTerm, LanguageModel, together


def read(model: LanguageModel, example: Example) -> Tensor:
    """The (B, T, D) states in the slot order of the example; all causal passes run as one batch, other passes run one by one."""
    readings = list(_readings(model, example))
    return _ordered(example, readings, [one.model.hidden(one.tokens, one.sees) for one in readings])


def read_and_terms(model: LanguageModel, example: Example) -> tuple[Tensor, dict[str, AuxiliaryTerm]]:
    """The states of `read`, and the model's auxiliary terms averaged over all rows; in eval mode there are no terms."""
    readings = list(_readings(model, example))
    states, terms = zip(*(one.model.hidden_and_terms(one.tokens, one.sees) for one in readings), strict=True)
    return _ordered(example, readings, states), together(terms)


def residuals(model: LanguageModel, example: Example) -> Iterator[Tensor]:
    """Yield the (B, T, D) states after 1, 2, .. L blocks, before `finished`, in the slot order of the example.

    The model reads the example once for all depths.

    Raises:
        NotImplementedError: the model does not define `residuals`.
    """
    readings = list(_readings(model, example))
    for states in zip(*(one.model.residuals(one.tokens, one.sees) for one in readings), strict=True):
        yield _ordered(example, readings, states)


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


class _Reading(NamedTuple):
    """Passes that one call of a model reads: their indexes in the example, the model, (B, T) tokens, and what slots see."""

    groups: tuple[int, ...]
    model: LanguageModel
    tokens: Tensor
    sees: Visibility


def _readings(model: LanguageModel, example: Example) -> Iterator[_Reading]:
    """Yield the readings: first all causal passes as one batch that is read from the left, then each other pass.

    A model that reads flipped rows in another way (`LanguageModel.from_end`) reads them as a batch of their own.
    """
    passes, turned = list(example.by_group()), model.from_end()
    causal: dict[LanguageModel, list[int]] = {model: [], turned: []}
    for index, (group, _) in enumerate(passes):
        if _is_causal(group):
            causal[turned if _is_turned(group) else model].append(index)
    for reader, indexes in causal.items():
        some = [passes[index] for index in indexes]
        parts = [example.inputs[rows].flip(1) if _is_turned(group) else example.inputs[rows] for group, rows in some]
        if parts:
            yield _Reading(tuple(indexes), reader, parts[0] if len(parts) == 1 else torch.cat(parts), Ltr())
    for index, (group, rows) in enumerate(passes):
        if not _is_causal(group):
            yield _Reading((index,), model, example.inputs[rows], group.sees)


def _ordered(example: Example, readings: Sequence[_Reading], read_states: Sequence[Tensor]) -> Tensor:
    """Join the states of all readings to (B, T, D) states in the example's order of rows and slots."""
    groups, states = [group for group, _ in example.by_group()], dict[int, Tensor]()
    for reading, found in zip(readings, read_states, strict=True):
        states |= zip(reading.groups, torch.split(found, [groups[one].rows for one in reading.groups]), strict=True)
    ordered = [states[index].flip(1) if _is_turned(group) else states[index] for index, group in enumerate(groups)]
    return ordered[0] if len(ordered) == 1 else torch.cat(ordered)


def _is_causal(group: Group) -> bool:
    return group.sees.native == "causal"


def _is_turned(group: Group) -> bool:
    """Whether the rows of the group are flipped before the model: causal rows that are read from the end are flipped."""
    return _is_causal(group) and group.sees.reads_from_end
