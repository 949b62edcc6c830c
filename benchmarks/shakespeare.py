"""The data and the runs that benchmarks of recipes share: tinyshakespeare as characters, 64 targets a window.

The first 90 % are the train split, the other 111 540 characters the validation split ($PALINODE_DATA/tinyshakespeare/input.txt).
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from palinode import DataConfig, EvaluationConfig, LtrObjective, RunSettings, RunSpec
from palinode.data.store import TokenStore, prepare
from palinode.data.windows import TrainWindows
from palinode.evaluate.losses import DirectionScores, Scoring, Sums, evaluating
from palinode.models import DecoderConfig
from palinode.models.direction import read
from palinode.run.one import build_model
from palinode.spec.trained import Trained
from palinode.train.loop import Training, take_step
from palinode.train.optim import build_optimizers
from palinode.train.recipe import Recipe

DATA = DataConfig(
    corpus="data:tinyshakespeare/input.txt",
    tokenizer="char",
    window_tokens=64,
    split="contiguous",
    validation_fraction=0.1,
    test_fraction=0.0,
)

BATCH_WINDOWS = 64  # of a batch that is scored

Row = dict[str, Any]


def data_is_missing(program: str, needed: str = "tinyshakespeare/input.txt") -> bool:
    """Whether PALINODE_DATA names no folder of texts; prints a message if so."""
    missing = "PALINODE_DATA" not in os.environ
    if missing:
        print(f"{program}: PALINODE_DATA is not set; it is the folder that holds {needed}. Skipped.")
    return missing


def settings(model: DecoderConfig, recipe: Recipe) -> RunSettings:
    """A left-to-right run of this model and recipe."""
    return RunSettings(
        data=DATA,
        model=model,
        objective=LtrObjective(),
        recipe=recipe,
        evaluation=EvaluationConfig(directions=("ltr",)),
    )


def train_and_score(chosen: RunSettings, seed: int, threads: int, evaluations: int) -> Row:
    """Train to the end and score so many times, evenly spread, the last time at the end.

    A score is the mean nats of the last 63 of 64 targets of all windows of the validation split.
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as cache:
        data = prepare(chosen.data, Path(cache))
        training = new_training(chosen, data, seed)
        every = chosen.recipe.steps // evaluations
        seconds = cpu_seconds = 0.0
        rows: list[Row] = []
        training.model.train()
        while training.step < chosen.recipe.steps:
            cpu = time.process_time()
            seconds += take_step(training).seconds
            cpu_seconds += time.process_time() - cpu
            if training.step % every == 0:
                scores = score_with_context(training, data)
                counted = {"step": training.step, "tokens_read": training.counters.tokens_read}
                spent = {"seconds": seconds, "cpu_seconds": cpu_seconds}
                rows.append({**counted, **spent, "nats_per_token": scores.nats_per_token})
        scored = scores.tokens_scored
    return {
        "evaluations": rows,
        "tokens_scored": scored,
        "parameters": sum(parameter.numel() for parameter in training.model.parameters()),
        "train_flops": training.counters.train_flops,
        "load_average": round(os.getloadavg()[0], 2),
    }


def score_with_context(training: Training, data: TokenStore) -> DirectionScores:
    """The scores of the targets that at least one character precedes in their window, so of all but the first.

    Only a model with a direction token predicts the first one, and it has no context for it.
    """
    scoring, sums = Scoring(training.specials, data.bytes_per_token, training.seed), Sums()
    windows = data.evaluation("validation", DATA.window_tokens, batch_windows=BATCH_WINDOWS, max_tokens=None)
    with evaluating(training.model):
        for _, example in scoring.examples(windows, {"ltr": LtrObjective()}):
            weight = example.loss_weight.masked_fill(example.target_source == 0, 0.0)
            scored = replace(example, loss_weight=weight)
            sums.add(scored, read(training.model, scored), training.model.logits, scoring.bytes_of_ids())
    return sums.scores()


def as_trained(chosen: RunSettings, training: Training, data: TokenStore) -> Trained:
    """The model of a training in the form that evaluations take."""
    return Trained(RunSpec.of(chosen, training.seed), training.model, training.specials, data)


def new_training(chosen: RunSettings, data: TokenStore, seed: int) -> Training:
    model, specials = build_model(chosen, data, seed)
    return Training(
        model=model,
        optimizers=build_optimizers(chosen.recipe.optimizer, model, model.parameter_groups()),
        objective=chosen.objective,
        recipe=chosen.recipe,
        windows=TrainWindows(data.tokens("train"), chosen.data.window_tokens, seed),
        specials=specials,
        seed=seed,
        device=torch.device("cpu"),
        objective_state=chosen.objective.state(),
    )
