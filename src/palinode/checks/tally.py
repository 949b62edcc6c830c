"""Judging influence: what was seen and may not be (the law), what may be seen and was not (the control).

The law: a pair (source, target) that the objective's definition forbids, and a target with itself, stays below 1e-12 of the
logits' spread. The control: the nearest allowed source moves its target by more than 1e-3; without that a dead or wrongly
shifted network would pass. A model that sees its nearest tokens and not all others may be meant to: it is told to say so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from palinode.base.finding import Finding
from palinode.base.measures import CheckOutcome
from palinode.checks.bench import COARSE_TOLERANCE, TOLERANCE, Bench
from palinode.checks.influence import Influence

NOISE_FACTOR = 100.0
FINEST_NOISE = 1e-11  # more than this between two identical rows is coarse arithmetic
SEEN = 1e-9
NEAREST_SEEN = 1e-3  # measured minima at gain 1: 1e-3 to 6e-2
LARGEST = 1e9  # an undefined logit counts as this: JSON has no infinity
LAW = "no target is influenced by itself, or by a window token that may_inform forbids"
CONTROL_LAW = "every target is influenced by its nearest allowed token, and by all allowed tokens within reach"


@dataclass(frozen=True)
class Setting:
    """Under which circumstances influence was measured: enough to measure it again.

    `gain` scales the random matrices; None are the module's own weights. `window`: random, repeats or equal ids.
    """

    length_tokens: int
    gain: float | None = 1.0
    training: bool = False
    window: str = "random"
    draw: int = 0
    pass_seed: int = 0

    @property
    def mode(self) -> str:
        """The module's mode by name."""
        return "train" if self.training else "eval"

    @property
    def words(self) -> str:
        """One phrase for messages."""
        weights = "own weights" if self.gain is None else f"gain {self.gain:g}"
        ids = "" if self.window == "random" else f", {self.window} ids"
        return f"length {self.length_tokens}, {weights}, {self.mode} mode{ids}"

    @property
    def is_control(self) -> bool:
        """Do the bounds of the control hold here? They are calibrated for gain 1."""
        return self.gain == 1.0 and not self.training and self.window == "random"

    def reproduce(self) -> dict[str, Any]:
        """The finding's `reproduce` table."""
        fields = {"length_tokens": self.length_tokens, "gain": self.gain, "mode": self.mode}
        return {**fields, "window": self.window, "draw": self.draw, "pass_seed": self.pass_seed}


@dataclass(frozen=True)
class Pair:
    """One measured (source, target) pair."""

    source: int
    target: int
    influence: float
    setting: Setting

    def reproduce(self) -> dict[str, Any]:
        """Where it was seen."""
        return {"source": self.source, "target": self.target, **self.setting.reproduce()}


@dataclass(frozen=True)
class Leak:
    """What one run leaked, with the pair to show: a target that sees itself where there is one."""

    shown: Pair
    tolerance: float
    forbidden_pairs: int
    leaking_pairs: int
    scored_targets: int
    leaking_targets: int
    targets_seeing_themselves: int


