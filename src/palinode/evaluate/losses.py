"""Losses on a split: every token, fixed windows, sum over sum. Parameters are read only, and no random number is drawn.

nats/token = sum of nats / tokens scored; bits/byte = sum of nats / (ln 2 * bytes of the scored targets), one division of two
sums; perplexity = exp(nats/token). Auxiliary terms cannot enter: this code is handed logits and Examples, nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from palinode.base.config import Config
from palinode.base.example import NO_SOURCE, Draw, Example, SpecialTokens, Windows
from palinode.base.measures import MEASURES
from palinode.base.seeds import generator
from palinode.models.base import LanguageModel
from palinode.models.direction import read
from palinode.objectives import LtrObjective, Objective, Progress, RtlObjective
from palinode.objectives.label_mask import Labels, masked


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
        ratios = {name: getattr(self, name) for name in MEASURES}
        return {**self.model_dump(), **ratios}


@dataclass(frozen=True)
class TokenHits:
    """Every scored token of a pass, each (A,): the number of its window, its place in it, and whether it was hit."""

    window: Tensor
    place: Tensor
    hit: Tensor


@dataclass
class Evaluation:
    """The scores of every pass; and of every window its nats (paired comparisons, determinism audit), scored tokens and hits.

    `token_hits`: the same token by token, where they were kept.
    """

    scores: dict[str, DirectionScores]
    window_nats: dict[str, list[float]] = field(default_factory=dict)
    window_scored: dict[str, list[int]] = field(default_factory=dict)
    window_hits: dict[str, list[int]] = field(default_factory=dict)
    token_hits: dict[str, TokenHits] = field(default_factory=dict)

    def as_rows(self) -> dict[str, dict[str, float | int | None]]:
        """Scores by pass, as they stand in records."""
        return {name: scores.as_row() for name, scores in self.scores.items()}


def evaluation_passes(objective: Objective, directions: Iterable[str]) -> dict[str, Objective]:
    """Which passes to evaluate: the asked-for directions as the objective defines them (none for one without a direction),
    and the objective itself when it makes passes that are neither ltr nor rtl."""
    defined = {"ltr": LtrObjective(), "rtl": RtlObjective()} | objective.evaluation()
    passes = {name: defined[name] for name in directions if objective.reads_in_a_direction}
    passes |= {name: other for name, other in defined.items() if name not in ("ltr", "rtl")}
    if not set(objective.groups()) <= set(defined):
        passes["own"] = objective
    return passes


def evaluate(
    model: LanguageModel,
    windows: Iterable[Windows],
    passes: Mapping[str, Objective],
    *,
    specials: SpecialTokens,
    bytes_per_token: np.ndarray,
    seed: int,
    device: torch.device,
    labels: Labels = "all",
    numbers: Sequence[int] | None = None,
    keep_tokens: bool = False,
) -> Evaluation:
    """Score every window once for every pass, in eval mode without gradients; the model's mode is restored.

    Args:
        windows: batches of (B, n) windows; the last may be short in both dimensions.
        passes: name -> objective whose Examples are scored.
        bytes_per_token: (tokenizer vocabulary,) bytes of each id; special ids count 0.
        seed: of the `evaluation` stream, for objectives with random decisions: window n draws its own at position n, so
            that neither the batch size nor the order of the windows changes a decision.
        labels: which targets are scored.
        numbers: the number of each window, in the order they come; default 0, 1, 2, ..
        keep_tokens: keep the hit of every scored token (24 bytes each): for tasks, where few are answers.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    bytes_of = bytes_of_ids(specials, bytes_per_token)
    sums = {name: Sums(tokens_kept=[] if keep_tokens else None) for name in passes}
    with evaluating(model):
        for name, example in examples_of(windows, passes, specials=specials, seed=seed, labels=labels, numbers=numbers):
            here = example.to(device)
            sums[name].add(here, read(model, here), model.logits, bytes_of)
    told = {name: total for name, total in sums.items() if total.tokens}
    return Evaluation(
        {name: total.scores() for name, total in told.items()},
        {name: total.window_nats for name, total in told.items()},
        {name: total.window_scored for name, total in told.items()},
        {name: total.window_hits for name, total in told.items()},
        {name: hits for name, total in told.items() if (hits := total.token_hits()) is not None},
    )


