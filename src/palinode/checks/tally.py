"""The judgement of influence: pairs that were seen but are forbidden (the law), and allowed pairs that were not seen (the control).

The law: the influence of a pair (source, target) that the objective's definition forbids, and of a target on itself, stays below
1e-12 of the logits' standard deviation. The control: the nearest allowed source changes its target by more than 1e-3 of it; without
this control a dead or wrongly shifted network would pass. A model may be built to see its nearest tokens only: the message then
says to declare `reach_tokens`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from statistics import median_low
from typing import Any

import torch
from torch import Tensor

from palinode.base.finding import Finding
from palinode.base.measures import CheckOutcome
from palinode.checks.bench import COARSE_TOLERANCE, TOLERANCE, Bench
from palinode.checks.draws import forbidden_pairs, itself
from palinode.checks.influence import Influence
from palinode.checks.laws import LARGEST, finding

NOISE_FACTOR = 100.0
FINEST_NOISE = 1e-11  # a larger difference between two identical rows means coarse arithmetic
SEEN = 1e-9
# An influence that decays takes every size on its way down; a window ends the influence at once. Mamba2 and RWKV lose a factor of 2
# to 200 a token.
STEEPEST_DECAY = 1e-4
DECAYED = 1e-5  # as a share of typical influence: in a recurrence that decays, a pair this far apart may be below SEEN
NEAREST_SEEN = 1e-3  # the smallest influences measured at gain 1 are 1e-3 to 6e-2


@dataclass(frozen=True)
class Setting:
    """The circumstances of one measurement of influence: enough to measure it again.

    `gain` scales the random matrices; None means the module's own weights. `window` is the kind of window: random, repeats, equal,
    few, marker or single ids.
    """

    length_tokens: int
    gain: float | None = 1.0
    training: bool = False
    window: str = "random"
    draw: int = 0
    pass_seed: int = 0

    @property
    def mode(self) -> str:
        """The module's mode by name, `train` or `eval`."""
        return "train" if self.training else "eval"

    @property
    def phrase(self) -> str:
        """The circumstances in one phrase, for messages."""
        weights = "own weights" if self.gain is None else f"gain {self.gain:g}"
        ids = "" if self.window == "random" else f", {self.window} ids"
        return f"length {self.length_tokens}, {weights}, {self.mode} mode{ids}"

    @property
    def is_control(self) -> bool:
        """Whether the bounds of the control hold for this setting: they are calibrated for gain 1."""
        return self.gain == 1.0 and not self.training and self.window == "random"


@dataclass(frozen=True)
class Pair:
    """One (source, target) pair and its measured influence."""

    source: int
    target: int
    influence: float
    setting: Setting
    token_id: int | None = None

    @classmethod
    def extreme(cls, measured: Influence, among: Tensor, setting: Setting, *, largest: bool) -> Pair:
        """The pair with the largest (or smallest) influence among some pairs."""
        values = measured.matrix.masked_fill(~among, -1.0 if largest else torch.inf)
        row, target = divmod(int(values.argmax() if largest else values.argmin()), values.shape[1])
        return cls(
            int(measured.sources[row]),
            target,
            min(float(measured.matrix[row, target]), LARGEST),
            setting,
            int(measured.ids[row]),
        )

    def weaker(self, kept: Pair | None) -> Pair:
        """The pair with less influence: this pair or the pair `kept`. `kept` wins where both are equal."""
        return self if kept is None or self.influence < kept.influence else kept

    def reproduce(self) -> dict[str, Any]:
        """The values that a user needs to measure this pair again."""
        circumstances = {name: value for name, value in asdict(self.setting).items() if name != "training"}
        return {"source": self.source, "target": self.target, **circumstances, "mode": self.setting.mode}


@dataclass(frozen=True)
class Leak:
    """The leaks of one run, and the pair to show in the message: a target that sees itself where there is one."""

    shown: Pair
    tolerance: float
    forbidden_pairs: int
    leaking_pairs: int
    scored_targets: int
    leaking_targets: int
    seeing_themselves: int


