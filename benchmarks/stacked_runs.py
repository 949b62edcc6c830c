"""Throughput of tiny runs: each in a process of its own, against stacks of runs that share a process and the calls of every step.

The runs are associative recall (vocabulary 10, length 20) with two layers of width 64. They are timed from the start of the nursery
that forks their processes to their last record, two processes at a time, as `palinode run --stack` does them; the audits come
before. Both ways are timed one after the other, which gives the ratio of each pair, of wall time and of the CPU time of all
processes. The difference of the final losses is the effect of adding numbers in another order.
Run: python benchmarks/stacked_runs.py
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from machine import machine_facts
from palinode import (
    AdamW,
    EvaluationConfig,
    Gpt2AdamW,
    LtrObjective,
    ModelConfig,
    RunSpec,
    Speedrun,
    Store,
    TaskData,
    gpt2,
    modern,
)
from palinode.base import fsio
from palinode.base.config import encode
from palinode.data.tasks import AssociativeRecall
from palinode.models.decoder import DecoderConfig
from palinode.models.mixers.convolutional import HyenaConfig
from palinode.run.one import stack_key
from palinode.sweep.local import sweep
from palinode.sweep.nursery import Nursery
from palinode.sweep.process import WORKER, Job

RESULT = Path(__file__).parent / "results" / "stacked_runs.json"
TARGET = 1.5  # runs a second of stacks, divided by runs a second of separate processes
WORKERS = 2
METRIC = "validation.ltr.nats_per_token"
MODELS: dict[str, ModelConfig] = {
    "gpt2": gpt2(layers=2, width=64, heads=1),
    "hyena": DecoderConfig(layers=2, width=64, heads=1, position="none", mixer=HyenaConfig()),
    "modern": modern(layers=2, width=64, heads=1),  # with Muon; the others have AdamW
}

Row = dict[str, Any]


class Swept(NamedTuple):
    """What a sweep used, and the final loss of every run in nats."""

    seconds: float
    cpu_seconds: float
    losses: list[float]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--batches", type=int, nargs="+", default=[4, 32], help="windows a step")
    arguments.add_argument("--stack", type=int, default=8)
    arguments.add_argument("--steps", type=int, default=400)
    arguments.add_argument("--pairs", type=int, default=3, help="how often both ways are measured")
    given = arguments.parse_args()
    rows = []
    for name, model in MODELS.items():
        for batch in given.batches:
            specs = [spec(model, batch, given.steps, seed) for seed in range(WORKERS * given.stack)]
            row = {"model": name, "batch_windows": batch, **measure(specs, given.stack, given.pairs)}
            rows.append(row)
            print(json.dumps(row), flush=True)
    options = {"stack": given.stack, "steps": given.steps, "workers": WORKERS, "target_ratio": TARGET}
    fsio.write_json(RESULT, {"rows": rows, **options, "machine": machine_facts()})


def spec(model: ModelConfig, batch_windows: int, steps: int, seed: int) -> RunSpec:
    """A short run of a recall experiment."""
    return RunSpec(
        data=TaskData(task=AssociativeRecall(vocabulary=10, length=20)),
        model=model,
        objective=LtrObjective(),
        recipe=Speedrun(steps=steps, batch_windows=batch_windows)
        if model == MODELS["modern"]
        else Gpt2AdamW(steps=steps, batch_windows=batch_windows, optimizer=AdamW(learning_rate=2e-3)),
        evaluation=EvaluationConfig(directions=("ltr",), labels="answer"),
        seed=seed,
    )


def measure(specs: Sequence[RunSpec], stack: int, pairs: int) -> Row:
    """Medians of the seconds both ways, and the ratios of each pair."""
    apart: list[Swept] = []
    together: list[Swept] = []
    for _ in range(pairs):
        apart.append(run_sweep(specs, 1))
        together.append(run_sweep(specs, stack))
    both = list(zip(apart, together, strict=True))
    ratios = [alone.seconds / stacked.seconds for alone, stacked in both]
    cpu_ratios = [alone.cpu_seconds / stacked.cpu_seconds for alone, stacked in both]
    differences = [
        abs(one - other) for alone, stacked in both for one, other in zip(alone.losses, stacked.losses, strict=True)
    ]
    return {
        "runs": len(specs),
        "separate_seconds": statistics.median(one.seconds for one in apart),
        "stacked_seconds": statistics.median(one.seconds for one in together),
        "separate_cpu_seconds": statistics.median(one.cpu_seconds for one in apart),
        "stacked_cpu_seconds": statistics.median(one.cpu_seconds for one in together),
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "cpu_ratios": cpu_ratios,
        "cpu_ratio": statistics.median(cpu_ratios),
        "largest_loss_difference_nats": max(differences),
        "median_loss_difference_nats": statistics.median(differences),
    }


def run_sweep(specs: Sequence[RunSpec], stack: int) -> Swept:
    """A sweep in a new store."""
    with tempfile.TemporaryDirectory() as temporary:
        store = Store(Path(temporary)).create()
        jobs = [
            Job(one.run_id, store.write_spec(one.run_id, encode(one)), one.threads, stack_key(one)) for one in specs
        ]
        began, cpu_began = time.perf_counter(), cpu_seconds()
        with Nursery(WORKER[-1:], print) as nursery:
            end = sweep(jobs, store, workers=WORKERS, stack=stack, nursery=nursery)
        seconds, cpu = time.perf_counter() - began, cpu_seconds() - cpu_began
        if end.exit_code:
            raise RuntimeError(f"some runs did not end as done: {dict(end.outcomes)}")
        scores = [store.record(one.run_id).result for one in specs]
        return Swept(seconds, cpu, [float(result.score(METRIC) or 0.0) for result in scores if result is not None])


def cpu_seconds() -> float:
    """User and system time of this process and of those that it has waited for."""
    every = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in every)


if __name__ == "__main__":
    main()
