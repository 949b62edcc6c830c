"""Sequences a second of the synthetic tasks against Python loops, at vocabulary 40 and length 128, one thread.

Loops and task are timed one after the other, several times, and each ratio is within one turn. There are two loops: the first
calls a NumPy generator once for each draw, as the published generators do (the target is set against it); the second calls
Python's own generator, which is faster. Tests check that loops and tasks have one distribution. The memory stays in the process, as
in every worker that trains.
The row `mqar` also has the time of its random numbers alone, as a share of the time that the target allows for a sequence.
Run: python benchmarks/task_generation.py   (a minute)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from machine import machine_facts
from palinode.base import fsio
from palinode.base.memory import keep_memory
from palinode.base.seeds import generator
from palinode.data.tasks import AssociativeRecall, InductionHead, MadRecall, MultiQueryRecall, SelectiveCopy, Task
from task_loops import LOOPS, NumpyDice, PlainDice

RESULT = Path(__file__).parent / "results" / "task_generation.json"
VOCABULARY, LENGTH = 40, 128
TASKS: tuple[Task, ...] = (
    AssociativeRecall(vocabulary=VOCABULARY, length=LENGTH),
    InductionHead(vocabulary=VOCABULARY, length=LENGTH),
    MultiQueryRecall(vocabulary=VOCABULARY, length=LENGTH, pairs=8),
    MadRecall(vocabulary=VOCABULARY, length=LENGTH),
    SelectiveCopy(vocabulary=VOCABULARY, length=LENGTH),
)
BLOCK = 256  # sequences of one call, as in the stream that training reads
TURNS = 9
LOOP_SECONDS = 0.4
TARGET_RATIO = 100.0
AIM_RATIO = 300.0

Row = dict[str, Any]


def main() -> None:
    torch.set_num_threads(1)
    keep_memory()
    rows = [measure(task) for task in TASKS]
    result = {
        "rows": rows,
        "vocabulary": VOCABULARY,
        "length": LENGTH,
        "turns": TURNS,
        "target_ratio": TARGET_RATIO,
        "aim_ratio": AIM_RATIO,
        "machine": machine_facts(),
    }
    fsio.write_json(RESULT, result)


def measure(task: Task) -> Row:
    """Sequences a CPU second of the task and of both loops, and the ratios within each turn."""
    rng, loop = generator(0, "benchmark"), LOOPS[task.kind]
    dice = {"published": NumpyDice(0), "lean": PlainDice(0)}
    task.sample(BLOCK, rng)
    numbers = random_numbers(task)
    turns: list[dict[str, float]] = []
    for _ in range(TURNS):
        turn = {name: rate(lambda one=one: loop(task, one), 1) for name, one in dice.items()}
        turn["task"] = rate(lambda: task.sample(BLOCK, rng), BLOCK)
        if numbers:
            turn["numbers"] = rate(lambda: torch.rand(BLOCK * numbers, generator=rng), BLOCK)
        turns.append(turn)
        print(task.kind, {name: round(value) for name, value in turn.items()}, flush=True)
    row: Row = {"task": task.kind, "length_tokens": task.length_tokens}
    for name, key in (("task", "task_rate"), *((name, name) for name in dice)):
        row[key] = spread([turn[name] for turn in turns])
    for name in dice:
        row[f"against_{name}"] = spread([turn["task"] / turn[name] for turn in turns])
    if numbers:
        row["numbers_a_sequence"] = numbers
        row["numbers_share"] = spread([TARGET_RATIO * turn["published"] / turn["numbers"] for turn in turns])
        share = row["numbers_share"]["median"]
        print(f"{task.kind}: the random numbers alone take {share:.2f} of 1 / {TARGET_RATIO:g} of the NumPy loop")
    return row


def random_numbers(task: Task) -> int:
    """How many float32 numbers a sequence of `mqar` draws: one for each key, each value and each slot; 0 for other tasks."""
    if not isinstance(task, MultiQueryRecall):
        return 0
    return task.vocabulary - 1 + (task.length - task.shown_tokens) // 2


def rate(make: Callable[[], object], sequences: int) -> float:
    """Sequences a CPU second, over LOOP_SECONDS; each call of `make` gives this many sequences."""
    start, calls = time.process_time(), 0
    while (taken := time.process_time() - start) < LOOP_SECONDS:
        make()
        calls += 1
    return calls * sequences / taken


def spread(values: list[float]) -> Row:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


if __name__ == "__main__":
    main()
