"""The first result of a newcomer: `palinode demo` in an empty store and with an empty cache, as `make demo` runs it after install.

It measures the wall time of the command on a terminal, its CPU time with all its processes, and when its first line was shown. The
parts are the seconds that the store recorded; the runs go two at a time, so their seconds add up to more than the wall time.

A checkout of an earlier commit may take turns with this one, so that both see the same machine. Where the targets were set, the
demo took 145 s before the work on speed began, at about 3bb5884: its time here says how much slower this machine is.

    git worktree add --detach BEFORE 3bb5884
    python benchmarks/first_result.py --before BEFORE/src
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from before_after import NOW, commit
from machine import machine_facts
from overhead import seconds_by_part
from palinode.base import fsio
from palinode.results.store import Store

RESULT = Path(__file__).parent / "results" / "first_result.json"
TARGETS = {"wall_seconds": 75.0, "first_line_seconds": 1.0, "audit_seconds": 15.0}

Row = dict[str, Any]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--before", type=Path, metavar="SRC", help="the folder src of the checkout of before")
    given = arguments.parse_args()
    rounds, before = [], []
    for _ in range(given.rounds):
        before += [one_demo(given.before)] if given.before else []
        rounds.append(one_demo(NOW))
        print(json.dumps([*before[-1:], rounds[-1]]), flush=True)
    result: Row = {"medians": medians(rounds), "rounds": rounds, "targets": TARGETS}
    if before:
        result["before"] = {"commit": commit(given.before), "medians": medians(before), "rounds": before}
    fsio.write_json(RESULT, {**result, "machine": machine_facts()})


def medians(rounds: list[Row]) -> Row:
    """The median of each measure but the parts."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0] if name != "parts"}


def one_demo(source: Path) -> Row:
    """Run the demo of a source tree once, in a new store and with a new cache."""
    with tempfile.TemporaryDirectory() as temporary:
        environment = {**os.environ, "PYTHONPATH": str(source.resolve()), "PALINODE_CACHE": f"{temporary}/cache"}
        command = [sys.executable, "-P", "-m", "palinode", "demo", "--store", f"{temporary}/runs"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        first_line_seconds, wall_seconds = on_a_terminal(command, environment, temporary)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        store = Store(Path(temporary) / "runs")
        (entry,) = store.experiments()
        parts = seconds_by_part(store.experiment(entry.name))
    return {
        "wall_seconds": wall_seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "first_line_seconds": first_line_seconds,
        "audit_seconds": parts["audit_before"] + parts["audit_after"],
        "load_average": round(os.getloadavg()[0], 2),
        "parts": parts,
    }


def on_a_terminal(command: list[str], environment: dict[str, str], folder: str) -> tuple[float, float]:
    """Run a command on a pseudo-terminal: the seconds until it wrote the first words, and until it ended."""
    ours, its = pty.openpty()
    began, first_line, shown = time.perf_counter(), 0.0, b""
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, cwd=folder, env=environment)
    os.close(its)
    while content := read_some(ours):
        shown += content
        first_line = first_line or time.perf_counter() - began
    if process.wait():
        raise RuntimeError(shown.decode(errors="replace"))
    os.close(ours)
    return first_line, time.perf_counter() - began


def read_some(terminal: int) -> bytes:
    """What a command wrote on a terminal since the last call; nothing when it has ended."""
    try:
        return os.read(terminal, 65536)
    except OSError:  # on Linux the end of the last process that has the terminal open reads as an error
        return b""


if __name__ == "__main__":
    main()
