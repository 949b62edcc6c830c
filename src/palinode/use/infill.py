"""Infilling: what stands in a gap of M tokens between a text before it and a text after it.

`resample`, for models that read in a direction: candidates x are drawn from what the model would write there, ltr after the text
before, rtl before the text after, and half of them each way if the model was trained both ways. The candidate x gets the weight
p(x, after | before) / q(x), where q is the distribution that it was drawn from. The weights of equal candidates are added: one of
them alone would make the answer depend on how often it was drawn. The share of a candidate in all weights estimates
p(x | before, after). Candidates are ranked by p(x, after | before), never by the weight. p is the direction with the lower
validation loss; for rtl it is p(x, before | after).

`order`, for models that fill masks: the gap is filled from left to right, and each token sees the text on both sides. Candidates
are drawn from p(x | before, after) itself.

All probabilities are among the ids of text, without the special tokens. Legend: B rows, C candidates, M tokens
of the gap, V vocabulary.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palinode.base.errors import BadInput, nearest
from palinode.base.measures import Direction
from palinode.base.seeds import derive, generator
from palinode.base.visibility import Full
from palinode.evaluate.losses import device_of, evaluating
from palinode.evaluate.sliding import SlidingContext
from palinode.objectives import MaskedObjective
from palinode.spec.trained import Trained
from palinode.use.generate import Sampling, drawn_tokens, generate, probabilities, uniform_numbers

Method = Literal["resample", "order"]
LEAST_EFFECTIVE = 4.0  # with fewer effective candidates, the shares are mostly chance
Ids = tuple[int, ...]


@dataclass(frozen=True)
class Gap:
    """A gap in token ids: what stands before it, what stands after it, and its length in tokens."""

    before: Ids
    after: Ids
    tokens: int

    def within(self, window_tokens: int) -> Gap:
        """The gap with as much of its two sides as fits into a window: half for each, or more where the other side is short.

        Raises:
            BadInput: the gap leaves no room for text.
        """
        room = window_tokens - self.tokens
        if self.tokens < 1 or room < 1:
            message = f"must be from 1 to {window_tokens - 1}, as a window has {window_tokens}, got {self.tokens}"
            raise BadInput(message, field="tokens")
        after = min(len(self.after), max(room // 2, room - len(self.before)))
        before = min(len(self.before), room - after)
        return Gap(self.before[len(self.before) - before :], self.after[:after], self.tokens)

    def filled(self, middle: Sequence[int]) -> list[int]:
        """The ids with this middle in the gap."""
        return [*self.before, *middle, *self.after]


@dataclass(frozen=True)
class Middle:
    """One way to fill a gap.

    Attributes:
        nats: -ln p(middle | before, after); by `resample` the model's p(middle, after | before) over its sum, which the candidates
            estimate.
        share: the share of this middle in the weights of all candidates.
    """

    ids: Ids
    nats: float
    share: float


@dataclass(frozen=True)
class Middles:
    """The distinct candidates of a gap, the most probable first.

    Attributes:
        by: the method.
        direction: the direction whose probability ranks the middles; None for `order`.
        effective: (sum of weights)^2 / sum of squared weights, the number of equally heavy candidates that would say as much.
        drawn: the indices of middles that were drawn by their shares.
    """

    by: Method
    direction: Direction | None
    middles: tuple[Middle, ...]
    effective: float
    drawn: tuple[int, ...]


def methods(trained: Trained, directions: Sequence[Direction]) -> tuple[Method, ...]:
    """The methods by which a model that was trained in these directions can fill a gap."""
    objective = trained.spec.objective
    if isinstance(objective, MaskedObjective) and objective.rate:
        return ("order",)
    return ("resample",) if directions else ()


def infill_ids(
    trained: Trained,
    gap: Gap,
    seed: int,
    *,
    directions: Sequence[Direction],
    rows: int = 1,
    candidates: int = 32,
    by: str = "auto",
) -> Middles:
    """Fill a gap. The same seed gives the same middles.

    Args:
        directions: the directions in which the model was trained; the first one is that whose probability counts.
        rows: the number of middles that are drawn by their shares.
        candidates: C, the number of candidates that are drawn.
        by: `resample`, `order`, or `auto`, the method that the model has.

    Raises:
        BadInput: the model does not have the method, the gap does not fit into a window, or a text of an objective without a
            direction token is empty.
    """
    able = methods(trained, directions)
    if by not in ("auto", *able):
        what = f"this model was trained on {trained.spec.objective.kind_name()!r}; it has {', '.join(able) or 'none'}"
        raise BadInput(what, field="by", hint=nearest(by, get_args(Method)) if by not in get_args(Method) else None)
    if not able:
        raise BadInput(f"was trained on {trained.spec.objective.kind_name()!r}, which fills no gap", field="objective")
    if candidates < 1 or rows < 1:
        raise BadInput("must be at least 1", field="candidates" if candidates < 1 else "rows")
    gap = gap.within(trained.spec.data.window_tokens)
    if able[0] == "order":
        ids, nats = _in_order(trained, gap, candidates, seed)
        found = _middles("order", None, ids, {middle: -value for middle, value in zip(ids, nats, strict=True)}, {}, 0.0)
    else:
        found = _resampled(trained, gap, candidates, seed, directions)
        if found.effective < LEAST_EFFECTIVE:
            message = f"only {found.effective:.1f} of {candidates} candidates count: ask for more candidates"
            warnings.warn(message, stacklevel=3)
    shares = np.cumsum([middle.share for middle in found.middles])
    uniform = torch.rand(rows, generator=generator(seed, "infill", "rows"), dtype=torch.float64).numpy()
    drawn = np.searchsorted(shares, uniform * shares[-1], side="right")
    return Middles(found.by, found.direction, found.middles, found.effective, tuple(drawn.tolist()))


def _resampled(trained: Trained, gap: Gap, candidates: int, seed: int, directions: Sequence[Direction]) -> Middles:
    """Middles by importance resampling from what the model writes in its directions."""
    counts = {way: len(range(place, candidates, len(directions))) for place, way in enumerate(directions)}
    ids: list[Ids] = []
    for way, count in counts.items():
        if count:
            ids += _written(trained, gap, way, count, derive(seed, "infill", way))
    distinct = list(dict.fromkeys(ids))
    proposal = np.full(len(distinct), -np.inf)
    joint: NDArray[np.float64] = np.zeros(0)
    for way, count in counts.items():
        own, whole = _log_probabilities(trained, gap, distinct, way)
        if count:
            proposal = np.logaddexp(proposal, own + math.log(count / candidates))
        joint = whole if way == directions[0] else joint
    log_joint = dict(zip(distinct, joint.tolist(), strict=True))
    log_weight = dict(zip(distinct, (joint - proposal).tolist(), strict=True))
    total = float(np.logaddexp.reduce([log_weight[one] for one in ids]))
    return _middles("resample", directions[0], ids, log_joint, log_weight, total - math.log(len(ids)))


def _middles(
    by: Method,
    direction: Direction | None,
    ids: Sequence[Ids],
    log_p: dict[Ids, float],
    log_weight: dict[Ids, float],
    log_total: float,
) -> Middles:
    """The distinct middles of all candidates, ranked by `log_p`; a candidate without a weight has the weight 1.

    Args:
        log_total: ln of the sum of p over all middles that could stand in the gap.
    """
    weights = np.array([log_weight.get(one, 0.0) for one in ids])
    weights = np.exp(weights - weights.max())
    share: Counter[Ids] = Counter()
    for one, weight in zip(ids, (weights / weights.sum()).tolist(), strict=True):
        share[one] += weight
    ranked = sorted(share, key=lambda one: (-log_p[one], one))
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    return Middles(
        by, direction, tuple(Middle(one, log_total - log_p[one], share[one]) for one in ranked), effective, ()
    )


def _written(trained: Trained, gap: Gap, direction: Direction, count: int, seed: int) -> list[Ids]:
    """`count` middles as the model writes them in one direction, which sees one side of the gap."""
    prompt = gap.before if direction == "ltr" else gap.after
    rows = generate(trained, prompt, gap.tokens, seed, direction=direction, rows=count)
    new = rows[:, len(prompt) :] if direction == "ltr" else rows[:, : gap.tokens]
    return [tuple(row) for row in new.tolist()]


def _log_probabilities(
    trained: Trained, gap: Gap, middles: Sequence[Ids], direction: Direction
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(C,) ln p of each middle given the side that is read before it, and (C,) ln p of the middle and the other side given it."""
    spec = trained.spec
    window_tokens = spec.data.window_tokens
    options = {"stride": window_tokens, "only_text": True}
    context = SlidingContext.of(trained.model, trained.specials, spec.objective, direction, window_tokens, **options)
    nats = np.stack(context.nats([gap.filled(middle) for middle in middles]))
    first, last = len(gap.before), len(gap.before) + gap.tokens
    read_last = nats[:, last:] if direction == "ltr" else nats[:, :first]
    own = nats[:, first:last].sum(1)
    return -own, -(own + read_last.sum(1))


