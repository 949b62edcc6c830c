"""Predict how long the runs will take: time a few steps, evaluation batches, a save and an audit of each cell, and scale them up.

The measurements run as the runs will: in separate processes with the spec's number of threads, and as many at a time as the number
of workers, because two runs on one machine slow each other down. A process is `python -m palinode.experiment.calibrate` with the
numbers that `main` reads and directories that hold a run's spec.

In a large grid of arms by scales there is time for some of the cells. The seconds of the others are predicted: the seconds of a
step, an evaluation, a save or an audit are fitted as a sum of a few prices (one for each call, parameter tensor, parameter and FLOP
of the model), times a factor of the arm. No price is below zero. So a prediction for a size between two measured sizes lies between
their seconds, and one for a larger size is larger.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np

from palinode.audit import audit_trained
from palinode.base.memory import keep_memory
from palinode.data.source import Source
from palinode.evaluate.losses import Evaluation
from palinode.experiment.cells import Cell, expected_evaluations, expected_passes, expected_steps
from palinode.experiment.fan_out import Message, end_with_the_driver, fan_out, say
from palinode.results.store import Store
from palinode.run.one import Attempt
from palinode.run.retrieval import AT_ONCE, Task, trained_retriever, vectors
from palinode.run.scoring import cut_split, evaluate_split, refit_for_cuts
from palinode.spec.code import Code
from palinode.spec.load import load_run
from palinode.spec.run_spec import RunSettings, RunSpec
from palinode.sweep.nursery import Nursery
from palinode.train.loop import Training, batch_examples, take_step
from palinode.train.product_rate import counted_flops, product_rate, products_of

WARM_UP_STEPS = 2  # the first steps allocate; they are several times slower
LEAST_STEPS, MOST_STEPS = 4, 40
BUDGET_SECONDS = 1.5  # the seconds of training steps that are measured per distinct arm and scale
EVALUATION_BATCHES = 3
RETRIEVER_STEPS = 2  # a step of 16 queries on 12 blocks of SmolLM2 takes about 8 s on a core
MOST_SECONDS = 60.0  # a process begins to measure no further setting after this time
SHARE_OF_RUNS = 0.1  # a process also stops after this share of the seconds that the runs will take
FEW_SETTINGS = 8  # a process does not stop for SHARE_OF_RUNS before this number of settings was measured
FIT_ROUNDS = 20  # the number of rounds that fit the prices, then the factors


@dataclass(frozen=True)
class Calibration:
    """The seconds that were measured for one cell.

    Attributes:
        startup_seconds: the seconds to start a process, import torch, open the data and build the model.
        seconds_per_slot: the seconds of training for each slot that is read.
        evaluation_seconds, checkpoint_seconds, audit_seconds: the seconds of one evaluation, save, and audit.
        cut_seconds: the seconds of the layer cut of one split and its refits; 0 where the evaluation has none.
        retrieval_seconds: the seconds of all retrievers, with their training; 0 where the evaluation has none.
    """

    startup_seconds: float
    seconds_per_slot: float
    evaluation_seconds: float
    checkpoint_seconds: float
    audit_seconds: float
    cut_seconds: float
    retrieval_seconds: float = 0.0

    def predicted_seconds(self, settings: RunSettings) -> float:
        """The predicted wall time of one run in seconds."""
        recipe = settings.recipe
        steps = expected_steps(settings)
        slots = steps * recipe.batch_windows * expected_passes(settings) * settings.data.window_tokens
        saves = math.ceil(steps / recipe.checkpoint_interval_steps)
        splits = 1 + settings.evaluation.test
        return (
            self.startup_seconds
            + self.seconds_per_slot * slots
            + self.evaluation_seconds * expected_evaluations(settings)
            + self.checkpoint_seconds * saves
            + self.audit_seconds
            + self.cut_seconds * splits
            + self.retrieval_seconds
        )


class Predicted(NamedTuple):
    """The seconds that runs are predicted to take.

    Attributes:
        seconds: (arm, scale) -> the seconds of one run; a cell that could not be measured is missing.
        settings, measured: the number of distinct settings, and the number of settings that were measured.
        product_shares: (arm, scale) -> the share of the machine's product rate that a step reaches; only for measured cells.
    """

    seconds: Mapping[tuple[str, str], float]
    settings: int
    measured: int
    product_shares: Mapping[tuple[str, str], float] = {}

    def beside(self, known: Predicted) -> Predicted:
        """These predictions and the known seconds and shares of other cells. Only settings without known seconds are counted."""
        return self._replace(
            seconds={**self.seconds, **known.seconds}, product_shares={**self.product_shares, **known.product_shares}
        )


def calibrate(
    cells: Sequence[Cell],
    runs: int,
    code: Code | None = None,
    *,
    workers: int = 1,
    on_failure: Callable[[str], None] = lambda line: None,
    nursery: Nursery | None = None,
) -> Predicted:
    """Predicted seconds of a run of each cell: runs that differ in their seed alone are measured once.

    Args:
        runs: the number of runs of these cells that are left to do.
        code: the user's Python that parts of the specs were written in.
        workers: the number of runs that will run at a time.
        on_failure: called with the reason why a cell could not be measured; it then has no prediction.
        nursery: forks the processes that measure.
    """
    if not cells:
        return Predicted({}, 0, 0)
    settings = [setting_of(cell) for cell in cells]
    specs = [cells[index].spec for index in spanning_order(settings)]
    processes = min(workers, runs)
    messages = _measured_in_processes(specs, code, processes, runs / processes, on_failure, nursery)
    by_run, shares_by_run = _means(messages), _product_shares(messages)
    by_index = {index: by_run[id_] for index, cell in enumerate(cells) if (id_ := cell.spec.run_id) in by_run}
    measured = {index: calibration for index, calibration in by_index.items() if calibration is not None}
    failed = by_index.keys() - measured.keys()
    seconds = {
        (cell.arm.name, cell.scale): calibration.predicted_seconds(cell.spec)
        for cell, calibration in zip(cells, completed(settings, measured, failed), strict=True)
        if calibration is not None
    }
    product_shares = {
        (cell.arm.name, cell.scale): shares_by_run[cell.spec.run_id]
        for cell in cells
        if cell.spec.run_id in shares_by_run
    }
    return Predicted(seconds, len(cells), len(measured), product_shares)


def completed(
    settings: Sequence[Setting], measured: Mapping[int, Calibration], failed: Set[int]
) -> list[Calibration | None]:
    """The calibration of every setting: the measured one, else a predicted one; None where it or all of its arm failed."""
    arms = {settings[index].arm for index in measured}
    hopeless = {settings[index].arm for index in failed} - arms
    if not measured:
        return [None] * len(settings)
    by_name = [
        filled_in(settings, {index: getattr(calibration, field.name) for index, calibration in measured.items()})
        for field in fields(Calibration)
    ]
    return [
        None if index in failed or setting.arm in hopeless else Calibration(*seconds)
        for index, (setting, *seconds) in enumerate(zip(settings, *by_name, strict=True))
    ]


class Work(NamedTuple):
    """The amounts of work in a model that its seconds are predicted from.

    Attributes:
        tensors: the number of parameter tensors, which stands for the number of operations in a pass.
        stack_flops, head_flops: forward FLOPs for one slot, of everything before the head and of the head.
        cut: forward FLOPs for one slot of a head after every part of the stack, as in a layer cut.
    """

    tensors: float
    parameters: float
    stack_flops: float
    head_flops: float
    cut: float


class Setting(NamedTuple):
    """One place in the grid of arms by scales."""

    arm: str
    scale: str
    work: Work


def setting_of(cell: Cell) -> Setting:
    """The place of a cell, with the work of its model at the full window."""
    tensors, cost = float(cell.model.parameter_tensors), cell.cost
    work = Work(
        tensors=tensors,
        parameters=float(cost.total_parameters),
        stack_flops=cost.executed_flops_per_slot,
        head_flops=cost.head_flops_per_slot,
        cut=tensors * cost.head_flops_per_slot,
    )
    return Setting(cell.arm.name, cell.scale, work)


def spanning_order(settings: Sequence[Setting]) -> list[int]:
    """The order in which to measure, so that the first few settings spread over the whole grid.

    The setting with the most FLOPs comes first. The next is always one whose arm and scale were chosen least often so far; among
    several, the one whose FLOPs are farthest from those of all chosen settings.
    """
    flops = [math.log(1.0 + setting.work.stack_flops + setting.work.head_flops) for setting in settings]
    order: list[int] = []
    times: Counter[tuple[str, str]] = Counter()

    def rank(index: int) -> tuple[int, float]:
        setting = settings[index]
        chosen_before = times["arm", setting.arm] + times["scale", setting.scale]
        return chosen_before, -min((abs(flops[index] - flops[other]) for other in order), default=flops[index])

    left = list(range(len(settings)))
    while left:
        chosen = min(left, key=rank)
        left.remove(chosen)
        order.append(chosen)
        times.update((("arm", settings[chosen].arm), ("scale", settings[chosen].scale)))
    return order


def filled_in(settings: Sequence[Setting], measured: Mapping[int, float]) -> list[float]:
    """The seconds of every setting: the measured ones, else from prices fitted to these.

    The fit minimises relative errors. An arm that was never measured has the factor 1.

    Args:
        measured: index of a setting -> its seconds; at least one.
    """
    from scipy.optimize import nnls  # type: ignore[attr-defined] # importing it takes half a second

    fitted_to = [index for index, seconds in measured.items() if seconds > 0]
    if not fitted_to:
        return [0.0] * len(settings)
    table = np.array([(1.0, *setting.work) for setting in settings])
    table /= np.maximum(table.max(axis=0), 1e-30)  # divide each kind of work by its largest amount
    seconds = np.array([measured[index] for index in fitted_to])
    arms = [settings[index].arm for index in fitted_to]
    factors = dict.fromkeys(arms, 1.0)
    fitted = np.ones(len(settings))
    for _ in range(FIT_ROUNDS):
        of_model = seconds / np.array([factors[arm] for arm in arms])
        prices, _ = nnls(table[fitted_to] / of_model[:, None], np.ones(len(fitted_to)))
        fitted = table @ prices
        above = np.log(seconds / fitted[fitted_to])
        for arm in factors:
            factors[arm] = float(np.exp(np.mean([log for log, name in zip(above, arms, strict=True) if name == arm])))
    return [
        measured.get(index, float(fitted[index]) * factors.get(setting.arm, 1.0))
        for index, setting in enumerate(settings)
    ]


def goes_on(each_seconds: Sequence[float], spent_seconds: float, runs_seconds: float, least: float) -> bool:
    """Whether a process begins to measure another setting.

    Args:
        each_seconds: the seconds of every setting measured so far, the largest setting first. The next may take their mean.
        spent_seconds: the seconds since the process was started, with the time of its imports.
        runs_seconds: the seconds that the runs will take, as predicted so far.
        least: the number of settings that are measured even if the runs are short.
    """
    limit = MOST_SECONDS if len(each_seconds) < least else min(MOST_SECONDS, SHARE_OF_RUNS * runs_seconds)
    return not each_seconds or spent_seconds + fmean(each_seconds) <= limit


def shares(count: int, processes: int) -> list[list[int]]:
    """The settings that each process measures: each setting is measured by some process, and every process has as many."""
    rounds = -(-count // processes)
    return [[(turn * processes + number) % count for turn in range(rounds)] for number in range(processes)]


def _measured_in_processes(
    specs: Sequence[RunSpec],
    code: Code | None,
    processes: int,
    runs_of_each: float,
    on_failure: Callable[[str], None],
    nursery: Nursery | None,
) -> list[Message]:
    """The messages of the processes that measure: each names its run and holds a calibration or None."""
    limits = (time.monotonic(), runs_of_each, -(-FEW_SETTINGS // processes))
    return fan_out(
        "palinode.experiment.calibrate",
        [str(limit) for limit in limits],
        specs,
        code,
        shares(len(specs), processes),
        lambda reason: on_failure(f"could not measure an arm, so its time is not predicted: {reason}"),
        nursery,
    )


def _means(messages: Sequence[Message]) -> dict[str, Calibration | None]:
    """Run id -> its calibration, None where it failed; the mean where two processes measured the same run."""
    rows: dict[str, list[dict[str, float]]] = {}
    for message in messages:
        rows.setdefault(message["run_id"], []).extend(filter(None, [message["calibration"]]))
    return {
        run_id: Calibration(**{name: fmean(row[name] for row in of_run) for name in of_run[0]}) if of_run else None
        for run_id, of_run in rows.items()
    }


def _product_shares(messages: Sequence[Message]) -> dict[str, float]:
    """Run id -> the share of the product rate; the mean where two processes measured the same run."""
    shares_by_run: dict[str, list[float]] = {}
    for message in messages:
        if (share := message.get("product_share")) is not None:
            shares_by_run.setdefault(message["run_id"], []).append(share)
    return {run_id: fmean(of_run) for run_id, of_run in shares_by_run.items()}


def main() -> None:
    """Measure the runs of these directories, one after the other while there is time, and print each calibration.

    The arguments: `time.monotonic()` when this process was started, how many runs each worker will do, how many settings to
    measure even if the runs are short, and the directories.
    """
    started, runs, least = map(float, sys.argv[1:4])
    end_with_the_driver()
    keep_memory()
    importing_seconds = time.monotonic() - started
    each_seconds, predicted = list[float](), list[float]()
    for directory in map(Path, sys.argv[4:]):
        spent = time.monotonic() - started
        if not goes_on(each_seconds, spent, runs * fmean(predicted or [0.0]), least):
            break
        say({"run_id": directory.name, "calibration": None})  # a run that was begun and has no calibration failed
        with contextlib.redirect_stdout(sys.stderr):  # the user's code may print
            spec = load_run(directory, allow_code=True)  # the driver has decided whose code may run
            # Two processes may measure one run, so each process has a store of its own: a run has one holder.
            store = Store(directory.parent / f"process-{os.getpid()}")
            calibration, product_share = measure(spec, store, importing_seconds)
        say({"run_id": spec.run_id, "calibration": asdict(calibration), "product_share": product_share})
        each_seconds.append(time.monotonic() - started - spent)
        predicted.append(calibration.predicted_seconds(spec))


def measure(spec: RunSpec, store: Store, importing_seconds: float) -> tuple[Calibration, float | None]:
    """The calibration of one run, with the same `Attempt` that trains it, and its share of the machine's product rate.

    The share is None for a model without linear maps and for a run of 0 steps.
    """
    began = time.perf_counter()
    attempt = Attempt.begin(spec.with_(start_from=None), store, lambda event: None)  # the time depends on no weight
    building_seconds = time.perf_counter() - began
    per_slot, flops_per_second = _speed(attempt.training)
    products = products_of(attempt.training)
    product_share = None
    if products is not None and flops_per_second > 0:
        product_share = flops_per_second / product_rate(products)
    evaluation, evaluation_seconds = _evaluation(attempt)
    calibration = Calibration(
        startup_seconds=importing_seconds + building_seconds,
        seconds_per_slot=per_slot,
        evaluation_seconds=evaluation_seconds,
        checkpoint_seconds=_timed(attempt.save),
        audit_seconds=_timed(lambda: _audit(attempt, evaluation)),
        cut_seconds=_cut_seconds(attempt) if spec.evaluation.layer_cut else 0.0,
        retrieval_seconds=_retrieval_seconds(attempt) if spec.evaluation.retrieval is not None else 0.0,
    )
    return calibration, product_share


def _speed(training: Training) -> tuple[float, float]:
    """The seconds for one slot, and the FLOPs a second of model and optimizer: medians over single training steps.

    Both are 0 for a run of 0 steps, which is only evaluated.
    """
    training.model.train()
    times, rates = list[float](), list[float]()
    began = time.perf_counter()
    for number in range(WARM_UP_STEPS + MOST_STEPS):
        if training.finished:
            break
        slots = sum(example.inputs.numel() for example in batch_examples(training))
        flops_before = counted_flops(training.counters)
        started = time.perf_counter()
        take_step(training)
        seconds = time.perf_counter() - started
        if number >= WARM_UP_STEPS or training.finished:
            times.append(seconds / slots)
            rates.append((counted_flops(training.counters) - flops_before) / seconds)
        if len(times) >= LEAST_STEPS and time.perf_counter() - began > BUDGET_SECONDS:
            break
    return (median(times), median(rates)) if times else (0.0, 0.0)


def _evaluation(attempt: Attempt) -> tuple[Evaluation, float]:
    """An evaluation of a few batches of the validation split, and the seconds that the whole split would take."""
    config = attempt.spec.evaluation
    total, sample = _split_tokens(attempt.spec, attempt.trained.data)
    short = attempt.trained.with_spec(evaluation=config.with_(max_tokens=sample, curve_tokens=None))
    started = time.perf_counter()
    evaluation = evaluate_split(short, config.split)
    return evaluation, (time.perf_counter() - started) * total / max(1, sample)


def _cut_seconds(attempt: Attempt) -> float:
    """A layer cut of a few batches, scaled to the whole split, and a few refitting steps, scaled to all of them."""
    config = attempt.spec.evaluation
    total, sample = _split_tokens(attempt.spec, attempt.trained.data)
    refit_steps = min(2, config.layer_cut_refit_steps)
    shorter = config.with_(max_tokens=sample, curve_tokens=None, layer_cut_refit_steps=refit_steps)
    short = attempt.trained.with_spec(evaluation=shorter)
    seconds = _timed(lambda: cut_split(short, "validation")) * total / max(1, sample)
    if not refit_steps:
        return seconds
    return seconds + _timed(lambda: refit_for_cuts(short)) * config.layer_cut_refit_steps / refit_steps


def _retrieval_seconds(attempt: Attempt) -> float:
    """BM25, and for each reading a few training steps and a few texts, scaled to all of them."""
    task = Task.of(attempt.trained)
    seconds = _timed(lambda: task.pool)
    texts = {len(task.pool): [task.document_ids(task.documents[place]) for place in task.pool[:AT_ONCE]]}
    texts[len(task.fold.tested)] = [task.query_ids(query) for query in task.fold.tested[:AT_ONCE]]
    for reading in task.config.readings:
        steps = min(RETRIEVER_STEPS, task.config.steps)
        started = time.perf_counter()
        retriever, _ = trained_retriever(task, reading, steps)
        seconds += (time.perf_counter() - started) * task.config.steps / max(1, steps)
        for count, some in texts.items():
            seconds += _timed(partial(vectors, task, retriever, some)) * count / len(some)
    return seconds


def _split_tokens(spec: RunSpec, data: Source) -> tuple[int, int]:
    """Tokens of the validation split that are scored, and of the few batches that are measured."""
    total = data.scored_tokens(spec.evaluation.split, spec.evaluation.max_tokens)
    return total, min(total, EVALUATION_BATCHES * spec.evaluation.batch_windows * spec.data.window_tokens)


def _audit(attempt: Attempt, evaluation: Evaluation) -> None:
    """The audit that ends a run, on the weights as they are."""
    training = attempt.training
    row: Mapping[str, Any] = {
        **asdict(training.counters),
        "event": "eval",
        "split": "validation",
        "step": training.step,
        "scores": evaluation.as_rows(),
    }
    audit_trained(attempt.trained, [row])


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
