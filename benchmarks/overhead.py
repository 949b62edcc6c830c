"""What auditing and storing cost: the demo at its laptop size with one seed, one run at a time, from command to last record.

Of the whole command's wall time, training and evaluating are the work; everything else is overhead: the audits before (every
arm), the audits after (every run's trained weights), checkpoints, and the rest (starting processes, measuring for the
prediction, writing rows, drawing the terminal). Audits before are made once an arm and scale and then cached, so with five
seeds their share is a fifth. The same record holds how the prediction of `plan` compares with what the runs took.
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

from machine import described
from palinode.base import fsio
from palinode.results.record import ExperimentRecord
from palinode.results.store import Store

RESULT = Path(__file__).parent / "results" / "overhead.json"
EXPERIMENT = Path(__file__).parent.parent / "experiments" / "demo.py"
TARGET = 0.05  # audit and store, of the whole
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
        found = shares(store.experiment(entry.name), wall_seconds)
    fsio.write_json(
        RESULT, {**found, "size": given.size, "seeds": given.seeds, "target_share": TARGET, "machine": described()}
    )
    print(json.dumps(found, indent=2))


def shares(record: ExperimentRecord, wall_seconds: float) -> Row:
    """Seconds by what they went into, and as shares of the command's wall time."""
    results = [run.result for run in record.runs if run.result is not None]
    seconds: dict[str, float] = {"audit_before": sum(report.seconds for report in record.audits.values())}
    for name in (*WORK, "checkpoint", "audit"):
        seconds[name if name != "audit" else "audit_after"] = sum(result.seconds[name] or 0.0 for result in results)
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


if __name__ == "__main__":
    main()
