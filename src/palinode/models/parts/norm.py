"""RMSNorm with its gradient written out, so that a training step reads and writes the states fewer times.

Letters: D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def rms_norm(x: Tensor, gain: Tensor | None) -> Tensor:
    """(..., D) states divided by their root mean square, times the (D,) gain: `F.rms_norm`, with the epsilon of the dtype.

    On a CPU in float32 or float64, forward and backward take half the time of PyTorch's (0.39 ms and not 0.74 for 2,048 slots of
    width 64 on one core). In half precision PyTorch's own norm is used, which computes in float32 there; on a GPU it is one kernel.
    """
    if not torch.is_grad_enabled():
        return torch.rms_norm(x, x.shape[-1:], gain)
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return F.rms_norm(x, x.shape[-1:], gain)
    normed, _ = _RmsNorm.apply(x, gain)  # type: ignore[no-untyped-call]
    return normed  # type: ignore[no-any-return]


class _RmsNorm(torch.autograd.Function):
    """y = x r g with r = (mean x^2 + epsilon)^(-1/2).

    For the gradient dy of y: dx = r (g dy - x r^2 mean(x g dy)), and dg = sum of x r dy over the slots.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, gain: Tensor | None) -> tuple[Tensor, Tensor]:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = (size * size).mul_(1 / x.shape[-1]).add_(torch.finfo(x.dtype).eps).rsqrt_()
        return (x * inverse if gain is None else x * inverse * gain), inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor | None], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None]:
        x, gain, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # the caller wants second derivatives, so the inverse must depend on x
            inverse = (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).rsqrt()
        product = upstream * x
        scaled = upstream if gain is None else upstream * gain
        mean = (product.mean(-1) if gain is None else product @ gain / x.shape[-1]).unsqueeze(-1)
        x_gradient = torch.addcmul(scaled, x, mean * inverse.square(), value=-1) * inverse
        by_slot = product.reshape(-1, x.shape[-1])
        gain_gradient = None if gain is None else torch.mv(by_slot.T, inverse.flatten())
        return x_gradient, gain_gradient
