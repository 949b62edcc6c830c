"""The last map of a model, states to logits, when it is a matrix: the loss can then add up that matrix's gradient in place.

Legend: D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class LinearHead:
    """Logits of (..., D) states: finish(states W^T + b).

    Attributes:
        weight: (V, D).
        bias: (V,), or None.
        finish: elementwise, such as a cast or a soft-cap.
    """

    weight: Tensor
    bias: Tensor | None
    finish: Callable[[Tensor], Tensor]

    def __call__(self, states: Tensor) -> Tensor:
        return self.finish(self.raw(states))

    def raw(self, states: Tensor) -> Tensor:
        """What is finished: (..., V)."""
        return F.linear(states, self.weight, self.bias)
