"""The MLP of a block: GELU, ReLU squared, SwiGLU, or the gated block-diagonal one of Monarch Mixer."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from palinode.models.parts.linear import BlockLinear, Linear, Slotwise

MlpKind = Literal["gelu", "relu2", "swiglu", "block_diagonal", "none"]
SWIGLU_MULTIPLE = 64  # hidden widths are rounded up to this


class Mlp(Slotwise):
    """(..., width) -> (..., width).

    `gelu`: W2 gelu(W1 x), the exact erf form. `relu2`: W2 relu(W1 x)^2. `swiglu`: W2 (silu(Wg x) * W1 x), whose hidden width
    is two thirds of the others', so that the parameters are about equal. `block_diagonal`: W2 (gelu(a) * b), where [a, b] = W1 x
    and both matrices are block-diagonal, without a shuffle between: each block of a or b comes from one block of x. W1 has no
    bias. A block with `none` has no MLP.
    """

    def __init__(self, width: int, kind: MlpKind, mult: float, *, bias: bool, blocks: int = 1):
        super().__init__()
        self.kind: MlpKind = kind
        hidden = hidden_width(width, kind, mult)
        self.up: Linear | BlockLinear
        self.down: Linear | BlockLinear
        if kind == "block_diagonal":
            self.up = BlockLinear(width, 2 * hidden, blocks, bias=False, role="mlp_in")
            self.gate = None
            self.down = BlockLinear(hidden, width, blocks, bias=bias, role="residual")
            return
        self.up = Linear(width, hidden, bias=bias, role="mlp_in")
        self.gate = Linear(width, hidden, bias=bias, role="mlp_in") if kind == "swiglu" else None
        self.down = Linear(hidden, width, bias=bias, role="residual")

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)
        if self.kind == "block_diagonal":
            opened, value = up.chunk(2, dim=-1)
            active = F.gelu(opened) * value
        elif self.gate is not None:
            active = F.silu(self.gate(x)) * up
        else:
            active = F.gelu(up) if self.kind == "gelu" else relu2(up)
        return self.down(active)

    def flops_per_slot(self) -> float:
        """Forward FLOPs of the matrix products for one slot."""
        matrices = [self.up, self.down] + ([self.gate] if self.gate is not None else [])
        return float(sum(2 * matrix.weight.numel() for matrix in matrices))


def relu2(x: Tensor) -> Tensor:
    """relu(x)^2 with the gradient 2 relu(x) g written out, in place.

    Autograd's own takes five passes and as many buffers: 2 to 5 % of a whole training step of a 4 x 128 decoder on one core,
    depending on the allocator (paired steps, s.e. 0.5 %).
    """
    if not torch.is_grad_enabled():
        return F.relu(x).square_()
    squared: Tensor = _Relu2.apply(x)  # type: ignore[no-untyped-call]
    return squared


class _Relu2(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        positive = F.relu(x)
        return positive.mul_(positive)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # someone wants second derivatives
            return 2 * F.relu(x) * upstream
        return F.relu(x).mul_(upstream).mul_(2)


def hidden_width(width: int, kind: MlpKind, mult: float) -> int:
    """Width between the two matrices: mult * width, or two thirds of it rounded up to a multiple of 64 for SwiGLU."""
    if kind != "swiglu":
        return round(mult * width)
    wanted = 2 * mult * width / 3
    return SWIGLU_MULTIPLE * int(-(-wanted // SWIGLU_MULTIPLE))
