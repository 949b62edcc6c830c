"""What `palinode mirror --follow` costs the run beside it, measured within one run: the mirror is stopped and goes on, in turn.

Equal runs scatter by 12 % on a shared machine, so whole runs cannot show 1 %. Here a pair is two neighbouring pieces of one run,
half a second each. The mirror is at work in one and stopped by a signal in the other; which is first changes with each pair. A
mirror that goes on looks at once and sends what was recorded while it was stopped: it does the work of both pieces in one. So half
of the difference is the cost. It is rather too high than too low, as there is one look a second in place of one in two.
Counted are the CPU seconds and the wall time of the run in a piece, and the CPU seconds of the mirror with its tracker: for its
start, which it has once, and beyond. The run has one thread.
Run: python benchmarks/mirror_cost.py
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from scipy import stats

from machine import machine_facts
from palinode import EvaluationConfig, LtrObjective, RunSpec, Speedrun, Store, TaskData, modern
from palinode.base import fsio
from palinode.base.config import encode
from palinode.data.tasks import AssociativeRecall
from palinode.results.record import ExperimentEntry, RunEntry

RESULT = Path(__file__).parent / "results" / "mirror_cost.json"
TARGET_COST = 0.01  # of the run's time
TRACKERS = ("tensorboard", "wandb")
LOG_EVERY_STEPS = 5
POLL_SECONDS = 0.002  # a step takes about 40 ms
SETTLE_SECONDS = 5.0  # after the first batch, so that the tracker's start is over
SCHEDULED = 2  # the clock of scheduled time in the number of a process's clock, as clock_getcpuclockid(3) makes it
STOP, GO_ON = signal.SIGSTOP, signal.SIGCONT
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
    """What the run and the mirror used from one moment to another."""

    run_cpu_seconds: float
    mirror_cpu_seconds: float
    wall_seconds: float


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pairs", type=int, default=300)
    arguments.add_argument("--steps", type=int, default=20, help="the training steps of a piece")
    given = arguments.parse_args()
    of_trackers = {tracker: measured(tracker, given.pairs, given.steps) for tracker in TRACKERS}
    result = {"steps": given.steps, "log_every_steps": LOG_EVERY_STEPS, "pairs": given.pairs, "trackers": of_trackers}
    print(json.dumps(result, indent=2))
    fsio.write_json(RESULT, {**result, "target_cost": TARGET_COST, "machine": machine_facts()})


def measured(tracker: str, pairs: int, steps: int) -> Row:
    """What a mirror to this tracker costs one run, from pieces with the mirror going on and stopped."""
    with tempfile.TemporaryDirectory() as temporary:
        store = Store(Path(temporary) / "runs").create()
        run_id = write_run(store)
        mirror = [sys.executable, "-m", "palinode", "mirror", str(store.root), "--experiment", "cost", "--quiet"]
        mirror += ["--to", tracker, "--dir", f"{temporary}/mirror", "--follow"]
        with (
            psutil.Popen([sys.executable, "-c", TRAIN, str(store.root), run_id]) as run,
            psutil.Popen(mirror) as follower,
        ):
            try:
                pieces = Pieces(run, follower, store.run_directory(run_id) / "metrics-1.jsonl", steps)
                wait_for(Path(temporary) / "mirror" / f"sent-to-{tracker}.jsonl", run, follower)
                time.sleep(SETTLE_SECONDS)
                start = cpu_seconds(follower)
                measured_pairs = [pieces.pair(mirror_first=number % 2 == 0) for number in range(pairs)]
            finally:
                end(run, follower)
    return summary(start, measured_pairs)


class Pieces:
    """The pieces of a run, from one row of its metrics to a later one.

    Args:
        run, mirror: their processes.
        metrics: the file that the run appends a row to every `LOG_EVERY_STEPS` steps.
        steps: the steps of a piece.
    """

    def __init__(self, run: psutil.Popen, mirror: psutil.Popen, metrics: Path, steps: int):
        self.run, self.mirror, self.metrics, self.rows = run, mirror, metrics, steps // LOG_EVERY_STEPS

    def pair(self, *, mirror_first: bool) -> tuple[Used, Used]:
        """A piece with the mirror going on, and one beside it with the mirror stopped; returned in this order."""
        first, second = (
            self._piece(signal_number) for signal_number in ((GO_ON, STOP) if mirror_first else (STOP, GO_ON))
        )
        return (first, second) if mirror_first else (second, first)

    def _piece(self, signal_number: int) -> Used:
        self._wait_for_rows(1)
        for process in with_children(self.mirror):
            process.send_signal(signal_number)
        before = own_cpu_seconds(self.run), cpu_seconds(self.mirror), time.perf_counter()
        self._wait_for_rows(self.rows)
        after = own_cpu_seconds(self.run), cpu_seconds(self.mirror), time.perf_counter()
        return Used(*(later - earlier for later, earlier in zip(after, before, strict=True)))

    def _wait_for_rows(self, count: int) -> None:
        """Return as soon as the run has written so many rows more."""
        with self.metrics.open("rb") as file:
            file.seek(0, os.SEEK_END)
            while count > 0:
                time.sleep(POLL_SECONDS)
                count -= file.read().count(b"\n")
                if self.run.poll() is not None:
                    raise RuntimeError("the run ended before its last piece")


def summary(start_cpu_seconds: float, pairs: Sequence[tuple[Used, Used]]) -> Row:
    """The cost as a share of the run's CPU seconds and wall time, and what the mirror used at its start and beyond."""
    mirror_cpu_seconds = sum(used.mirror_cpu_seconds for used, _ in pairs)
    return {
        "cpu_cost": median([(used.run_cpu_seconds / alone.run_cpu_seconds - 1) / 2 for used, alone in pairs]),
        "wall_cost": median([(used.wall_seconds / alone.wall_seconds - 1) / 2 for used, alone in pairs]),
        "piece_wall_seconds": median([alone.wall_seconds for _, alone in pairs]),
        "start_cpu_seconds": start_cpu_seconds,
        # for the rows of both pieces, as what was recorded while the mirror was stopped is sent when it goes on
        "mirror_share_of_run": mirror_cpu_seconds / sum(one.run_cpu_seconds for pair in pairs for one in pair),
    }


