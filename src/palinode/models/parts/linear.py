"""Modules with weights: linear maps, a lookup table, norms, and modules that start their own parameters.

PyTorch's own layers draw their weights from the global random generator; a weight of the modules in this file stays empty until
`models/init.py` fills the weight from the run's seed. The role of a weight decides how the weight starts and in which group it is
trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.base.errors import Unfinished
from palinode.models.parts.norm import rms_norm


class OwnStart(nn.Module):
    """Base class of modules that give their own parameters (other than those of linear maps, tables and norms) the first values.

    Attributes:
        group_of: the training group of a parameter, by parameter name, where this group is not "vector" or "matrix".
    """

    group_of: ClassVar[Mapping[str, str]] = {}

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        """Fill one of this module's own parameters (not a parameter of a module inside this module), in place."""
        raise Unfinished(self, f"does not give {name} its first values")


def noise_like(parameter: Tensor, rng: Generator) -> Tensor:
    """Random numbers N(0, 1) in the shape and dtype of a parameter."""
    return torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype).to(parameter.device)


def open_near(parameter: Tensor, value: Tensor | float, rng: Generator) -> None:
    """Set a parameter to `value` + N(0, 0.1^2), in place; an audit does this so that a leak from a distant slot shows."""
    parameter.copy_(value + 0.1 * noise_like(parameter, rng))


Role = Literal["inner", "mlp_in", "residual", "head", "embedding", "position"]


class Slotwise(nn.Module):
    """Base class of modules that map one tensor to one tensor; the class tells the type checker the type of a call."""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, /) -> Tensor: ...


class Linear(Slotwise):
    """A linear map y = x W^T + b, (..., in_width) -> (..., out_width).

    Args:
        role: the role of the weight: `residual` (the map writes into the residual stream), `mlp_in` (the first map of an MLP),
            `head` (the map makes logits), or `inner` (any other map).
    """

    def __init__(self, in_width: int, out_width: int, *, bias: bool, role: Role = "inner"):
        super().__init__()
        self.role: Role = role
        self.weight = nn.Parameter(torch.empty(out_width, in_width))
        self.bias = nn.Parameter(torch.empty(out_width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class BlockLinear(Slotwise):
    """A linear map y = x W^T + b with a block-diagonal W of equal, contiguous blocks, (..., in_width) -> (..., out_width).

    The weight has the shape (blocks, out_width / blocks, in_width / blocks).
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
    """A table with one row of `width` numbers for each index, for token embeddings or learned positions."""

    def __init__(self, rows: int, width: int, *, role: Role):
        super().__init__()
        self.role: Role = role
        self.weight = nn.Parameter(torch.empty(rows, width))

    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.weight)


def joined(*maps: Linear) -> tuple[Tensor, Tensor | None]:
    """The weight and bias of one map whose output is the outputs of all `maps`, side by side."""
    biases = tuple(one.bias for one in maps if one.bias is not None)
    return torch.cat(tuple(one.weight for one in maps)), torch.cat(biases) if biases else None


NormKind = Literal["layer", "rms"]
LAYER_NORM_EPSILON = 1e-5


class Norm(Slotwise):
    """A norm of the last dimension.

    `layer` subtracts the mean and divides by the standard deviation (epsilon 1e-5). `rms` divides by the root mean square (epsilon
    of the dtype). Only `layer` has a shift.

    Args:
        epsilon: the number that `layer` adds to the variance, so that a variance that is not far above epsilon is not scaled to 1.
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
            # `F.layer_norm` calls this function too, after checks that take a third of the time of a norm of one slot.
            return torch.layer_norm(x, self.width, self.gain, self.shift, self.epsilon)
        return rms_norm(x, self.gain)
