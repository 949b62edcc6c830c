"""Small models to plant defects in: a residual stack whose mixer is handed in, and the mixers, broken and whole.

Every mixer maps (B, T, D) and a boolean (T, T) mask to (B, T, D). A defect and its clean twin differ in one argument.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palinode.base.example import Example

Mixer = Callable[[int], nn.Module]
LONGEST = 140


class SmallStack(nn.Module):
    """x = E[tokens] + P; blocks of x + mixer(norm x), x + mlp(norm x); norm; head. A plain PyTorch model."""

    def __init__(
        self,
        vocab_size: int,
        mixers: list[Mixer],
        *,
        width: int = 32,
        residual: bool = True,
        positions: str = "from start",
        embedding: Callable[[int, int], nn.Module] = nn.Embedding,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
    ):
        super().__init__()
        self.embedding = embedding(vocab_size, width)
        self.positions = positions
        self.table = nn.Embedding(LONGEST, width)
        self.mixers = nn.ModuleList(mixer(width) for mixer in mixers)
        self.norms = nn.ModuleList(norm(width) for _ in mixers)
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in mixers
        )
        self.final = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size)
        self.residual = residual

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        slots = tokens.shape[1]
        mask = causal(slots) if mask is None else mask
        x = self.embedding(tokens)
        if self.positions != "none":
            index = torch.arange(slots)
            x = x + self.table(index if self.positions == "from start" else slots - 1 - index)
        for norm, mixer, mlp in zip(self.norms, self.mixers, self.mlps, strict=True):
            mixed = mixer(norm(x), mask)
            x = x + mixed if self.residual else mixed
            x = x + mlp(x)
        return self.head(self.final(x))


def read_by_mask(module: nn.Module, example: Example) -> Tensor:
    """Read every pass through its visibility; passes that read from the end are flipped in and out."""
    parts = []
    for group, rows in example.by_group():
        tokens = example.inputs[rows]
        if group.sees.reads_from_end:
            parts.append(module(tokens.flip(1), causal(tokens.shape[1])).flip(1))
        else:
            parts.append(module(tokens, group.sees.mask(tokens.shape[1])))
    return torch.cat(parts)


def causal(slots: int) -> Tensor:
    return torch.ones(slots, slots, dtype=torch.bool).tril()


class Attention(nn.Module):
    """Softmax attention, written out. `widen` lets a slot see so many slots ahead, `open_heads` heads see everything.

    `hidden` is what a forbidden score becomes: -inf, or a number that is added. `strict` hides the own slot; `first_row` then
    lets the first slot see itself. `over_batch` attends along the batch instead of along time.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int = 2,
        widen: int = 0,
        open_heads: int = 0,
        hidden: float = -torch.inf,
        strict: bool = False,
        first_row: bool = True,
        over_batch: bool = False,
    ):
        super().__init__()
        self.heads, self.widen, self.open_heads, self.hidden = heads, widen, open_heads, hidden
        self.strict, self.first_row, self.over_batch = strict, first_row, over_batch
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.over_batch:
            x = x.transpose(0, 1)
            mask = causal(x.shape[1])
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        allowed = self._allowed(mask).expand(self.heads, -1, -1).clone()
        allowed[: self.open_heads] = True
        blocked = (
            scores.masked_fill(~allowed, -torch.inf) if self.hidden == -torch.inf else scores + self.hidden * ~allowed
        )
        weights = torch.nan_to_num(blocked.softmax(-1))
        mixed = self.out((weights @ v).transpose(1, 2).flatten(2))
        return mixed.transpose(0, 1) if self.over_batch else mixed

    def _allowed(self, mask: Tensor) -> Tensor:
        slots = mask.shape[0]
        allowed = mask.clone()
        for step in range(1, self.widen + 1):
            allowed |= torch.ones(slots, slots, dtype=torch.bool).triu(step).tril(step)
        if self.strict:
            allowed &= ~torch.eye(slots, dtype=torch.bool)
            allowed[0, 0] = self.first_row
        return allowed


class ShortConvAttention(nn.Module):
    """A depthwise convolution of 3 taps before causal attention, padded on the left (whole) or on both sides (broken)."""

    def __init__(self, width: int, *, same_padded: bool):
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, groups=width)
        self.padding = (1, 1) if same_padded else (2, 0)
        self.attention = Attention(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.attention(self.conv(F.pad(x.transpose(1, 2), self.padding)).transpose(1, 2), mask)


class LongConv(nn.Module):
    """y_i = sum_j k_j u_(i-j) by FFT over `length_of(T)` points; anything under 2T - 1 wraps the end into the start."""

    def __init__(self, width: int, *, length_of: Callable[[int], int]):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(width, LONGEST) / 8)
        self.mix = nn.Linear(width, width)
        self.length_of = length_of

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        slots = x.shape[1]
        points = self.length_of(slots)
        spectrum = torch.fft.rfft(x, points, dim=1) * torch.fft.rfft(self.kernel[:, :slots], points).T
        return self.mix(torch.fft.irfft(spectrum, points, dim=1)[:, :slots])


class TimeMean(nn.Module):
    """Causal attention plus a mean over time: `all` T (broken), the first i + 1 (whole), or their sum divided by T (broken)."""

    def __init__(self, width: int, *, over: str):
        super().__init__()
        self.attention, self.over = Attention(width), over
        self.scale = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        slots = x.shape[1]
        if self.over == "all":
            mean = x.mean(1, keepdim=True).expand_as(x)
        else:
            count = torch.arange(1, slots + 1, dtype=x.dtype)[:, None] if self.over == "seen" else slots
            mean = x.cumsum(1) / count
        return self.attention(x, mask) + self.scale(mean)


class TimeNorm(nn.Module):
    """LayerNorm over time instead of over features."""

    def __init__(self, width: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt() * self.gain


class BatchNorm(nn.Module):
    """BatchNorm over batch and time."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.flatten(0, 1)).view_as(x)


class CrossAttention(nn.Module):
    """A causal encoder whose states the slots read through cross-attention: causal (whole) or not (broken)."""

    def __init__(self, width: int, *, open_memory: bool):
        super().__init__()
        self.encoder = Attention(width)
        self.cross = Attention(width, open_heads=2 if open_memory else 0)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.cross(x + self.encoder(x, mask), mask)


class BigramEmbedding(nn.Module):
    """Token embedding plus a hashed embedding of (token, previous token) (whole) or (token, next token) (broken)."""

    def __init__(self, vocab_size: int, width: int, *, looks_ahead: bool):
        super().__init__()
        self.token = nn.Embedding(vocab_size, width)
        self.pair = nn.Embedding(509, width)
        self.looks_ahead = looks_ahead

    def forward(self, tokens: Tensor) -> Tensor:
        shift = -1 if self.looks_ahead else 1
        other = tokens.roll(shift, 1)
        other[:, -1 if self.looks_ahead else 0] = 0
        return self.token(tokens) + self.pair((tokens * 31 + other * 17) % 509)


class SometimesOpen(nn.Module):
    """Attention that drops its mask in half of the training passes."""

    def __init__(self, width: int):
        super().__init__()
        self.attention = Attention(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        open_now = self.training and bool(torch.rand(()) < 0.5)
        return self.attention(x, torch.ones_like(mask) if open_now else mask)
