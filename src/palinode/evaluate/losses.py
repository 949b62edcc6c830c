"""Losses on a split: every token is scored, in fixed windows. Parameters do not change, and no global random stream is used.

A sum of nats is the sum of loss weight * nats. nats/token = sum of nats / number of scored tokens; where an objective gives its
Examples a `loss_denominator`, the sum of these numbers divides the nats. bits/byte = sum of nats / (ln 2 * bytes of the scored
targets), which is one division of two sums; the bytes of a token count once, however often the token is scored.
perplexity = exp(nats/token). Auxiliary terms cannot be part of these losses, because this code gets only logits and Examples.
Legend: B rows, T slots, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palinode.base.config import Config
from palinode.base.example import NO_SOURCE, Draw, Example, SpecialTokens, Windows
from palinode.base.measures import PASS_MEASURES
from palinode.base.seeds import generator
from palinode.models.base import LanguageModel
from palinode.models.direction import read
from palinode.objectives import LtrObjective, Objective, Progress, RtlObjective
from palinode.objectives.label_mask import Labels, masked

LARGEST_EXPONENT = 700  # the exponential of a slightly larger number overflows float64


class DirectionScores(Config):
    """The sums over all scored targets of one evaluation pass. Ratios are computed from these sums, never averaged.

    Attributes:
        nats_sum: the sum of loss weight * nats.
        bytes_scored: the bytes of the scored tokens; a token that is scored several times counts once.
        loss_denominator: the sum of the loss denominators of the Examples; None if they have none.
    """

    tokens_scored: int
    nats_sum: float
    bytes_scored: int
    hits: int
    loss_denominator: float | None = None

    @property
    def nats_per_token(self) -> float:
        return self.nats_sum / (self.tokens_scored if self.loss_denominator is None else self.loss_denominator)

    @property
    def bits_per_byte(self) -> float | None:
        """The bits per byte; None when the targets have no bytes (synthetic tasks)."""
        return self.nats_sum / (math.log(2) * self.bytes_scored) if self.bytes_scored else None

    @property
    def accuracy(self) -> float:
        return self.hits / self.tokens_scored

    @property
    def perplexity(self) -> float | None:
        """The perplexity; None when it would overflow."""
        return math.exp(self.nats_per_token) if self.nats_per_token < LARGEST_EXPONENT else None

    def as_row(self) -> dict[str, float | int | None]:
        """The sums and the ratios by name, as the records of runs store them."""
        return {**self.model_dump(exclude_none=True), **{name: getattr(self, name) for name in PASS_MEASURES}}


@dataclass(frozen=True)
class TokenHits:
    """All scored tokens of a pass. Each field has shape (tokens,): window number, index in the window, 1 for a right guess."""

    window: Tensor
    index: Tensor
    hit: Tensor


@dataclass
class Evaluation:
    """The scores of every pass, and for each window its nats, scored tokens and hits (for paired comparisons and the audit).

    `token_hits` has every scored token when `evaluate` was called with `keep_tokens`; otherwise it is empty.
    """

    scores: dict[str, DirectionScores]
    window_nats: dict[str, list[float]] = field(default_factory=dict)
    window_scored: dict[str, list[int]] = field(default_factory=dict)
    window_hits: dict[str, list[int]] = field(default_factory=dict)
    token_hits: dict[str, TokenHits] = field(default_factory=dict)

    def as_rows(self) -> dict[str, dict[str, float | int | None]]:
        """The scores of each pass by name, as the records of runs store them."""
        return {name: scores.as_row() for name, scores in self.scores.items()}


class PassBatch(NamedTuple):
    """A batch of windows as one pass scores it: the pass name, the windows, their decisions, and the Example made of both."""

    name: str
    windows: Windows
    draw: Draw
    example: Example


@dataclass(frozen=True)
class Scoring:
    """How windows become scored Examples. The rules are the same for every pass.

    Attributes:
        bytes_per_token: the number of bytes of each id, of shape (tokenizer vocabulary,); special ids have 0 bytes.
        seed: the seed of the random decisions that an objective makes.
        labels: the rule that selects the scored targets.
    """

    specials: SpecialTokens
    bytes_per_token: NDArray[np.int64]
    seed: int
    labels: Labels = "all"

    def bytes_of_ids(self) -> Tensor:
        """The number of bytes of each id, of shape (V,)."""
        table = torch.zeros(self.specials.vocab_size, dtype=torch.int64)
        table[: len(self.bytes_per_token)] = torch.from_numpy(np.asarray(self.bytes_per_token, dtype=np.int64))
        return table

    def example(self, objective: Objective, windows: Windows, draw: Draw) -> Example:
        """The objective's Example of windows for the decisions in `draw`. Targets that are not labels get the weight 0."""
        example = objective.example(windows.tokens, windows.decisions(draw), self.specials)
        return masked(example, windows, self.labels)

    def examples(
        self, windows: Iterable[Windows], passes: Mapping[str, Objective], numbers: Sequence[int] | None = None
    ) -> Iterator[tuple[str, Example]]:
        """(pass name, Example) for every batch and pass, except Examples without slots. Arguments: those of `evaluate`."""
        return ((batch.name, batch.example) for batch in self.batches(windows, passes, numbers))

    def batches(
        self, windows: Iterable[Windows], passes: Mapping[str, Objective], numbers: Sequence[int] | None = None
    ) -> Iterator[PassBatch]:
        """Every batch of windows as every pass scores it, except where the Example has no slots. Arguments: those of `evaluate`."""
        first = 0
        for batch in windows:
            last = first + len(batch)
            own_numbers = range(first, last) if numbers is None else numbers[first:last]
            first = last
            for name, objective in passes.items():
                draw = window_draws(objective, batch.tokens.shape[1], self.seed, own_numbers)
                example = self.example(objective, batch, draw)
                if example.inputs.numel():
                    yield PassBatch(name, batch, batch.decisions(draw), example)


