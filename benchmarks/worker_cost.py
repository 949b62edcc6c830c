"""What `palinode worker` costs beside the sweep alone: the same four runs in a new store, in turn, one run at a time.

A round trains the runs twice: with `sweep`, which `palinode run` uses, and with `work`, the loop of `palinode worker`, which looks
for open runs, asks for room and for stops, and looks again at the end. Both fork their runs from a nursery of their own. Counted
are CPU seconds: of this process alone, which is what differs, and of all processes together. Which way is first changes with each
round. Run: python benchmarks/worker_cost.py
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from machine import machine_facts
from palinode import EvaluationConfig, LtrObjective, RunSpec, Speedrun, Store, TaskData, modern
from palinode.base import fsio
from palinode.base.config import encode
from palinode.data.tasks import AssociativeRecall
from palinode.results.record import ExperimentEntry, RunEntry
from palinode.sweep.host import HostOptions, work
from palinode.sweep.local import sweep
from palinode.sweep.nursery import Nursery
from palinode.sweep.process import WORKER, Job

RESULT = Path(__file__).parent / "results" / "worker_cost.json"
TARGET_RATIO = 1.02
RUNS = 4
Row = dict[str, Any]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=6)
    arguments.add_argument("--steps", type=int, default=100, help="the training steps of a run")
    given = arguments.parse_args()
    ways = {"sweep": with_sweep, "worker": with_worker}
    own, whole = ({way: list[float]() for way in ways} for _ in range(2))
    for number in range(given.rounds):
        for way in sorted(ways, reverse=bool(number % 2)):
            this_process, all_processes = cpu_seconds(ways[way], given.steps)
            own[way].append(this_process)
            whole[way].append(all_processes)
        print(f"{own['worker'][-1]:.2f} and {own['sweep'][-1]:.2f} of {whole['sweep'][-1]:.1f} s", flush=True)
    extra = [one - other for one, other in zip(own["worker"], own["sweep"], strict=True)]
    result = {
        "runs": RUNS,
        "steps": given.steps,
        "rounds": given.rounds,
        **{f"{way}_own_cpu_seconds": spread(values) for way, values in own.items()},
        **{f"{way}_cpu_seconds": spread(values) for way, values in whole.items()},
        "whole_ratio": spread([one / other for one, other in zip(whole["worker"], whole["sweep"], strict=True)]),
        "ratio": spread([1.0 + more / of for more, of in zip(extra, whole["sweep"], strict=True)]),
    }
    print(json.dumps(result, indent=2))
    fsio.write_json(RESULT, {**result, "target_ratio": TARGET_RATIO, "machine": machine_facts()})


def with_sweep(store: Store, jobs: Sequence[Job]) -> int:
    with Nursery(WORKER[-1:], print) as nursery:
        return sweep(jobs, store, workers=1, nursery=nursery).exit_code


def with_worker(store: Store, jobs: Sequence[Job]) -> int:
    return work(store, HostOptions(slots=1))


def cpu_seconds(way: Callable[[Store, Sequence[Job]], int], steps: int) -> tuple[float, float]:
    """CPU seconds of this process, and of it and all processes that it started, while it trains the runs this way."""
    with tempfile.TemporaryDirectory() as temporary:
        store = Store(Path(temporary)).create()
        jobs = write_runs(store, steps)
        before = [used(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        code = way(store, jobs)
        after = [used(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        if code or any(store.ended(job.run_id) is None for job in jobs):
            raise RuntimeError(f"the runs did not end as done: exit {code}")
    own, children = (now - then for now, then in zip(after, before, strict=True))
    return own, own + children


def write_runs(store: Store, steps: int) -> list[Job]:
    """The runs of a small experiment, written into the store for workers."""
    specs = [
        RunSpec(
            data=TaskData(task=AssociativeRecall(vocabulary=10, length=20)),
            model=modern(layers=2, width=64, heads=1),
            objective=LtrObjective(),
            recipe=Speedrun(steps=steps, batch_windows=16),
            evaluation=EvaluationConfig(directions=("ltr",), labels="answer", max_tokens=1000),
            seed=seed,
        )
        for seed in range(RUNS)
    ]
    runs = tuple(RunEntry(arm="a", scale="base", seed=spec.seed, run_id=spec.run_id) for spec in specs)
    jobs = [Job(spec.run_id, store.write_spec(spec.run_id, encode(spec)), spec.threads) for spec in specs]
    store.write_experiment(ExperimentEntry(name="cost", size="default", runs=runs))
    return jobs


def used(who: int) -> float:
    """User and system time so far."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def spread(values: Sequence[float]) -> Row:
    """The median, the lowest and the highest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


if __name__ == "__main__":
    main()
