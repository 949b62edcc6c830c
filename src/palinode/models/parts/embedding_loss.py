"""The embedding loss: in training it pulls the encoder's state at each slot towards the mean of the embeddings up to this slot.

A_i = mean of N_a(x_0), .., N_a(x_i); z_i = N_b(o_i); the loss is the distance between A and z over all rows and slots, where x
are the embeddings (positions and dropout included) and o is the encoder's last state, without a norm.

The loss can become 0 in two ways although its two sides do not agree; the default options prevent both ways. First, norms with a
learned gain (as published) can learn a gain of 0: on two unrelated random tensors the loss then falls from 1.07 to 4e-9 in 2000
steps of Adam. The published losses of 4e-9 show that both sides became 0, and tell nothing about the states. Second, all slots
can learn to share one large vector, which the encoder's state gets through the residual stream; after a norm only this vector is
left. The option `centred` prevents the second way: the mean over the visible slots is first subtracted from each side. A variance
floor also keeps both sides from becoming 0, and every step also measures the score on shuffled pairs (`models/base.py`).
Source: yiphei's autoregressive encoder-decoder, from its formulas. Differences: norms have no gain (`norm_affine = true` adds
gains); both sides are centred (`centred = false` does not centre them); the published norm that nothing uses is left out; the
log-cosine is clamped.
Legend: B rows, T slots, D width, C longest row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.base.config import Config
from palinode.base.errors import BadInput
from palinode.models.base import AuxiliaryTerm, PairTerm
from palinode.models.mixers.base import Reading
from palinode.models.parts.exact import exact
from palinode.models.parts.linear import LAYER_NORM_EPSILON, Norm, OwnStart

AggregateKind = Literal["mean", "window", "ema", "matrix"]
LEAST_SHIFT = 4.0  # the least shift of the aggregation `ema`, whose factors are then below 1 / sigmoid(4) = 1.018
MOST_GROWTH = 20.0  # over the longest row a weight grows by at most e^20, which float32 can hold
SMALLEST = 1e-30  # the smallest sum of weights that the code divides by


class Aggregate(OwnStart):
    """Base class of aggregations over slots, (B, T, D) -> (B, T, D), in the dtype of the input.

    Args:
        width: the width D.
        longest: the number of slots of the longest row, or of the window.
    """

    def __init__(self, width: int, longest: int):
        super().__init__()
        self.width = width
        self.longest = longest

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        """Aggregate the slots; slot i of the result depends only on the slots that the reading lets slot i read."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(x, reading)")

    def flops_per_slot(self, slots: int) -> float:
        """The forward FLOPs of the aggregation's products for one slot."""
        return 0.0

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        parameter.zero_()


class Mean(Aggregate):
    """The mean of all slots that a slot may read; for causal rows this is the cumulative mean."""

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        if reading.native == "full":
            return x.mean(1, keepdim=True).expand_as(x)
        if reading.mask is not None:
            weights = reading.mask.to(x.dtype)
            return (weights / weights.sum(1, keepdim=True)) @ x
        added = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)
        return x.cumsum(1) / added[:, None]