def evaluation_passes(objective: Objective, directions: Iterable[str]) -> dict[str, Objective]:
    """The passes of an evaluation, by name.

    The passes are the given directions as the objective defines them (none for an objective without directions). The passes
    that `objective.evaluation()` adds to ltr and rtl are included. If training uses a pass other than all of these, the
    objective itself is one more pass, named `own`.
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
    observe: Callable[[PassBatch, ScoredSlots], None] = lambda batch, slots: None,
    score: ScoreBatches | None = None,
) -> Evaluation:
    """Score every window once for every pass, in eval mode without gradients. The model's mode is restored afterwards.

    Window n draws its decisions from the random stream (`evaluation`, n), so neither the batch size nor the order of the
    windows changes a decision.

    Args:
        windows: batches of (B, window_tokens) windows. The last batch may be smaller in both dimensions.
        passes: name -> the objective whose Examples are scored.
        numbers: the number of each window, in the order of `windows`. The default is 0, 1, 2, ..
        keep_tokens: whether the result keeps, for every scored token, whether it was a hit (24 bytes per token). This is meant
            for tasks, which have few answers.
        observe: a function that gets every batch and its scored slots, after their scores were added.
        score: how the batches are scored; by default by `model`, one after the other.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    bytes_of, score = scoring.bytes_of_ids(), score or partial(score_in_turn, model)
    sums = {name: Sums(tokens_kept=[] if keep_tokens else None) for name in passes}
    with evaluating(model):
        for batch, slots in score(scoring.batches(windows, passes, numbers)):
            here = batch.example.to(slots.nats.device)
            sums[batch.name].add_slots(here, slots, bytes_of, len(batch.windows))
            observe(batch, slots)
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
    """A context for evaluation: the model is in eval mode without gradients. The model's mode is restored at the end."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def window_draws(objective: Objective, window_tokens: int, seed: int, numbers: Iterable[int]) -> Draw:
    """The decisions of the windows with these numbers. Each window draws separately from the `evaluation` stream."""
    draws = [objective.draw(1, window_tokens, generator(seed, "evaluation", n), Progress()) for n in numbers]
    return Draw({name: torch.cat([draw[name] for draw in draws]) for name in draws[0].decisions})


class ScoredSlots(NamedTuple):
    """The slots of one Example, each of shape (B, T): whether the slot is scored, weight * nats (0 if not), and a right guess."""

    scored: Tensor
    nats: Tensor
    hit: Tensor


# Scores batches in their order. Several processes may share the batches; then each gets the slots of all batches.
ScoreBatches = Callable[[Iterable[PassBatch]], Iterator[tuple[PassBatch, ScoredSlots]]]


def score_in_turn(model: LanguageModel, batches: Iterable[PassBatch]) -> Iterator[tuple[PassBatch, ScoredSlots]]:
    """Score one batch after the other. A `ScoreBatches` with its first argument."""
    device = device_of(model)
    for batch in batches:
        yield batch, slots_scored_by(model, batch.example.to(device))


def slots_scored_by(model: LanguageModel, example: Example) -> ScoredSlots:
    """The scores of an example by a model, in pieces of at most as many logits as the model allows at once."""
    most = model.logits_at_once
    return scored_slots(example, read(model, example), model.logits, most and max(1, most // model.vocab_size))


def scored_slots(
    example: Example, states: Tensor, logits_of: Callable[[Tensor], Tensor], slots_at_once: int | None = None
) -> ScoredSlots:
    """The scores of (B, T, D) states against the example's targets. The arguments are those of `Sums.add`."""
    scored = is_scored(example)
    nats, hit = nats_and_hits(logits_of, states, example.targets, slots_at_once)
    return ScoredSlots(scored, torch.where(scored, nats * example.loss_weight, 0.0), hit & scored)


