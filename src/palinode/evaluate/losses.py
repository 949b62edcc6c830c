"""Losses on a split: every token, in fixed windows. Parameters do not change, and no global random stream is used.

nats/token = sum of nats / tokens scored; bits/byte = sum of nats / (ln 2 * bytes of the scored targets), one division of two
sums; perplexity = exp(nats/token). Auxiliary terms cannot enter, because this code gets logits and Examples only.
Legend: B rows, T slots, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palinode.base.config import Config
from palinode.base.example import NO_SOURCE, Draw, Example, SpecialTokens, Windows
from palinode.base.measures import MEASURES
from palinode.base.seeds import generator
from palinode.models.base import LanguageModel
from palinode.models.direction import read
from palinode.objectives import LtrObjective, Objective, Progress, RtlObjective
from palinode.objectives.label_mask import Labels, masked

LARGEST_EXPONENT = 700  # exp of a little more overflows float64


class DirectionScores(Config):
    """Sums over all scored targets of one evaluation pass. Ratios are computed from these sums, never averaged."""

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
        return math.exp(self.nats_per_token) if self.nats_per_token < LARGEST_EXPONENT else None

    def as_row(self) -> dict[str, float | int | None]:
        """The sums and the ratios, as records hold them."""
        return {**self.model_dump(), **{name: getattr(self, name) for name in MEASURES}}


@dataclass(frozen=True)
class TokenHits:
    """All scored tokens of a pass. Each field is (tokens,): the number of the window, the index in it, and whether it was a hit."""

    window: Tensor
    index: Tensor
    hit: Tensor


@dataclass
class Evaluation:
    """The scores of every pass, and the nats, scored tokens and hits of every window (for paired comparisons and the audit).

    `token_hits` has each scored token where `evaluate` was called with `keep_tokens`.
    """

    scores: dict[str, DirectionScores]
    window_nats: dict[str, list[float]] = field(default_factory=dict)
    window_scored: dict[str, list[int]] = field(default_factory=dict)
    window_hits: dict[str, list[int]] = field(default_factory=dict)
    token_hits: dict[str, TokenHits] = field(default_factory=dict)

    def as_rows(self) -> dict[str, dict[str, float | int | None]]:
        """The scores of each pass, as records hold them."""
        return {name: scores.as_row() for name, scores in self.scores.items()}


@dataclass(frozen=True)
class Scoring:
    """How windows become scored Examples, the same for every pass.

    Attributes:
        bytes_per_token: (tokenizer vocabulary,) bytes of each id; special ids count 0.
        seed: seed of the random decisions that an objective makes.
        labels: which targets are scored.
    """

    specials: SpecialTokens
    bytes_per_token: NDArray[np.int64]
    seed: int
    labels: Labels = "all"

    def bytes_of_ids(self) -> Tensor:
        """(V,) bytes of each id."""
        table = torch.zeros(self.specials.vocab_size, dtype=torch.int64)
        table[: len(self.bytes_per_token)] = torch.from_numpy(np.asarray(self.bytes_per_token, dtype=np.int64))
        return table

    def example(self, objective: Objective, windows: Windows, draw: Draw) -> Example:
        """The Example of some windows with these decisions. Targets that are not labels get the weight 0."""
        example = objective.example(windows.tokens, windows.decisions(draw), self.specials)
        return masked(example, windows, self.labels)

    def examples(
        self, windows: Iterable[Windows], passes: Mapping[str, Objective], numbers: Sequence[int] | None = None
    ) -> Iterator[tuple[str, Example]]:
        """(name of the pass, Example) of every batch and pass; an Example without slots is left out. Arguments as in `evaluate`."""
        first = 0
        for batch in windows:
            last = first + len(batch)
            own_numbers = range(first, last) if numbers is None else numbers[first:last]
            first = last
            for name, objective in passes.items():
                draw = window_draws(objective, batch.tokens.shape[1], self.seed, own_numbers)
                example = self.example(objective, batch, draw)
                if example.inputs.numel():
                    yield name, example


def evaluation_passes(objective: Objective, directions: Iterable[str]) -> dict[str, Objective]:
    """The passes of an evaluation, by name.

    These are the given directions as the objective defines them (none for an objective without a direction), and the objective
    itself when it makes passes that are neither ltr nor rtl.
    """
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
    scoring: Scoring,
    *,
    numbers: Sequence[int] | None = None,
    keep_tokens: bool = False,
) -> Evaluation:
    """Score every window once for every pass, in eval mode without gradients; the model's mode is restored.

    Window n draws its decisions from the random stream (`evaluation`, n), so neither the batch size nor the order of the
    windows changes a decision.

    Args:
        windows: batches of (B, window_tokens) windows; the last may be smaller in both dimensions.
        passes: name -> objective whose Examples are scored.
        numbers: the number of each window, in the order of `windows`; default 0, 1, 2, ..
        keep_tokens: keep the hit of every scored token, 24 bytes each. Meant for tasks, where few tokens are answers.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    bytes_of, device = scoring.bytes_of_ids(), device_of(model)
    sums = {name: Sums(tokens_kept=[] if keep_tokens else None) for name in passes}
    with evaluating(model):
        for name, example in scoring.examples(windows, passes, numbers):
            here = example.to(device)
            sums[name].add(here, read(model, here), model.logits, bytes_of)
    scored = {name: total for name, total in sums.items() if total.tokens}
    return Evaluation(
        {name: total.scores() for name, total in scored.items()},
        {name: total.window_nats for name, total in scored.items()},
        {name: total.window_scored for name, total in scored.items()},
        {name: total.window_hits for name, total in scored.items()},
        {name: hits for name, total in scored.items() if (hits := total.token_hits()) is not None},
    )


