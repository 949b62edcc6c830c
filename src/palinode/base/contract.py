"""What the definition of an objective allows: the pairs of tokens of which one may inform the prediction of the other.

`evaluate` derives from these pairs what a sum of nats is about. The audit compares the model with these pairs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from palinode.base.example import Draw
from palinode.base.objective import Objective


def allowed_pairs(
    objective: Objective, group: str, draw: Draw, window_tokens: int, targets: Tensor | None = None
) -> Tensor:
    """Whether each source may inform each target, by the definition of the objective: boolean (window_tokens, targets).

    Args:
        group: the name of the pass.
        draw: the decisions for one window, without the leading dimension (see `Draw.of_row`).
        targets: (targets,) the indices of the targets in the window; default: all tokens of the window.
    """
    sources = torch.arange(window_tokens)
    columns = sources if targets is None else targets
    allowed = objective.may_inform(sources[:, None], columns[None, :], group, draw)
    return torch.as_tensor(allowed).expand(window_tokens, len(columns))


def is_acyclic(relation: Tensor) -> bool:
    """Whether a boolean relation (sources, targets) of tokens has no cycles. A token that is related to itself is a cycle.

    First the tokens are sorted by their number of sources. In a transitive relation without cycles, such as ltr, every token then
    stands after its sources, and nothing else is computed. For other relations, the tokens without sources are removed again and
    again; a cycle is what cannot be removed (Kahn 1962).
    """
    links = relation.numpy()
    sources = links.sum(0)
    order = sources.argsort(kind="stable")
    if not np.tril(links[np.ix_(order, order)]).any():
        return True
    removed = np.zeros(len(links), dtype=np.bool_)
    while (free := (sources == 0) & ~removed).any():
        removed |= free
        sources = sources - links[free].sum(0)
    return bool(removed.all())
