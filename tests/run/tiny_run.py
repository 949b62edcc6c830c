"""A run of two seconds on a small text, and a function that starts or continues it in a process of its own."""

import os
from collections.abc import Mapping
from pathlib import Path

from palinode import (
    BothObjective,
    Constant,
    DataConfig,
    EvaluationConfig,
    RunSpec,
    Speedrun,
    Store,
    modern,
)

TEXT = "".join(
    f"The {n}th of {n * n % 97} small birds said {n % 7} words and flew {n % 13} miles.\n" for n in range(900)
)


def tiny_spec(corpus: Path, steps: int = 40, evaluate_every: int | None = 15, **changes) -> RunSpec:
    spec = RunSpec(
        data=DataConfig(
            corpus=str(corpus), split="contiguous", window_tokens=32, validation_fraction=0.1, test_fraction=0.0
        ),
        model=modern(layers=1, width=16, heads=2, dropout=0.1),
        objective=BothObjective(p=Constant(p=0.5)),
        recipe=Speedrun(
            steps=steps,
            batch_windows=4,
            log_every_steps=5,
            evaluate_every_steps=evaluate_every,
            checkpoint_every_steps=10,
        ),
        evaluation=EvaluationConfig(max_tokens=500),
        seed=1,
    )
    return spec.with_(**changes)


def run_tiny(corpus: Path, store: Path, environment: Mapping[str, str]) -> None:
    """What a process of its own does: the run, under these environment variables."""
    from palinode.run.one import run_one

    os.environ.clear()
    os.environ.update(environment)
    run_one(tiny_spec(corpus), Store(store))
