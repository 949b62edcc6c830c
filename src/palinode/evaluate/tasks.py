"""What an accuracy on a task stands beside: exact matches, slices, longer sequences, chance and what is scored without learning.

Legend: n sequences, S tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palinode.base.seeds import generator
from palinode.data.task_store import TaskData
from palinode.data.tasks.base import NO_VALUE, Sample
from palinode.data.tasks.baselines import Sees, baselines
from palinode.data.tasks.reversed import mirrored
from palinode.data.tasks.splits import draw
from palinode.evaluate.losses import Evaluation, TokenHits
from palinode.objectives import Objective

FITTED_ON = 2000  # at most so many sequences of the train split are counted by guessers that have something to count
MOST_SLICES = 32  # values of one slice that are told apart; more are put into that many bins of equal counts
Rows = list[dict[str, int]]
Reading = Literal["ltr", "rtl", "prompt", "others"]
SEED = 0  # of the sequences that baselines are fitted on: the same for every run


def own_reading(objective: Objective, scored_ltr: int, scored_rtl: int) -> Reading:
    """How a run that trained on so many tokens of each direction reads in its own pass (`results.record.Result.own_pass`)."""
    if scored_ltr or scored_rtl:
        return "ltr" if scored_ltr >= scored_rtl else "rtl"
    return "prompt" if getattr(objective, "hide_answers", True) else "others"


def levels(
    data: TaskData, held_out: Sample, reading: Reading = "ltr", length_factors: Sequence[int] = ()
) -> dict[str, Any]:
    """Chance, the best that can be known, and every trivial accuracy on the sequences that are scored.

    Args:
        reading: what a guesser sees: the tokens that ltr or rtl reads before an answer; the `prompt`, on both sides of an answer;
            or all `others`, answers included.
        length_factors: chance is told for sequences so many times as long, too.
    """
    task, seen = data.task, data.train_sequences
    count = FITTED_ON if seen is None else min(FITTED_ON, seen)  # a guesser counts no more than the run is shown
    fitted_on = draw(task, "train", count, generator(SEED, "task levels"))
    if reading == "rtl":
        task, fitted_on, held_out = mirrored(task), fitted_on.flipped(), held_out.flipped()
    ends = (task,) if reading in ("ltr", "rtl") else (task, mirrored(task))
    bests = [best for end in ends if (best := end.best_answer_accuracy(seen)) is not None]
    sees: Sees = "prompt" if reading == "prompt" else "others" if reading == "others" else "before"
    return {
        "reading": reading,
        "chance": task.chance(),
        "best": max(bests, default=None),
        "entropy_nats_per_token": task.entropy_nats_per_token(),
        "floor_nats_all_tokens": task.floor_nats_all_tokens(first_scored=True),
        "trivial": baselines(task, fitted_on, held_out, sees),
        "solved_by": list(task.solved_by),
        "chance_by_length": {str(factor): data.longer(factor).task.chance() for factor in length_factors},
    }


def by_slice(evaluation: Evaluation, slices: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """For each pass: the share of sequences whose every scored token is right, and hits by the value of each slice.

    Args:
        slices: name -> a number for each sequence of the split, in order (n,), or for each of their tokens (n, S); the first
            sequences were scored.
    """
    found = {}
    for name, scored in evaluation.window_scored.items():
        hits = evaluation.window_hits[name]
        asked = [index for index, count in enumerate(scored) if count]
        exact = sum(hits[index] == scored[index] for index in asked)
        found[name] = {
            "exact_match": exact / len(asked) if asked else None,
            "sequences": len(asked),
            "slices": {
                slice_name: _by_token(values, evaluation.token_hits[name])
                if values.dim() == 2
                else _sums(values[: len(scored)], torch.arange(len(scored)), torch.tensor(scored), torch.tensor(hits))
                for slice_name, values in slices.items()
            },
        }
    return found


def _by_token(values: Tensor, hits: TokenHits) -> Rows:
    """Rows of a slice that has a value for each token; scored tokens without one are in none."""
    known = values[hits.window, hits.place]
    kept = known != NO_VALUE
    return _sums(known[kept], hits.window[kept], torch.ones_like(known[kept]), hits.hit[kept])


def _sums(values: Tensor, sequences: Tensor, scored: Tensor, hits: Tensor) -> Rows:
    """One row for each value, or bin of values: different sequences, tokens scored, hits."""
    rows = []
    binned = _binned(values.numpy())
    for value in np.unique(binned).tolist():
        here = torch.from_numpy(binned == value)
        counts = {"tokens_scored": int(scored[here].sum()), "hits": int(hits[here].sum())}
        rows.append({"value": value, "sequences": len(np.unique(sequences[here].numpy())), **counts})
    return rows


def _binned(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The values, or where there are many the least value of the bin that each is in."""
    if len(np.unique(values)) <= MOST_SLICES:
        return values
    ordered = np.sort(values)
    starts = np.unique(ordered[np.arange(MOST_SLICES) * len(ordered) // MOST_SLICES])
    return starts[np.searchsorted(starts, values, side="right") - 1]
