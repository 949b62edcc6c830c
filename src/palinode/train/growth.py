"""Batches that change during a run: rows become longer, and a step reads more micro-batches.

The batch of a step depends only on the step number and on `state`, a table of plain numbers that checkpoints hold.
Source: hlb-gpt 0.4.1 as the mask experiments used it (03-models 3.4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import rand

from palinode.base.config import LATER, Config
from palinode.base.seeds import generator

REAL_PARTS, WINDOWS_DRAWN = "accumulation.real_parts", "accumulation.windows_drawn"
MOST_DOUBLINGS = 60
State = Mapping[str, float]


@dataclass(frozen=True)
class Reads:
    """What one optimizer step reads: micro-batches of `windows` windows of `window_tokens` tokens each.

    Attributes:
        micro_batches, batches: a batch has so many micro-batches, and the step accumulates so many batches.
        first_window: the index of the step's first window in the stream of windows of this length.
    """

    window_tokens: int
    windows: int
    micro_batches: int
    batches: int
    first_window: int

    @property
    def parts(self) -> int:
        """The number of micro-batches of the step."""
        return self.micro_batches * self.batches


class LengthGrowth(Config):
    """Rows that start with `start_tokens` tokens and double after every `double_every_steps` steps, up to the spec's window.

    A step reads the same number of tokens at any length, rounded down to whole windows: rows of half the length, twice the windows.

    Attributes:
        late_steps: the number of steps by which every doubling of the row is late. The published code has 1: step 80 (counted
            from 0) still has the first length.
    """

    start_tokens: int = Field(default=32, ge=2)
    double_every_steps: int = Field(default=80, ge=1)
    late_steps: Annotated[int, LATER] = Field(default=0, ge=0)

    def window_tokens(self, step: int, full: int) -> int:
        """The number of tokens in a row at this step, which is never more than `full`, the spec's window."""
        doublings = min(max(0, step - self.late_steps) // self.double_every_steps, MOST_DOUBLINGS)
        return min(full, self.start_tokens << doublings)

    def first_step(self, tokens: int) -> int:
        """The first step with rows of this length. The stream of windows of this length starts at this step."""
        doublings = max(0, math.ceil(math.log2(tokens / self.start_tokens)))
        return doublings * self.double_every_steps + self.late_steps if doublings else 0

    def phases(self, steps: int, full: int) -> list[tuple[int, int, int]]:
        """(first step, number of steps, tokens in a row) for every row length, in order."""
        phases: list[tuple[int, int, int]] = []
        first = 0
        while first < steps:
            length = self.window_tokens(first, full)
            after = steps if length == full else min(steps, self.first_step(2 * length))
            phases.append((first, after - first, length))
            first = after
        return phases


class NormAccumulation(Config):
    """More micro-batches as gradients get noisier. Their number steers the global gradient norm to a falling target.

    Every `every_steps` steps the real number of micro-batches m (0 at first) becomes max(.1, m (1 + every_steps * gain * (r - 1)))
    with r = (norm / sqrt P) / target(step) and target(step) = (ln P * P * (step + .01))^e, e = -.677 (ln P)^-.2 for P parameters.
    A step reads max(1, floor m + c) times `micro_batches` parts, where c is 1 with the probability of m's fraction, else 0. The
    constants were fitted with about 57 000 tokens in a part.

    Attributes:
        every_steps: the number of steps from one change of m to the next.
        gain: the factor of (r - 1) in the formula above; a larger gain changes m faster.
        most: the largest m. None means no limit, as published.
        from_first_step: whether m changes after the steps 0, `every_steps`, 2 `every_steps`, .. counted from 0 (published). The
            value False means after the steps `every_steps` - 1, 2 `every_steps` - 1, ..
    """

    every_steps: int = Field(default=5, ge=1)
    gain: float = Field(default=0.1, gt=0.0)
    most: int | None = Field(default=64, ge=1)
    from_first_step: Annotated[bool, LATER] = False

    def target(self, step: int, parameters: int) -> float:
        """The gradient norm over sqrt(P) that `accumulation` aims at after `step` steps; P is the number of parameters."""
        size = math.log(parameters)
        return float((size * parameters * (step + 0.01)) ** (-0.677 * size**-0.2))

    def factor(self, state: State, seed: int, step: int) -> int:
        """The number by which this step multiplies `micro_batches`."""
        real = state.get(REAL_PARTS, 0.0)
        coin = float(rand((), generator=generator(seed, "accumulation", step)))
        return int(self._limited(max(1, math.floor(real) + (coin < real % 1))))

    def after_step(self, state: MutableMapping[str, float], step: int, gradient_norm: float, parameters: int) -> None:
        """Update the number of micro-batches in `state`. `step` is the step that was just taken, counted from 0."""
        if (step if self.from_first_step else step + 1) % self.every_steps:
            return
        ratio = gradient_norm / math.sqrt(parameters) / self.target(step, parameters)
        real = state.get(REAL_PARTS, 0.0) * (1 + self.every_steps * self.gain * (ratio - 1))
        state[REAL_PARTS] = self._limited(max(0.1, real))

    def _limited(self, parts: float) -> float:
        return parts if self.most is None else min(float(self.most), parts)
