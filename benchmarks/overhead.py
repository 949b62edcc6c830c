"""Share of the time that audits and storing take in the experiments of findings/records, from the seconds in their packs.

The seconds of the runs are divided into training and evaluating, which are the work, checkpoints, and the rest (building the model,
reading data, writing rows). The audits are those of each arm before training, and of the trained weights. The parts of an audit
that arms share count once. The start of a process is not recorded; `startup.py` measures it. The result also holds the ratio of the
time that the runs took to the time that `plan` predicted.
Run: python benchmarks/overhead.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from machine import machine_facts
from palinode.base import fsio
from palinode.base.finding import seconds_together
from palinode.results.pack import unpack
from palinode.results.record import ExperimentRecord
from palinode.results.store import Store

RESULT = Path(__file__).parent / "results" / "overhead.json"
RECORDS = Path(__file__).parent.parent / "findings" / "records"
TARGET = 0.05  # share of audits and storing
PARTS = ("train", "evaluate", "checkpoint", "audit")

Row = dict[str, Any]


def main() -> None:
    rows = [row for pack in sorted(RECORDS.glob("*.palinode")) for row in rows_of(pack)]
    fsio.write_json(RESULT, {"experiments": rows, "target_share": TARGET, "machine": machine_facts()})
    print(json.dumps(rows, indent=2))


def rows_of(pack: Path) -> list[Row]:
    """A row for each experiment of a pack, without the trials that chose its settings.

    An experiment whose audits do not name their parts is left out: the time of a shared part would count for each arm.
    """
    with tempfile.TemporaryDirectory() as temporary:
        store = Store(Path(temporary)).create()
        unpack(store, pack)
        records = [store.experiment(entry.full_name) for entry in store.experiments()]
        return [shares(record) for record in records if all(audit.parts for audit in record.audits.values())]


def shares(record: ExperimentRecord) -> Row:
    """The seconds of each part of an experiment, and the share of audits and checkpoints."""
    results = [run.result for run in record.runs if run.result is not None]
    seconds = seconds_by_part(record)
    seconds["rest"] = sum(one.seconds["total"] or 0.0 for one in results) - sum(
        one.seconds[name] or 0.0 for one in results for name in PARTS
    )
    overhead = sum(seconds[name] for name in ("audit_before", "audit_after", "checkpoint"))
    plan = record.entry.plan
    return {
        "experiment": record.entry.full_name,
        "runs": len(results),
        "seconds": seconds,
        "audit_and_store_share": overhead / sum(seconds.values()),
        "measured_to_predicted": plan.get("measured_to_predicted"),
    }


def seconds_by_part(record: ExperimentRecord) -> dict[str, float]:
    """The seconds that the store recorded, added up over arms and runs."""
    results = [run.result for run in record.runs if run.result is not None]
    seconds: dict[str, float] = {"audit_before": seconds_together(record.audits.values())}
    for name in PARTS:
        seconds[name if name != "audit" else "audit_after"] = sum(one.seconds[name] or 0.0 for one in results)
    return seconds


if __name__ == "__main__":
    main()
