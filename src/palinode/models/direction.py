"""Reading an Example: rows that read from the end are flipped before the model, and its states are flipped back.

So every causal mixer reads both ways at full speed, and ltr and rtl rows run as one batch. Flipping equals the upper-triangular
mask with positions counted from the right end (tested to 1e-12).
Legend: B rows, T slots, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from palinode.base.example import Example
from palinode.base.visibility import Ltr, Visibility
from palinode.models.auxiliary import AuxiliaryTerm, together
from palinode.models.base import LanguageModel


def read(model: LanguageModel, example: Example) -> Tensor:
    """(B, T, D) states in the slot order of the example; all causal passes run as one batch, the others one by one."""
    return _ordered(example, [model.hidden(tokens, sees) for tokens, sees in _readings(example)])


def read_and_terms(model: LanguageModel, example: Example) -> tuple[Tensor, dict[str, AuxiliaryTerm]]:
    """The states of `read` and the model's auxiliary terms, averaged over all rows; there are no terms in eval mode."""
    states, terms = zip(*(model.hidden_and_terms(tokens, sees) for tokens, sees in _readings(example)), strict=True)
    return _ordered(example, states), together(terms)


def residuals(model: LanguageModel, example: Example) -> Iterator[Tensor]:
    """`read` for every depth from one reading: (B, T, D) after 1, 2, .. L blocks, each before `finished`.

    Raises:
        NotImplementedError: the model cannot be cut.
    """
    for states in zip(*(model.residuals(tokens, sees) for tokens, sees in _readings(example)), strict=True):
        yield _ordered(example, states)


def finished(example: Example, residual: Tensor, finish: Callable[[Tensor], Tensor]) -> Tensor:
    """(B, T, D) residuals in the slot order of the example -> states in that order.

    Args:
        finish: `model.finished`, or another readout. It gets the slots in the order of reading, since it may depend on positions.
    """
    turns = [group.sees.reads_from_end and group.sees.native == "causal" for group, _ in example.by_group()]
    if not any(turns):
        return finish(residual)
    pieces = [
        _turned(finish(_turned(residual[rows], turn)), turn)
        for (_, rows), turn in zip(example.by_group(), turns, strict=True)
    ]
    return torch.cat(pieces)


def logits_for(model: LanguageModel, example: Example) -> Tensor:
    """(B, T, V) logits in the slot order of the example."""
    return model.logits(read(model, example))


def _readings(example: Example) -> Iterator[tuple[Tensor, Visibility]]:
    """The inputs of the model, in turn: all causal passes as one batch read from the left, then each of the others."""
    causal = [
        _turned(example.inputs[rows], group.sees.reads_from_end)
        for group, rows in example.by_group()
        if group.sees.native == "causal"
    ]
    if causal:
        yield causal[0] if len(causal) == 1 else torch.cat(causal), Ltr()
    for group, rows in example.by_group():
        if group.sees.native != "causal":
            yield example.inputs[rows], group.sees


def _ordered(example: Example, read_states: Sequence[Tensor]) -> Tensor:
    """(B, T, D) in the example's order of rows and slots, from the states of each of its readings."""
    passes = list(example.by_group())
    causal = [(group, rows) for group, rows in passes if group.sees.native == "causal"]
    alone = [rows for group, rows in passes if group.sees.native != "causal"]
    waiting = iter(read_states)
    states: dict[int, Tensor] = {}
    if causal:
        parts = torch.split(next(waiting), [group.rows for group, _ in causal])
        for (group, rows), part in zip(causal, parts, strict=True):
            states[rows.start] = _turned(part, group.sees.reads_from_end)
    for rows, part in zip(alone, waiting, strict=True):
        states[rows.start] = part
    ordered = [states[rows.start] for _, rows in passes]
    return ordered[0] if len(ordered) == 1 else torch.cat(ordered)


def _turned(x: Tensor, reads_from_end: bool) -> Tensor:
    """The slots in the order of reading, or back in the order of the example."""
    return x.flip(1) if reads_from_end else x
