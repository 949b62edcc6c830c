"""Before the first run: what an experiment will cost, and whether its arms are compared at equal cost.

Counters are expectations from the settings (an adaptive p counts as it starts); seconds are predicted from a few measured steps;
disk is what the checkpoints that are kept will take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from palinode.base.measures import EQUAL_WITHIN, PARITY_AXES, REMARKED_ABOVE
from palinode.experiment.calibrate import Predicted, calibrate
from palinode.experiment.cells import Cell, expected_steps
from palinode.results.store import Store
from palinode.spec.code import Code
from palinode.spec.experiment import ResolvedExperiment
from palinode.spec.tuning import trials_of
from palinode.train.recipe import Recipe

MOST_ARMS_LISTED = 12  # more lines than these hide each other: 62 for 8 mixers x 4 ways of training x 2 scales
CHECKPOINT_BYTES_PER_PARAMETER = 12  # float32 weights and two optimizer moments
OTHER_BYTES_PER_RUN = 200_000  # spec, metrics, audit, result


@dataclass(frozen=True)
class PlannedCell:
    """One run of an arm at a scale, as expected; the same for every seed.

    Attributes:
        runs, done: how many seeds there are, and how many of them the store holds already.
        seconds: predicted for one run; None where nothing was measured.
        split_tokens: split -> its tokens; of a task with fresh training sequences, `train` is 0.
    """

    arm: str
    scale: str
    parameters: int
    non_embedding: int
    window_tokens: float
    tokens_read: float
    tokens_scored_ltr: float
    train_flops: float
    optimizer_steps: int
    disk_bytes: int
    runs: int
    done: int
    seconds: float | None = None
    split_tokens: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What an experiment will cost.

    Attributes:
        cells: one per arm and scale.
        workers: runs at a time.
        seconds: predicted wall time of the runs that are left, None where nothing was measured.
        warnings: where arms are not compared at equal cost, one line each.
        settings, settings_measured: distinct settings of the runs that are left, and how many of them were measured; the time of
            the others is predicted from these.
        trials, trials_left: how many trials choose a setting first, and how many of them are left to do; `seconds` and
            `disk_bytes` include these.
    """

    cells: tuple[PlannedCell, ...]
    workers: int
    seconds: float | None
    warnings: tuple[str, ...]
    settings: int = 0
    settings_measured: int = 0
    trials: int = 0
    trials_left: int = 0
    trials_disk_bytes: int = 0

    @property
    def runs(self) -> int:
        """All runs, those that are done included."""
        return sum(cell.runs for cell in self.cells)

    @property
    def left(self) -> int:
        """The runs that are left to do."""
        return sum(cell.runs - cell.done for cell in self.cells)

    @property
    def disk_bytes(self) -> int:
        """What the trials and runs that are left will write."""
        return self.trials_disk_bytes + sum(cell.disk_bytes * (cell.runs - cell.done) for cell in self.cells)

    def as_data(self) -> dict[str, Any]:
        """Plain data: for JSON, and for the experiment's entry."""
        return {
            "runs": self.runs,
            "runs_left": self.left,
            "trials": self.trials,
            "trials_left": self.trials_left,
            "workers": self.workers,
            "window_tokens": sum(cell.window_tokens * cell.runs for cell in self.cells),
            "tokens_read": sum(cell.tokens_read * cell.runs for cell in self.cells),
            "train_flops": sum(cell.train_flops * cell.runs for cell in self.cells),
            "disk_bytes": self.disk_bytes,
            "predicted_seconds": self.seconds,
            "settings": self.settings,
            "settings_measured": self.settings_measured,
            "warnings": list(self.warnings),
            "cells": [asdict(cell) for cell in self.cells],
        }


def plan(
    resolved: ResolvedExperiment,
    cells: Sequence[Cell],
    store: Store,
    *,
    workers: int,
    code: Code | None = None,
    measure: bool = True,
    on_failure: Callable[[str], None] = lambda line: None,
) -> Plan:
    """What a pinned experiment will cost.

    Args:
        cells: the cells of this experiment, after every check that could refuse them.
        code: the user's Python that parts of the experiment were written in.
        measure: take a few steps in the distinct settings, to predict seconds; in a large grid not in every one.
        on_failure: called with the reason why a cell could not be measured.
    """
    left = [(run.arm, run.scale) for run in resolved.runs if store.ended(run.spec.run_id) is None]
    unfinished = [cell for cell in cells if (cell.arm.name, cell.scale) in left]
    predicted = Predicted({}, 0, 0)
    if measure:
        predicted = calibrate(unfinished, len(left), code, workers=workers, on_failure=on_failure)
    planned = tuple(_planned(cell, left, predicted.seconds) for cell in cells)
    trials = [] if resolved.tuning is None else _trials(resolved, cells, planned)
    trials_left = [trial for trial in trials if store.ended(trial.run_id) is None]
    seconds = [predicted.seconds[place] for place in left if place in predicted.seconds]
    wall = makespan([trial.seconds for trial in trials_left], workers) + makespan(seconds, workers)
    warnings = parity_warnings(planned, resolved)
    if growing := sorted({cell.arm.name for cell in cells if cell.spec.recipe.accumulation}):
        batches = f"batches of {', '.join(growing)} grow with the noise of their gradients"
        warnings.append(f"{batches}: what is counted here is the least")
    return Plan(
        cells=planned,
        workers=workers,
        seconds=wall if measure and len(seconds) == len(left) else None,
        warnings=tuple(warnings),
        settings=predicted.settings,
        settings_measured=predicted.measured,
        trials=len(trials),
        trials_left=len(trials_left),
        trials_disk_bytes=sum(trial.disk_bytes for trial in trials_left),
    )


def _most_checkpoints(recipe: Recipe) -> int:
    """How many checkpoints of a run the store holds at most: those that are kept, or all that it makes."""
    return min(recipe.keep_checkpoints, -(-recipe.steps // recipe.checkpoint_interval_steps))


def _planned(cell: Cell, left: Sequence[tuple[str, str]], seconds: Mapping[tuple[str, str], float]) -> PlannedCell:
    """What a cell's runs will cost, with `left` naming the arm and scale of every run that is left to do."""
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
        split_tokens=cell.split_tokens,
    )


class _Trial(NamedTuple):
    """A trial: a run's predicted seconds for so many steps (0 where unknown), and the disk of a run."""

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
    """By what share of the baseline's a cell differs from it on an axis."""

    cell: PlannedCell
    axis: str
    share: float


def _at_scales(lines: Iterable[tuple[str, str]], scales: Sequence[str]) -> list[str]:
    """Every line, of (line, scale at which it holds), once; one that does not hold at every scale names its scales."""
    where: dict[str, list[str]] = {}
    for line, scale in lines:
        where.setdefault(line, []).append(scale)
    return [line if set(at) == set(scales) else f"{line} (at {', '.join(at)})" for line, at in where.items()]


def _by_axis(differences: Sequence[_Difference], baseline: str, cells: int) -> list[str]:
    """A line for each axis: in how many of the cells it differs, and the least and the largest difference."""
    lines = []
    for axis in PARITY_AXES:
        shares = [one for one in differences if one.axis == axis]
        if shares:
            ends = min(shares, key=lambda one: one.share), max(shares, key=lambda one: one.share)
            between = " to ".join(f"{end.share:+.0%} ({end.cell.arm} at {end.cell.scale})" for end in ends)
            lines.append(f"{axis} differ from {baseline} in {len(shares)} of {cells} settings: {between}")
    return lines
