"""Plan an experiment before the first run: predict its cost, and check whether its arms are compared at equal cost.

Counters are expected values that follow from the settings (an adaptive p counts with its first value). Seconds are those of the
runs of a cell that have ended on this machine; for a cell without such a run they are predicted from a few measured steps. The disk
space is the size of the checkpoints that are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from statistics import fmean
from typing import Any, Literal, NamedTuple

from palinode.base.measures import DIRECTIONS, EQUAL_WITHIN, OWN, PARITY_AXES, REMARKED_ABOVE, Metric
from palinode.base.memory import why_not_kept
from palinode.experiment.calibrate import Predicted, calibrate
from palinode.experiment.cells import Cell, expected_steps, guessed_seconds
from palinode.experiment.sources import tokens_before
from palinode.results.holds import newest_hold, this_host
from palinode.results.record import Result
from palinode.results.store import Store
from palinode.spec.code import Code
from palinode.spec.experiment import ResolvedExperiment
from palinode.spec.tuning import trials_of
from palinode.sweep.nursery import Nursery, why_none
from palinode.train.device import computes_bfloat16, resolve_device
from palinode.train.recipe import Recipe

Measure = Literal["always", "if long", "never"]
MOST_ARMS_LISTED = 12  # the most warnings by arm; 8 mixers x 4 ways of training x 2 scales would give 62 lines
CHECKPOINT_BYTES_PER_PARAMETER = 12  # float32 weights and two optimizer moments
SHORT_SECONDS = 180.0  # the guessed time of a short grid; measuring would take a tenth of it or more
OTHER_BYTES_PER_RUN = 200_000  # spec, metrics, audit, result
NO_SMALLEST_EFFECT = 'decision.smallest_effect is 0: "smaller than matters" cannot be said'
NOT_MEASURED: Mapping[tuple[str, str], float] = {}


@dataclass(frozen=True)
class PlannedCell:
    """The expected cost of one run of an arm at a scale; the cost is the same for every seed.

    Attributes:
        runs, done: the number of runs (one for each seed), and the number of runs that the store holds already.
        seconds: the predicted seconds of one run; None if no time was measured.
        product_share: the share of the machine's rate on the matrix products of the model that a step reaches; None for a cell
            that was not measured.
        split_tokens: split -> the number of its tokens; for a task with fresh training sequences, `train` is 0.
        tokens_read_before: the tokens that the weights were trained on that a run starts from; 0 for new weights.
    """

    arm: str
    scale: str
    parameters: int
    non_embedding: int
    window_tokens: float
    tokens_read: float
    tokens_scored_ltr: float
    train_flops: float
    optimizer_flops: float
    optimizer_steps: int
    disk_bytes: int
    runs: int
    done: int
    seconds: float | None = None
    product_share: float | None = None
    split_tokens: dict[str, int] = field(default_factory=dict)
    tokens_read_before: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The predicted cost of an experiment.

    Attributes:
        cells: the planned cells, one per arm and scale.
        workers: the number of runs at a time.
        seconds: the predicted wall time of the runs that are left; None if no time was measured.
        warnings: the costs in which arms differ, one line for each difference.
        settings, settings_measured: the number of distinct settings of the runs that are left without those of
            `settings_ended`, and the number of settings that were measured; the time of the others is predicted from these.
        settings_ended: the number of distinct settings of the runs that are left whose time is the mean of their ended runs.
        is_short: whether no time was measured because the runs that are left take about a minute.
        trials, trials_left: the number of trials that choose a setting first, and the number of trials that are left to do;
            `seconds` and `disk_bytes` include the trials that are left.
    """

    cells: tuple[PlannedCell, ...]
    workers: int
    seconds: float | None
    warnings: tuple[str, ...]
    settings: int = 0
    settings_measured: int = 0
    settings_ended: int = 0
    trials: int = 0
    trials_left: int = 0
    trials_disk_bytes: int = 0
    is_short: bool = False

    @property
    def runs(self) -> int:
        """The number of all runs, with the runs that are done."""
        return sum(cell.runs for cell in self.cells)

    @property
    def left(self) -> int:
        """The number of runs that are left to do."""
        return sum(cell.runs - cell.done for cell in self.cells)

    @property
    def disk_bytes(self) -> int:
        """The number of bytes that the trials and runs that are left will write."""
        return self.trials_disk_bytes + sum(cell.disk_bytes * (cell.runs - cell.done) for cell in self.cells)

    def as_data(self) -> dict[str, Any]:
        """The plan as plain data, for JSON and for the experiment's entry."""
        return {
            "runs": self.runs,
            "runs_left": self.left,
            "trials": self.trials,
            "trials_left": self.trials_left,
            "workers": self.workers,
            "window_tokens": sum(cell.window_tokens * cell.runs for cell in self.cells),
            "tokens_read": sum(cell.tokens_read * cell.runs for cell in self.cells),
            "train_flops": sum(cell.train_flops * cell.runs for cell in self.cells),
            "optimizer_flops": sum(cell.optimizer_flops * cell.runs for cell in self.cells),
            "disk_bytes": self.disk_bytes,
            "predicted_seconds": self.seconds,
            "is_short": self.is_short,
            "settings": self.settings,
            "settings_measured": self.settings_measured,
            "settings_ended": self.settings_ended,
            "warnings": list(self.warnings),
            "cells": [asdict(cell) for cell in self.cells],
        }


