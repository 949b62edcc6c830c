"""Before the first run: what an experiment will cost, and whether its arms are compared at equal cost.

Counters are expectations from the specs (an adaptive p counts as it starts); seconds come from a short measured
calibration; disk is what the checkpoints that are kept will take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from statistics import fmean
from typing import Any

from palinode.base.errors import BadInput
from palinode.base.example import SpecialTokens
from palinode.base.measures import EQUAL_WITHIN, PARITY_AXES, REMARKED_ABOVE
from palinode.base.seeds import generator
from palinode.base.visibility import Visibility
from palinode.data.source import Source, prepare
from palinode.experiment.calibrate import Predicted, calibrate, expected_steps
from palinode.experiment.memory import refuse_too_large
from palinode.objectives import Progress
from palinode.objectives.label_mask import masked
from palinode.results.store import Store
from palinode.run.one import build_model
from palinode.spec.code import Code
from palinode.spec.experiment import ResolvedExperiment
from palinode.spec.run_spec import RunSpec
from palinode.spec.tuning import trials_of
from palinode.train.optim import build_optimizers

MOST_ARMS_LISTED = 12  # more lines than these hide each other: 62 for 8 mixers x 4 ways of training x 2 scales
CHECKPOINT_BYTES_PER_PARAMETER = 12  # float32 weights and two optimizer moments
OTHER_BYTES_PER_RUN = 200_000  # spec, metrics, audit, result
WINDOWS_COUNTED = 64  # of how many windows the labels are counted: a task's answers differ from one to the next
GROUP_DRAWS = 50  # batches of decisions drawn to meet every pass that an objective makes


@dataclass(frozen=True)
class Cell:
    """One run of an arm at a scale, as expected; the same for every seed.

    Attributes:
        runs, done: how many seeds there are, and how many of them the store holds already.
        seconds: predicted for one run; None where nothing was measured.
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
        trials, trials_left: that choose a setting first, and how many of them the store does not hold; `seconds` and `disk_bytes`
            hold their part.
    """

    cells: tuple[Cell, ...]
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

    def total(self, quantity: str) -> float:
        """A counter summed over all runs."""
        return sum(float(getattr(cell, quantity)) * cell.runs for cell in self.cells)

    def as_data(self) -> dict[str, Any]:
        """Plain data: for JSON, and for the experiment's entry."""
        return {
            "runs": self.runs,
            "runs_left": self.left,
            "trials": self.trials,
            "trials_left": self.trials_left,
            "workers": self.workers,
            "window_tokens": self.total("window_tokens"),
            "tokens_read": self.total("tokens_read"),
            "train_flops": self.total("train_flops"),
            "disk_bytes": self.disk_bytes,
            "predicted_seconds": self.seconds,
            "settings": self.settings,
            "settings_measured": self.settings_measured,
            "warnings": list(self.warnings),
            "cells": [{field.name: getattr(cell, field.name) for field in fields(cell)} for cell in self.cells],
        }


def refuse_what_cannot_be(resolved: ResolvedExperiment, store: Store) -> None:
    """Build the model and the optimizers of every arm at every scale, before anything is measured, audited or written.

    Raises:
        BadInput: parts do not fit together, or a model refuses what is to be scored.
        EnvironmentProblem: a model is larger than this machine's memory.
    """
    for scale in resolved.scales:
        for arm in resolved.arms:
            _cell(resolved, arm.name, scale, store, {})


def plan(
    resolved: ResolvedExperiment,
    store: Store,
    *,
    workers: int,
    code: Code | None = None,
    measure: bool = True,
    on_failure: Callable[[str], None] = lambda line: None,
) -> Plan:
    """What a pinned experiment will cost.

    Args:
        code: the user's Python that parts of the experiment were written in.
        measure: take a few steps of the distinct settings, to predict seconds; of a large grid not of every one.
        on_failure: told why an arm could not be measured.
    """
    left = [run for run in resolved.runs if store.ended(run.spec.run_id) is None]
    found = calibrate(left, code, workers=workers, on_failure=on_failure) if measure else Predicted({}, 0, 0)
    seconds = found.seconds
    cells = tuple(
        _cell(resolved, arm.name, scale, store, seconds) for scale in resolved.scales for arm in resolved.arms
    )
    known = [seconds[run.spec.run_id] for run in left if run.spec.run_id in seconds]
    trials = _trials(resolved, store, cells)
    first = [trial for trial in trials if not trial.done]
    trial_seconds = makespan([trial.seconds for trial in first], workers)
    wall = trial_seconds + makespan(known, workers) if measure and len(known) == len(left) else None
    growing = sorted({run.arm for run in resolved.runs if run.spec.recipe.accumulation})
    unknown = (
        [f"batches of {', '.join(growing)} grow with the noise of their gradients: what is counted here is the least"]
        if growing
        else []
    )
    warnings = (*parity_warnings(cells, resolved), *unknown)
    disk = sum(trial.disk_bytes for trial in first)
    return Plan(cells, workers, wall, warnings, found.settings, found.measured, len(trials), len(first), disk)


@dataclass(frozen=True)
class _Trial:
    """What a trial takes: a run's predicted seconds for as many steps (0 where unknown), and a run's disk."""

    seconds: float
    disk_bytes: int
    done: bool


