"""Tensors that are cut over processes (torch's DTensor): their whole, and the part of this process.

Other tensors pass unchanged.
"""

from __future__ import annotations

from torch import Tensor


def is_cut(tensor: Tensor) -> bool:
    """Whether the tensor is cut over processes."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All parts of a cut tensor together; another tensor itself. Every process has to make this call at the same time."""
    return tensor.full_tensor() if is_cut(tensor) else tensor  # type: ignore[attr-defined]


def cut_like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A whole tensor, which every process has, cut as `pattern` is; the tensor itself where `pattern` is not cut."""
    if not is_cut(pattern):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(pattern, DTensor)
    return distribute_tensor(tensor, pattern.device_mesh, pattern.placements, src_data_rank=None)  # nothing is sent
