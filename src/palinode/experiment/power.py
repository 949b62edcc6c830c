"""What an experiment can show: the noise from runs of the store, the smallest effect that its seeds show, the seeds for an effect.

`planned_power` works on a plan (`experiment/plan.py`), so it knows the cost of a run too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from palinode.analysis.intervals import MOST_SEEDS, seeds_needed
from palinode.analysis.looks import look_confidence
from palinode.analysis.planning import Likeness, Noise, data_key, family_confidence, noise_in, smallest_effect_seen
from palinode.base.config import encode
from palinode.base.decision import UNTIL_DECIDED
from palinode.base.errors import BadInput, PalinodeError
from palinode.experiment.cells import Cell
from palinode.experiment.plan import Plan, expected_seconds, makespan
from palinode.results.record import ExperimentEntry, ExperimentRecord, ExperimentRun, Record
from palinode.results.store import Store
from palinode.spec.experiment import ResolvedExperiment

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class ScalePower:
    """What the comparisons at one scale can show.

    Attributes:
        noise: the noise of a paired difference; None if the store has no runs to take it from. Effects are then in sd of a paired
            difference.
        smallest_single, smallest_family: the smallest effect that the planned seeds show in 4 of 5 cases: in one comparison, and in
            each of all comparisons of the experiment. None for fewer than 2 seeds.
        seeds_single, seeds_family: the number of seeds that shows the effect that is planned for; None if there is no such effect,
            no noise in its unit, or if more than 10,000 seeds are needed.
    """

    scale: str
    noise: Noise | None
    smallest_single: float | None
    smallest_family: float | None
    seeds_single: int | None
    seeds_family: int | None


@dataclass(frozen=True)
class Power:
    """What an experiment can show.

    Attributes:
        metric: the metric whose unit the effects have.
        seeds: the planned number of seeds.
        looks: whether a verdict is computed after every seed, so that each interval is wider.
        comparisons: the number of comparisons in the family.
        effect: the effect that is planned for; None if nothing says which effect matters.
        seed_seconds: the seconds of each run of one seed.
        is_guessed: whether these seconds are guessed from FLOPs.
    """

    metric: str
    seeds: int
    looks: bool
    comparisons: int
    effect: float | None
    scales: tuple[ScalePower, ...]
    workers: int
    seed_seconds: tuple[float, ...]
    is_guessed: bool
    confidence: float

    @property
    def seeds_needed(self) -> int | None:
        """The seeds with which every comparison shows the effect in 4 of 5 cases; None if not known, or if above 10,000."""
        each = [scale.seeds_family for scale in self.scales]
        return None if None in each or not each else max(count for count in each if count is not None)

    def seconds(self, seeds: int) -> float:
        """The wall time of all runs of so many seeds."""
        return makespan(list(self.seed_seconds) * seeds, self.workers)

    def seeds_within(self, hours: float) -> int:
        """The largest number of seeds whose runs end within these hours."""
        limit = SECONDS_PER_HOUR * hours
        low, high = 0, 1
        while high <= MOST_SEEDS and self.seconds(high) <= limit:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.seconds(middle) <= limit else (low, middle)
        return low

    def smallest_with(self, seeds: int) -> float | None:
        """The smallest effect that so many seeds show in every comparison, in 4 of 5 cases; in the metric's unit or in sd."""
        in_sd = smallest_effect_seen(seeds, family_confidence(self.confidence, self.comparisons))
        return in_sd and in_sd * max((_unit(scale.noise) for scale in self.scales), default=1.0)

    def as_data(self) -> dict[str, Any]:
        """The numbers as plain data, for JSON."""
        needed = self.seeds_needed
        hours = None if needed is None else self.seconds(needed) / SECONDS_PER_HOUR
        scales = [asdict(scale) | {"noise": _noise_data(scale.noise)} for scale in self.scales]
        own = {"metric": self.metric, "seeds": self.seeds, "comparisons": self.comparisons, "effect": self.effect}
        return own | {
            "scales": scales,
            "seeds_needed": needed,
            "hours_needed": hours,
            "hours_are_guessed": self.is_guessed,
        }


