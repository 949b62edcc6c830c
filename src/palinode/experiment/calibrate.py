"""How long will it take? A few real steps, evaluation batches, a save and an audit of every arm, scaled to the whole run.

Measured as the runs themselves will run: in processes of their own with the spec's threads, and as many at a time as there
will be workers, because two runs on one machine slow each other down. The prediction is stored before the runs and shown
beside what they took. A large grid is not measured whole: when the time for it is up, what is left is predicted from what was
measured (see `effort`).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean, median
from typing import Any

from palinode.audit import audit_trained
from palinode.base.config import content_hash, encode
from palinode.data.source import Source
from palinode.evaluate.losses import Evaluation
from palinode.experiment.effort import Setting, Work, filled_in, spanning_order, work_of
from palinode.experiment.fan_out import end_with_the_driver, fan_out, say
from palinode.objectives import Progress
from palinode.results.store import Store
from palinode.run.one import Attempt
from palinode.run.scoring import cut_split, evaluate_split, refit_for_cuts
from palinode.spec.code import Code
from palinode.spec.experiment import ResolvedRun
from palinode.spec.load import load_run
from palinode.spec.run_spec import RunSettings, RunSpec
from palinode.train.loop import Training, batch_examples, take_step

WARM_UP_STEPS = 2  # the first steps allocate; they are several times slower
LEAST_STEPS, MOST_STEPS = 4, 40
BUDGET_SECONDS = 1.5  # of training steps per distinct arm and scale
EVALUATION_BATCHES = 3
MOST_SECONDS = 60.0  # from which on no further setting is begun, whatever the grid
SHARE_OF_RUNS = 0.1  # nor beyond this share of what the runs will take,
FEW_SETTINGS = 8  # unless there are so few of them: these are all measured


@dataclass(frozen=True)
class Calibration:
    """What was measured for one distinct setting.

    Attributes:
        startup_seconds: a process that imports torch, opens the data and builds the model.
        seconds_per_slot: of training, for each slot read.
        evaluation_seconds, checkpoint_seconds, audit_seconds: one of each; the audit is that of the trained weights.
        cut_seconds: the layer cut of one split, and its refits; 0 where none is asked for.
    """

    startup_seconds: float
    seconds_per_slot: float
    evaluation_seconds: float
    checkpoint_seconds: float
    audit_seconds: float
    cut_seconds: float

    def predicted_seconds(self, settings: RunSettings) -> float:
        """Wall time of one run."""
        recipe = settings.recipe
        steps = expected_steps(settings)
        slots = steps * recipe.batch_windows * expected_passes(settings) * settings.data.window_tokens
        every, saves = recipe.evaluate_every_steps, math.ceil(steps / recipe.checkpoint_interval_steps)
        splits = 1 + settings.evaluation.test
        final = splits * (1 + len(settings.evaluation.context_lengths))
        evaluations = final + (int(steps - 1) // every if every else 0)
        return (
            self.startup_seconds
            + self.seconds_per_slot * slots
            + self.evaluation_seconds * evaluations
            + self.checkpoint_seconds * saves
            + self.audit_seconds
            + self.cut_seconds * splits
        )


@dataclass(frozen=True)
class Predicted:
    """What was found before the runs.

    Attributes:
        seconds: of each run, by run id; a run whose setting could not be measured is missing.
        settings, measured: how many distinct settings there are, and how many of them were measured.
    """

    seconds: Mapping[str, float]
    settings: int
    measured: int


def calibrate(
    runs: Sequence[ResolvedRun],
    code: Code | None = None,
    *,
    workers: int = 1,
    on_failure: Callable[[str], None] = lambda line: None,
) -> Predicted:
    """Predicted seconds of each run; runs that differ in their seed alone are measured once.

    A setting that could not be measured has no prediction, and `on_failure` is told why.

    Args:
        code: the user's Python that parts of the specs were written in.
        workers: how many runs there will be at a time.
    """
    distinct: dict[str, ResolvedRun] = {}
    for run in runs:
        distinct.setdefault(_key(run.spec), run)
    if not distinct:
        return Predicted({}, 0, 0)
    settings = _settings(list(distinct.values()))
    specs = [run.spec for run in distinct.values()]
    found = _measured_in_processes(
        [specs[index] for index in spanning_order(settings)], code, min(workers, len(runs)), len(runs), on_failure
    )
    measured = {index: known for index, spec in enumerate(specs) if (known := found.get(spec.run_id)) is not None}
    failed = {index for index, spec in enumerate(specs) if found.get(spec.run_id, ...) is None}
    by_key = {
        key: calibration.predicted_seconds(run.spec)
        for (key, run), calibration in zip(distinct.items(), completed(settings, measured, failed), strict=True)
        if calibration is not None
    }
    seconds = {run.spec.run_id: by_key[key] for run in runs if (key := _key(run.spec)) in by_key}
    return Predicted(seconds, len(distinct), len(measured))


def completed(
    settings: Sequence[Setting], measured: Mapping[int, Calibration], failed: Set[int]
) -> list[Calibration | None]:
    """The calibration of every setting: as measured, else predicted; None where measuring it or all of its arm failed."""
    arms = {settings[index].arm for index in measured}
    hopeless = {settings[index].arm for index in failed} - arms
    if not measured:
        return [None] * len(settings)
    by_name = {
        field.name: filled_in(settings, {index: getattr(known, field.name) for index, known in measured.items()})
        for field in fields(Calibration)
    }
    return [
        None
        if index in failed or setting.arm in hopeless
        else Calibration(**{name: seconds[index] for name, seconds in by_name.items()})
        for index, setting in enumerate(settings)
    ]


def goes_on(took: Sequence[float], spent: float, worth: float, least: int) -> bool:
    """Whether a process begins to measure another setting.

    Args:
        took: seconds of each that it has measured, the largest first; the next is taken to be as slow as their mean.
        spent: seconds since it was asked for, its imports included.
        worth: seconds that the runs will take, as far as it knows.
        least: so many are measured however short the runs are.
    """
    limit = MOST_SECONDS if len(took) < least else min(MOST_SECONDS, SHARE_OF_RUNS * worth)
    return not took or spent + fmean(took) <= limit


def expected_passes(settings: RunSettings) -> float:
    """Passes per window, averaged over the schedule of the run (an adaptive p counts as it starts)."""
    steps, objective = settings.recipe.steps, settings.objective
    asked = range(0, steps, max(1, steps // 200))
    return fmean(sum(objective.pass_probabilities(Progress(step, steps, objective.state())).values()) for step in asked)


def expected_steps(settings: RunSettings) -> float:
    """Optimizer steps until the first limit: the recipe's steps, or its token limits at what a step reads on average.

    With batches that grow by the gradient norm this counts the batch they start with: fewer steps may reach a token limit.
    """
    recipe, step_tokens = settings.recipe, settings.recipe.batch_windows * settings.data.window_tokens
    ltr = settings.objective.pass_probabilities(Progress(0, recipe.steps, settings.objective.state())).get("ltr", 0.0)
    limits = (
        (recipe.max_tokens_read, step_tokens * expected_passes(settings)),
        (recipe.max_ltr_tokens, step_tokens * ltr),
    )
    reached = [limit / tokens for limit, tokens in limits if limit is not None and tokens > 0]
    return min([float(recipe.steps), *reached])


def shares(count: int, processes: int) -> list[list[int]]:
    """Which settings each process measures: every one at least once, and all processes busy to the end."""
    rounds = -(-count // processes)
    return [[(turn * processes + number) % count for turn in range(rounds)] for number in range(processes)]


def _key(spec: RunSpec) -> str:
    return content_hash(encode(spec.settings))


def _settings(runs: Sequence[ResolvedRun]) -> list[Setting]:
    """The grid; arms with the same model share its work."""
    works: dict[str, Work] = {}
    found = []
    for run in runs:
        key = content_hash([encode(run.spec.model), encode(run.spec.data)])
        if key not in works:
            works[key] = work_of(run.spec)
        found.append(Setting(run.arm, run.scale, works[key]))
    return found


def _measured_in_processes(
    specs: Sequence[RunSpec], code: Code | None, processes: int, runs: int, on_failure: Callable[[str], None]
) -> dict[str, Calibration | None]:
    """Calibrations by run id, None for those that failed; what two processes measured is averaged."""
    limits = {"--started": time.monotonic(), "--runs": runs / processes, "--least": -(-FEW_SETTINGS // processes)}
    said = fan_out(
        "palinode.experiment.calibrate",
        [str(word) for option in limits.items() for word in option],
        specs,
        code,
        shares(len(specs), processes),
        lambda reason: on_failure(f"could not measure an arm, so its time is not predicted: {reason}"),
    )
    found: dict[str, list[dict[str, float]]] = {}
    for row in said:
        rows = found.setdefault(row["run_id"], [])
        if row["calibration"] is not None:
            rows.append(row["calibration"])
    return {
        run_id: Calibration(**{name: fmean(row[name] for row in rows) for name in rows[0]}) if rows else None
        for run_id, rows in found.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the runs of these directories, one after the other while there is time, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m palinode.experiment.calibrate", description=__doc__)
    parser.add_argument("--started", type=float, required=True, help="time.monotonic() when this process was asked for")
    parser.add_argument("--runs", type=float, required=True, help="how many runs each worker will do")
    parser.add_argument("--least", type=int, required=True, help="settings to measure however short the runs are")
    parser.add_argument("directories", type=Path, nargs="+", help="each holds a run's spec")
    options = parser.parse_args(arguments)
    end_with_the_driver()
    importing_seconds = time.monotonic() - options.started
    took, predicted = list[float](), list[float]()
    for directory in options.directories:
        spent = time.monotonic() - options.started
        if not goes_on(took, spent, options.runs * fmean(predicted or [0.0]), options.least):
            break
        say({"run_id": directory.name, "calibration": None})  # begun: what fails from here on is this
        with contextlib.redirect_stdout(sys.stderr):  # the user's code may print
            spec = load_run(directory, allow_code=True)  # the driver has decided whose code may run
            calibration = measure(spec, Store(directory.parent), importing_seconds)
        say({"run_id": spec.run_id, "calibration": asdict(calibration)})
        took.append(time.monotonic() - options.started - spent)
        predicted.append(calibration.predicted_seconds(spec))


def measure(spec: RunSpec, store: Store, importing_seconds: float) -> Calibration:
    """One setting, on the machinery that its runs use."""
    began = time.perf_counter()
    attempt = Attempt.begin(spec, store, lambda event: None)
    building_seconds = time.perf_counter() - began
    per_slot = _seconds_per_slot(attempt.training)
    evaluation, evaluation_seconds = _evaluation(attempt)
    return Calibration(
        startup_seconds=importing_seconds + building_seconds,
        seconds_per_slot=per_slot,
        evaluation_seconds=evaluation_seconds,
        checkpoint_seconds=_timed(attempt.save),
        audit_seconds=_timed(lambda: _audit(attempt, evaluation)),
        cut_seconds=_cut_seconds(attempt) if spec.evaluation.layer_cut else 0.0,
    )


def _seconds_per_slot(training: Training) -> float:
    """Median over single steps, each divided by the slots it read."""
    training.model.train()
    times: list[float] = []
    began = time.perf_counter()
    for number in itertools.count():
        if training.finished or number >= WARM_UP_STEPS + MOST_STEPS:
            break
        slots = sum(example.inputs.numel() for example in batch_examples(training))
        started = time.perf_counter()
        take_step(training)
        if number >= WARM_UP_STEPS or training.finished:
            times.append((time.perf_counter() - started) / slots)
        if len(times) >= LEAST_STEPS and time.perf_counter() - began > BUDGET_SECONDS:
            break
    return median(times)


def _evaluation(attempt: Attempt) -> tuple[Evaluation, float]:
    """An evaluation of a few batches of the validation split, and the seconds that the whole split would take."""
    asked = attempt.spec.evaluation
    total, sample = _split_tokens(attempt.spec, attempt.trained.data)
    short = attempt.trained.with_spec(evaluation=asked.with_(max_tokens=sample))
    started = time.perf_counter()
    evaluation = evaluate_split(short, asked.split)
    return evaluation, (time.perf_counter() - started) * total / max(1, sample)


def _cut_seconds(attempt: Attempt) -> float:
    """A layer cut of a few batches, scaled to the whole split, and a few refitting steps, scaled to all of them."""
    asked = attempt.spec.evaluation
    total, sample = _split_tokens(attempt.spec, attempt.trained.data)
    refit_steps = min(2, asked.layer_cut_refit_steps)
    short = attempt.trained.with_spec(evaluation=asked.with_(max_tokens=sample, layer_cut_refit_steps=refit_steps))
    seconds = _timed(lambda: cut_split(short, "validation")) * total / max(1, sample)
    if not refit_steps:
        return seconds
    return seconds + _timed(lambda: refit_for_cuts(short)) * asked.layer_cut_refit_steps / refit_steps


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
