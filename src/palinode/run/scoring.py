"""Scores a trained model on a whole split. This file chooses the windows, passes and labels that the spec's evaluation asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from palinode.base.example import Windows
from palinode.base.seeds import derive
from palinode.data.config import Split
from palinode.data.task_store import TaskData
from palinode.evaluate.details import Details, DetailsOf
from palinode.evaluate.layer_cut import REFIT_TOKENS, STREAM, Refits, cut_layers, refit
from palinode.evaluate.losses import (
    Evaluation,
    PassBatch,
    ScoreBatches,
    ScoredSlots,
    Scoring,
    evaluate,
    evaluation_passes,
)
from palinode.objectives import Objective
from palinode.objectives.label_mask import Labels
from palinode.results.layer_cut import LayerCut
from palinode.spec.trained import Trained


def evaluate_split(trained: Trained, split: Split, score: ScoreBatches | None = None) -> Evaluation:
    """Score a whole split. On a task, the hit of every scored token is kept. `score` is that of `evaluate`.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    return _evaluated(trained, split, lambda batch, slots: None, score)


def evaluate_in_detail(trained: Trained, split: Split, score: ScoreBatches | None = None) -> tuple[Evaluation, Details]:
    """The scores of `evaluate_split`, what its nats are about, and the scores of each document.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    details = DetailsOf(_passes(trained), trained.data.units(split))
    evaluation = _evaluated(trained, split, details.add, score)
    return evaluation, details.result()


def _evaluated(
    trained: Trained, split: Split, observe: Callable[[PassBatch, ScoredSlots], None], score: ScoreBatches | None
) -> Evaluation:
    windows, scoring = _windows(trained, split), _scoring(trained, trained.spec.evaluation.labels)
    keep_tokens = isinstance(trained.spec.data, TaskData)
    return evaluate(
        trained.model, windows, _passes(trained), scoring, keep_tokens=keep_tokens, observe=observe, score=score
    )


def cut_split(trained: Trained, split: Split, refits: Refits | None = None) -> LayerCut:
    """Score a whole split with the first 1, 2, .. L blocks, on the same windows and passes as `evaluate_split`.

    Raises:
        BadInput: the model cannot be cut.
        FloatingPointError: a loss is not finite.
    """
    windows, scoring = _windows(trained, split), _scoring(trained, trained.spec.evaluation.labels)
    return cut_layers(trained.model, windows, _passes(trained), scoring, refits)


def refit_for_cuts(trained: Trained) -> Refits:
    """Train a final norm and head for each pass and number of blocks, on train windows in a separate order."""
    spec = trained.spec
    window = spec.data.window_tokens
    stream, rows = trained.data.training(window, derive(spec.seed, STREAM)), max(1, REFIT_TOKENS // window)
    return refit(
        trained.model,
        lambda step: stream.read(step * rows, rows),
        _passes(trained),
        _scoring(trained, spec.labels),
        spec.evaluation.layer_cut_refit_steps,
    )


def _windows(trained: Trained, split: Split) -> Iterator[Windows]:
    evaluation, window = trained.spec.evaluation, trained.spec.data.window_tokens
    return trained.data.evaluation(
        split,
        window,
        batch_windows=evaluation.batch_windows,
        max_tokens=evaluation.max_tokens,
        windows=evaluation.windows,
    )


def _passes(trained: Trained) -> dict[str, Objective]:
    return evaluation_passes(trained.spec.objective, trained.spec.evaluation.directions)


def _scoring(trained: Trained, labels: Labels) -> Scoring:
    return Scoring(trained.specials, trained.data.bytes_per_token, trained.spec.seed, labels)
