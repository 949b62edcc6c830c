"""Splits that cannot share a prompt: a hash of the prompt decides, so they are disjoint for endless streams and any seed.

The key of a sequence is a 64-bit hash of its prompt (its answers blanked) and of the task's config; its bucket is the key mod 100.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from palinode.base.errors import BadInput
from palinode.base.seeds import derive
from palinode.data.config import TEST, TRAIN, TUNING, VALIDATION, Split
from palinode.data.tasks.base import Sample, Task

BUCKETS = 100
BUCKETS_OF: Mapping[Split, range] = {
    TRAIN: range(85),
    TUNING: range(85, 90),
    VALIDATION: range(90, 95),
    TEST: range(95, 100),
}
LEAST_PROMPTS_PER_SEQUENCE = 20  # of the held-out splits together
MARGIN = 1.1  # drawn above the expected need, so that one round mostly suffices
CALL_SEQUENCES = 256  # drawn at once, or more of short ones:
CALL_TOKENS = 2**15  # temporaries above a megabyte go back to the system and are faulted in again, at half the speed
MOST_EMPTY_ROUNDS = 100
RARE = 1e-6  # draws a prompt below which repeats are counted by pairs
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # splitmix64's finaliser


def buckets(task: Task, keys: Tensor) -> Tensor:
    """(n,) int64, the bucket of each row of `task.split_key(sample)`: 0 .. 99."""
    start = np.uint64(derive(0, "task-split", task.split_identity()))
    columns = np.arange(1, keys.shape[1] + 1, dtype=np.uint64)
    factors = _mixed(start + columns * GOLDEN) | np.uint64(1)
    # A sum of products with random odd factors, modulo 2^64, tells rows apart; the finaliser spreads it over all bits.
    sums = (keys @ torch.from_numpy(factors.view(np.int64))).numpy().view(np.uint64)
    return torch.from_numpy((_mixed(sums) % np.uint64(BUCKETS)).astype(np.int64))


def in_split(task: Task, sample: Sample, split: Split) -> Tensor:
    """(n,) bool: the sequences of a sample that belong to a split."""
    found, allowed = buckets(task, task.split_key(sample)), BUCKETS_OF[split]
    return (found >= allowed.start) & (found < allowed.stop)


def draw(task: Task, split: Split, count: int, rng: Generator) -> Sample:
    """`count` sequences of a split: the task's own law, given the split.

    Raises:
        BadInput: a held-out split would show more than a twentieth of all prompts, or no prompt falls into the split.
    """
    if split != TRAIN:
        check_support(task, {split: count})
    return drawn_until_full(task, split, count, rng)


def drawn_until_full(task: Task, split: Split, count: int, rng: Generator) -> Sample:
    """Draws, keeps what belongs to the split, until there are enough; however few prompts there are.

    Raises:
        BadInput: no prompt falls into the split.
    """
    share = len(BUCKETS_OF[split]) / BUCKETS
    most = max(CALL_SEQUENCES, CALL_TOKENS // task.length_tokens)
    parts: list[Sample] = []
    found = empty = 0
    while found < count or not parts:
        drawn = task.sample(min(most, math.ceil((count - found) / share * MARGIN) + 16), rng)
        kept = drawn.rows(in_split(task, drawn, split))
        parts.append(kept)
        found += len(kept)
        empty = 0 if len(kept) else empty + 1
        if empty > MOST_EMPTY_ROUNDS:
            raise BadInput(
                f"{task.kind_name()} has too few prompts: none of them is in {split}", field=_size_field(task)
            )
    return Sample.together(parts).rows(slice(count))


def check_support(task: Task, held_out: Mapping[Split, int]) -> None:
    """The held-out splits together may show at most a twentieth of all prompts, where their number is known.

    Args:
        held_out: how many sequences each held-out split draws.

    Raises:
        BadInput: naming the field that makes the task larger.
    """
    support, wanted = task.support(), sum(held_out.values())
    if support is None or support >= LEAST_PROMPTS_PER_SEQUENCE * wanted:
        return
    names = " and ".join(held_out)
    raise BadInput(
        f"{task.kind_name()} has {support:.0f} prompts; {wanted} sequences of {names} need "
        f"{LEAST_PROMPTS_PER_SEQUENCE * wanted}",
        field=_size_field(task),
    )


def repeated_share(task: Task, sequences: int) -> float | None:
    """The expected share of so many fresh draws of the train split whose prompt an earlier one had; None where it is not known.

    M prompts drawn n times show M (1 - (1 - 1/M)^n) of them. A law that prefers some prompts repeats more: this is a lower bound.
    """
    support = task.support()
    if support is None:
        return None
    prompts = max(1.0, support * len(BUCKETS_OF[TRAIN]) / BUCKETS)
    if sequences < prompts * RARE:
        return (sequences - 1) / (
            2 * prompts
        )  # the first term of the series: the difference below would lose its digits
    different = -prompts * math.expm1(sequences * math.log1p(-1 / prompts)) if prompts > 1 else 1.0
    return 1 - different / sequences


def _size_field(task: Task) -> str:
    return task.length_field or next(iter(type(task).model_fields))


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele, Lea and Flood 2014): every input bit reaches every output bit; wraps at 64 bits."""
    values = (values ^ (values >> np.uint64(30))) * MIX_1
    values = (values ^ (values >> np.uint64(27))) * MIX_2
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed
