"""Arithmetic that stays in float32 or better, whatever a recipe's precision is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def exact(x: Tensor) -> Tensor:
    """The tensor in float32, or better where it is already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def exact_products(like: Tensor) -> AbstractContextManager[None]:
    """Inside, matrix products are made in the dtype of their inputs: autocast would round float32 to bf16."""
    device = like.device.type
    is_on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if is_on else nullcontext()
