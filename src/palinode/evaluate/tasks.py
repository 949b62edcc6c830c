"""The numbers next to an accuracy on a task: chance, the best possible accuracy, baselines, exact matches, and hits by slice.

Legend: B sequences, T tokens of a sequence.
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
from palinode.data.tasks.base import NO_VALUE, Sample, mirrored
from palinode.data.tasks.baselines import HIDES_ANSWERS, Sees, baselines
from palinode.data.tasks.splits import draw
from palinode.evaluate.losses import Evaluation, TokenHits
from palinode.objectives import Objective

FITTED_SEQUENCES = 2000  # the largest number of train sequences that baselines are fitted on
MOST_SLICES = 32  # the largest number of rows of a slice; if there are more values, bins of equal counts are the rows
Rows = list[dict[str, int]]
Reading = Literal["ltr", "rtl", "ltr_prompt", "prompt", "others"]
SEES: Mapping[Reading, Sees] = {
    "ltr": "before",
    "rtl": "before",
    "ltr_prompt": "prompt_before",
    "prompt": "prompt",
    "others": "others",
}
SEED = 0  # the seed of the sequences that baselines are fitted on, the same for every run


def own_reading(objective: Objective, scored_ltr: int, scored_rtl: int) -> Reading:
    """The tokens that a run's own pass (`results.record.Result.own_pass`) sees, from the tokens that it was trained on."""
    if scored_ltr or scored_rtl:
        ltr: Reading = "ltr_prompt" if getattr(objective, "hide_answers", False) else "ltr"
        return ltr if scored_ltr >= scored_rtl else "rtl"
    return "prompt" if getattr(objective, "hide_answers", True) else "others"


def levels(
    data: TaskData, held_out: Sample, reading: Reading = "ltr", length_factors: Sequence[int] = ()
) -> dict[str, Any]:
    """The accuracy of chance, the best possible accuracy, and the accuracy of every baseline on the scored sequences.

    Args:
        reading: the tokens that a baseline sees. `ltr` and `rtl`: the tokens read before an answer. `ltr_prompt`: the
            tokens before an answer that are no answers. `prompt`: the prompt on both sides of an answer. `others`: all other
            tokens, answers included.
        length_factors: the factors of the sequence length for which the result also contains the chance level.
    """
    task, seen = data.task, data.train_sequences
    count = FITTED_SEQUENCES if seen is None else min(FITTED_SEQUENCES, seen)  # at most as many as the run reads
    fitted_on = draw(task, "train", count, generator(SEED, "task levels"))
    if reading == "rtl":
        task, fitted_on, held_out = mirrored(task), fitted_on.flipped(), held_out.flipped()
    sees = SEES[reading]
    ends = (task, mirrored(task)) if reading in ("prompt", "others") else (task,)
    hidden = sees in HIDES_ANSWERS
    limits = [end.best_hidden_accuracy(seen) if hidden else end.best_answer_accuracy(seen) for end in ends]
    bests = [best for best in limits if best is not None]
    return {
        "reading": reading,
        "chance": task.chance(),
        "best": max(bests, default=None),
        "entropy_nats_per_token": task.entropy_nats_per_token(),
        # The entropy includes the first token, because direction tokens make the first token a target too.
        "floor_nats_all_tokens": task.entropy_nats_per_token(),
        "trivial": baselines(task, fitted_on, held_out, sees),
        "solved_by": list(task.solved_by),
        "chance_by_length": {str(factor): data.longer(factor).task.chance() for factor in length_factors},
    }


def by_slice(evaluation: Evaluation, slices: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """For each pass: the share of sequences in which all scored tokens are right, and the hits for each value of each slice.

    Args:
        slices: name -> one number for each sequence of the split (B,), or for each token (B, T). Sequences are in the order of
            the split. When only some sequences were scored, these are the first ones.
    """
    by_pass = {}
    for name, scored in evaluation.window_scored.items():
        hits = evaluation.window_hits[name]
        counted = [index for index, count in enumerate(scored) if count]
        exact = sum(hits[index] == scored[index] for index in counted)
        by_pass[name] = {
            "exact_match": exact / len(counted) if counted else None,
            "sequences": len(counted),
            "slices": {
                slice_name: _by_token(values, evaluation.token_hits[name])
                if values.dim() == 2
                else _sums(values[: len(scored)], torch.arange(len(scored)), torch.tensor(scored), torch.tensor(hits))
                for slice_name, values in slices.items()
            },
        }
    return by_pass


def _by_token(values: Tensor, hits: TokenHits) -> Rows:
    """The rows of a slice with one value for each token. A scored token without a value is in no row."""
    scored = values[hits.window, hits.index]
    kept = scored != NO_VALUE
    return _sums(scored[kept], hits.window[kept], torch.ones_like(scored[kept]), hits.hit[kept])


def _sums(values: Tensor, sequences: Tensor, scored: Tensor, hits: Tensor) -> Rows:
    """One row for each value or bin of values, with the number of sequences, the number of scored tokens, and the hits."""
    rows = []
    binned = _binned(values.numpy())
    for value in np.unique(binned).tolist():
        here = torch.from_numpy(binned == value)
        counts = {"tokens_scored": int(scored[here].sum()), "hits": int(hits[here].sum())}
        rows.append({"value": value, "sequences": len(np.unique(sequences[here].numpy())), **counts})
    return rows


def _binned(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The values; if more than MOST_SLICES of them are different, each value becomes the smallest value of its bin."""
    if len(np.unique(values)) <= MOST_SLICES:
        return values
    ordered = np.sort(values)
    starts = np.unique(ordered[np.arange(MOST_SLICES) * len(ordered) // MOST_SLICES])
    return starts[np.searchsorted(starts, values, side="right") - 1]
