"""How long will it take? A few real steps and a few real evaluation batches of every arm, scaled to the whole run.

The prediction is stored before the runs and shown beside what they took. It leaves out what cannot be known here: other
programs on the machine, and workers that slow one another down.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from palinode.base.config import content_hash, encode
from palinode.base.example import SpecialTokens
from palinode.data.store import TokenStore, prepare
from palinode.data.windows import TrainWindows, evaluation_windows
from palinode.evaluate.losses import evaluate, evaluation_passes
from palinode.objectives import Progress
from palinode.run import build_model
from palinode.spec.run_spec import RunSettings, RunSpec
from palinode.train.loop import Training, batch_examples, take_step
from palinode.train.optim import build_optimizers
from palinode.train.parallel import resolve_device, use_threads

WARM_UP_STEPS = 2  # the first steps allocate; they are several times slower
LEAST_STEPS, MOST_STEPS = 4, 40
BUDGET_SECONDS = 1.5  # of measuring per distinct arm and scale
EVALUATION_BATCHES = 3
STARTUP_SECONDS = 4.0  # a process that imports torch, opens the data and builds the model


@dataclass(frozen=True)
class Calibration:
    """What was measured for one distinct setting, and what follows for one run of it."""

    seconds_per_slot: float
    evaluation_seconds: float
    expected_passes: float
    predicted_seconds: float


def calibrate(
    specs: Iterable[RunSpec], on_progress: Callable[[str], None] = lambda line: None
) -> dict[str, Calibration]:
    """Predicted cost of each run, by run id; runs that differ in their seed alone are measured once."""
    measured: dict[str, Calibration] = {}
    by_run: dict[str, Calibration] = {}
    for spec in specs:
        key = content_hash(encode(spec.settings))
        if key not in measured:
            measured[key] = _measure(spec)
            on_progress(f"measured {spec.run_id}: {measured[key].predicted_seconds:.0f} s predicted")
        by_run[spec.run_id] = measured[key]
    return by_run


def expected_passes(settings: RunSettings) -> float:
    """Passes per window, averaged over the schedule of the run (an adaptive p counts as it starts)."""
    steps, objective = settings.recipe.steps, settings.objective
    asked = range(0, steps, max(1, steps // 200))
    passes = [sum(objective.pass_probabilities(Progress(step, steps, objective.state())).values()) for step in asked]
    return sum(passes) / len(passes)


def _measure(spec: RunSpec) -> Calibration:
    use_threads(spec.threads)
    data = prepare(spec.data)
    model, specials = build_model(spec, data, spec.seed)
    training = Training(
        model=model,
        optimizers=build_optimizers(spec.recipe.optimizer, model, model.parameter_groups()),
        objective=spec.objective,
        recipe=spec.recipe,
        windows=TrainWindows(data.tokens("train"), spec.data.window_tokens, spec.seed),
        specials=specials,
        seed=spec.seed,
        device=resolve_device(spec.device),
        objective_state=spec.objective.state(),
    )
    per_slot = _seconds_per_slot(training)
    evaluation = _evaluation_seconds(spec, training, data, specials)
    passes = expected_passes(spec)
    slots = spec.recipe.steps * spec.recipe.batch_windows * passes * spec.data.window_tokens
    every = spec.recipe.evaluate_every_steps
    evaluations = 1 + ((spec.recipe.steps - 1) // every if every else 0) + spec.evaluation.test
    predicted = STARTUP_SECONDS + per_slot * slots + evaluations * evaluation
    return Calibration(per_slot, evaluation, passes, predicted)


def _seconds_per_slot(training: Training) -> float:
    """Median over single steps, each divided by the slots it read."""
    training.model.train()
    times: list[float] = []
    began = time.perf_counter()
    for number in itertools.count():
        if training.step >= training.recipe.steps or number >= WARM_UP_STEPS + MOST_STEPS:
            break
        slots = sum(example.inputs.numel() for example in batch_examples(training))
        started = time.perf_counter()
        take_step(training)
        if number >= WARM_UP_STEPS or training.step == training.recipe.steps:
            times.append((time.perf_counter() - started) / slots)
        if len(times) >= LEAST_STEPS and time.perf_counter() - began > BUDGET_SECONDS:
            break
    return median(times)


def _evaluation_seconds(spec: RunSpec, training: Training, data: TokenStore, specials: SpecialTokens) -> float:
    """Seconds for one evaluation of the validation split, from a few of its batches."""
    tokens, window = data.tokens("validation"), spec.data.window_tokens
    total = min(len(tokens), spec.evaluation.max_tokens or len(tokens))
    sample = min(total, EVALUATION_BATCHES * spec.evaluation.batch_windows * window)
    started = time.perf_counter()
    evaluate(
        training.model,
        evaluation_windows(tokens, window, max_tokens=sample, batch_windows=spec.evaluation.batch_windows),
        evaluation_passes(spec.objective, spec.evaluation.directions),
        specials=specials,
        bytes_per_token=data.bytes_per_token,
        seed=spec.seed,
        device=training.device,
    )
    return (time.perf_counter() - started) * total / max(1, sample)
