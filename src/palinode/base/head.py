"""The output head of a model, if it is a matrix: the loss can then compute its gradient piece by piece (`objectives/loss.py`).

Letters: D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

SoftCapKind = Literal["none", "rsqrt", "tanh"]


@dataclass(frozen=True)
class SoftCap:
    """The map from raw logits to logits, in float32 or better.

    Attributes:
        kind: `rsqrt` c z / sqrt(z^2 + c^2), or `tanh` c tanh(z / c). Both keep each |logit| below c. `none` changes no logit.
        value: the number c.
    """

    kind: SoftCapKind = "none"
    value: float = 15.0

    def __call__(self, raw: Tensor) -> Tensor:
        logits, cap = raw.to(torch.promote_types(raw.dtype, torch.float32)), self.value
        if self.kind == "rsqrt":
            return cap * logits * torch.rsqrt(logits.square() + cap * cap)
        return cap * torch.tanh(logits / cap) if self.kind == "tanh" else logits

    def apply_(self, logits: Tensor, spare: Tensor) -> None:
        """Cap the logits in place. `spare`, a tensor of the same shape, then holds what `times_slope_` reads."""
        cap = self.value
        if self.kind == "rsqrt":
            torch.mul(logits, logits, out=spare)
            spare.mul_(1 / (cap * cap)).add_(1).rsqrt_()
            logits.mul_(spare)
        elif self.kind == "tanh":
            logits.div_(cap).tanh_()
            torch.mul(logits, logits, out=spare)
            logits.mul_(cap)

    def times_slope_(self, gradient: Tensor, spare: Tensor) -> None:
        """Multiply the gradient of the logits by the cap's derivative, in place: (c / sqrt(z^2 + c^2))^3, or 1 - tanh(z / c)^2."""
        if self.kind == "rsqrt":
            gradient.mul_(spare).mul_(spare).mul_(spare)
        elif self.kind == "tanh":
            gradient.addcmul_(gradient, spare, value=-1)


@dataclass(frozen=True)
class LinearHead:
    """The logits of (..., D) states: finish(states W^T + b).

    Attributes:
        weight: (V, D) the matrix W.
        bias: (V,) a number that is added to each logit, or None.
        finish: a function that is applied to each logit separately. The loss needs less time and memory if it is a `SoftCap`.
    """

    weight: Tensor
    bias: Tensor | None = None
    finish: Callable[[Tensor], Tensor] = SoftCap()

    def __call__(self, states: Tensor) -> Tensor:
        return self.finish(self.raw(states))

    def raw(self, states: Tensor) -> Tensor:
        """(..., V) logits before `finish`."""
        return F.linear(states, self.weight, self.bias)
