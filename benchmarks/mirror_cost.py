"""What `palinode mirror --follow` costs the run beside it: the same run in a new store, alone and with a mirror, in turn.

A run is a process of its own with one thread. The mirror is started with it, so that its start counts. Counted are the CPU seconds
and the wall time of the run, with a mirror divided by alone, and the CPU seconds of the mirror with its tracker. A mirror that
sends the same rows at once, after the run, shows how much of that is its start. Which way is first changes with each round.
Run: python benchmarks/mirror_cost.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from machine import machine_facts
from palinode import EvaluationConfig, LtrObjective, RunSpec, Speedrun, Store, TaskData, modern
from palinode.base import fsio
from palinode.base.config import encode
from palinode.data.tasks import AssociativeRecall
from palinode.results.record import ExperimentEntry, RunEntry

RESULT = Path(__file__).parent / "results" / "mirror_cost.json"
TARGET_RATIO = 1.01
TRACKERS = ("tensorboard", "wandb")
LOG_EVERY_STEPS = 5
TRAIN = """
import sys
from pathlib import Path
from palinode import Store
from palinode.run.one import run_one
from palinode.spec.load import load_run
run_one(load_run(Path(sys.argv[1]) / sys.argv[2]), Store(sys.argv[1]))
"""
Row = dict[str, Any]


class Used(NamedTuple):
    """What one process used."""

    cpu_seconds: float
    wall_seconds: float


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=4)
    arguments.add_argument("--steps", type=int, default=400, help="the training steps of a run")
    given = arguments.parse_args()
    of_trackers = {tracker: rounds(tracker, given.rounds, given.steps) for tracker in TRACKERS}
    result = {"steps": given.steps, "log_every_steps": LOG_EVERY_STEPS, "rounds": given.rounds, "trackers": of_trackers}
    print(json.dumps(result, indent=2))
    fsio.write_json(RESULT, {**result, "target_ratio": TARGET_RATIO, "machine": machine_facts()})


def rounds(tracker: str, count: int, steps: int) -> Row:
    """The ratios of some rounds with one tracker."""
    alone, beside, mirrors, at_once = (list[Used]() for _ in range(4))
    for number in range(count):
        for mirrored in (False, True) if number % 2 else (True, False):
            run, *of_mirror = trained(steps, tracker if mirrored else None)
            (beside if mirrored else alone).append(run)
            mirrors += of_mirror[:1]
            at_once += of_mirror[1:]
        print(tracker, alone[-1], beside[-1], mirrors[-1], at_once[-1], flush=True)
    pairs = list(zip(beside, alone, strict=True))
    return {
        "run_cpu_seconds": spread([one.cpu_seconds for one in alone]),
        "run_wall_seconds": spread([one.wall_seconds for one in alone]),
        "cpu_ratio": spread([one.cpu_seconds / other.cpu_seconds for one, other in pairs]),
        "wall_ratio": spread([one.wall_seconds / other.wall_seconds for one, other in pairs]),
        "mirror_cpu_seconds": spread([one.cpu_seconds for one in mirrors]),
        "at_once_cpu_seconds": spread([one.cpu_seconds for one in at_once]),
    }


def trained(steps: int, tracker: str | None) -> list[Used]:
    """Train the run in a new store, alone or with a mirror beside it.

    Returns:
        what the run used; with a tracker also what the mirror used, and one that sends the same rows at once after it.
    """
    with tempfile.TemporaryDirectory() as temporary:
        store = Store(Path(temporary) / "runs").create()
        run_id = write_run(store, steps)
        mirror = [sys.executable, "-m", "palinode", "mirror", str(store.root), "--experiment", "cost", "--quiet"]
        mirror += ["--to", tracker] if tracker is not None else []
        beside = [subprocess.Popen([*mirror, "--dir", f"{temporary}/a", "--follow"])] if tracker is not None else []
        run = used(subprocess.Popen([sys.executable, "-c", TRAIN, str(store.root), run_id]))
        if store.ended(run_id) is None:
            raise RuntimeError("the run did not end as done")
        after = [subprocess.Popen([*mirror, "--dir", f"{temporary}/b"])] if tracker is not None else []
        return [run, *(used(process) for process in (*beside, *after))]


def used(process: subprocess.Popen[bytes]) -> Used:
    """Wait for a process, and return what it and its children used."""
    began = time.perf_counter()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{process.args} ended with {process.returncode}")
    return Used(usage.ru_utime + usage.ru_stime, time.perf_counter() - began)


def write_run(store: Store, steps: int) -> str:
    """Write the spec of the run and the entry of its experiment; return the id of the run."""
    spec = RunSpec(
        data=TaskData(task=AssociativeRecall(vocabulary=10, length=20)),
        model=modern(layers=2, width=64, heads=1),
        objective=LtrObjective(),
        recipe=Speedrun(steps=steps, batch_windows=16, log_every_steps=LOG_EVERY_STEPS),
        evaluation=EvaluationConfig(directions=("ltr",), labels="answer", max_tokens=1000),
        seed=1,
    )
    store.write_spec(spec.run_id, encode(spec))
    run = RunEntry(arm="a", scale="base", seed=1, run_id=spec.run_id)
    store.write_experiment(ExperimentEntry(name="cost", size="default", runs=(run,), seeds=(1,)))
    return spec.run_id


def spread(values: Sequence[float]) -> Row:
    """The median, the lowest and the highest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


if __name__ == "__main__":
    main()
