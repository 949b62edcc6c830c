"""Modules with weights: linear maps, a lookup table, norms, and modules that start their own parameters.

PyTorch's own layers draw their weights from the global generator; here a weight stays empty until `models/init.py` fills it from
the run's seed. A role says what a weight is for; it decides how the weight starts and in which group it is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.base.errors import Unfinished


class OwnStart(nn.Module):
    """Base of modules with parameters that are neither a linear map, a table nor a norm: each starts its own.

    Attributes:
        group_of: name of one of its own parameters -> training group, where the group is not "vector" or "matrix".
    """

    group_of: ClassVar[Mapping[str, str]] = {}

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        """Fill one of this module's own parameters (not those of a module inside it), in place."""
        raise Unfinished(self, f"does not give {name} its first values")


def noise_like(parameter: Tensor, rng: Generator) -> Tensor:
    """N(0, 1) in the shape and dtype of a parameter."""
    return torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype).to(parameter.device)


def open_near(parameter: Tensor, value: Tensor | float, rng: Generator) -> None:
    """Set a parameter to `value` + N(0, 0.1^2), in place: what an audit does so that a leak at a distance shows."""
    parameter.copy_(value + 0.1 * noise_like(parameter, rng))


Role = Literal["inner", "mlp_in", "residual", "head", "embedding", "position"]


class Slotwise(nn.Module):
    """Base of modules that map one tensor to one, so that their call has a type."""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, /) -> Tensor: ...


class Linear(Slotwise):
    """y = x W^T + b, (..., in_width) to (..., out_width).

    Args:
        role: `residual` writes into the residual stream, `mlp_in` opens an MLP, `head` makes logits, `inner` is any other.
    """

    def __init__(self, in_width: int, out_width: int, *, bias: bool, role: Role = "inner"):
        super().__init__()
        self.role: Role = role
        self.weight = nn.Parameter(torch.empty(out_width, in_width))
        self.bias = nn.Parameter(torch.empty(out_width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class BlockLinear(Slotwise):
    """y = x W^T + b for a block-diagonal W of equal, contiguous blocks, (..., in_width) to (..., out_width).

    The weight is (blocks, out_width / blocks, in_width / blocks).
    """

    def __init__(self, in_width: int, out_width: int, blocks: int, *, bias: bool, role: Role = "inner"):
        super().__init__()
        self.role: Role = role
        self.weight = nn.Parameter(torch.empty(blocks, out_width // blocks, in_width // blocks))
        self.bias = nn.Parameter(torch.empty(out_width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        parts = x.view(*x.shape[:-1], len(self.weight), -1)
        y = torch.einsum("...bi,boi->...bo", parts, self.weight).flatten(-2)
        return y if self.bias is None else y + self.bias


class Table(Slotwise):
    """One row of `width` numbers for each index: token embeddings, learned positions."""

    def __init__(self, rows: int, width: int, *, role: Role):
        super().__init__()
        self.role: Role = role
        self.weight = nn.Parameter(torch.empty(rows, width))

    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.weight)


def joined(*maps: Linear) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the one map whose output is that of all these maps, side by side."""
    biases = tuple(one.bias for one in maps if one.bias is not None)
    return torch.cat(tuple(one.weight for one in maps)), torch.cat(biases) if biases else None


NormKind = Literal["layer", "rms"]
LAYER_NORM_EPSILON = 1e-5


class Norm(Slotwise):
    """Normalise the last dimension.

    `layer`: subtract the mean, divide by the standard deviation (epsilon 1e-5). `rms`: divide by the root mean square
    (epsilon of the dtype). Only `layer` has a shift.

    Args:
        epsilon: is added to the variance in `layer`, so that a variance near it or below is not scaled to 1.
    """

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
