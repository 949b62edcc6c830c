"""Reading an Example: rows that read from the end are flipped into the model and flipped back, once, at its edge.

Every causal mixer thereby reads both ways at full speed, and ltr and rtl rows run as one batch. Flipping equals the
upper-triangular mask with positions counted from the right end (tested to 1e-12).
Legend: R rows, S slots, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palinode.base.example import Example
from palinode.base.visibility import Ltr
from palinode.models.base import LanguageModel


def read(model: LanguageModel, example: Example) -> Tensor:
    """(R, S, D) states in the example's own slot order; all causal passes run as one batch, the others one by one."""
    passes = list(example.by_group())
    causal = [(group, rows) for group, rows in passes if group.sees.native == "causal"]
    states: dict[int, Tensor] = {}
    if causal:
        tokens = [_turned(example.inputs[rows], group.sees.reads_from_end) for group, rows in causal]
        together = model.hidden(tokens[0] if len(tokens) == 1 else torch.cat(tokens), Ltr())
        parts = torch.split(together, [group.rows for group, _ in causal])
        for (group, rows), part in zip(causal, parts, strict=True):
            states[rows.start] = _turned(part, group.sees.reads_from_end)
    for group, rows in passes:
        if group.sees.native != "causal":
            states[rows.start] = model.hidden(example.inputs[rows], group.sees)
    ordered = [states[rows.start] for _, rows in passes]
    return ordered[0] if len(ordered) == 1 else torch.cat(ordered)


def logits_for(model: LanguageModel, example: Example) -> Tensor:
    """(R, S, V) logits in the example's own slot order."""
    return model.logits(read(model, example))


def _turned(x: Tensor, reads_from_end: bool) -> Tensor:
    """The slots in the order in which they are read (or back again)."""
    return x.flip(1) if reads_from_end else x
