"""Splits that share no prompt: a hash of the prompt decides the split of a sequence, for every seed and in endless streams.

The bucket of a sequence is a 64-bit hash, mod 100, of its prompt (its tokens with blanks in place of the answers) and of the config
of the task. Every split has its own buckets.
Shapes: B sequences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Generator, Tensor

from palinode.base.errors import BadInput
from palinode.base.seeds import derive
from palinode.data.config import TEST, TRAIN, TUNING, VALIDATION, Split
from palinode.data.tasks.base import Sample, Task
from palinode.data.windows import mixed

BUCKETS = 100
BUCKETS_OF: Mapping[Split, range] = {
    TRAIN: range(85),
    TUNING: range(85, 90),
    VALIDATION: range(90, 95),
    TEST: range(95, 100),
}
LEAST_PROMPTS_PER_SEQUENCE = 20  # a task must have at least this many prompts for each held-out sequence
MARGIN = 1.1  # a round draws this many times the expected need, so that one round mostly suffices
# One call draws at most CALL_SEQUENCES sequences, or as many sequences as have CALL_TOKENS tokens in all if these are more.
# Larger temporary tensors (above a megabyte) would be given back to the system after each call, which halves the speed.
CALL_SEQUENCES = 256
CALL_TOKENS = 2**15
MOST_EMPTY_ROUNDS = 100
RARE = 1e-6  # with fewer draws per prompt, repeats are computed from the number of pairs of draws
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def buckets(task: Task, keys: Tensor) -> Tensor:
    """(B,) int64: the bucket, 0 .. 99, of each row of `task.split_key(sample)`."""
    start = np.uint64(derive(0, "task-split", task.split_identity()))
    columns = np.arange(1, keys.shape[1] + 1, dtype=np.uint64)
    factors = mixed(start + columns * GOLDEN) | np.uint64(1)
    # A row becomes the sum of its numbers times random odd factors, modulo 2^64; different rows almost never have equal sums.
    # The finaliser mixes all bits of a sum.
    sums = (keys @ torch.from_numpy(factors.view(np.int64))).numpy().view(np.uint64)
    return torch.from_numpy((mixed(sums) % np.uint64(BUCKETS)).astype(np.int64))


def in_split(task: Task, sample: Sample, split: Split) -> Tensor:
    """(B,) bool: true for each sequence of a sample that belongs to a split."""
    bucket, allowed = buckets(task, task.split_key(sample)), BUCKETS_OF[split]
    return (bucket >= allowed.start) & (bucket < allowed.stop)


def draw(task: Task, split: Split, count: int, rng: Generator) -> Sample:
    """Draw `count` sequences of one split: the task draws sequences, and those of other splits are dropped, until there are
    enough.

    Raises:
        BadInput: no prompt falls into the split.
    """
    share = len(BUCKETS_OF[split]) / BUCKETS
    most = max(CALL_SEQUENCES, CALL_TOKENS // task.length_tokens)
    parts: list[Sample] = []
    total = empty_rounds = 0
    while total < count or not parts:
        sample = task.sample(min(most, math.ceil((count - total) / share * MARGIN) + 16), rng)
        parts.append(sample.rows(in_split(task, sample, split)))
        total += len(parts[-1])
        empty_rounds = 0 if len(parts[-1]) else empty_rounds + 1
        if empty_rounds > MOST_EMPTY_ROUNDS:
            message = f"{task.kind_name()} has too few prompts: none of them is in {split}"
            raise BadInput(message, field=_size_field(task))
    return Sample.together(parts).rows(slice(count))


def check_support(task: Task, held_out: Mapping[Split, int]) -> None:
    """Check that the held-out splits together contain at most a twentieth of all prompts, if their number is known.

    Args:
        task: the task.
        held_out: the number of sequences that each held-out split draws.

    Raises:
        BadInput: the held-out splits contain more than a twentieth; the error names the field that makes the task larger.
    """
    support, sequences = task.support(), sum(held_out.values())
    need = LEAST_PROMPTS_PER_SEQUENCE * sequences
    if support is not None and support < need:
        splits = " and ".join(held_out)
        message = f"{task.kind_name()} has {support:.0f} prompts; {sequences} sequences of {splits} need {need}"
        raise BadInput(message, field=_size_field(task))


def repeated_share(task: Task, sequences: int) -> float | None:
    """The expected share of `sequences` fresh draws of the train split that repeat an earlier prompt; None if `support` is None.

    n draws among M equally likely prompts show M (1 - (1 - 1/M)^n) different prompts. If some prompts are likelier than others,
    more draws repeat a prompt, so the share is a lower bound.
    """
    support = task.support()
    if support is None:
        return None
    prompts = max(1.0, support * len(BUCKETS_OF[TRAIN]) / BUCKETS)
    if sequences < prompts * RARE:
        # Here the difference below would lose its digits; this is the first term of its series.
        return (sequences - 1) / (2 * prompts)
    different = -prompts * math.expm1(sequences * math.log1p(-1 / prompts)) if prompts > 1 else 1.0
    return 1 - different / sequences


def _size_field(task: Task) -> str:
    return task.length_field or next(iter(type(task).model_fields))