@dataclass
class Tally:
    """All measurements of one pass, collected run after run."""

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
    by_distance: dict[int, list[float]] = field(default_factory=dict)
    pictures: dict[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, bench: Bench, group: str) -> Tally:
        """An empty tally for one pass."""
        return cls(group, bench.subject.objective.scores_itself, bench.reach_tokens(group), bench.coarse)

    def add(self, setting: Setting, measured: Influence, allowed: Tensor) -> None:
        """Judge one run and add it. `allowed` is the (window_tokens, window_tokens) contract by source and target."""
        self.runs += 1
        outside = forbidden_pairs(allowed, self.scores_itself)
        self._add_forbidden(setting, measured, (outside & measured.scored)[measured.sources])
        if setting.is_control:
            inside = allowed & ~itself(len(allowed)) & measured.scored
            self._add_allowed(setting, measured, inside[measured.sources])
        if not self.pictures and len(measured.sources) == allowed.shape[0]:
            self.pictures = {
                f"{self.group} influence": _rows(measured.matrix.T.clamp_max(LARGEST)),
                f"{self.group} allowed": _rows((allowed & measured.scored).T.double()),
            }

    def law(self, seed: int) -> Finding:
        """C1.perturbation: the finding about forbidden pairs."""
        outcome, message = self._law_verdict()
        first = self._headline()
        gains = [leak.shown.setting.gain for leak in self.leaks if leak.shown.setting.gain is not None]
        return finding(
            "C1.perturbation",
            outcome,
            f"{self.group}: {message}",
            {
                "worst_forbidden_influence": first.shown.influence if first else self.largest_clean,
                "runs": self.runs,
                "leaking_runs": len(self.leaks),
                "most_leaking_pairs": max((leak.leaking_pairs for leak in self.leaks), default=0),
                "most_targets_seeing_themselves": max((leak.seeing_themselves for leak in self.leaks), default=0),
                "smallest_leaking_gain": min(gains, default=None),
            },
            first.tolerance if first else TOLERANCE,
            reproduce={"pass": self.group, "seed": seed, **(first.shown.reproduce() if first else {})},
            pictures=self.pictures,
        )

    def control(self, seed: int) -> Finding:
        """C1.two-sided, the positive control: the finding about allowed pairs that the model should see."""
        outcome, message, pair = self._control_verdict()
        return finding(
            "C1.two-sided",
            outcome,
            f"{self.group}: {message}",
            {
                "nearest_influence": self.weakest_nearest.influence if self.weakest_nearest else None,
                "allowed_pairs": self.allowed_pairs,
                "allowed_pairs_seen": self.allowed_seen,
                "reach_tokens": self.reach_tokens,
            },
            NEAREST_SEEN,
            reproduce={"pass": self.group, "seed": seed, **(pair.reproduce() if pair else {})},
        )

    def _add_forbidden(self, setting: Setting, measured: Influence, outside: Tensor) -> None:
        fine = not self.coarse and measured.noise <= FINEST_NOISE
        tolerance = max(TOLERANCE if fine else COARSE_TOLERANCE, NOISE_FACTOR * measured.noise)
        if not fine:
            self.coarse_runs.append(setting)
        leaking = outside & (measured.matrix > tolerance)
        if not leaking.any():
            self.largest_clean = max(self.largest_clean, *measured.matrix[outside].tolist(), 0.0)
            return
        own = leaking & (measured.sources[:, None] == torch.arange(outside.shape[1]))
        shown = Pair.extreme(measured, own if own.any() else leaking, setting, largest=True)
        counts = (outside.sum(), leaking.sum(), measured.scored.sum(), leaking.any(0).sum(), own.sum())
        self.leaks.append(Leak(shown, tolerance, *(int(count) for count in counts)))

    def _add_allowed(self, setting: Setting, measured: Influence, inside: Tensor) -> None:
        distance = (measured.sources[:, None] - torch.arange(inside.shape[1])).abs()
        if self.reach_tokens is not None:
            inside = inside & (distance <= self.reach_tokens)
        for step in sorted(set(distance[inside].tolist())):
            self.by_distance.setdefault(step, []).extend(measured.matrix[inside & (distance == step)].tolist())
        blind = inside & (measured.matrix <= SEEN)
        self.allowed_pairs += int(inside.sum())
        self.allowed_seen += int((inside & ~blind).sum())
        if blind.any():
            self.blindest = Pair.extreme(measured, blind, setting, largest=False).weaker(self.blindest)
        if inside.any() and len(measured.sources) == inside.shape[1]:
            far = distance.masked_fill(~inside, inside.shape[1])
            nearest = inside & (far == far.min(0).values)
            # Of two equally near tokens, one that is seen is enough.
            strongest = nearest & (measured.matrix == measured.matrix.masked_fill(~nearest, -1.0).max(0).values)
            pair = Pair.extreme(measured, strongest, setting, largest=False)
            self.weakest_nearest = pair.weaker(self.weakest_nearest)

    def _decay(self) -> str | None:
        """A sentence on how influence decays with distance; None when it ends at once, or when a near token is not seen."""
        if self.reach_tokens is not None:
            return None
        typical = {step: median_low(self.by_distance[step]) for step in sorted(self.by_distance)}
        seen = [step for step in typical if typical[step] > SEEN]
        fades = all(typical.get(step + 1, 0.0) >= STEEPEST_DECAY * typical[step] for step in seen)
        near = [step for step in typical if typical[step] > DECAYED]
        if not seen or not fades or len(seen) < 3 or any(min(self.by_distance[step]) <= SEEN for step in near):
            return None
        first, last = seen[0], seen[-1]
        halving = (
            (last - first) / math.log2(typical[first] / typical[last]) if typical[first] > typical[last] else math.inf
        )
        return (
            f"influence decays with distance, as in a recurrence without a fixed reach: it halves every {halving:.2g} tokens, and "
            f"beyond {last} tokens it is below {SEEN:.0e} ({self.allowed_seen / self.allowed_pairs:.1%} of allowed pairs are above)"
        )

    def _headline(self) -> Leak | None:
        """The first leak in which a target sees itself, else the first leak."""
        return next((leak for leak in self.leaks if leak.seeing_themselves), next(iter(self.leaks), None))

    def _law_verdict(self) -> tuple[CheckOutcome, str]:
        if (first := self._headline()) is not None:
            return "fail", _leak_sentence(first, self.leaks)
        if self.coarse_runs:
            return "could_not_tell", f"the arithmetic is too coarse to rule a leak out ({self.coarse_runs[0].phrase})"
        if self.weakest_nearest is None or self.weakest_nearest.influence <= NEAREST_SEEN:
            text = "nothing forbidden was seen, but neither were the nearest allowed tokens (C1.two-sided)"
            return "could_not_tell", text
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
                f"{NEAREST_SEEN:g}; {nearest.setting.phrase}): a wrong shift, a mask that is too strict, or a dead path"
            )
            return "fail" if nearest.influence <= SEEN else "could_not_tell", text, nearest
        if blind is not None and (decay := self._decay()) is not None:
            return "pass", decay, nearest
        if blind is not None:
            text = (
                f"target {blind.target} does not see the allowed token {blind.source} ({blind.influence:.1e}; "
                f"{blind.setting.phrase}); {self.allowed_seen / self.allowed_pairs:.1%} of allowed pairs are seen: "
                f"declare reach_tokens if that is meant"
            )
            return "could_not_tell", text, blind
        text = f"all {self.allowed_pairs} allowed pairs are seen, the nearest by {nearest.influence:.1e} or more"
        return "pass", text, nearest


def _leak_sentence(first: Leak, leaks: Iterable[Leak]) -> str:
    pair = first.shown
    lengths = ", ".join(str(n) for n in sorted({leak.shown.setting.length_tokens for leak in leaks}))
    themselves = f"{first.seeing_themselves} of {first.scored_targets} targets see themselves, "
    return (
        f"target {pair.target} is seen from source {pair.source} (influence {pair.influence:.2g}, allowed {first.tolerance:.0e}; "
        f"{pair.setting.phrase}, id {pair.token_id} put there); "
        f"{themselves if first.seeing_themselves else ''}{first.leaking_targets} of "
        f"{first.scored_targets} see a token they may not ({first.leaking_pairs} of {first.forbidden_pairs} forbidden pairs); "
        f"leaks at length {lengths}"
    )


def _rows(matrix: Tensor) -> tuple[tuple[float, ...], ...]:
    """The matrix as rows of numbers for a picture: two digits are kept, and anything below the tolerance becomes 0."""
    return tuple(tuple(float(f"{value:.2g}") if value > TOLERANCE else 0.0 for value in row) for row in matrix.tolist())
