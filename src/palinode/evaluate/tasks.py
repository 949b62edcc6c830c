"""What an accuracy on a task stands beside: exact matches, slices, longer sequences, chance and what is scored without learning.

Legend: n sequences, S tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from palinode.base.seeds import generator
from palinode.data.tasks.base import Sample, Task
from palinode.data.tasks.baselines import baselines
from palinode.data.tasks.splits import draw
from palinode.evaluate.losses import Evaluation

FITTED_ON = 2000  # sequences of the train split that the guessers with something to fit are fitted on
MOST_SLICES = 32  # values of one slice that are told apart; more are put into that many bins of equal counts
SEED = 0  # of the sequences that baselines are fitted on: the same for every run


def levels(task: Task, held_out: Sample) -> dict[str, Any]:
    """Chance, the best that can be known, and every trivial accuracy on the sequences that are scored."""
    fitted_on = draw(task, "train", FITTED_ON, generator(SEED, "task levels"))
    return {
        "chance": task.chance(),
        "best": task.best_answer_accuracy(),
        "entropy_nats_per_token": task.entropy_nats_per_token(),
        "floor_nats_all_tokens": task.floor_nats_all_tokens(first_scored=True),
        "trivial": baselines(task, fitted_on, held_out),
    }


def by_slice(evaluation: Evaluation, slices: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """For each pass: the share of sequences whose every scored token is right, and hits by the value of each slice.

    Args:
        slices: name -> a number for each sequence of the split, in order; the first of them were scored.
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
                slice_name: _sums(_binned(values[: len(scored)].tolist()), scored, hits)
                for slice_name, values in slices.items()
            },
        }
    return found


def _sums(values: Sequence[int], scored: Sequence[int], hits: Sequence[int]) -> list[dict[str, int]]:
    """One row for each value: sequences, tokens scored, hits."""
    rows: dict[int, dict[str, int]] = {}
    for value, tokens, right in zip(values, scored, hits, strict=True):
        row = rows.setdefault(value, {"value": value, "sequences": 0, "tokens_scored": 0, "hits": 0})
        row["sequences"] += 1
        row["tokens_scored"] += tokens
        row["hits"] += right
    return [rows[value] for value in sorted(rows)]


def _binned(values: Sequence[int]) -> list[int]:
    """The values, or where there are many the least value of the bin that each is in."""
    distinct = sorted(set(values))
    if len(distinct) <= MOST_SLICES:
        return list(values)
    ordered = sorted(values)
    starts = sorted({ordered[number * len(ordered) // MOST_SLICES] for number in range(MOST_SLICES)})
    return [max(start for start in starts if start <= value) for value in values]
