"""A trained model on a whole split, as the evaluation of its settings says: the windows, the passes and the labels in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from palinode.base.example import SpecialTokens, Windows
from palinode.base.seeds import derive
from palinode.data.config import Split
from palinode.data.source import Source
from palinode.data.task_store import TaskData
from palinode.evaluate.layer_cut import cut_layers
from palinode.evaluate.losses import Evaluation, evaluate, evaluation_passes
from palinode.evaluate.refit import REFIT_TOKENS, STREAM, Refits, refit
from palinode.models.base import LanguageModel
from palinode.results.layer_cut import LayerCut
from palinode.spec.run_spec import RunSettings

Scored = TypeVar("Scored")


def evaluate_split(
    settings: RunSettings, model: LanguageModel, data: Source, specials: SpecialTokens, split: Split, seed: int
) -> Evaluation:
    """Score a whole split as the spec's evaluation says: fixed windows, the objective's own passes; of a task, every answer."""
    score = partial(evaluate, keep_tokens=isinstance(settings.data, TaskData))
    return _score_split(score, settings, model, data, specials, split, seed)


def cut_split(
    settings: RunSettings,
    model: LanguageModel,
    data: Source,
    specials: SpecialTokens,
    split: Split,
    seed: int,
    refits: Refits | None = None,
) -> LayerCut:
    """Score a whole split with the first 1, 2, .. L blocks: the windows and passes of `evaluate_split`.

    Raises:
        BadInput: the model cannot be cut.
    """
    return _score_split(partial(cut_layers, refits=refits), settings, model, data, specials, split, seed)


def _score_split(
    score: Callable[..., Scored],
    settings: RunSettings,
    model: LanguageModel,
    data: Source,
    specials: SpecialTokens,
    split: Split,
    seed: int,
) -> Scored:
    """Hand `score` the windows and the passes of this evaluation, and what it needs to read them."""
    return score(
        model,
        split_windows(settings, data, split),
        evaluation_passes(settings.objective, settings.evaluation.directions),
        specials=specials,
        bytes_per_token=data.bytes_per_token,
        seed=seed,
        device=next(model.parameters()).device,
        labels=settings.evaluation.labels,
    )


def split_windows(settings: RunSettings, data: Source, split: Split) -> Iterator[Windows]:
    """The fixed windows of a split that an evaluation reads."""
    chosen, window = settings.evaluation, settings.data.window_tokens
    return data.evaluation(split, window, batch_windows=chosen.batch_windows, max_tokens=chosen.max_tokens)


def refit_for_cuts(
    settings: RunSettings, model: LanguageModel, data: Source, specials: SpecialTokens, seed: int
) -> Refits:
    """A final norm and head for each pass and number of blocks, trained on windows of the train split in an order of their own."""
    window = settings.data.window_tokens
    stream, rows = data.training(window, derive(seed, STREAM)), max(1, REFIT_TOKENS // window)
    return refit(
        model,
        lambda step: stream.read(step * rows, rows),
        evaluation_passes(settings.objective, settings.evaluation.directions),
        steps=settings.evaluation.layer_cut_refit_steps,
        specials=specials,
        seed=seed,
        device=next(model.parameters()).device,
        labels=settings.labels,
    )
