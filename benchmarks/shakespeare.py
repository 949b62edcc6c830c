"""The data and the runs that benchmarks of recipes share: tinyshakespeare as characters, 64 targets a window.

The first 90 % are the train split, the other 111 540 characters the validation split ($PALINODE_DATA/tinyshakespeare/input.txt).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
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
    return train_in_turns({"": chosen}, seed, threads, {"": evaluations})[""]


def train_in_turns(
    chosen: Mapping[str, RunSettings], seed: int, threads: int, evaluations: Mapping[str, int], turns: int = 1
) -> dict[str, Row]:
    """Train several models to the end in one process, and score each as `train_and_score` does.

    They take turns: in each of `turns` rounds every model takes an equal share of its own steps. So all of them are timed under the
    same conditions, although the speed of a shared machine changes within minutes. All have the same data.
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as cache:
        data = prepare(DATA, Path(cache))
        timed = {name: TimedTraining(one, data, seed, evaluations[name]) for name, one in chosen.items()}
        for turn in range(1, turns + 1):
            for one in timed.values():
                one.train_until(one.steps * turn // turns)
        return {name: one.row() for name, one in timed.items()}


class TimedTraining:
    """A training whose steps are timed and that is scored so many times, evenly spread, the last time at the end."""

    def __init__(self, chosen: RunSettings, data: TokenStore, seed: int, evaluations: int):
        self.training, self.data, self.steps = new_training(chosen, data, seed), data, chosen.recipe.steps
        self.score_at = {self.steps * number // evaluations for number in range(1, evaluations + 1)}
        self.seconds = self.cpu_seconds = 0.0
        self.evaluations: list[Row] = []
        self.tokens_scored = 0

    def train_until(self, step: int) -> None:
        self.training.model.train()
        while self.training.step < step:
            cpu = time.process_time()
            self.seconds += take_step(self.training).seconds
            self.cpu_seconds += time.process_time() - cpu
            if self.training.step in self.score_at:
                self._score()

    def _score(self) -> None:
        scores = score_with_context(self.training, self.data)
        self.tokens_scored = scores.tokens_scored
        counted = {"step": self.training.step, "tokens_read": self.training.counters.tokens_read}
        spent = {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds}
        self.evaluations.append({**counted, **spent, "nats_per_token": scores.nats_per_token})

    def row(self) -> Row:
        return {
            "evaluations": self.evaluations,
            "tokens_scored": self.tokens_scored,
            "parameters": sum(parameter.numel() for parameter in self.training.model.parameters()),
            "train_flops": self.training.counters.train_flops,
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
