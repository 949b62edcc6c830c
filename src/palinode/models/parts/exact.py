"""Functions for arithmetic in float32 or better, whatever `precision` a recipe has."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def exact(x: Tensor) -> Tensor:
    """The tensor in float32, or in its own dtype if that dtype is more exact."""
    return x if x.dtype is torch.float32 else x.to(exact_dtype(x))  # this happens in every layer of every token


def exact_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype float32, or the most exact dtype of these tensors if it is more exact than float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def exact_products(like: Tensor) -> AbstractContextManager[None]:
    """A context in which matrix products keep the dtype of their inputs; autocast would round float32 inputs to bf16."""
    device = like.device.type
    is_on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if is_on else nullcontext()