def is_scored(example: Example) -> Tensor:
    """(B, T) whether each slot is scored."""
    return (example.loss_weight > 0) & (example.target_source != NO_SOURCE)


@dataclass
class Sums:
    """The running sums over scored targets, and the sums of each window.

    `tokens_kept` is a list that collects the hit of each target, or None.
    """

    tokens: int = 0
    nats: float = 0.0
    bytes: int = 0
    hits: int = 0
    denominator: float | None = None
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
        windows: int | None = None,
    ) -> ScoredSlots:
        """Score (B, T, D) states against the example's targets, and return what the sums were computed from.

        Args:
            logits_of: a function that maps (..., D) states to (..., V) logits.
            bytes_of: the number of bytes of each id, of shape (V,).
            slots_at_once: the number of slots that have logits at the same time. The default is all slots.
            windows: the number of windows of the batch. The default: up to the last window that has a row.
        """
        slots = scored_slots(example, states, logits_of, slots_at_once)
        self.add_slots(example, slots, bytes_of, windows)
        return slots

    def add_slots(self, example: Example, slots: ScoredSlots, bytes_of: Tensor, windows: int | None = None) -> None:
        """Add the slots of an example that were scored before. The arguments are those of `add`."""
        scored, window_row = slots.scored, example.window_row.cpu()
        count = int(window_row.max()) + 1 if windows is None else windows
        window_nats = _by_window(slots.nats.sum(-1), window_row, count)
        self.tokens += int(scored.sum())
        self.nats += float(window_nats.sum())
        self.bytes += _bytes_of_tokens(example, scored, bytes_of)
        if example.loss_denominator is not None:
            self.denominator = (self.denominator or 0.0) + example.loss_denominator
        if self.tokens_kept is not None:
            row, slot = scored.nonzero(as_tuple=True)
            window = example.window_row[row] + len(self.window_nats)
            kept = (window, example.target_source[row, slot], slots.hit[row, slot].long())
            self.tokens_kept.append(torch.stack(kept).cpu())
        self.hits += int(slots.hit.sum())
        self.window_nats.extend(window_nats.tolist())
        self.window_scored.extend(_by_window(scored.sum(-1), window_row, count).tolist())
        self.window_hits.extend(_by_window(slots.hit.sum(-1), window_row, count).tolist())

    def token_hits(self) -> TokenHits | None:
        """All scored tokens, or None when the tokens were not kept."""
        if not self.tokens_kept:
            return None
        window, index, hit = torch.cat(self.tokens_kept, 1)
        return TokenHits(window, index, hit.bool())

    def scores(self) -> DirectionScores:
        """The sums as the records of runs store them.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        if not math.isfinite(self.nats):
            raise FloatingPointError("the loss of an evaluation is not finite")
        return DirectionScores(
            tokens_scored=self.tokens,
            nats_sum=self.nats,
            bytes_scored=self.bytes,
            hits=self.hits,
            loss_denominator=self.denominator,
        )


def _by_window(of_rows: Tensor, window_row: Tensor, windows: int) -> Tensor:
    """(windows,) the sums over the rows of each window, on the CPU, from (B,) numbers of rows."""
    values = of_rows.cpu()
    return torch.zeros(windows, dtype=values.dtype).index_add(0, window_row, values)


def _bytes_of_tokens(example: Example, scored: Tensor, bytes_of: Tensor) -> int:
    """The bytes of the scored tokens of the windows. A token that several slots score counts once."""
    row, slot = scored.cpu().nonzero(as_tuple=True)
    token, window = example.target_source.cpu()[row, slot], example.window_row.cpu()[row]
    if not len(row):
        return 0
    place = window * (int(token.max()) + 1) + token
    _, first = np.unique(place.numpy(), return_index=True)
    return int(bytes_of[example.targets.cpu()[row, slot]][first].sum())


def nats_and_hits(
    logits_of: Callable[[Tensor], Tensor], states: Tensor, targets: Tensor, slots_at_once: int | None
) -> tuple[Tensor, Tensor]:
    """(B, T) float64 nats of the targets, and whether each target is the most probable id (the lowest id among equals)."""
    if slots_at_once is not None and slots_at_once < targets.numel():
        states, flat = states.flatten(0, 1), targets.flatten()
        pieces = zip(torch.split(states, slots_at_once), torch.split(flat, slots_at_once), strict=True)
        scored = [nats_and_hits(logits_of, some, wanted, None) for some, wanted in pieces]
        nats, hit = (torch.cat(parts).view(targets.shape) for parts in zip(*scored, strict=True))
        return nats, hit
    log_probabilities = torch.log_softmax(logits_of(states).float(), dim=-1)
    nats = -log_probabilities.gather(-1, targets[..., None])[..., 0].double()
    return nats, log_probabilities.argmax(-1) == targets
