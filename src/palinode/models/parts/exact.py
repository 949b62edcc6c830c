"""Arithmetic that stays in float32 or better, whatever a recipe's precision is."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def exact(x: Tensor) -> Tensor:
    """The tensor in float32, or better where it is already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def exact_products(like: Tensor) -> AbstractContextManager[None]:
    """Inside, matrix products are made in the dtype of their inputs: autocast would round float32 to bf16."""
    made: AbstractContextManager[None] = torch.autocast(like.device.type, enabled=False)
    return made
