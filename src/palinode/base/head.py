"""The output head of a model, if it is a matrix: the loss can then compute its gradient piece by piece (`objectives/loss.py`).

Letters: D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class LinearHead:
    """The logits of (..., D) states: finish(states W^T + b).

    Attributes:
        weight: (V, D) the matrix W.
        bias: (V,) a number that is added to each logit, or None.
        finish: a function that is applied to each logit separately, such as a cast or a soft-cap.
    """

    weight: Tensor
    bias: Tensor | None
    finish: Callable[[Tensor], Tensor]

    def __call__(self, states: Tensor) -> Tensor:
        return self.finish(self.raw(states))

    def raw(self, states: Tensor) -> Tensor:
        """(..., V) logits before `finish`."""
        return F.linear(states, self.weight, self.bias)
