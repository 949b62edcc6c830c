"""The head of a model where it is a matrix. The loss can then make its gradient piece by piece (`objectives/loss.py`).

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
        weight: (V, D).
        bias: (V,), or None.
        finish: a function of each logit by itself, such as a cast or a soft-cap.
    """

    weight: Tensor
    bias: Tensor | None
    finish: Callable[[Tensor], Tensor]

    def __call__(self, states: Tensor) -> Tensor:
        return self.finish(self.raw(states))

    def raw(self, states: Tensor) -> Tensor:
        """(..., V) logits before `finish`."""
        return F.linear(states, self.weight, self.bias)