def _in_order(trained: Trained, gap: Gap, rows: int, seed: int) -> tuple[list[Ids], list[float]]:
    """B = `rows` middles, each filled from left to right, and their nats given both sides."""
    model, specials = trained.model, trained.specials
    row = torch.tensor(gap.filled([specials["[MASK]"]] * gap.tokens), device=device_of(model)).repeat(rows, 1)
    uniform = uniform_numbers(derive(seed, "infill", "order"), rows, range(gap.tokens))
    nats = torch.zeros(rows, dtype=torch.float64)
    first = len(gap.before)
    with evaluating(model):
        for index in range(gap.tokens):
            chances = probabilities(_logits_at(trained, row, first + index), Sampling())
            chosen = drawn_tokens(chances, uniform[index])
            nats -= chances.gather(1, chosen[:, None])[:, 0].log()
            row[:, first + index] = chosen.to(row.device)
    return [tuple(one) for one in row[:, first : first + gap.tokens].tolist()], nats.tolist()


def _logits_at(trained: Trained, row: Tensor, slot: int) -> Tensor:
    """(B, V) float64 logits of the ids of text at one slot of (B, T) rows, which are read from both sides."""
    states = trained.model.hidden(row, Full())[:, slot]
    return trained.model.logits(states)[:, : trained.specials.first_id].double().cpu()