def _trials(resolved: ResolvedExperiment, store: Store, cells: Sequence[Cell]) -> list[_Trial]:
    """Every trial that chooses a setting; none where nothing is tuned."""
    if resolved.tuning is None:
        return []
    found = []
    for cell in cells:
        run_steps = expected_steps(resolved.settings(cell.arm, cell.scale))
        for _, specs in trials_of(resolved, cell.arm, cell.scale):
            for spec in specs:
                seconds = (cell.seconds or 0.0) * expected_steps(spec) / run_steps
                found.append(_Trial(seconds, cell.disk_bytes, store.ended(spec.run_id) is not None))
    return found


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Wall time when each run in turn is given to the worker that is free first."""
    busy = [0.0] * max(1, workers)
    for duration in seconds:
        busy[busy.index(min(busy))] += duration
    return max(busy)


def parity_warnings(cells: Sequence[Cell], resolved: ResolvedExperiment) -> list[str]:
    """A line for each arm off the declared axis; one for each arm off another, or, of many arms, one for each axis."""
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
    by_arm = _at_scales(_by_arm(others, baseline), resolved.scales)
    return _at_scales(unfair, resolved.scales) + (
        by_arm if len(by_arm) <= MOST_ARMS_LISTED else _by_axis(others, baseline, len(cells))
    )


@dataclass(frozen=True)
class _Difference:
    """By what share of the baseline's a cell differs from it on an axis."""

    cell: Cell
    axis: str
    share: float


def _by_arm(differences: Sequence[_Difference], baseline: str) -> Iterator[tuple[str, str]]:
    """(what is said of an arm, a scale at which it is so)."""
    for (arm, scale), of_cell in groupby(differences, key=lambda one: (one.cell.arm, one.cell.scale)):
        listed = ", ".join(f"{one.axis} {one.share:+.0%}" for one in of_cell)
        yield f"{arm} differs from {baseline} in {listed}", scale


def _at_scales(said: Iterable[tuple[str, str]], scales: Sequence[str]) -> list[str]:
    """Every line once, with the scales it is true at where these are not all."""
    found: dict[str, list[str]] = {}
    for line, scale in said:
        found.setdefault(line, []).append(scale)
    return [line if set(at) == set(scales) else f"{line} (at {', '.join(at)})" for line, at in found.items()]


def _by_axis(differences: Sequence[_Difference], baseline: str, cells: int) -> list[str]:
    """A line for each axis: in how many of the cells it differs, and between what. The table above it holds the numbers."""
    lines = []
    for axis in PARITY_AXES:
        shares = [one for one in differences if one.axis == axis]
        if shares:
            ends = min(shares, key=lambda one: one.share), max(shares, key=lambda one: one.share)
            between = " to ".join(f"{end.share:+.0%} ({end.cell.arm} at {end.cell.scale})" for end in ends)
            lines.append(f"{axis} differ from {baseline} in {len(shares)} of {cells} settings: {between}")
    return lines


def _cell(resolved: ResolvedExperiment, arm: str, scale: str, store: Store, seconds: Mapping[str, float]) -> Cell:
    runs = [run for run in resolved.runs if (run.arm, run.scale) == (arm, scale)]
    known = [seconds[run.spec.run_id] for run in runs if run.spec.run_id in seconds]
    spec = runs[0].spec
    data = prepare(spec.data)
    refuse_too_large(spec, SpecialTokens(data.vocab_size))
    model, specials = build_model(spec, data, spec.seed)
    recipe = spec.recipe
    try:
        build_optimizers(recipe.optimizer, model, model.parameter_groups())
    except BadInput as refused:
        raise refused.inside("recipe.optimizer") from None
    steps = expected_steps(spec)
    windows = steps * recipe.batch_windows
    read, scored_ltr, flops = 0.0, 0.0, 0.0
    for name, (slots, scored, sees) in _passes(spec, data, specials).items():
        passes = windows * _mean_probability(spec, name)
        read += passes * slots
        scored_ltr += passes * scored if name == "ltr" else 0.0
        flops += model.cost(slots, sees).train_flops(passes * slots, passes * scored)
    cost = model.cost(spec.data.window_tokens, sees)
    return Cell(
        arm=arm,
        scale=scale,
        parameters=cost.total_parameters,
        non_embedding=cost.non_embedding_parameters,
        window_tokens=float(windows * spec.data.window_tokens),
        tokens_read=read,
        tokens_scored_ltr=scored_ltr,
        train_flops=flops,
        optimizer_steps=math.ceil(steps),
        disk_bytes=OTHER_BYTES_PER_RUN
        + recipe.keep_checkpoints * CHECKPOINT_BYTES_PER_PARAMETER * cost.total_parameters,
        runs=len(runs),
        done=sum(store.ended(run.spec.run_id) is not None for run in runs),
        seconds=fmean(known) if known else None,
    )


def _passes(spec: RunSpec, data: Source, specials: SpecialTokens) -> dict[str, tuple[int, float, Visibility]]:
    """Each pass that is made: slots and targets that the labels leave of one row, on average, and what its slots see."""
    objective, window_tokens = spec.objective, spec.data.window_tokens
    windows = data.training(window_tokens, spec.seed).read(0, WINDOWS_COUNTED)
    found: dict[str, tuple[int, float, Visibility]] = {}
    for attempt in range(GROUP_DRAWS):
        draw = objective.draw(
            WINDOWS_COUNTED, window_tokens, generator(0, "plan", attempt), Progress(0, 1, objective.state())
        )
        example = masked(objective.example(windows.tokens, windows.decisions(draw), specials), windows, spec.labels)
        for group, rows in example.by_group():
            scored = int((example.loss_weight[rows] > 0).sum()) / group.rows
            found.setdefault(group.name, (example.inputs.shape[1], scored, group.sees))
        if set(found) >= set(objective.groups()):
            break
    return found


def _mean_probability(spec: RunSpec, name: str) -> float:
    """How likely a pass is for a window, averaged over the schedule of the run."""
    steps, state = spec.recipe.steps, spec.objective.state()
    asked = range(0, steps, max(1, steps // 200))
    return fmean(spec.objective.pass_probabilities(Progress(step, steps, state)).get(name, 0.0) for step in asked)
