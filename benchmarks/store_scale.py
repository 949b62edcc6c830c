"""How long a store with 10,000 runs takes to list, to read as an experiment and to report; 100,000 runs are listed, too.

The runs are synthetic: three files each, written without training. Every measurement is a process of its own. Its CPU seconds are
divided by those of one plain `lstat` of each run directory in the same store, so that the ratio holds for other machines and disks.
Run: python benchmarks/store_scale.py
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from palinode.base import fsio
from palinode.results import index
from palinode.results.store import Store

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from synthetic_store import Synthetic, SyntheticArm, make_store

RESULT = Path(__file__).parent / "results" / "store_scale.json"
ARMS, SCALES, EXPERIMENT = 10, ("small", "base"), "scale"
# The largest ratios to a plain lstat of each run (3 microseconds): 1.5 s for 100,000 runs, 2 s and 60 s for 10,000.
TARGETS = {"good index": 6, "one run changed": 9, "new index": 30, "experiment": 80, "report": 2400}
TARGET_MIB, TARGET_PAGE_BYTES = {"experiment": 300}, 5_000_000
Row = dict[str, Any]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--runs", type=int, default=10_000, help="the runs of the experiment that is read and reported"
    )
    arguments.add_argument("--listed", type=int, default=100_000, help="the runs of the store that is only listed")
    arguments.add_argument(
        "--measure", nargs=2, metavar=("WHAT", "STORE"), help="measure one thing, and print it as JSON"
    )
    given = arguments.parse_args()
    if given.measure:
        print(json.dumps(measured(given.measure[0], Path(given.measure[1]))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "experiment"
        made = cpu_seconds(lambda: make_experiment(root, given.runs))
        print(f"{given.runs} runs made in {made:.0f} CPU seconds", flush=True)
        rows += measure(root, given.runs, MEASUREMENTS)
    with tempfile.TemporaryDirectory() as temporary:
        make_listed(Path(temporary), given.listed)
        rows += measure(Path(temporary), given.listed, LISTINGS)
    from machine import machine_facts  # torch would count in the memory of every measurement

    targets = {"target_ratios": TARGETS, "target_mib": TARGET_MIB, "target_page_bytes": TARGET_PAGE_BYTES}
    fsio.write_json(RESULT, {"rows": rows, **targets, "machine": machine_facts()})


def make_experiment(root: Path, runs: int) -> None:
    """An experiment of ten arms at two scales with 24 rows of metrics a run."""
    arms = tuple(
        SyntheticArm(f"arm{place}", effect_nats=0.004 * place, rtl="honest" if place % 2 else None, p=0.5 * (place % 2))
        for place in range(ARMS)
    )
    seeds = tuple(range(runs // (ARMS * len(SCALES))))
    make_store(root, Synthetic(name=EXPERIMENT, arms=arms, scales=SCALES, seeds=seeds))


def make_listed(root: Path, runs: int) -> None:
    """Runs for listings alone: each is a copy of one synthetic run under another id; the metrics of all are one file."""
    store = make_store(root / "template", Synthetic(seeds=(0,)))
    template = store.run_directory(store.run_ids()[0])
    spec, result = (fsio.read_table(template / name) for name in ("spec.json", "result.json"))
    metrics = next(template.glob("metrics*"))
    listed = Store(root)
    for number in range(runs):
        run_id = f"{number:016x}"
        directory = root / run_id
        directory.mkdir()
        for name, table in (("spec.json", spec), ("result.json", {**result, "run_id": run_id})):
            (directory / name).write_bytes(fsio.json_bytes(table))
        if number % 60_000:
            os.link(metrics, directory / metrics.name)
        else:  # a file has at most 65,000 names on ext4
            (directory / metrics.name).write_bytes(metrics.read_bytes())
            metrics = directory / metrics.name
        found = listed.record(run_id).result
        assert found is not None
        index.append_ended(root, found)


def measure(root: Path, runs: int, names: tuple[str, ...]) -> list[Row]:
    """One row for each measurement, with its ratio to the median of the plain `lstat` before and after it."""
    rows = []
    for name in names:
        plain = [in_own_process("lstat", root)["cpu_seconds"] for _ in range(2)]
        row = in_own_process(name, root)
        plain.append(in_own_process("lstat", root)["cpu_seconds"])
        lstat = statistics.median(plain)
        rows.append({"runs": runs, "what": name, **row, "lstat_seconds": lstat, "ratio": row["cpu_seconds"] / lstat})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def in_own_process(what: str, root: Path) -> Row:
    command = [sys.executable, __file__, "--measure", what, str(root)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def measured(what: str, root: Path) -> Row:
    """The CPU seconds of one call, the largest memory of the process in MiB, and for a report the bytes of its page."""
    store = Store(root)
    before, act = prepared(what, store)
    before()
    pages: list[Path] = []
    seconds = cpu_seconds(lambda: pages.extend(filter(None, [act()])))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sizes = {"page_bytes": pages[0].stat().st_size} if pages else {}
    return {"cpu_seconds": seconds, "peak_mib": peak, **sizes}


def prepared(what: str, store: Store) -> tuple[Callable[[], Any], Callable[[], Path | None]]:
    """What is done before the clock starts, and what is measured."""
    index_file, ended = store.root / index.INDEX_FILE, store.root / index.ENDED_DIRECTORY
    cache = store.root / "experiments"

    def report() -> Path:
        from palinode.report.build import build_report

        return build_report(store, EXPERIMENT)

    def forget() -> None:
        index_file.unlink(missing_ok=True)

    def change_one() -> None:
        store.listing()
        os.utime(store.run_directory(store.run_ids()[0]))

    def without_rows() -> None:
        forget()
        ended.rename(ended.with_suffix(".aside"))

    def listed_without_rows() -> None:
        store.listing()
        ended.with_suffix(".aside").rename(ended)

    def without_cache() -> None:
        for path in cache.glob("*.parquet"):
            path.unlink()

    def experiment() -> None:
        store.experiment(EXPERIMENT)

    def lstat() -> None:
        for run_id in store.run_ids():
            os.lstat(f"{store.root}/{run_id}")

    return {
        "lstat": (lambda: None, lstat),
        "new index, of older versions": (without_rows, lambda: listed_without_rows()),
        "new index": (forget, lambda: none_of(store.listing())),
        "good index": (store.listing, lambda: none_of(store.listing())),
        "one run changed": (change_one, lambda: none_of(store.listing())),
        "experiment, without its cache": (without_cache, experiment),
        "experiment": (experiment, experiment),
        "report": (experiment, report),
    }[what]


def none_of(_: object) -> None:
    return None


def cpu_seconds(act: Callable[[], object]) -> float:
    started = time.process_time()
    act()
    return time.process_time() - started


LISTINGS = ("new index, of older versions", "new index", "good index", "one run changed")
MEASUREMENTS = (*LISTINGS, "experiment, without its cache", "experiment", "report")

if __name__ == "__main__":
    main()
