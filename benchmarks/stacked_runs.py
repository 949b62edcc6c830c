"""Throughput of tiny runs: each in a process of its own, against stacks of runs that share a process and the calls of every step.

The runs are associative recall (vocabulary 10, length 20) with two layers of width 64. They are timed from the start of their
processes to their last record, two processes at a time, as `palinode run --stack` does them; the audits come before. Both ways
are timed one after the other, which gives the ratio of each pair. The difference of the final losses is the effect of adding
numbers in another order. Run: python benchmarks/stacked_runs.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import machine_facts
from palinode import AdamW, EvaluationConfig, Gpt2AdamW, LtrObjective, ModelConfig, RunSpec, Store, TaskData, gpt2
from palinode.base import fsio
from palinode.base.config import encode
from palinode.data.tasks import AssociativeRecall
from palinode.models.decoder import DecoderConfig
from palinode.models.mixers.convolutional import HyenaConfig
from palinode.run.one import stack_key
from palinode.sweep.local import sweep
from palinode.sweep.process import Job

RESULT = Path(__file__).parent / "results" / "stacked_runs.json"
TARGET = 1.5  # runs a second of stacks, divided by runs a second of separate processes
WORKERS = 2
METRIC = "validation.ltr.nats_per_token"
MODELS: dict[str, ModelConfig] = {
    "gpt2": gpt2(layers=2, width=64, heads=1),
    "hyena": DecoderConfig(layers=2, width=64, heads=1, position="none", mixer=HyenaConfig()),
}

Row = dict[str, Any]


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
        recipe=Gpt2AdamW(steps=steps, batch_windows=batch_windows, optimizer=AdamW(learning_rate=2e-3)),
        evaluation=EvaluationConfig(directions=("ltr",), labels="answer"),
        seed=seed,
    )


def measure(specs: Sequence[RunSpec], stack: int, pairs: int) -> Row:
    """Medians of the seconds both ways, and the ratio of each pair."""
    apart: list[float] = []
    together: list[float] = []
    differences: list[float] = []
    for _ in range(pairs):
        losses = {}
        for seconds, size in ((apart, 1), (together, stack)):
            took, losses[size] = run_sweep(specs, size)
            seconds.append(took)
        differences += [abs(one - other) for one, other in zip(losses[1], losses[stack], strict=True)]
    ratios = [alone / stacked for alone, stacked in zip(apart, together, strict=True)]
    return {
        "runs": len(specs),
        "separate_seconds": statistics.median(apart),
        "stacked_seconds": statistics.median(together),
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "largest_loss_difference_nats": max(differences),
        "median_loss_difference_nats": statistics.median(differences),
    }


def run_sweep(specs: Sequence[RunSpec], stack: int) -> tuple[float, list[float]]:
    """The seconds of a sweep in a new store, and the final loss of every run."""
    with tempfile.TemporaryDirectory() as temporary:
        store = Store(Path(temporary)).create()
        jobs = [
            Job(one.run_id, store.write_spec(one.run_id, encode(one)), one.threads, stack_key(one)) for one in specs
        ]
        began = time.perf_counter()
        end = sweep(jobs, store, workers=WORKERS, stack=stack)
        seconds = time.perf_counter() - began
        if end.exit_code:
            raise RuntimeError(f"some runs did not end as done: {dict(end.outcomes)}")
        scores = [store.record(one.run_id).result for one in specs]
        return seconds, [float(result.score(METRIC) or 0.0) for result in scores if result is not None]


if __name__ == "__main__":
    main()