class Workers(NamedTuple):
    """The number of runs at a time: on this machine, where steps are timed, and on the machines that train."""

    here: int
    at_a_time: int


def plan(
    resolved: ResolvedExperiment,
    cells: Sequence[Cell],
    store: Store,
    *,
    workers: int | Workers,
    code: Code | None = None,
    measure: Measure = "always",
    on_failure: Callable[[str], None] = lambda line: None,
    nursery: Nursery | None = None,
) -> Plan:
    """The plan of an experiment whose data is pinned.

    Args:
        cells: the cells of this experiment, after every check that could refuse them.
        workers: the number of runs at a time; `Workers` where other machines train them.
        code: the user's Python that parts of the experiment were written in.
        measure: when to time a few steps of the distinct settings that have no ended run, to predict seconds (a large grid
            times only some settings). `if long`: not when the runs that are left are guessed to take less than three minutes.
            Without measuring, no seconds are predicted.
        on_failure: called with the reason why a cell could not be measured.
        nursery: forks the processes that measure.
    """
    left = [(run.arm, run.scale) for run in resolved.runs if store.ended(run.spec.run_id) is None]
    unfinished = [cell for cell in cells if (cell.arm.name, cell.scale) in left]
    known = predicted = Predicted({}, 0, 0)
    here, at_a_time = workers if isinstance(workers, Workers) else (workers, workers)
    is_short = measure == "if long" and _is_short(resolved, cells, left, store, at_a_time)
    is_measured = measure != "never" and not is_short
    if is_measured:
        known = _of_ended_runs(unfinished, store)
        new = [cell for cell in unfinished if (cell.arm.name, cell.scale) not in known.seconds]
        runs = sum(place not in known.seconds for place in left)
        predicted = calibrate(new, runs, code, workers=here, on_failure=on_failure, nursery=nursery).beside(known)
    before = tokens_before(cells, store)
    planned = tuple(
        replace(
            _planned(cell, left, predicted.seconds, predicted.product_shares),
            tokens_read_before=before.get((cell.arm.name, cell.scale), 0.0),
        )
        for cell in cells
    )
    trials = [] if resolved.tuning is None else _trials(resolved, cells, planned)
    trials_left = [trial for trial in trials if store.ended(trial.run_id) is None]
    seconds = [predicted.seconds[place] for place in left if place in predicted.seconds]
    wall = makespan([trial.seconds for trial in trials_left], at_a_time) + makespan(seconds, at_a_time)
    return Plan(
        cells=planned,
        workers=at_a_time,
        seconds=wall if is_measured and len(seconds) == len(left) else None,
        warnings=(*parity_warnings(planned, resolved), *_warnings(resolved, cells), *_slower_ways(unfinished)),
        settings=predicted.settings,
        settings_measured=predicted.measured,
        settings_ended=known.settings,
        trials=len(trials),
        trials_left=len(trials_left),
        trials_disk_bytes=sum(trial.disk_bytes for trial in trials_left),
        is_short=is_short and bool(left),
    )


def _warnings(resolved: ResolvedExperiment, cells: Sequence[Cell]) -> list[str]:
    """What a reader of the counts must know about the arms, beside unequal costs."""
    warnings = []
    if growing := sorted({cell.arm.name for cell in cells if cell.spec.recipe.accumulation}):
        batches = f"batches of {', '.join(growing)} grow with the noise of their gradients"
        warnings.append(f"{batches}: what is counted here is the least")
    if cut := sorted({cell.arm.name for cell in cells if getattr(cell.spec.model, "keep_layers", None) is not None}):
        warnings.append(f"{', '.join(cut)} leave out blocks of an open model, which destroys it as a model of text")
    return warnings + _tuned_on_another_pass(resolved, cells)


class Expected(NamedTuple):
    """The seconds that runs are expected to take.

    Attributes:
        seconds: (arm, scale) -> the seconds of one run.
        is_guessed: whether the seconds of some cell are guessed from its FLOPs.
    """

    seconds: dict[tuple[str, str], float]
    is_guessed: bool


