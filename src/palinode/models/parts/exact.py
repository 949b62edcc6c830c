"""Arithmetic that stays in float32 or better, whatever a recipe's precision is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def exact(x: Tensor) -> Tensor:
    """The tensor in float32, or in its own dtype where that is better."""
    return x.to(exact_dtype(x))


def exact_dtype(*tensors: Tensor) -> torch.dtype:
    """Float32, or the best dtype among these tensors where that is better."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def exact_products(like: Tensor) -> AbstractContextManager[None]:
    """Inside, matrix products are made in the dtype of their inputs: autocast would round float32 to bf16."""
    device = like.device.type
    is_on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if is_on else nullcontext()
