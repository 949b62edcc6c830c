"""Weights with a role: linear maps and a lookup table that draw no random numbers when they are made.

PyTorch's own layers draw their weights from the global generator; here a weight stays empty until `models/init.py` fills it from
the run's seed. The role says what a weight is for; it decides how the weight starts and in which group it is trained.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Role = Literal["inner", "mlp_in", "residual", "head", "embedding", "position"]


class Slotwise(Protocol):
    """The type of a call of a module that maps one tensor to one: `nn.Module` gives Any."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


class Linear(nn.Module):
    """y = x W^T + b, (..., in_width) to (..., out_width).

    Args:
        role: `residual` writes into the residual stream, `mlp_in` opens an MLP, `head` makes logits, `inner` is any other.
    """

    __call__: Slotwise

    def __init__(self, in_width: int, out_width: int, *, bias: bool, role: Role = "inner"):
        super().__init__()
        self.role: Role = role
        self.weight = nn.Parameter(torch.empty(out_width, in_width))
        self.bias = nn.Parameter(torch.empty(out_width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class BlockLinear(nn.Module):
    """y = x W^T + b for a block-diagonal W of equal, contiguous blocks, (..., in_width) to (..., out_width).

    The weight is (blocks, out_width / blocks, in_width / blocks).
    """

    __call__: Slotwise

    def __init__(self, in_width: int, out_width: int, blocks: int, *, bias: bool, role: Role = "inner"):
        super().__init__()
        self.role: Role = role
        self.weight = nn.Parameter(torch.empty(blocks, out_width // blocks, in_width // blocks))
        self.bias = nn.Parameter(torch.empty(out_width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        parts = x.view(*x.shape[:-1], len(self.weight), -1)
        y = torch.einsum("...bi,boi->...bo", parts, self.weight).flatten(-2)
        return y if self.bias is None else y + self.bias


class Table(nn.Module):
    """One row of `width` numbers for each index: token embeddings, learned positions."""

    __call__: Slotwise

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