def expected_seconds(cells: Sequence[Cell], planned: Plan, store: Store) -> Expected:
    """The seconds of a run of each cell: the mean of its runs that have ended, else the predicted or the guessed seconds."""
    predicted = {(cell.arm, cell.scale): cell.seconds for cell in planned.cells}
    expected = Expected({}, any(cell.seconds is None and not cell.done for cell in planned.cells))
    for cell in cells:
        place = (cell.arm.name, cell.scale)
        times = [seconds for _, seconds in _ended_alone(cell, store)]
        expected.seconds[place] = fmean(times) if times else predicted.get(place) or guessed_seconds(cell)
    return expected


def _of_ended_runs(cells: Sequence[Cell], store: Store) -> Predicted:
    """The mean seconds of the runs that have ended on this machine, for the cells with such a run.

    Runs from a pack have no hold, and runs of other machines have the hold of another host: their seconds say nothing here.
    """
    here = {"host": this_host()["host"]}
    times, shares = {}, {}
    for cell in cells:
        ended = [
            (result, seconds)
            for result, seconds in _ended_alone(cell, store)
            if seconds and (hold := newest_hold(store.run_directory(result.run_id))) is not None and hold.is_of(here)
        ]
        if ended:
            times[cell.arm.name, cell.scale] = fmean(seconds for _, seconds in ended)
        if reached := [float(share) for result, _ in ended if (share := result.rates.get("product_share"))]:
            shares[cell.arm.name, cell.scale] = fmean(reached)
    return Predicted(times, len(times), 0, shares)


def _ended_alone(cell: Cell, store: Store) -> list[tuple[Result, float]]:
    """The results of the cell's runs that have ended and were trained alone, with the seconds of each run."""
    results = [result for spec in cell.specs if (result := store.ended(spec.run_id)) is not None]
    return [(one, float(one.seconds.get("total") or 0)) for one in results if one.runs_together == 1]


def _slower_ways(cells: Sequence[Cell]) -> list[str]:
    """A line for each way in which these runs go more slowly than they could on this machine."""
    if not cells:
        return []
    lines = _emulated(cells)
    if (reason := why_not_kept()) is not None:
        lines.append(f"each step returns the memory that it frees, which is slower: {reason}")
    if (reason := why_none()) is not None:
        lines.append(f"each worker is started on its own, which is slower: {reason}")
    return lines


def _emulated(cells: Sequence[Cell]) -> list[str]:
    """A line about the arms that compute in bfloat16 on a CPU that has no bfloat16 arithmetic."""
    if computes_bfloat16() is not False:
        return []
    arms = {
        cell.arm.name
        for cell in cells
        if "bfloat16"
        in (cell.spec.recipe.precision, getattr(cell.spec.recipe.optimizer, "newton_schulz_precision", ""))
        and cell.spec.device != "cuda"
        and resolve_device(cell.spec.device).type == "cpu"
    }
    return [f"bfloat16 is emulated on this CPU: much slower for {', '.join(sorted(arms))}"] if arms else []


def _is_short(
    resolved: ResolvedExperiment, cells: Sequence[Cell], left: Sequence[tuple[str, str]], store: Store, workers: int
) -> bool:
    """Whether the trials and runs that are left are guessed to take less than SHORT_SECONDS."""
    guessed = {(cell.arm.name, cell.scale): guessed_seconds(cell) for cell in cells}
    planned = [_planned(cell, left, guessed) for cell in cells]
    trials = [] if resolved.tuning is None else _trials(resolved, cells, planned)
    of_trials = [trial.seconds for trial in trials if store.ended(trial.run_id) is None]
    of_runs = [guessed[place] for place in left]
    return makespan(of_trials, workers) + makespan(of_runs, workers) < SHORT_SECONDS


