"""Share of the time that audits and storing take: the demo at its laptop size with one seed, one run at a time.

The whole wall time of the command is divided into training and evaluating, which are the work, and overhead: the audit of each
arm before training, the audit of each run's trained weights, checkpoints, and the rest (starting processes, measuring for the
prediction, writing rows, drawing the terminal). The audit before training is made once for each arm and scale and then cached, so
with five seeds its share is a fifth. The result also holds the ratio of the time that the runs took to the time that `plan`
predicted.
Run: python benchmarks/overhead.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine_facts
from palinode.base import fsio
from palinode.results.record import ExperimentRecord
from palinode.results.store import Store

RESULT = Path(__file__).parent / "results" / "overhead.json"
EXPERIMENT = Path(__file__).parent.parent / "experiments" / "demo.py"
TARGET = 0.05  # share of audits and storing in the wall time
WORK = ("train", "evaluate")

Row = dict[str, Any]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--size", default="laptop")
    arguments.add_argument("--seeds", default="1")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        options = ["--size", given.size, "--seeds", given.seeds, "--workers", "1", "--store", temporary]
        command = [sys.executable, "-m", "palinode", "run", str(EXPERIMENT), *options, "--json"]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall_seconds = time.perf_counter() - began
        store = Store(Path(temporary))
        (entry,) = store.experiments()
        result = shares(store.experiment(entry.name), wall_seconds)
    fsio.write_json(
        RESULT, {**result, "size": given.size, "seeds": given.seeds, "target_share": TARGET, "machine": machine_facts()}
    )
    print(json.dumps(result, indent=2))


def shares(record: ExperimentRecord, wall_seconds: float) -> Row:
    """Seconds of each part of the command, and their shares of its wall time."""
    results = [run.result for run in record.runs if run.result is not None]
    seconds = seconds_by_part(record)
    seconds["rest"] = wall_seconds - sum(seconds.values())
    share = {name: value / wall_seconds for name, value in seconds.items()}
    overhead = {name: value for name, value in share.items() if name not in WORK}
    plan = record.entry.plan
    return {
        "wall_seconds": wall_seconds,
        "runs": len(results),
        "seconds": seconds,
        "share": share,
        "audit_and_store_share": sum(overhead.values()) - overhead["rest"],
        "everything_but_training_share": sum(overhead.values()),
        "plan": {name: plan[name] for name in ("predicted_seconds", "measured_seconds", "measured_to_predicted")},
        "load_average": round(os.getloadavg()[0], 2),
    }


def seconds_by_part(record: ExperimentRecord) -> dict[str, float]:
    """The seconds that the store recorded, added up over arms and runs."""
    results = [run.result for run in record.runs if run.result is not None]
    seconds: dict[str, float] = {"audit_before": sum(report.seconds for report in record.audits.values())}
    for name in (*WORK, "checkpoint", "audit"):
        seconds[name if name != "audit" else "audit_after"] = sum(one.seconds[name] or 0.0 for one in results)
    return seconds


if __name__ == "__main__":
    main()