def device_of(model: torch.nn.Module) -> torch.device:
    """The device of a model's parameters."""
    return next(model.parameters()).device


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode without gradients; the model's mode is restored."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def window_draws(objective: Objective, window_tokens: int, seed: int, numbers: Iterable[int]) -> Draw:
    """The decisions of the windows with these numbers, each drawn on its own from the `evaluation` stream."""
    draws = [objective.draw(1, window_tokens, generator(seed, "evaluation", n), Progress()) for n in numbers]
    return Draw({name: torch.cat([draw[name] for draw in draws]) for name in draws[0].decisions})


@dataclass
class Sums:
    """Running sums over scored targets. `tokens_kept` is a list that keeps the hit of each target, or None."""

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
        """Score (B, T, D) states against the example's targets.

        Args:
            logits_of: (..., D) -> (..., V).
            bytes_of: (V,) bytes of each id.
            slots_at_once: how many slots have logits at the same time; default all.
        """
        scored = (example.loss_weight > 0) & (example.target_source != NO_SOURCE)
        nats, hit = _nats_and_hits(logits_of, states, example.targets, slots_at_once)
        row_nats = torch.where(scored, nats, 0.0).sum(-1).cpu()
        self.tokens += int(scored.sum())
        self.nats += float(row_nats.sum())
        self.bytes += int(bytes_of[example.targets.cpu()][scored.cpu()].sum())
        if self.tokens_kept is not None:
            row, slot = scored.nonzero(as_tuple=True)
            kept = (row + len(self.window_nats), example.target_source[row, slot], hit[row, slot].long())
            self.tokens_kept.append(torch.stack(kept).cpu())
        row_hits = (hit & scored).sum(-1)
        self.hits += int(row_hits.sum())
        self.window_nats.extend(row_nats.tolist())
        self.window_scored.extend(scored.sum(-1).tolist())
        self.window_hits.extend(row_hits.tolist())

    def token_hits(self) -> TokenHits | None:
        """All scored tokens, if they were kept."""
        if not self.tokens_kept:
            return None
        window, index, hit = torch.cat(self.tokens_kept, 1)
        return TokenHits(window, index, hit.bool())

    def scores(self) -> DirectionScores:
        """The sums in the form of a record.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        if not math.isfinite(self.nats):
            raise FloatingPointError("the loss of an evaluation is not finite")
        return DirectionScores(tokens_scored=self.tokens, nats_sum=self.nats, bytes_scored=self.bytes, hits=self.hits)


def _nats_and_hits(
    logits_of: Callable[[Tensor], Tensor], states: Tensor, targets: Tensor, slots_at_once: int | None
) -> tuple[Tensor, Tensor]:
    """(B, T) float64 nats of the targets, and whether the target is the most probable id (the lowest of equally probable ones)."""
    if slots_at_once is not None and slots_at_once < targets.numel():
        states, flat = states.flatten(0, 1), targets.flatten()
        pieces = zip(torch.split(states, slots_at_once), torch.split(flat, slots_at_once), strict=True)
        scored = [_nats_and_hits(logits_of, some, wanted, None) for some, wanted in pieces]
        nats, hit = (torch.cat(parts).view(targets.shape) for parts in zip(*scored, strict=True))
        return nats, hit
    log_probabilities = torch.log_softmax(logits_of(states).float(), dim=-1)
    nats = -log_probabilities.gather(-1, targets[..., None])[..., 0].double()
    return nats, log_probabilities.argmax(-1) == targets
