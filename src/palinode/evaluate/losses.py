"""Losses on a split: every token, fixed windows, sum over sum. Parameters are read only, and no random number is drawn.

nats/token = sum of nats / tokens scored; bits/byte = sum of nats / (ln 2 * bytes of the scored targets), one division of two
sums; perplexity = exp(nats/token). Auxiliary terms cannot enter: this code is handed logits and Examples, nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from palinode.base.config import Config
from palinode.base.example import NO_SOURCE, Draw, Example, SpecialTokens
from palinode.base.seeds import generator
from palinode.models.base import LanguageModel
from palinode.models.direction import read
from palinode.objectives import LtrObjective, Objective, Progress, RtlObjective


class DirectionScores(Config):
    """Sums over all scored targets of one evaluation pass; ratios are computed from them, never averaged."""

    tokens_scored: int
    nats_sum: float
    bytes_scored: int
    hits: int

    @property
    def nats_per_token(self) -> float:
        return self.nats_sum / self.tokens_scored

    @property
    def bits_per_byte(self) -> float | None:
        """None when the targets have no bytes (synthetic tasks)."""
        return self.nats_sum / (math.log(2) * self.bytes_scored) if self.bytes_scored else None

    @property
    def accuracy(self) -> float:
        return self.hits / self.tokens_scored

    @property
    def perplexity(self) -> float | None:
        """None when it would overflow."""
        return math.exp(self.nats_per_token) if self.nats_per_token < 700 else None

    def as_row(self) -> dict[str, float | int | None]:
        """Sums and ratios, as they stand in records."""
        ratios = {name: getattr(self, name) for name in ("nats_per_token", "bits_per_byte", "accuracy", "perplexity")}
        return {**self.model_dump(), **ratios}


@dataclass
class Evaluation:
    """The scores of every pass, and the nats of every window (paired comparisons, determinism audit)."""

    scores: dict[str, DirectionScores]
    window_nats: dict[str, list[float]] = field(default_factory=dict)

    def as_rows(self) -> dict[str, dict[str, float | int | None]]:
        """Scores by pass, as they stand in records."""
        return {name: scores.as_row() for name, scores in self.scores.items()}


def evaluation_passes(objective: Objective, directions: Iterable[str]) -> dict[str, Objective]:
    """Which passes to evaluate: the asked-for directions as the objective defines them, and the objective itself
    when it makes passes that are neither ltr nor rtl."""
    defined = {"ltr": LtrObjective(), "rtl": RtlObjective()} | objective.evaluation()
    passes = {name: defined[name] for name in directions}
    passes |= {name: other for name, other in defined.items() if name not in ("ltr", "rtl")}
    if not set(objective.groups()) <= set(defined):
        passes["own"] = objective
    return passes


def evaluate(
    model: LanguageModel,
    windows: Iterable[Tensor],
    passes: Mapping[str, Objective],
    *,
    specials: SpecialTokens,
    bytes_per_token: np.ndarray,
    seed: int,
    device: torch.device,
    numbers: Sequence[int] | None = None,
) -> Evaluation:
    """Score every window once for every pass, in eval mode without gradients; the model's mode is restored.

    Args:
        windows: batches (B, n) of token ids; the last may be short in both dimensions.
        passes: name -> objective whose Examples are scored.
        bytes_per_token: (tokenizer vocabulary,) bytes of each id; special ids count 0.
        seed: of the `evaluation` stream, for objectives with random decisions: window n draws its own at position n, so
            that neither the batch size nor the order of the windows changes a decision.
        numbers: the number of each window, in the order they come; default 0, 1, 2, ..
    """
    table = torch.zeros(specials.vocab_size, dtype=torch.int64)
    table[: len(bytes_per_token)] = torch.from_numpy(np.asarray(bytes_per_token, dtype=np.int64))
    sums = {name: _Sums() for name in passes}
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            first = 0
            for batch in windows:
                places = range(first, first + len(batch)) if numbers is None else numbers[first : first + len(batch)]
                first += len(batch)
                for name, objective in passes.items():
                    draw = window_draws(objective, batch.shape[1], seed, places)
                    for example in _examples(objective, batch, draw, specials):
                        _score(model, example.to(device), table, sums[name])
    finally:
        model.train(was_training)
    return Evaluation(
        {name: total.scores() for name, total in sums.items() if total.tokens},
        {name: total.window_nats for name, total in sums.items() if total.tokens},
    )


def window_draws(objective: Objective, window_tokens: int, seed: int, numbers: Iterable[int]) -> Draw:
    """The decisions of these windows, each drawn on its own from the `evaluation` stream."""
    draws = [objective.draw(1, window_tokens, generator(seed, "evaluation", n), Progress()) for n in numbers]
    return Draw({name: torch.cat([draw[name] for draw in draws]) for name in draws[0].decisions})


def _examples(objective: Objective, batch: Tensor, draw: Draw, specials: SpecialTokens) -> Iterator[Example]:
    """The example of a batch, unless the windows are too short to score anything."""
    example = objective.example(batch, draw, specials)
    if example.inputs.numel():
        yield example


@dataclass
class _Sums:
    tokens: int = 0
    nats: float = 0.0
    bytes: int = 0
    hits: int = 0
    window_nats: list[float] = field(default_factory=list)

    def scores(self) -> DirectionScores:
        return DirectionScores(tokens_scored=self.tokens, nats_sum=self.nats, bytes_scored=self.bytes, hits=self.hits)


def _score(model: LanguageModel, example: Example, bytes_table: Tensor, sums: _Sums) -> None:
    scored = (example.loss_weight > 0) & (example.target_source != NO_SOURCE)
    log_probabilities = torch.log_softmax(model.logits(read(model, example)).float(), dim=-1)
    nats = -log_probabilities.gather(-1, example.targets[..., None])[..., 0].double()
    nats = torch.where(scored, nats, 0.0)
    hits = (log_probabilities.argmax(-1) == example.targets) & scored
    per_row = nats.sum(-1).cpu()
    sums.tokens += int(scored.sum())
    sums.nats += float(per_row.sum())
    sums.bytes += int(bytes_table[example.targets.cpu()][scored.cpu()].sum())
    sums.hits += int(hits.sum())
    sums.window_nats.extend(per_row.tolist())