class ByLag(Aggregate):
    """A weighted mean of the slots so far; a weight depends on the channel and on the distance back to the slot."""

    def log_weights(self, lags: int) -> Tensor:
        """The (D, lags) logarithms of the weights, from lag 0 on; no entry is more than about 20 above an earlier entry."""
        raise NotImplementedError(f"{type(self).__name__} must define log_weights(lags)")

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        if reading.native != "causal":
            raise BadInput(
                f"{type(self).__name__.lower()!r} needs causal rows, but rows are read with another visibility",
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
    """A causal convolution of each channel; the taps are a softmax over the last `longest` slots."""

    def __init__(self, width: int, longest: int):
        super().__init__(width, longest)
        self.logits = nn.Parameter(torch.empty(width, longest))

    def log_weights(self, lags: int) -> Tensor:
        taps = self.logits[:, :lags]
        return taps - taps.amax(1, keepdim=True).detach()


class Ema(ByLag):
    """Weights that change by a constant factor with each slot of distance; each channel learns its factor; 1 gives the mean."""

    def __init__(self, width: int, longest: int):
        super().__init__(width, longest)
        self.shift = max(LEAST_SHIFT, math.log(longest / MOST_GROWTH))
        self.rate = nn.Parameter(torch.empty(width))

    def log_weights(self, lags: int) -> Tensor:
        full = F.logsigmoid(torch.tensor(self.shift, dtype=self.rate.dtype, device=self.rate.device))
        lag = torch.arange(lags, dtype=self.rate.dtype, device=self.rate.device)
        return (F.logsigmoid(self.rate + self.shift) - full)[:, None] * lag


class Matrix(Aggregate):
    """A learned weight for every pair of slots, normalised over the slots that each slot may read."""

    def __init__(self, width: int, longest: int):
        super().__init__(width, longest)
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
        return 2.0 * self.width * slots


AGGREGATES: Mapping[AggregateKind, type[Aggregate]] = {"mean": Mean, "window": Window, "ema": Ema, "matrix": Matrix}
Score = Literal["mse", "cosine", "log_cosine", "infonce"]
LEAST_LOG = 1e-6  # the smallest argument of the logarithm in log-cosine
VARIANCE_EPSILON = 1e-4  # the number that is added to the variance under the root of the variance floor
CENTRED_EPSILON = 1e-8  # the epsilon of norms of centred states: so small that smaller states do not lower the loss
INFONCE_PAIRS = 256  # the largest number of pairs in a group of the score `infonce`


class EmbeddingLoss(Config):
    """Options of the embedding loss. The defaults are as published, except `norm_affine` (there true) and `centred` (there false).

    Attributes:
        score: the measure of the distance, where c is the cosine. `mse`: mean squared error. `cosine`: mean of 1 - (c + 1) / 2.
            `log_cosine`: mean of -log((c + 1) / 2). `infonce`: cross-entropy of a classifier that finds the partner of each state
            among those of up to 256 pairs, with the logits c / temperature.
        coefficient: the factor of the embedding loss in the training loss.
        detach: the side that gets no gradient: the `input` embeddings, the `encoder`, or `none`.
        input_norm: the place of a norm of the embeddings: `before` or `after` the mean, or `none`.
        output_norm: whether the encoder's state has a norm.
        norm_affine: whether these norms learn gain and shift; the loss can then reach 0 because both sides become 0.
        centred: whether the mean over the visible slots is first subtracted from each side (in causal rows the mean over the slots
            up to the slot itself, so that the first slot becomes 0). If false, the loss can reach 0 because all slots share one
            vector.
        aggregate, window_slots: the aggregation over slots, and the number of slots of a window. Each aggregation starts as the
            mean; all but `mean` are learned.
        variance_floor: the factor mu of the term mu mean_d max(0, 1 - sqrt(variance_d + 1e-4)), which is added to the loss for
            each side; d is a feature.
        temperature: the temperature of the score `infonce`.
    """

    score: Score = "mse"
    coefficient: float = Field(default=1.0, gt=0)
    detach: Literal["none", "input", "encoder"] = "encoder"
    input_norm: Literal["none", "before", "after"] = "before"
    norm_affine: bool = False
    centred: bool = True
    output_norm: bool = True
    aggregate: AggregateKind = "mean"
    window_slots: int | None = Field(default=None, ge=1)
    variance_floor: float = Field(default=0.0, ge=0)
    temperature: float = Field(default=0.1, gt=0)

    @model_validator(mode="after")
    def _options_have_readers(self) -> EmbeddingLoss:
        if self.window_slots is not None and self.aggregate != "window":
            raise ValueError(f"window_slots is set, but aggregate is {self.aggregate!r}")
        if self.temperature != 0.1 and self.score != "infonce":
            raise ValueError(f"temperature is set, but score is {self.score!r}")
        if self.norm_affine and self.input_norm == "none" and not self.output_norm:
            raise ValueError("norm_affine is set, but there is no norm: input_norm is 'none' and output_norm false")
        return self


class EmbeddingTerm(PairTerm):
    """The loss of embeddings (left) and encoder states (right), float32 or better, with measurements that show a collapse."""

    def __init__(self, config: EmbeddingLoss, width: int, longest: int):
        super().__init__()
        self.config = config
        self.width = width
        self.input_norm = None if config.input_norm == "none" else _norm(config, width)
        self.output_norm = _norm(config, width) if config.output_norm else None
        self.aggregate = AGGREGATES[config.aggregate](width, min(config.window_slots or longest, longest))
        self.mean = Mean(width, longest)

    def forward(self, left: Tensor, right: Tensor, reading: Reading) -> AuxiliaryTerm:
        with torch.autocast(left.device.type, enabled=False):
            detach = self.config.detach
            means = self.aggregated(left.detach() if detach == "input" else left, reading)
            states = self._centred(exact(right.detach() if detach == "encoder" else right), reading)
            states = _normed(states, self.output_norm)
            score = self._score(means, states)
            value = score
            if self.config.variance_floor:
                value = score + self.config.variance_floor * (_below_floor(means) + _below_floor(states))
            with torch.no_grad():
                measured = self._measured(means, states) | {"value": score.detach()}
        return AuxiliaryTerm(value, self.config.coefficient, len(left), measured)

    def aggregated(self, left: Tensor, reading: Reading) -> Tensor:
        x = self._centred(exact(left), reading)
        if self.config.input_norm == "after":
            return _normed(self.aggregate(x, reading), self.input_norm)
        means: Tensor = self.aggregate(_normed(x, self.input_norm), reading)
        return means

    def flops_per_slot(self, slots: int) -> float:
        """The forward FLOPs of the embedding loss's matrix products for one slot."""
        compared = 2.0 * INFONCE_PAIRS * self.width if self.config.score == "infonce" else 0.0
        return self.aggregate.flops_per_slot(slots) + compared

    def _score(self, means: Tensor, states: Tensor) -> Tensor:
        score = self.config.score
        if score == "mse":
            return F.mse_loss(means, states)
        if score == "infonce":
            return infonce(means.flatten(0, 1), states.flatten(0, 1), self.config.temperature)
        alike = (F.cosine_similarity(means, states, dim=-1, eps=1e-8) + 1) / 2
        return (1 - alike).mean() if score == "cosine" else -alike.clamp_min(LEAST_LOG).log().mean()

    def _measured(self, means: Tensor, states: Tensor) -> dict[str, Tensor]:
        norms = [norm for norm in (self.input_norm, self.output_norm) if norm is not None]
        gains = [norm.gain for norm in norms if norm.gain is not None]
        one = states.new_ones(())
        return {
            "shuffled": self._score(means, shuffled(states)),
            "gain": torch.stack([gain.abs().mean() for gain in gains]).min() if gains else one,
            "least_gain": torch.stack([gain.abs().min() for gain in gains]).min() if gains else one,
            "variance": torch.minimum(_variance(means).mean(), _variance(states).mean()),
        }

    def _centred(self, x: Tensor, reading: Reading) -> Tensor:
        """Subtract from each state the mean over the slots that its slot may see; a slot that sees only itself becomes 0."""
        return x - self.mean(x, reading) if self.config.centred else x


def shuffled(states: Tensor) -> Tensor:
    """The (B, T, D) states with each row moved to the next row's place; a single row is rotated by half its slots."""
    return states.roll(1, 0) if len(states) > 1 else states.roll(max(1, states.shape[1] // 2), 1)


def infonce(left: Tensor, right: Tensor, temperature: float) -> Tensor:
    """The mean nats of a classifier that finds the partner of each of the (pairs, D) vectors, averaged over both directions.

    The pairs are split into groups of at most 256, evenly over rows and slots; partners are searched only within the group.
    """
    groups = -(-len(left) // INFONCE_PAIRS)
    left, right = F.normalize(left, dim=-1), F.normalize(right, dim=-1)
    total = left.new_zeros(())
    for group in range(groups):
        logits = left[group::groups] @ right[group::groups].mT / temperature
        answers = torch.arange(len(logits), device=logits.device)
        ways = (F.cross_entropy(logits, answers, reduction="sum"), F.cross_entropy(logits.mT, answers, reduction="sum"))
        total = total + (ways[0] + ways[1]) / 2
    return total / len(left)


def _below_floor(z: Tensor) -> Tensor:
    """The distance by which the standard deviation of a feature is below 1, averaged over all features."""
    return F.relu(1 - (_variance(z) + VARIANCE_EPSILON).sqrt()).mean()


def _variance(z: Tensor) -> Tensor:
    """The (D,) variances over rows and slots."""
    return z.flatten(0, 1).var(0, correction=0)


def _norm(config: EmbeddingLoss, width: int) -> Norm:
    epsilon = CENTRED_EPSILON if config.centred else LAYER_NORM_EPSILON
    return Norm(width, "layer", gain=config.norm_affine, shift=config.norm_affine, epsilon=epsilon)


def _normed(x: Tensor, norm: Norm | None) -> Tensor:
    """The states after the norm. A slot that is 0 gets no gradient, because the slope at 0 is large: 1 / sqrt(epsilon)."""
    if norm is None:
        return x
    normed: Tensor = norm(x)
    return torch.where((x == 0).all(-1, keepdim=True), normed.detach(), normed)
