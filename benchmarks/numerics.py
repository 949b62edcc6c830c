"""One numerics version against another: the final loss and the CPU time of paired trainings, in two source trees.

`python benchmarks/numerics.py OTHER_SRC` trains `modern` decoders with `speedrun` in this source tree and in the tree OTHER_SRC
(the folder `src` of another checkout), in turn, with equal seeds. Both versions start from the same weights and read the same
windows, so a difference of their final losses comes from rounding alone. A difference is this tree's loss minus the other's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import machine_facts
from palinode import Speedrun, modern
from palinode.base import fsio
from palinode.base.memory import keep_memory, with_huge_pages
from palinode.base.numerics import NUMERICS_VERSION
from shakespeare import data_is_missing, settings, train_and_score

RESULT = Path(__file__).parent / "results" / "numerics.json"
HERE = Path(__file__).parents[1] / "src"
TARGET_NATS = 0.003  # the mean difference of the final losses
SEEDS = (1, 2, 3)
CASES: dict[str, dict[str, int]] = {
    "2x64": {"layers": 2, "width": 64, "heads": 2, "steps": 600},
    "4x128": {"layers": 4, "width": 128, "heads": 4, "steps": 300},
}

Row = dict[str, Any]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("other", nargs="?", type=Path, help="the folder `src` of the other checkout")
    arguments.add_argument("--case", choices=tuple(CASES), help="train this case here and print it as JSON")
    arguments.add_argument("--seed", type=int, default=SEEDS[0])
    given = arguments.parse_args()
    if data_is_missing("numerics"):
        return 0
    if given.case:
        print(json.dumps(trained(given.case, given.seed)))
        return 0
    if given.other is None or not (given.other / "palinode").is_dir():
        print("numerics: name the folder `src` of the other checkout", file=sys.stderr)
        return 2
    trees = {"ours": HERE, "theirs": given.other.resolve()}
    pairs = []
    for number, (case, seed) in enumerate((case, seed) for seed in SEEDS for case in CASES):
        order = list(trees) if number % 2 else list(reversed(trees))
        rows = {name: in_tree(trees[name], case, seed) for name in order}
        pairs.append({"case": case, "seed": seed, **rows})
        print(f"{case} seed {seed}: {rows['ours']['nats'] - rows['theirs']['nats']:+.4f} nats", flush=True)
    table = [summary(case, [pair for pair in pairs if pair["case"] == case]) for case in CASES]
    fsio.write_json(RESULT, {"cases": table, "pairs": pairs, "target_nats": TARGET_NATS, "machine": machine_facts()})
    for row in table:
        print(f"{row['case']}: {row['difference_nats']:+.4f} nats, {row['times_less_cpu']:.2f} times less CPU")
    return 0


def in_tree(source: Path, case: str, seed: int) -> Row:
    """Train one case in a process of its own, which imports the `palinode` of a source tree."""
    command = [sys.executable, str(Path(__file__).resolve()), "--case", case, "--seed", str(seed)]
    environment = with_huge_pages({**os.environ, "PYTHONPATH": str(source)})
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    row: Row = json.loads(done.stdout)
    return row


def trained(case: str, seed: int) -> Row:
    """Train one case with one thread and score it at its end."""
    keep_memory()
    shape = CASES[case]
    model = modern(layers=shape["layers"], width=shape["width"], heads=shape["heads"])
    row = train_and_score(settings(model, Speedrun(steps=shape["steps"])), seed, 1, 1)
    [end] = row["evaluations"]
    return {"nats": end["nats_per_token"], "cpu_seconds": end["cpu_seconds"], "numerics_version": NUMERICS_VERSION}


def summary(case: str, pairs: list[Row]) -> Row:
    """The paired differences of one case, and how many times less CPU this tree needs (median over the pairs)."""
    differences = [pair["ours"]["nats"] - pair["theirs"]["nats"] for pair in pairs]
    return {
        "case": case,
        "versions": [pairs[0][name]["numerics_version"] for name in ("theirs", "ours")],
        "nats": statistics.fmean(pair["ours"]["nats"] for pair in pairs),
        "difference_nats": statistics.fmean(differences),
        "differences_nats": differences,
        "times_less_cpu": statistics.median(
            pair["theirs"]["cpu_seconds"] / pair["ours"]["cpu_seconds"] for pair in pairs
        ),
    }


if __name__ == "__main__":
    raise SystemExit(main())
