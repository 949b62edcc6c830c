"""How long will it take? A few real steps, evaluation batches, a save and an audit of every arm, scaled to the whole run.

Measured as the runs themselves will run: in processes of their own with the spec's threads, and as many at a time as there
will be workers, because two runs on one machine slow each other down. The prediction is stored before the runs and shown
beside what they took.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from palinode.auditing import audit_trained
from palinode.base.config import content_hash, encode
from palinode.data.store import TokenStore
from palinode.data.windows import evaluation_windows
from palinode.evaluate.losses import Evaluation, evaluate, evaluation_passes
from palinode.fan_out import end_with_the_driver, fan_out, say
from palinode.objectives import Progress
from palinode.results.store import Store
from palinode.run import Attempt, cut_split, refit_for_cuts
from palinode.spec.code import Code
from palinode.spec.load import load_run
from palinode.spec.run_spec import RunSettings, RunSpec
from palinode.train.loop import Training, batch_examples, take_step

WARM_UP_STEPS = 2  # the first steps allocate; they are several times slower
LEAST_STEPS, MOST_STEPS = 4, 40
BUDGET_SECONDS = 1.5  # of training steps per distinct arm and scale
EVALUATION_BATCHES = 3


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


def calibrate(
    specs: Sequence[RunSpec],
    code: Code | None = None,
    *,
    workers: int = 1,
    on_failure: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """Predicted seconds of each run, by run id; runs that differ in their seed alone are measured once.

    A setting that could not be measured has no prediction, and `on_failure` is told why.

    Args:
        code: the user's Python that parts of the specs were written in.
        workers: how many runs there will be at a time.
    """
    by_key: dict[str, RunSpec] = {}
    for spec in specs:
        by_key.setdefault(_key(spec), spec)
    if not by_key:
        return {}
    measured = _measured_in_processes(tuple(by_key.values()), code, min(workers, len(specs)), on_failure)
    predicted = {}
    for key, spec in by_key.items():
        if spec.run_id in measured:
            predicted[key] = measured[spec.run_id].predicted_seconds(spec)
    return {spec.run_id: predicted[_key(spec)] for spec in specs if _key(spec) in predicted}


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


def _measured_in_processes(
    specs: Sequence[RunSpec], code: Code | None, processes: int, on_failure: Callable[[str], None]
) -> dict[str, Calibration]:
    """Calibrations by run id; what two processes measured is averaged."""
    said = fan_out(
        "palinode.calibrate",
        ["--started", str(time.monotonic())],
        specs,
        code,
        shares(len(specs), processes),
        lambda reason: on_failure(f"could not measure an arm, so its time is not predicted: {reason}"),
    )
    found: dict[str, list[dict[str, float]]] = {}
    for row in said:
        found.setdefault(row["run_id"], []).append(row["calibration"])
    return {
        run_id: Calibration(**{name: fmean(row[name] for row in rows) for name in rows[0]})
        for run_id, rows in found.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the runs of these directories, one after the other, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m palinode.calibrate", description=__doc__)
    parser.add_argument("--started", type=float, required=True, help="time.monotonic() when this process was asked for")
    parser.add_argument("directories", type=Path, nargs="+", help="each holds a run's spec")
    options = parser.parse_args(arguments)
    end_with_the_driver()
    importing_seconds = time.monotonic() - options.started
    for directory in options.directories:
        with contextlib.redirect_stdout(sys.stderr):  # the user's code may print
            spec = load_run(directory, allow_code=True)  # the driver has decided whose code may run
            calibration = measure(spec, Store(directory.parent), importing_seconds)
        say({"run_id": spec.run_id, "calibration": asdict(calibration)})


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
    spec, training = attempt.spec, attempt.training
    tokens, window = attempt.data.tokens("validation"), spec.data.window_tokens
    total, sample = _split_tokens(spec, attempt.data)
    started = time.perf_counter()
    evaluation = evaluate(
        training.model,
        evaluation_windows(tokens, window, max_tokens=sample, batch_windows=spec.evaluation.batch_windows),
        evaluation_passes(spec.objective, spec.evaluation.directions),
        specials=training.specials,
        bytes_per_token=attempt.data.bytes_per_token,
        seed=spec.seed,
        device=training.device,
    )
    return evaluation, (time.perf_counter() - started) * total / max(1, sample)


def _cut_seconds(attempt: Attempt) -> float:
    """A layer cut of a few batches, scaled to the whole split, and a few refitting steps, scaled to all of them."""
    spec, training = attempt.spec, attempt.training
    subject = (training.model, attempt.data, training.specials)
    total, sample = _split_tokens(spec, attempt.data)
    short = spec.evaluation.with_(
        max_tokens=sample, layer_cut_refit_steps=min(2, spec.evaluation.layer_cut_refit_steps)
    )
    settings = spec.settings.with_(evaluation=short)
    seconds = _timed(lambda: cut_split(settings, *subject, "validation", spec.seed)) * total / max(1, sample)
    if not short.layer_cut_refit_steps:
        return seconds
    refitting = _timed(lambda: refit_for_cuts(settings, *subject, spec.seed))
    return seconds + refitting * spec.evaluation.layer_cut_refit_steps / short.layer_cut_refit_steps


def _split_tokens(spec: RunSpec, data: TokenStore) -> tuple[int, int]:
    """Tokens of the validation split that are scored, and of the few batches that are measured."""
    tokens = len(data.tokens("validation"))
    total = min(tokens, spec.evaluation.max_tokens or tokens)
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
    audit_trained(attempt.spec, training.model, attempt.data, training.specials, [row])


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
