"""Aggregations: each slot gets a weighted mean of the slots that it may read. All of them start as the plain mean.

    mean    1 / (number of visible slots)                   nothing to learn
    window  softmax over the last W slots, by channel       (D, W) logits, start 0
    ema     weight d^(i - j), normalised, by channel        d = sigmoid(a + s) / sigmoid(s), (D,) a, start 0: d = 1
    matrix  softmax over each row of a triangular matrix    (C, C) logits, start 0

The sums are divided by the slots that were added, not by the length of the row: they would otherwise depend on later slots.
`mean` and `matrix` take any visibility, `window` and `ema` causal rows only.
Legend: B rows, T slots, D width, W window, C longest row.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.base.errors import BadInput
from palinode.models.mixers.base import Reading
from palinode.models.parts.own_start import OwnStart

AggregateKind = Literal["mean", "window", "ema", "matrix"]
LEAST_SHIFT = 4.0  # s: decays lie below 1 / sigmoid(4) = 1.018
MOST_GROWTH = 20.0  # over the longest row a weight grows by at most e^20, which float32 holds
SMALLEST = 1e-30  # of a sum of weights


class Aggregate(OwnStart):
    """(B, T, D) -> (B, T, D), in the dtype it is given."""

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        """Slot i of the result depends on the slots that the reading allows it."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(x, reading)")

    def flops_per_slot(self, slots: int) -> float:
        """Forward FLOPs of its products for one slot."""
        return 0.0

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        parameter.zero_()


class Mean(Aggregate):
    """The mean of all slots that may be read: for causal rows the cumulative mean."""

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        if reading.native == "full":
            return x.mean(1, keepdim=True).expand_as(x)
        if reading.mask is not None:
            weights = reading.mask.to(x.dtype)
            return (weights / weights.sum(1, keepdim=True)) @ x
        added = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)
        return x.cumsum(1) / added[:, None]


class ByLag(Aggregate):
    """Weights that depend on the channel and on how far back a slot lies, normalised over the slots of the row so far."""

    def __init__(self, width: int, longest: int, kind: AggregateKind):
        super().__init__()
        self.kind: AggregateKind = kind
        self.longest = longest
        self.width = width

    def log_weights(self, lags: int) -> Tensor:
        """(D, lags), lag 0 first; no entry is more than about 20 above another one before it."""
        raise NotImplementedError(f"{type(self).__name__} must define log_weights(lags)")

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        if reading.native != "causal":
            raise BadInput(
                f"{self.kind!r} needs causal rows, but rows are read with another visibility",
                field="model.embedding_loss.aggregate",
                hint="mean and matrix take any visibility",
            )
        slots = x.shape[1]
        lags = min(self.longest, slots)
        weights = self.log_weights(lags).to(x.dtype).exp()
        summed = F.conv1d(F.pad(x.mT, (lags - 1, 0)), weights.flip(1)[:, None], groups=self.width)
        total = F.pad(weights, (0, slots - lags)).cumsum(1)  # (D, T): the sum of the weights up to each slot
        return (summed / total.clamp_min(SMALLEST)).mT

    def flops_per_slot(self, slots: int) -> float:
        return 2.0 * self.width * min(self.longest, slots)


class Window(ByLag):
    """A causal convolution by channel whose taps are a softmax over the last `longest` slots."""

    def __init__(self, width: int, longest: int):
        super().__init__(width, longest, "window")
        self.logits = nn.Parameter(torch.empty(width, longest))

    def log_weights(self, lags: int) -> Tensor:
        taps = self.logits[:, :lags]
        return taps - taps.amax(1, keepdim=True).detach()


class Ema(ByLag):
    """Weights that fall by a factor at every slot back, learned by channel; a factor of 1 is the mean."""

    def __init__(self, width: int, longest: int):
        super().__init__(width, longest, "ema")
        self.shift = max(LEAST_SHIFT, math.log(longest / MOST_GROWTH))
        self.rate = nn.Parameter(torch.empty(width))

    def log_weights(self, lags: int) -> Tensor:
        full = F.logsigmoid(torch.tensor(self.shift, dtype=self.rate.dtype, device=self.rate.device))
        lag = torch.arange(lags, dtype=self.rate.dtype, device=self.rate.device)
        return (F.logsigmoid(self.rate + self.shift) - full)[:, None] * lag


class Matrix(Aggregate):
    """A learned weight for every pair of slots, normalised over the slots that each slot may read."""

    def __init__(self, longest: int):
        super().__init__()
        self.longest = longest
        self.logits = nn.Parameter(torch.empty(longest, longest))

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        slots = x.shape[1]
        if slots > self.longest:
            raise BadInput(
                f"a row of {slots} slots is longer than the matrix of {self.longest}",
                field="model.embedding_loss.aggregate",
            )
        logits = self.logits[:slots, :slots].to(x.dtype)
        if reading.native == "causal":
            hidden = torch.ones(slots, slots, dtype=torch.bool, device=x.device).triu(1)
            logits = logits.masked_fill(hidden, -torch.inf)
        elif reading.mask is not None:
            logits = logits.masked_fill(~reading.mask, -torch.inf)
        return logits.softmax(-1) @ x

    def flops_per_slot(self, slots: int) -> float:
        """FLOPs of the product of (T, T) and (T, D), for each unit of width."""
        return 2.0 * slots


def aggregate_of(kind: AggregateKind, width: int, longest: int, window_slots: int | None) -> Aggregate:
    """The aggregation of this name; a window without a length covers the whole row."""
    if kind == "window":
        return Window(width, min(window_slots or longest, longest))
    if kind == "ema":
        return Ema(width, longest)
    return Matrix(longest) if kind == "matrix" else Mean()