def _most_checkpoints(recipe: Recipe) -> int:
    """The largest number of checkpoints of one run in the store: the stable one, and the number to keep as far as it makes them."""
    return min(recipe.keep_checkpoints, -(-recipe.steps // recipe.checkpoint_interval_steps)) + 1


def _planned(
    cell: Cell,
    left: Sequence[tuple[str, str]],
    seconds: Mapping[tuple[str, str], float],
    product_shares: Mapping[tuple[str, str], float] = NOT_MEASURED,
) -> PlannedCell:
    """The planned cost of a cell's runs. `left` holds the arm and scale of every run that is left to do."""
    place, runs, parameters = (cell.arm.name, cell.scale), len(cell.specs), cell.cost.total_parameters
    checkpoint_bytes = CHECKPOINT_BYTES_PER_PARAMETER * parameters
    return PlannedCell(
        arm=cell.arm.name,
        scale=cell.scale,
        parameters=parameters,
        non_embedding=cell.cost.non_embedding_parameters,
        **cell.counters,
        optimizer_steps=math.ceil(cell.steps),
        disk_bytes=OTHER_BYTES_PER_RUN + _most_checkpoints(cell.spec.recipe) * checkpoint_bytes,
        runs=runs,
        done=runs - left.count(place),
        seconds=seconds.get(place),
        product_share=product_shares.get(place),
        split_tokens=cell.split_tokens,
    )


class _Trial(NamedTuple):
    """A trial: the predicted seconds of a run with the trial's number of steps (0 if unknown), and the disk space of a run."""

    run_id: str
    seconds: float
    disk_bytes: int


def _trials(resolved: ResolvedExperiment, cells: Sequence[Cell], planned: Sequence[PlannedCell]) -> list[_Trial]:
    """Every trial that chooses a setting."""
    return [
        _Trial(spec.run_id, (plan.seconds or 0.0) * expected_steps(spec) / cell.steps, plan.disk_bytes)
        for cell, plan in zip(cells, planned, strict=True)
        for _, specs in trials_of(resolved, plan.arm, plan.scale)
        for spec in specs
    ]


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Wall time when each run in turn is given to the worker that is free first."""
    busy = [0.0] * max(1, workers)
    for duration in seconds:
        busy[busy.index(min(busy))] += duration
    return max(busy)


def _tuned_on_another_pass(resolved: ResolvedExperiment, cells: Iterable[Cell]) -> list[str]:
    """A line that names the arms whose setting is chosen by the loss of a direction in which they are never trained."""
    if (
        resolved.tuning is None
        or (direction := Metric.parse(resolved.tuning.metric(resolved.decision)).direction) == OWN
    ):
        return []
    trained = {cell.arm.name: set(cell.spec.objective.groups()) for cell in cells}
    other = sorted(arm for arm, groups in trained.items() if groups <= set(DIRECTIONS) and direction not in groups)
    hint = "Tuning(by_own_pass=True) chooses by the pass that each arm is trained on"
    return [f"{', '.join(other)}: tuned by the {direction} loss, and never trained on it; {hint}"] if other else []


def parity_warnings(cells: Sequence[PlannedCell], resolved: ResolvedExperiment) -> list[str]:
    """A line for each arm that differs on the declared axis. For other axes a line for each arm or, of many arms, for each axis."""
    declared, baseline = resolved.decision.equal, resolved.decision.baseline
    differences: list[_Difference] = []
    for cell in cells:
        against = next(other for other in cells if (other.arm, other.scale) == (baseline, cell.scale))
        for axis in PARITY_AXES:
            share = getattr(cell, axis) / max(1, getattr(against, axis)) - 1
            if abs(share) > (EQUAL_WITHIN if axis == declared else REMARKED_ABOVE):
                differences.append(_Difference(cell, axis, share))
    unfair = [
        (f"{one.cell.arm}: {declared} {one.share:+.1%}, but the arms are to be equal in it", one.cell.scale)
        for one in differences
        if one.axis == declared
    ]
    others = [one for one in differences if one.axis != declared]
    of_cells: list[tuple[str, str]] = []
    for (arm, scale), of_cell in groupby(others, key=lambda one: (one.cell.arm, one.cell.scale)):
        listed = ", ".join(f"{one.axis} {one.share:+.0%}" for one in of_cell)
        of_cells.append((f"{arm} differs from {baseline} in {listed}", scale))
    by_arm = _at_scales(of_cells, resolved.scales)
    if len(by_arm) > MOST_ARMS_LISTED:
        by_arm = _by_axis(others, baseline, len(cells))
    return _at_scales(unfair, resolved.scales) + by_arm


class _Difference(NamedTuple):
    """The difference of a cell from the baseline in one cost, as a share of the cost of the baseline."""

    cell: PlannedCell
    axis: str
    share: float


def _at_scales(lines: Iterable[tuple[str, str]], scales: Sequence[str]) -> list[str]:
    """Each line once, from pairs (line, scale at which the line holds). A line for only some scales names these scales."""
    where: dict[str, list[str]] = {}
    for line, scale in lines:
        where.setdefault(line, []).append(scale)
    return [line if set(at) == set(scales) else f"{line} (at {', '.join(at)})" for line, at in where.items()]


def _by_axis(differences: Sequence[_Difference], baseline: str, cells: int) -> list[str]:
    """A line for each cost: the number of cells that differ in it, and the smallest and the largest difference."""
    lines = []
    for axis in PARITY_AXES:
        shares = [one for one in differences if one.axis == axis]
        if shares:
            ends = min(shares, key=lambda one: one.share), max(shares, key=lambda one: one.share)
            between = " to ".join(f"{end.share:+.0%} ({end.cell.arm} at {end.cell.scale})" for end in ends)
            lines.append(f"{axis} differ from {baseline} in {len(shares)} of {cells} settings: {between}")
    return lines