@dataclass
class Tally:
    """Everything measured about one pass, run after run."""

    group: str
    scores_itself: bool
    reach_tokens: int | None
    coarse: bool
    runs: int = 0
    largest_clean: float = 0.0
    leaks: list[Leak] = field(default_factory=list)
    coarse_runs: list[Setting] = field(default_factory=list)
    allowed_pairs: int = 0
    allowed_seen: int = 0
    weakest_nearest: Pair | None = None
    blindest: Pair | None = None
    pictures: dict[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, bench: Bench, group: str) -> Tally:
        """An empty tally for one pass."""
        return cls(group, bench.subject.objective.scores_itself, bench.reach_tokens(group), bench.coarse)

    def add(self, setting: Setting, found: Influence, allowed: Tensor) -> None:
        """Judge one run. `allowed` is the (N, N) contract by source and target."""
        self.runs += 1
        itself = torch.eye(allowed.shape[0], dtype=torch.bool)
        outside = ~allowed if self.scores_itself else ~allowed | itself
        self._add_forbidden(setting, found, (outside & found.scored)[found.sources])
        if setting.is_control:
            self._add_allowed(setting, found, (allowed & ~itself & found.scored)[found.sources])
        if not self.pictures and len(found.sources) == allowed.shape[0]:
            self.pictures = {
                f"{self.group} influence": _rows(found.matrix.T.clamp_max(LARGEST)),
                f"{self.group} allowed": _rows((allowed & found.scored).T.double()),
            }

    def law(self, seed: int) -> Finding:
        """C1.perturbation: what may not be seen."""
        outcome, message = self._law_verdict()
        first = self._headline()
        most = max(self.leaks, key=lambda leak: leak.leaking_pairs, default=None)
        gains = [leak.shown.setting.gain for leak in self.leaks if leak.shown.setting.gain is not None]
        return Finding(
            check="C1.perturbation",
            outcome=outcome,
            law=LAW,
            message=f"{self.group}: {message}",
            numbers={
                "worst_forbidden_influence": first.shown.influence if first else self.largest_clean,
                "runs": self.runs,
                "leaking_runs": len(self.leaks),
                "most_leaking_pairs": most.leaking_pairs if most else 0,
                "most_targets_seeing_themselves": max(
                    (leak.targets_seeing_themselves for leak in self.leaks), default=0
                ),
                "smallest_leaking_gain": min(gains, default=None),
            },
            threshold=first.tolerance if first else TOLERANCE,
            reproduce={"pass": self.group, "seed": seed, **(first.shown.reproduce() if first else {})},
            pictures=self.pictures,
        )

    def control(self, seed: int) -> Finding:
        """C1.two-sided: what should be seen, the positive control."""
        outcome, message, pair = self._control_verdict()
        return Finding(
            check="C1.two-sided",
            outcome=outcome,
            law=CONTROL_LAW,
            message=f"{self.group}: {message}",
            numbers={
                "nearest_influence": self.weakest_nearest.influence if self.weakest_nearest else None,
                "allowed_pairs": self.allowed_pairs,
                "allowed_pairs_seen": self.allowed_seen,
                "reach_tokens": self.reach_tokens,
            },
            threshold=NEAREST_SEEN,
            reproduce={"pass": self.group, "seed": seed, **(pair.reproduce() if pair else {})},
        )

    def _add_forbidden(self, setting: Setting, found: Influence, outside: Tensor) -> None:
        fine = not self.coarse and found.noise <= FINEST_NOISE
        tolerance = max(TOLERANCE if fine else COARSE_TOLERANCE, NOISE_FACTOR * found.noise)
        if not fine:
            self.coarse_runs.append(setting)
        leaking = outside & (found.matrix > tolerance)
        if not leaking.any():
            self.largest_clean = max(self.largest_clean, *found.matrix[outside].tolist(), 0.0)
            return
        own = leaking & (found.sources[:, None] == torch.arange(outside.shape[1]))
        shown = _pair(found, own if own.any() else leaking, setting, largest=True)
        counts = (outside.sum(), leaking.sum(), found.scored.sum(), leaking.any(0).sum(), own.sum())
        self.leaks.append(Leak(shown, tolerance, *(int(count) for count in counts)))

    def _add_allowed(self, setting: Setting, found: Influence, inside: Tensor) -> None:
        distance = (found.sources[:, None] - torch.arange(inside.shape[1])).abs()
        if self.reach_tokens is not None:
            inside = inside & (distance <= self.reach_tokens)
        blind = inside & (found.matrix <= SEEN)
        self.allowed_pairs += int(inside.sum())
        self.allowed_seen += int((inside & ~blind).sum())
        if blind.any():
            self.blindest = _weaker(self.blindest, _pair(found, blind, setting, largest=False))
        if inside.any() and len(found.sources) == inside.shape[1]:
            far = distance.masked_fill(~inside, inside.shape[1])
            nearest = inside & (far == far.min(0).values)
            # of two equally near tokens one is enough
            strongest = nearest & (found.matrix == found.matrix.masked_fill(~nearest, -1.0).max(0).values)
            self.weakest_nearest = _weaker(self.weakest_nearest, _pair(found, strongest, setting, largest=False))

    def _headline(self) -> Leak | None:
        """The first leak that shows a target seeing itself, else the first."""
        return next((leak for leak in self.leaks if leak.targets_seeing_themselves), next(iter(self.leaks), None))

    def _law_verdict(self) -> tuple[CheckOutcome, str]:
        if (first := self._headline()) is not None:
            return "fail", _leak_sentence(first, self.leaks)
        if self.coarse_runs:
            return "could_not_tell", f"the arithmetic is too coarse to rule a leak out ({self.coarse_runs[0].words})"
        if self.weakest_nearest is None or self.weakest_nearest.influence <= NEAREST_SEEN:
            return (
                "could_not_tell",
                "nothing forbidden was seen, but neither were the nearest allowed tokens (C1.two-sided)",
            )
        return (
            "pass",
            f"no target sees itself or a forbidden token ({self.runs} runs, at most {self.largest_clean:.1e})",
        )

    def _control_verdict(self) -> tuple[CheckOutcome, str, Pair | None]:
        nearest, blind = self.weakest_nearest, self.blindest
        if nearest is None:
            return "could_not_tell", "no allowed pair was measured", None
        if nearest.influence <= NEAREST_SEEN:
            text = (
                f"target {nearest.target} does not see its nearest allowed token {nearest.source} ({nearest.influence:.1e}, needs "
                f"{NEAREST_SEEN:g}; {nearest.setting.words}): a wrong shift, a mask that is too strict, or a dead path"
            )
            return "fail" if nearest.influence <= SEEN else "could_not_tell", text, nearest
        if blind is not None:
            text = (
                f"target {blind.target} does not see the allowed token {blind.source} ({blind.influence:.1e}; "
                f"{blind.setting.words}); {self.allowed_seen / self.allowed_pairs:.1%} of allowed pairs are seen: "
                f"declare reach_tokens if that is meant"
            )
            return "could_not_tell", text, blind
        return (
            "pass",
            f"all {self.allowed_pairs} allowed pairs are seen, the nearest by {nearest.influence:.1e} or more",
            nearest,
        )


