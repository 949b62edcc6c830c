"""nanoGPT's architecture and training step in plain PyTorch, as the baseline of benchmarks/step_time.py."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS, WIDTH, HEADS, SLOTS, VOCABULARY = 4, 128, 4, 64, 65


class PlainBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first_norm = nn.LayerNorm(WIDTH, bias=False)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.second_norm = nn.LayerNorm(WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, slots, width = x.shape
        parts = self.qkv(self.first_norm(x)).chunk(3, 2)
        query, key, value = (part.view(rows, slots, HEADS, -1).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, slots, width))
        out: Tensor = x + self.down(F.gelu(self.up(self.second_norm(x))))
        return out


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Embedding(SLOTS, WIDTH)
        self.blocks = nn.ModuleList(PlainBlock() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        x = self.embedding(inputs) + self.position(torch.arange(inputs.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class PlainLoop:
    """The usual loop: random windows, forward, backward, clip at 1, fused AdamW, cosine rate. A step returns its loss."""

    def __init__(self, tokens: Tensor, rows: int, steps: int):
        self.model = Plain()
        self.tokens, self.rows, self.steps, self.taken = tokens, rows, steps, 0
        self.draws = torch.Generator().manual_seed(0)
        parameters = list(self.model.parameters())
        groups = [
            {"params": [parameter for parameter in parameters if parameter.dim() >= 2], "weight_decay": 0.1},
            {"params": [parameter for parameter in parameters if parameter.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)

    def step(self) -> float:
        starts = torch.randint(len(self.tokens) - SLOTS - 1, (self.rows,), generator=self.draws).tolist()
        inputs = torch.stack([self.tokens[start : start + SLOTS] for start in starts])
        targets = torch.stack([self.tokens[start + 1 : start + SLOTS + 1] for start in starts])
        loss: Tensor = self.model(inputs, targets)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-4 + 0.5 * (1 + math.cos(math.pi * self.taken / self.steps)) * 9e-4
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.taken += 1
        return float(loss.detach())


def forward_and_backward(model: nn.Module, *arguments: Tensor) -> Callable[[], None]:
    """A step of forward and backward alone, without data, clipping and optimizer."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(model(*arguments))

    return step
