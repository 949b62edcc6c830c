"""LayerNorm and RMSNorm, with or without learned gain (and shift)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palinode.models.parts.linear import Slotwise

NormKind = Literal["layer", "rms"]
LAYER_NORM_EPSILON = 1e-5


class Norm(nn.Module):
    """Normalise the last dimension.

    `layer`: subtract the mean, divide by the standard deviation (epsilon 1e-5). `rms`: divide by the root mean square
    (epsilon of the dtype). A shift belongs to `layer` alone.

    Args:
        epsilon: of `layer`: variances near it and below are not scaled to 1.
    """

    __call__: Slotwise

    def __init__(
        self, width: int, kind: NormKind, *, gain: bool, shift: bool = False, epsilon: float = LAYER_NORM_EPSILON
    ):
        super().__init__()
        self.kind: NormKind = kind
        self.epsilon = epsilon
        self.width = (width,)
        self.gain = nn.Parameter(torch.empty(width)) if gain else None
        self.shift = nn.Parameter(torch.empty(width)) if gain and shift and kind == "layer" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "layer":
            return F.layer_norm(x, self.width, self.gain, self.shift, self.epsilon)
        return F.rms_norm(x, self.width, self.gain)
