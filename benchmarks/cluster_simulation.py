"""What many hosts ask of one shared store while they train one experiment: a simulation by events, from the cost of each call.

Every host has a worker with several slots. It walks over the runs in an order of its own, looks at one after the other, and takes
a hold on the first free one. It looks only once at a run that has ended. A run writes rows of metrics, checkpoints and a result; a
hold sends heartbeats. Hosts die at random, and their runs are free again when their holds are stale. `strace` counts the file
system calls of each of these acts on a store of this machine. A file server answers CAPACITY calls a second, and a call takes
LATENCY_SECONDS; when more is asked, every call waits longer.

Three variants leave out one repair each. Polling: every host looks at every run that is held elsewhere once a second. Scan: every
host reads all results before its first run. Walks again: a host that finds nothing free looks at all runs, also at those that have
ended.
Run: python benchmarks/cluster_simulation.py
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from palinode.base import fsio
from palinode.results.holds import HEARTBEAT_SECONDS, STALE_SECONDS, Watch, holder, take
from palinode.results.record import Result
from palinode.results.store import Store

RESULT = Path(__file__).parent / "results" / "cluster_simulation.json"
REPEATS = 50
# Assumed, not measured: a small NFS server, runs of 20 minutes, a host that dies once in 10 days.
CAPACITY_CALLS_PER_SECOND, LATENCY_SECONDS = 20_000, 0.001
RUN_SECONDS, SPREAD = 1200.0, 0.3  # the median of a log-normal distribution, and the deviation of its logarithm
ROWS, CHECKPOINTS, FILES_OF_A_CHECKPOINT = 60, 4, 3  # of one run
SLOTS, DAYS_TO_DEATH = 8, 10.0
SIZES = ((10_000, 200), (100_000, 200), (100_000, 1000))
VARIANTS = ("as it is", "polling", "scan", "walks again")
PAUSES_SECONDS = (5, 10, 20, 40, 60)
CHUNK = 4096
Row = dict[str, Any]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--act", nargs=3, metavar=("NAME", "TIMES", "STORE"), help="do one act, for strace")
    given = arguments.parse_args()
    if given.act:
        acts(Path(given.act[2]))[given.act[0]](int(given.act[1]))
        return
    calls = calls_of_acts()
    print(json.dumps(calls, indent=1), flush=True)
    rows = []
    for runs, hosts in SIZES:
        for variant in VARIANTS:
            rows.append(Sweep(runs, hosts, variant, calls).simulated())
            print(json.dumps(rows[-1]), flush=True)
    from machine import machine_facts

    assumed = {"capacity_calls_per_second": CAPACITY_CALLS_PER_SECOND, "latency_seconds": LATENCY_SECONDS}
    assumed |= {"run_seconds": RUN_SECONDS, "rows": ROWS, "checkpoints": CHECKPOINTS, "slots": SLOTS}
    assumed |= {"days_to_death": DAYS_TO_DEATH, "heartbeat_seconds": HEARTBEAT_SECONDS, "stale_seconds": STALE_SECONDS}
    fsio.write_json(RESULT, {"calls": calls, "rows": rows, "assumed": assumed, "machine": machine_facts()})


# --- the cost of an act -------------------------------------------------------------------------------------------------


def calls_of_acts() -> dict[str, float]:
    """Act -> the file system calls of one such act, counted by strace; the start of Python and imports are subtracted."""
    counted = {}
    for name in acts(Path()):
        none, many = (counted_calls(name, times) for times in (0, REPEATS))
        counted[name] = (many - none) / REPEATS
    return counted


def counted_calls(act: str, times: int) -> int:
    """The file system calls of a process that does an act so many times in a new store."""
    with tempfile.TemporaryDirectory() as store:
        command = [sys.executable, __file__, "--act", act, str(times), store]
        traced = ["strace", "-f", "-c", "-qq", "-e", "trace=%file,%desc", *command]
        told = subprocess.run(traced, check=True, capture_output=True, text=True).stderr
    return int(re.findall(r"^\s*100\.00\s.*?(\d+)\s+(?:\d+\s+)?total$", told, re.MULTILINE)[0])


def acts(root: Path) -> dict[str, Callable[[int], None]]:
    """The acts of a worker on a store. Each function does its act so many times; what it prepares is prepared for 0 times, too."""
    store = Store(root)

    def directories(times: int) -> Iterator[Path]:
        for number in range(REPEATS):
            directory = store.write_spec(f"{number:016x}", {"seed": number})
            if not (directory / "hold-1.json").exists():
                fsio.create_table(
                    directory / "hold-1.json", {"host": "elsewhere", "beat": 1, "pid": 1, "released": False}
                )
                store.write_result(Result(run_id=directory.name, outcome="done"))
        return iter([store.run_directory(f"{number:016x}") for number in range(times)])

    def look(times: int) -> None:
        for directory in directories(times):
            os.lstat(directory / "result.json")

    def poll(times: int) -> None:
        watch = Watch()
        for directory in directories(times):
            holder(directory, watch)

    def ended(times: int) -> None:
        for directory in directories(times):
            store.ended(directory.name)

    def result(times: int) -> None:
        for directory in directories(times):
            store.write_result(Result(run_id=directory.name, outcome="done"))

    def hold(times: int) -> None:
        for directory in directories(times):
            if (taken := take(directory, stale=1)) is not None:
                taken.check()

    def check(times: int) -> None:
        directory = next(directories(1))
        taken = take(directory, stale=1)
        for _ in range(times):
            if taken is not None:
                taken.check()

    def write(times: int) -> None:
        for directory in directories(times):
            fsio.write_table(directory / "hold-1.json", {"beat": 1})

    def row(times: int) -> None:
        for directory in directories(times):
            store.append_metrics(directory.name, {"event": "train", "step": 1}, 1)

    named = (look, poll, ended, result, hold, check, write, row)
    return {act.__name__: act for act in named}


# --- the simulation -----------------------------------------------------------------------------------------------------


@dataclass
class Host:
    """A host: the place in its walk over the runs, the runs in its slots, and how often it found nothing free.

    Attributes:
        remaining: the largest number of runs that have not ended, as far as this host knows: those it looks at in a whole walk.
        look: the number of its latest planned look; earlier ones are not made.
    """

    step: int
    offset: int
    place: int = 0
    held: set[int] = field(default_factory=set)
    idle: int = 0
    remaining: int = 0
    look: int = 0


@dataclass
class Sweep:
    """One experiment on many hosts. `simulated` trains every run and tells what it took."""

    runs: int
    hosts: int
    variant: str
    calls: dict[str, float]

    def __post_init__(self) -> None:
        self.draw = random.Random(1)
        self.free = np.ones(self.runs, dtype=bool)
        self.left = self.runs
        self.held = 0
        self.total, self.events, self.deaths, self.lost_seconds = 0.0, 0, 0, 0.0
        self.bins: dict[int, float] = {}  # ten seconds -> calls
        self.queue: list[tuple[float, int, str, int, int]] = []
        self.attempt = np.zeros(self.runs, dtype=int)
        self.started = np.zeros(self.runs)
        self.crew = [self._new_host() for _ in range(self.hosts)]

    def simulated(self) -> Row:
        """Hours, calls a second and how often the server was asked more than it can answer."""
        for host in range(self.hosts):
            start = self.draw.uniform(0, 60)
            self._push(start, "begin", host)
            self._push(start + self.draw.expovariate(1 / (DAYS_TO_DEATH * 86_400)), "die", host)
        now = last = 0.0
        while self.left:
            now, _, what, host, run = heapq.heappop(self.queue)
            self._background(last, now)
            last = now
            self.events += 1
            {"begin": self._begin, "look": self._fill, "end": self._end, "die": self._die, "free": self._freed}[what](
                now, host, run
            )
        seconds = now
        per_second = [calls / 10 for calls in self.bins.values()]
        return {
            "runs": self.runs,
            "hosts": self.hosts,
            "variant": self.variant,
            "hours": seconds / 3600,
            "calls_per_second": self.total / seconds,
            "peak_calls_per_second": max(per_second),
            "share_above_capacity": sum(rate > CAPACITY_CALLS_PER_SECOND for rate in per_second) / len(per_second),
            "deaths": self.deaths,
            "lost_hours": self.lost_seconds / 3600,
            "events": self.events,
        }

    def _new_host(self) -> Host:
        step = next(n for n in iter(lambda: self.draw.randrange(1, self.runs), None) if math.gcd(n, self.runs) == 1)
        return Host(step, self.draw.randrange(self.runs), remaining=self.runs)

    def _push_look(self, when: float, host: int) -> None:
        me = self.crew[host]
        me.look += 1
        self._push(when, "look", host, me.look)

    def _push(self, when: float, what: str, host: int, run: int = -1) -> None:
        heapq.heappush(self.queue, (when, len(self.queue) + self.events, what, host, run))

    def _ask(self, now: float, act: str, times: float = 1.0) -> float:
        """Count the calls of an act. Returns the seconds that they take one after the other."""
        calls = times * self.calls[act]
        seconds = calls * LATENCY_SECONDS * self._wait(now)
        self._count(now, now + seconds, calls)
        return seconds

    def _count(self, start: float, end: float, calls: float) -> None:
        """Count calls that are made evenly from `start` to `end`."""
        self.total += calls
        first, last = int(start / 10), int(end / 10)
        for place in range(first, last + 1):
            inside = min(end, 10.0 * (place + 1)) - max(start, 10.0 * place)
            share = inside / (end - start) if last > first else 1.0
            self.bins[place] = self.bins.get(place, 0.0) + calls * share

    def _wait(self, now: float) -> float:
        """How many times longer a call takes because the server is asked too much: the load of the last ten seconds."""
        before = self.bins.get(int(now / 10) - 1, 0.0) / 10
        return max(1.0, before / CAPACITY_CALLS_PER_SECOND)

    def _background(self, start: float, end: float) -> None:
        """The calls between two events: heartbeats of all holds, the rows and checkpoints of all runs, and the polls."""
        rate = self.held * (self.calls["check"] + self.calls["write"]) / HEARTBEAT_SECONDS
        of_run = ROWS * self.calls["row"] + CHECKPOINTS * FILES_OF_A_CHECKPOINT * self.calls["write"]
        rate += self.held * of_run / RUN_SECONDS
        if self.variant == "polling":
            rate += self.held * (self.hosts - 1) * self.calls["poll"]
        self._count(start, end, rate * (end - start))

    def _begin(self, now: float, host: int, run: int) -> None:
        ready = now
        if self.variant == "scan":
            ready += self._ask(now, "ended", self.runs)
        self._push_look(ready, host)

    def _fill(self, now: float, host: int, run: int) -> None:
        """Take runs until all slots are full or nothing is free; then look again after a pause."""
        me = self.crew[host]
        if run != me.look:
            return
        ready = now
        while len(me.held) < SLOTS:
            found, looked = self._next_free(me)
            ready += self._ask(ready, "look", looked)
            if found is None:
                me.idle = min(me.idle + 1, len(PAUSES_SECONDS))
                if self.left > len(me.held):
                    self._push_look(ready + PAUSES_SECONDS[me.idle - 1] * self.draw.uniform(0.5, 1.5), host)
                return
            ready += self._ask(ready, "hold")
            me.idle = 0
            self.free[found] = False
            self.held += 1
            me.held.add(found)
            self.started[found] = ready
            self.attempt[found] += 1
            work = RUN_SECONDS * math.exp(SPREAD * self.draw.gauss(0, 1))
            calls = ROWS * self.calls["row"] + CHECKPOINTS * FILES_OF_A_CHECKPOINT * self.calls["write"]
            waits = calls * LATENCY_SECONDS * self._wait(now)
            self._push(ready + work + waits, "end", host, found * 1000 + int(self.attempt[found]))

    def _next_free(self, me: Host) -> tuple[int | None, int]:
        """The next free run in the walk of a host, and the number of runs that it looked at. A walk begins again at its end."""
        if not self.free.any():
            looked = me.remaining
            if self.variant != "walks again":
                me.remaining = self.left
            return None, looked
        looked = 0
        while looked < self.runs:
            count = min(CHUNK, self.runs - looked)
            places = (me.offset + (me.place + np.arange(count, dtype=np.int64)) * me.step) % self.runs
            hits = np.flatnonzero(self.free[places])
            if len(hits):
                me.place += int(hits[0]) + 1
                return int(places[hits[0]]), min(looked + int(hits[0]) + 1, me.remaining)
            looked += count
            me.place += count
        looked = me.remaining
        if self.variant != "walks again":
            me.remaining = self.left
        return None, looked

    def _end(self, now: float, host: int, run: int) -> None:
        number, attempt = divmod(run, 1000)
        me = self.crew[host]
        if number not in me.held or self.attempt[number] != attempt:
            return  # the host died before
        me.held.discard(number)
        self.held -= 1
        self.left -= 1
        done = now + self._ask(now, "result") + self._ask(now, "write")
        self._push_look(done, host)

    def _die(self, now: float, host: int, run: int) -> None:
        """A host dies with its runs and is there again, empty, after ten minutes."""
        me = self.crew[host]
        self.deaths += 1
        for number in me.held:
            self.held -= 1
            since = now - self.started[number]
            self.lost_seconds += since % (RUN_SECONDS / CHECKPOINTS)
            self._push(now + STALE_SECONDS, "free", host, number)
        self.crew[host] = self._new_host()
        self._push(now + 600, "begin", host)
        self._push(now + self.draw.expovariate(1 / (DAYS_TO_DEATH * 86_400)), "die", host)

    def _freed(self, now: float, host: int, run: int) -> None:
        self.free[run] = True


if __name__ == "__main__":
    main()