def _leak_sentence(first: Leak, leaks: Iterable[Leak]) -> str:
    pair = first.shown
    lengths = ", ".join(str(n) for n in sorted({leak.shown.setting.length_tokens for leak in leaks}))
    itself = f"{first.targets_seeing_themselves} of {first.scored_targets} targets see themselves, "
    return (
        f"target {pair.target} is seen from source {pair.source} (influence {pair.influence:.2g}, allowed {first.tolerance:.0e}; "
        f"{pair.setting.words}); {itself if first.targets_seeing_themselves else ''}{first.leaking_targets} of "
        f"{first.scored_targets} see a token they may not ({first.leaking_pairs} of {first.forbidden_pairs} forbidden pairs); "
        f"leaks at length {lengths}"
    )


def _pair(found: Influence, among: Tensor, setting: Setting, *, largest: bool) -> Pair:
    """The pair with the largest (smallest) influence among some."""
    values = found.matrix.masked_fill(~among, -1.0 if largest else torch.inf)
    row, target = divmod(int(values.argmax() if largest else values.argmin()), values.shape[1])
    return Pair(int(found.sources[row]), target, min(float(found.matrix[row, target]), LARGEST), setting)


def _weaker(kept: Pair | None, pair: Pair) -> Pair:
    return pair if kept is None or pair.influence < kept.influence else kept


def _rows(matrix: Tensor) -> tuple[tuple[float, ...], ...]:
    """Two digits are enough for a picture; what is below the tolerance is nothing."""
    return tuple(tuple(float(f"{value:.2g}") if value > TOLERANCE else 0.0 for value in row) for row in matrix.tolist())