@contextmanager
def evaluating(model: LanguageModel) -> Iterator[None]:
    """Eval mode without gradients; the model's mode is restored."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def bytes_of_ids(specials: SpecialTokens, bytes_per_token: np.ndarray) -> Tensor:
    """(V,) bytes of each id; special ids count 0."""
    table = torch.zeros(specials.vocab_size, dtype=torch.int64)
    table[: len(bytes_per_token)] = torch.from_numpy(np.asarray(bytes_per_token, dtype=np.int64))
    return table


def examples_of(
    windows: Iterable[Windows],
    passes: Mapping[str, Objective],
    *,
    specials: SpecialTokens,
    seed: int,
    labels: Labels = "all",
    numbers: Sequence[int] | None = None,
) -> Iterator[tuple[str, Example]]:
    """Every batch of windows through every pass (arguments: `evaluate`); what is too short to score anything is left out."""
    first = 0
    for batch in windows:
        places = range(first, first + len(batch)) if numbers is None else numbers[first : first + len(batch)]
        first += len(batch)
        for name, objective in passes.items():
            draw = batch.decisions(window_draws(objective, batch.tokens.shape[1], seed, places))
            example = masked(objective.example(batch.tokens, draw, specials), batch, labels)
            if example.inputs.numel():
                yield name, example


def window_draws(objective: Objective, window_tokens: int, seed: int, numbers: Iterable[int]) -> Draw:
    """The decisions of these windows, each drawn on its own from the `evaluation` stream."""
    draws = [objective.draw(1, window_tokens, generator(seed, "evaluation", n), Progress()) for n in numbers]
    return Draw({name: torch.cat([draw[name] for draw in draws]) for name in draws[0].decisions})


@dataclass
class Sums:
    """What scored targets add up to; `tokens_kept`: a list to keep each of them in, or None."""

    tokens: int = 0
    nats: float = 0.0
    bytes: int = 0
    hits: int = 0
    window_nats: list[float] = field(default_factory=list)
    window_scored: list[int] = field(default_factory=list)
    window_hits: list[int] = field(default_factory=list)
    tokens_kept: list[Tensor] | None = None

    def add(
        self,
        example: Example,
        states: Tensor,
        logits_of: Callable[[Tensor], Tensor],
        bytes_of: Tensor,
        slots_at_once: int | None = None,
    ) -> None:
        """Score (R, S, D) states against the example's targets.

        Args:
            logits_of: (..., D) -> (..., V).
            bytes_of: (V,) bytes of each id.
            slots_at_once: slots whose logits exist at the same time; default all.
        """
        scored = (example.loss_weight > 0) & (example.target_source != NO_SOURCE)
        nats, hit = _nats_and_hits(logits_of, states, example.targets, slots_at_once)
        per_row = torch.where(scored, nats, 0.0).sum(-1).cpu()
        self.tokens += int(scored.sum())
        self.nats += float(per_row.sum())
        self.bytes += int(bytes_of[example.targets.cpu()][scored.cpu()].sum())
        if self.tokens_kept is not None:
            row, slot = scored.nonzero(as_tuple=True)
            places = (row + len(self.window_nats), example.target_source[row, slot], hit[row, slot].long())
            self.tokens_kept.append(torch.stack(places).cpu())
        right = (hit & scored).sum(-1)
        self.hits += int(right.sum())
        self.window_nats.extend(per_row.tolist())
        self.window_scored.extend(scored.sum(-1).tolist())
        self.window_hits.extend(right.tolist())

    def token_hits(self) -> TokenHits | None:
        """Every scored token, where they were kept."""
        if not self.tokens_kept:
            return None
        window, place, hit = torch.cat(self.tokens_kept, 1)
        return TokenHits(window, place, hit.bool())

    def scores(self) -> DirectionScores:
        """The sums as they are recorded.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        if not math.isfinite(self.nats):
            raise FloatingPointError("the loss of an evaluation is not finite")
        return DirectionScores(tokens_scored=self.tokens, nats_sum=self.nats, bytes_scored=self.bytes, hits=self.hits)


def _nats_and_hits(
    logits_of: Callable[[Tensor], Tensor], states: Tensor, targets: Tensor, slots_at_once: int | None
) -> tuple[Tensor, Tensor]:
    """(R, S) float64 nats of the targets, and whether the most probable id (of equals the lowest) is the target."""
    if slots_at_once is not None and slots_at_once < targets.numel():
        pieces = zip(
            torch.split(states.flatten(0, 1), slots_at_once), torch.split(targets.flatten(), slots_at_once), strict=True
        )
        found = [_nats_and_hits(logits_of, some, wanted, None) for some, wanted in pieces]
        nats, hit = (torch.cat(parts).view(targets.shape) for parts in zip(*found, strict=True))
        return nats, hit
    log_probabilities = torch.log_softmax(logits_of(states).float(), dim=-1)
    nats = -log_probabilities.gather(-1, targets[..., None])[..., 0].double()
    return nats, log_probabilities.argmax(-1) == targets