def planned_power(
    resolved: ResolvedExperiment,
    cells: Sequence[Cell],
    plan: Plan,
    store: Store,
    *,
    effect: float | None = None,
    pilot: ExperimentRecord | None = None,
) -> Power:
    """What the planned runs can show.

    Args:
        store: the noise is taken from its experiments.
        effect: the effect to plan for; None: the smallest effect that matters.
        pilot: the experiment to take the noise from, in place of all of them.

    Raises:
        BadInput: the pilot has no arm with two finished runs that have the metric.
    """
    rule = resolved.decision
    seeds, looks = len(resolved.seeds), resolved.seeds_planned == UNTIL_DECIDED
    confidence = look_confidence(rule.looks.most, rule.confidence) if looks else rule.confidence
    others = [arm for arm in resolved.arms if arm.name != rule.baseline and not arm.expect_leak]
    comparisons = len(others) * len(resolved.scales)
    planned_for = effect or rule.smallest_effect or None
    baselines = [cell for cell in cells if cell.arm.name == rule.baseline]
    records = [_results_of(entry, store) for entry in store.experiments()] if pilot is None else []
    noises = {cell.scale: _noise(cell, rule.metric, records, pilot) for cell in baselines}
    expected = expected_seconds(cells, plan, store)
    levels = confidence, family_confidence(confidence, comparisons)
    return Power(
        metric=rule.metric,
        seeds=seeds,
        looks=looks,
        comparisons=comparisons,
        effect=planned_for,
        scales=tuple(_of_scale(scale, noise, seeds, planned_for, levels) for scale, noise in noises.items()),
        workers=plan.workers,
        seed_seconds=tuple(expected.seconds.values()),
        is_guessed=expected.is_guessed,
        confidence=confidence,
    )


def pilot_named(store: Store, name: str) -> ExperimentRecord:
    """The experiment of the store that `--pilot` names.

    Raises:
        BadInput: the store has no such experiment.
    """
    try:
        return store.experiment(name)
    except BadInput as refusal:
        raise refusal.at(field="--pilot") from None


def _results_of(entry: ExperimentEntry, store: Store) -> ExperimentRecord:
    """The results of an experiment, without its metrics and audits: reading these takes most of the time in a large store."""
    records: list[Record | None] = []
    for run in entry.runs:
        try:
            records.append(store.record(run.run_id) if not entry.to_choose else None)
        except PalinodeError:  # the run is missing or damaged
            records.append(None)
    return ExperimentRecord(entry, tuple(map(ExperimentRun, entry.runs, records)), {})


def _of_scale(
    scale: str, noise: Noise | None, seeds: int, effect: float | None, levels: tuple[float, float]
) -> ScalePower:
    """`levels`: the confidence of a single comparison, and of a comparison of the family."""
    in_sd = [smallest_effect_seen(seeds, level) for level in levels]
    single, family = (one and one * _unit(noise) for one in in_sd)
    needed: list[int | None] = [None, None]
    if noise is not None and effect is not None:
        needed = [seeds_needed(effect, noise.planned, level) for level in levels]
    return ScalePower(scale, noise, single, family, *needed)


def _unit(noise: Noise | None) -> float:
    """The planned standard deviation; 1 where it is not known, so that effects are in sd."""
    return noise.planned if noise is not None else 1.0


def _noise(
    cell: Cell, metric: str, records: Sequence[ExperimentRecord], pilot: ExperimentRecord | None
) -> Noise | None:
    """The noise at the scale of the baseline's cell: from the pilot, else from runs of the store that are like the planned ones."""
    if pilot is not None:
        if (noise := noise_in([pilot], Likeness(metric))) is None:
            message = f"{pilot.entry.full_name} has no two arms with two finished runs each that have {metric}"
            raise BadInput(message, field="--pilot")
        return noise
    spec = cell.spec
    like = Likeness(metric, data_key(encode(spec.data)), spec.recipe.kind_name(), float(cell.cost.total_parameters))
    return noise_in(records, like)


def _noise_data(noise: Noise | None) -> Mapping[str, Any] | None:
    return None if noise is None else {**noise._asdict(), "planned": noise.planned}
