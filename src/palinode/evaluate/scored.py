"""Derives what the sum of nats of an evaluation pass is about: the scored tokens T, the given tokens G, and the kind of the sum.

All three follow from `may_inform`, which is the definition of the objective, and from the sources and weights of the targets. The
model is not read. Windows with the same decisions and the same scored tokens give the same answer, which is derived once.
Legend: B rows, T slots, N tokens of a window, W windows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palinode.base.contract import allowed_pairs, is_acyclic
from palinode.base.errors import Unfinished
from palinode.base.example import NO_SOURCE, Draw
from palinode.evaluate.losses import PassBatch
from palinode.objectives import Objective
from palinode.results.scored import Kind, ScoredText

LONGEST_WINDOW_TOKENS = (
    8192  # the pairs of tokens of a longer window are not looked at: at this length they take 64 MiB
)
MOST_ANSWERS = 256  # the most answers that are kept for windows with equal decisions and equal scored tokens
WORST_FIRST: tuple[Kind, ...] = ("reconstruction", "pseudo", "likelihood")
NEITHER, SCORED, GIVEN = 0, 1, 2


class _Answer(NamedTuple):
    """The answer for one window: the kind, and (N,) uint8 the role of each token (NEITHER, SCORED, GIVEN)."""

    kind: Kind
    roles: NDArray[np.uint8]


@dataclass
class ScoredTextOf:
    """Collects the windows of one evaluation pass. After the last window, `result` says what the sum of nats is about."""

    objective: Objective
    _answers: dict[Any, _Answer] = field(default_factory=dict)
    _kinds: set[Kind] = field(default_factory=set)
    _counts: dict[int, Counter[str]] = field(default_factory=dict)  # window length -> windows, tokens of T, tokens of G
    _windows: Any = field(default_factory=hashlib.sha256)
    _roles: Any = field(default_factory=hashlib.sha256)
    _is_judged: bool = True

    def add(self, batch: PassBatch) -> None:
        """Add the windows of one batch, in order."""
        tokens = batch.windows.tokens
        if tokens.shape[1] > LONGEST_WINDOW_TOKENS:
            self._is_judged = False
        if not self._is_judged:
            return
        try:
            self._count(_Slots.of(batch), batch)
        except Unfinished:  # a user's objective without `may_inform`: the audit says so
            self._is_judged = False

    def _count(self, slots: _Slots, batch: PassBatch) -> None:
        tokens = batch.windows.tokens
        count = self._counts.setdefault(tokens.shape[1], Counter())
        for window in range(len(tokens)):
            answer = self._answer(slots, batch.draw, window)
            self._kinds.add(answer.kind)
            self._roles.update(answer.roles.tobytes())
            roles = np.bincount(answer.roles, minlength=GIVEN + 1)
            count.update(windows=1, tokens=int(roles[SCORED]), given=int(roles[GIVEN]))
        self._windows.update(tokens.numpy().astype("<i4").tobytes())

    def result(self) -> ScoredText | None:
        """What the sum of nats is about; None without windows, and if a window was too long to be judged."""
        if not self._counts or not self._is_judged:
            return None
        full = self._counts[max(self._counts)]
        return ScoredText(
            kind=next(kind for kind in WORST_FIRST if kind in self._kinds),
            tokens=full["tokens"] / full["windows"],
            given=full["given"] / full["windows"],
            windows=sum(count["windows"] for count in self._counts.values()),
            windows_sha256=self._windows.hexdigest(),
            tokens_sha256=self._roles.hexdigest(),
        )

    def _answer(self, slots: _Slots, draw: Draw, window: int) -> _Answer:
        decisions = draw.of_row(window)
        times = slots.times[:, window]
        decided = tuple((name, value.numpy().tobytes()) for name, value in sorted(decisions.decisions.items()))
        key = (decided, times.tobytes(), bool(slots.weights_are_equal[window]))
        if (answer := self._answers.get(key)) is None:
            answer = self._derived(slots, decisions, window)
            if len(self._answers) < MOST_ANSWERS:
                self._answers[key] = answer
        return answer

    def _derived(self, slots: _Slots, draw: Draw, window: int) -> _Answer:
        """The answer for one window, from the pairs of tokens that its passes allow."""
        times = slots.times[:, window]
        targets = torch.from_numpy(times.sum(0)).nonzero().flatten()
        allowed = torch.zeros(times.shape[1], len(targets), dtype=torch.bool)
        for group, in_group in zip(slots.groups, times, strict=True):
            here = torch.from_numpy(in_group)[targets] > 0
            if here.any():
                allowed[:, here] |= allowed_pairs(self.objective, group, draw, times.shape[1], targets[here])
        among = allowed[targets]
        roles = np.full(times.shape[1], NEITHER, dtype=np.uint8)
        roles[allowed.any(1).numpy()] = GIVEN
        roles[targets.numpy()] = SCORED
        return _Answer(self._kind(slots, window, among), roles)

    def _kind(self, slots: _Slots, window: int, among: Tensor) -> Kind:
        """The kind of the sum over one window, from the allowed pairs `among` its targets (targets, targets)."""
        if self.objective.scores_itself:
            return "reconstruction"
        each_once = bool((slots.times[:, window].sum(0) <= 1).all()) and bool(slots.weights_are_equal[window])
        return "likelihood" if each_once and is_acyclic(among & ~torch.eye(len(among), dtype=torch.bool)) else "pseudo"


@dataclass(frozen=True)
class _Slots:
    """The scored slots of one batch, by pass and window.

    Attributes:
        groups: the names of the passes (G of them).
        times: (G, W, N) int64: how often each pass scores each token.
        weights_are_equal: (W,) boolean: whether all scored slots of a window have the same loss weight.
    """

    groups: tuple[str, ...]
    times: NDArray[np.int64]
    weights_are_equal: NDArray[np.bool_]

    @classmethod
    def of(cls, batch: PassBatch) -> _Slots:
        """The scored slots of a batch."""
        example, (windows, length) = batch.example, batch.windows.tokens.shape
        scored = (example.loss_weight > 0) & (example.target_source != NO_SOURCE)
        times: Mapping[str, NDArray[np.int64]] = {
            group.name: np.zeros((windows, length), dtype=np.int64) for group, _ in example.by_group()
        }
        for group, rows in example.by_group():
            row, slot = scored[rows].nonzero(as_tuple=True)
            places = example.window_row[rows][row], example.target_source[rows][row, slot]
            np.add.at(times[group.name], tuple(place.numpy() for place in places), 1)
        least, most = np.full(windows, np.inf, np.float32), np.zeros(windows, np.float32)
        row, slot = scored.nonzero(as_tuple=True)
        window, weight = example.window_row[row].numpy(), example.loss_weight[row, slot].numpy()
        np.minimum.at(least, window, weight)
        np.maximum.at(most, window, weight)
        return cls(tuple(times), np.stack(list(times.values())), (most == 0) | (least == most))