def median(values: Sequence[float]) -> Row:
    """The median with its 95 % interval, which are two of the values: the ranks come from the binomial distribution."""
    ordered, rank = sorted(values), int(stats.binom.ppf(0.025, len(values), 0.5))
    lowest, highest = ordered[max(rank - 1, 0)], ordered[min(len(ordered) - rank, len(ordered) - 1)]
    return {"median": statistics.median(values), "lowest": lowest, "highest": highest}


def with_children(process: psutil.Popen) -> list[psutil.Process]:
    return [psutil.Process(process.pid), *process.children(recursive=True)]


def own_cpu_seconds(process: psutil.Popen) -> float:
    """The CPU seconds of a process alone, to the nanosecond: a piece lasts half a second, and Linux's files count hundredths."""
    return time.clock_gettime((~process.pid << 3) | SCHEDULED)


def cpu_seconds(process: psutil.Popen) -> float:
    """The CPU seconds of a process and of all it has started, ended ones too."""
    times = [one.cpu_times() for one in with_children(process)]
    return sum(one.user + one.system + one.children_user + one.children_system for one in times)


def wait_for(path: Path, *processes: psutil.Popen) -> None:
    """Wait until the file is there."""
    while not path.exists():
        if any(process.poll() is not None for process in processes):
            raise RuntimeError(f"a process ended before {path.name} was there")
        time.sleep(0.1)


def end(*processes: psutil.Popen) -> None:
    """Kill the processes with all that they have started."""
    for process in processes:
        for one in with_children(process) if process.poll() is None else ():
            one.kill()


def write_run(store: Store) -> str:
    """Write the spec of a run that is longer than all pieces, and the entry of its experiment; return the id of the run."""
    spec = RunSpec(
        data=TaskData(task=AssociativeRecall(vocabulary=10, length=20)),
        model=modern(layers=2, width=64, heads=1),
        objective=LtrObjective(),
        recipe=Speedrun(steps=1_000_000, batch_windows=16, log_every_steps=LOG_EVERY_STEPS),
        evaluation=EvaluationConfig(directions=("ltr",), labels="answer", max_tokens=1000),
        seed=1,
    )
    store.write_spec(spec.run_id, encode(spec))
    run = RunEntry(arm="a", scale="base", seed=1, run_id=spec.run_id)
    store.write_experiment(ExperimentEntry(name="cost", size="default", runs=(run,), seeds=(1,)))
    return spec.run_id


if __name__ == "__main__":
    main()
