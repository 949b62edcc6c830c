"""Sequences a second of the synthetic tasks against a straightforward Python loop, at vocabulary 40 and length 128, one thread.

Loop and task are timed in turn, several times; the ratio is of each pair. Two loops: one NumPy generator call for each draw, as the
published generators make (the target is set against it), and the leanest, with Python's own generator. The tests hold the loops and
the tasks to one distribution. Run: python benchmarks/task_generation.py   (a minute)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from machine import described
from palinode.base import fsio
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
BLOCK = 256  # sequences of one call, as the stream makes them
TURNS = 9
LOOP_SECONDS = 0.4
TARGET_RATIO = 100.0
AIM_RATIO = 300.0

Row = dict[str, Any]


def main() -> None:
    torch.set_num_threads(1)
    rows = [measured(task) for task in TASKS]
    found = {
        "rows": rows,
        "vocabulary": VOCABULARY,
        "length": LENGTH,
        "turns": TURNS,
        "target_ratio": TARGET_RATIO,
        "aim_ratio": AIM_RATIO,
        "machine": described(),
    }
    fsio.write_json(RESULT, found)


def measured(task: Task) -> Row:
    """Sequences a second, in CPU time, of the task and of both loops, and the ratios of runs taken in turn."""
    rng, loop = generator(0, "benchmark"), LOOPS[task.kind]
    dice = {"published": NumpyDice(0), "lean": PlainDice(0)}
    task.sample(BLOCK, rng)
    turns: list[dict[str, float]] = []
    for _ in range(TURNS):
        turn = {name: rate(lambda one=one: loop(task, one), 1) for name, one in dice.items()}
        turn["task"] = rate(lambda: task.sample(BLOCK, rng), BLOCK)
        turns.append(turn)
        print(task.kind, {name: round(value) for name, value in turn.items()}, flush=True)
    row: Row = {"task": task.kind, "length_tokens": task.length_tokens}
    for name, key in (("task", "task_rate"), *((name, name) for name in dice)):
        row[key] = spread([turn[name] for turn in turns])
    for name in dice:
        row[f"against_{name}"] = spread([turn["task"] / turn[name] for turn in turns])
    return row


def rate(made: Callable[[], object], sequences: int) -> float:
    """Sequences a CPU second, over a fixed time."""
    start, calls = time.process_time(), 0
    while (taken := time.process_time() - start) < LOOP_SECONDS:
        made()
        calls += 1
    return calls * sequences / taken


def spread(values: list[float]) -> Row:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


if __name__ == "__main__":
    main()
