"""What starting a worker costs: forked by a nursery against started, and the same for a whole small `palinode run`.

The first part trains small runs one after the other and reads the CPU seconds of each worker when its first training step is
reported. Forked and started runs take turns. The second part is the wall time and the CPU time of the whole command, with all its
processes, for four runs in a new store: with the nursery and with PALINODE_NURSERY=off, in turn. Run: python benchmarks/startup.py
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import machine_facts
from palinode import EvaluationConfig, LtrObjective, RunSpec, Speedrun, Store, TaskData, modern
from palinode.base import fsio
from palinode.base.config import encode
from palinode.data.tasks import AssociativeRecall
from palinode.experiment.fan_out import JOB_MODULES
from palinode.sweep.local import sweep
from palinode.sweep.nursery import Nursery
from palinode.sweep.process import Job

RESULT = Path(__file__).parent / "results" / "startup.json"
TARGET_SECONDS = 0.2  # CPU seconds of a forked worker before its first step
SMALL = Path(__file__).parents[1] / "tools" / "small"  # an experiment and its text
Row = dict[str, Any]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--workers", type=int, default=8, help="how many workers are started, and how many forked")
    arguments.add_argument("--pairs", type=int, default=3, help="how often the whole command is run each way")
    given = arguments.parse_args()
    result = {"worker": worker_start(given.workers)}
    print(json.dumps(result, indent=2), flush=True)
    result |= {"command": whole_command(given.pairs)}
    print(json.dumps(result["command"], indent=2))
    fsio.write_json(RESULT, {**result, "target_seconds": TARGET_SECONDS, "machine": machine_facts()})


def worker_start(pairs: int) -> Row:
    """CPU seconds of a worker before its first step is reported, started and forked in turn, and their ratio."""
    started, forked = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as temporary, Nursery(JOB_MODULES, print) as nursery:
        store = Store(Path(temporary)).create()
        seconds_to_first_step(store, 0, nursery)  # the first use waits for the imports of the nursery
        nursery_seconds = cpu_seconds(nursery.pid or 0)
        for pair in range(pairs):
            started.append(seconds_to_first_step(store, 2 * pair + 1, None))
            forked.append(seconds_to_first_step(store, 2 * pair + 2, nursery))
    return {
        "started_cpu_seconds": spread(started),
        "forked_cpu_seconds": spread(forked),
        "nursery_cpu_seconds": nursery_seconds,
        "ratio": spread([one / other for one, other in zip(started, forked, strict=True)]),
    }


def seconds_to_first_step(store: Store, seed: int, nursery: Nursery | None) -> float:
    """The CPU seconds that a worker had used when it reported its first step."""
    spec = RunSpec(
        data=TaskData(task=AssociativeRecall(vocabulary=10, length=20)),
        model=modern(layers=2, width=64, heads=1),
        objective=LtrObjective(),
        recipe=Speedrun(steps=5, batch_windows=4),
        evaluation=EvaluationConfig(directions=("ltr",), labels="answer", max_tokens=1000),
        seed=seed,
    )
    pids, seconds = list[int](), list[float]()

    def listen(event: Row) -> None:
        if event["event"] == "started":
            pids.append(event["pid"])
        elif event["event"] == "train" and not seconds:
            seconds.append(cpu_seconds(pids[-1]))

    jobs = [Job(spec.run_id, store.write_spec(spec.run_id, encode(spec)), spec.threads)]
    end = sweep(jobs, store, workers=1, on_event=listen, nursery=nursery)
    if end.exit_code:
        raise RuntimeError(f"the run did not end as done: {store.record(spec.run_id).result}")
    return seconds[0]


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def whole_command(pairs: int) -> Row:
    """Wall and CPU seconds of `palinode run` with four runs in a new store, with and without the nursery."""
    took: dict[str, list[tuple[float, float]]] = {"on": [], "off": []}
    for _ in range(pairs):
        for how, row in took.items():
            with tempfile.TemporaryDirectory() as temporary:
                row.append(one_command(Path(temporary), how))
    wall, cpu = ([[row[which] for row in took[how]] for how in ("on", "off")] for which in (0, 1))
    return {
        "runs": 4,
        **{f"wall_seconds_{how}": spread(values) for how, values in zip(("on", "off"), wall, strict=True)},
        **{f"cpu_seconds_{how}": spread(values) for how, values in zip(("on", "off"), cpu, strict=True)},
        "wall_ratio": spread([off / on for on, off in zip(*wall, strict=True)]),
        "cpu_ratio": spread([off / on for on, off in zip(*cpu, strict=True)]),
    }


def one_command(folder: Path, how: str) -> tuple[float, float]:
    """Wall seconds, and CPU seconds of the command with all its processes."""
    for path in SMALL.iterdir():
        shutil.copyfile(path, folder / path.name)
    environment = {**os.environ, "PALINODE_NURSERY": how, "PALINODE_CACHE": str(folder / "cache")}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-P", "-m", "palinode", "run", "idea.toml", "--workers", "2", "--quiet"],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def spread(values: Sequence[float]) -> Row:
    """The median, the lowest and the highest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


if __name__ == "__main__":
    main()
