"""Run specs in, records out, on this machine: one process per run, or per stack of runs, at most `workers` at a time.

A run that fails, runs out of memory or is killed becomes a result; the others go on. A run that is done is not run again,
whichever experiment it was done for. One interrupt asks the runs to write a checkpoint and end; a second one kills them.
No process outlives the sweep: a run ends by itself when its driver is gone.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import IO, Any

from palinode.base.errors import EnvironmentProblem, PalinodeError
from palinode.results.record import Result
from palinode.results.store import Store
from palinode.sweep.lease import Watch, clear_dead, holder
from palinode.sweep.process import Job, Process

Event = dict[str, Any]
WORKER = (sys.executable, "-P", "-m", "palinode.sweep.worker")
POLL_SECONDS = 0.05  # how soon a signal or the end of a process is noticed
ELSEWHERE_SECONDS = 1.0  # how often a run that another process works on is looked at
STOP_GRACE_SECONDS = (
    30.0  # what a run gets to write its checkpoint; killing it then costs at most one checkpoint interval
)
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of computing, and the period they are for
LAST_WORDS = ("finished", "alone", "problem", "busy")  # of a worker on a run
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@dataclass(frozen=True)
class SweepEnd:
    """What became of a sweep.

    Attributes:
        outcomes: run id -> outcome of every run that has one.
        reused: the runs that were done before.
        interrupted: the signal that ended the sweep early, None when it came to its end.
    """

    outcomes: Mapping[str, str]
    reused: frozenset[str]
    interrupted: int | None

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some runs failed or diverged, 130 or 143 interrupted."""
        if self.interrupted is not None:
            return 130 if self.interrupted == signal.SIGINT else 143
        return int(any(outcome != "done" for outcome in self.outcomes.values()))


def default_workers(threads: int) -> int:
    """As many runs at a time as there are cores for, when each computes with so many threads."""
    return max(1, usable_cores() // max(1, threads))


def usable_cores(quota: Path = CPU_QUOTA) -> int:
    """The cores this process may use: its affinity, and a container's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    try:
        limit, period = quota.read_text().split()
        return max(1, min(cores, round(int(limit) / int(period))))
    except (OSError, ValueError):  # no cgroup here, or no limit ("max")
        return cores


def sweep(
    jobs: Sequence[Job],
    store: Store,
    *,
    workers: int,
    stack: int = 1,
    on_event: Callable[[Event], None] = lambda event: None,
    worker: Sequence[str] = WORKER,
) -> SweepEnd:
    """Do these runs.

    Args:
        stack: as many runs at most share a process, where their keys allow it.
        on_event: called with every event, which names its `run_id`: `reused`, `started`, `elsewhere` (another process works
            on it), the run's own metrics rows, `output` (a printed line), `alone` (its stack failed, for a `reason`; it is
            tried again by itself), `finished` (with `outcome` and `reason`).
        worker: the command of a worker; the runs' directories are appended.

    Raises:
        EnvironmentProblem: the machine refused (disk, device); runs that were going were asked to stop first.
    """
    driver = _Driver(jobs, store, workers, stack, on_event, tuple(worker))
    with driver.listening_to_signals():
        try:
            driver.loop()
        finally:
            driver.end_all()
    return driver.end()


class _Driver:
    def __init__(
        self,
        jobs: Sequence[Job],
        store: Store,
        workers: int,
        stack: int,
        on_event: Callable[[Event], None],
        worker: tuple[str, ...],
    ):
        self.store = store
        self.workers = workers
        self.stack = stack
        self.on_event = on_event
        self.worker = worker
        self.waiting = deque({job.run_id: job for job in jobs}.values())
        self.elsewhere: dict[str, tuple[Job, float]] = {}
        self.running: list[Process] = []
        self.outcomes: dict[str, str] = {}
        self.reused: set[str] = set()
        self.signals: list[int] = []
        self.stop_asked_at: float | None = None
        self.problem: EnvironmentProblem | None = None
        self.watch = Watch()
        self.selector = selectors.DefaultSelector()

    def loop(self) -> None:
        """Until every run has ended, or was asked to and did."""
        while self.waiting or self.elsewhere or self.running:
            if self.signals or self.problem:
                self._stop()
            self._start_what_fits()
            self._look_elsewhere()
            self._listen(POLL_SECONDS if self.running or self.elsewhere else 0.0)
            for process in [one for one in self.running if one.process.poll() is not None]:
                self._ended(process)

    def end(self) -> SweepEnd:
        """What became of it.

        Raises:
            EnvironmentProblem: as a worker met it.
        """
        if self.problem is not None and not self.signals:
            raise self.problem
        return SweepEnd(self.outcomes, frozenset(self.reused), self.signals[0] if self.signals else None)

    def end_all(self) -> None:
        """However the loop was left: ask, wait a little, kill."""
        for process in self.running:
            process.ask_to_stop()
        deadline = time.monotonic() + STOP_GRACE_SECONDS
        for process in list(self.running):
            while process.process.poll() is None and time.monotonic() < deadline and len(self.signals) < 2:
                self._drain(process)
                time.sleep(POLL_SECONDS)
            process.kill()
            process.process.wait()
            self._forget(process)
        self.selector.close()

    @contextlib.contextmanager
    def listening_to_signals(self) -> Iterator[None]:
        """Collect interrupts instead of raising; only a main thread can (elsewhere Python's own handling stays)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            self.signals.append(number)

        before = {number: signal.signal(number, note) for number in INTERRUPTS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self) -> None:
        self.waiting.clear()
        self.elsewhere.clear()
        if self.stop_asked_at is None:
            self.stop_asked_at = time.monotonic()
            for process in self.running:
                process.ask_to_stop()
        if len(self.signals) > 1 or time.monotonic() - self.stop_asked_at > STOP_GRACE_SECONDS:
            for process in self.running:
                process.kill()

    def _start_what_fits(self) -> None:
        while self.waiting and len(self.running) < self.workers:
            job = self.waiting.popleft()
            if (stale_nonce := self._free(job)) is None:
                continue
            jobs = [job]
            if not stale_nonce:  # the lease of one run says nothing of another's
                jobs += self._companions(job)
            self._start(jobs, stale_nonce)

    def _free(self, job: Job) -> str | None:
        """The nonce of a stale lease to take over, "" where there is none; None: the run is done, or another process has it."""
        if (result := self.store.ended(job.run_id)) is not None:
            self._reuse(job, result)
            return None
        held_by, stale_nonce = holder(job.directory, self.watch)
        if held_by is not None:
            self._wait_for_other(job, held_by)
            return None
        return stale_nonce or ""

    def _companions(self, job: Job) -> list[Job]:
        """Waiting jobs to share a process with this one: no more than its share, among the workers that are free."""
        alike = [other for other in self.waiting if job.stack is not None and other.stack == job.stack]
        most = min(self.stack, math.ceil((1 + len(alike)) / (self.workers - len(self.running)))) - 1
        found: list[Job] = []
        for other in alike:
            if len(found) < most and not (_result(self.store, other) or any(holder(other.directory, self.watch))):
                found.append(other)
        for other in found:
            self.waiting.remove(other)
        return found

    def _reuse(self, job: Job, result: Result) -> None:
        self.outcomes[job.run_id] = result.outcome
        self.reused.add(job.run_id)
        self._tell(job, {"event": "reused", "outcome": result.outcome, "reason": result.reason})

    def _wait_for_other(self, job: Job, held_by: str) -> None:
        if job.run_id not in self.elsewhere:
            self._tell(job, {"event": "elsewhere", "message": f"{held_by} is working on it"})
        self.elsewhere[job.run_id] = (job, time.monotonic() + ELSEWHERE_SECONDS)

    def _look_elsewhere(self) -> None:
        """Runs that others work on come back into the queue: they are done, still held, or free to go on with."""
        due = [job for job, when in self.elsewhere.values() if when <= time.monotonic()]
        for job in due:
            held_by, _ = holder(job.directory, self.watch)
            if held_by is not None:
                self._wait_for_other(job, held_by)
                continue
            del self.elsewhere[job.run_id]
            if (result := _result(self.store, job)) is not None:  # whatever it came to, it was tried just now
                self._reuse(job, result)
            else:
                self.waiting.append(job)

    def _start(self, jobs: Sequence[Job], stale_nonce: str) -> None:
        process = Process.start(self.worker, jobs, stale_nonce)
        for name, stream in process.streams():
            os.set_blocking(stream.fileno(), False)
            self.selector.register(stream, selectors.EVENT_READ, (process, name))
        self.running.append(process)
        for job in jobs:
            self._tell(job, {"event": "started", "pid": process.process.pid})

    def _listen(self, timeout_seconds: float) -> None:
        if not self.selector.get_map():
            time.sleep(timeout_seconds)
            return
        for key, _ in self.selector.select(timeout_seconds):
            process, name = key.data
            self._read(process, name, key.fileobj)  # type: ignore[arg-type]

    def _drain(self, process: Process) -> None:
        for name, stream in process.streams():
            if not stream.closed:
                self._read(process, name, stream)

    def _read(self, process: Process, name: str, stream: IO[bytes]) -> None:
        """Take what has come; whole lines are events (out) or printed text (err)."""
        while True:
            try:
                content = os.read(stream.fileno(), 1 << 16)
            except BlockingIOError:
                return
            if not content:
                with contextlib.suppress(KeyError):
                    self.selector.unregister(stream)
                return
            *lines, process.buffers[name] = (process.buffers[name] + content).split(b"\n")
            for line in lines:
                self._heard(process, name, line)

    def _heard(self, process: Process, name: str, line: bytes) -> None:
        text = line.decode("utf-8", errors="replace")
        if name == "err":
            process.printed.append(text)
            self._tell(next(iter(process.jobs.values())), {"event": "output", "text": text})
            return
        try:
            event = json.loads(text)
            job = process.jobs[event["run_id"]]
        except (ValueError, KeyError, TypeError):  # something that bypassed standard output's redirection
            return
        if event.get("event") in LAST_WORDS:
            process.last[job.run_id] = event
        else:
            self._tell(job, event)

    def _ended(self, process: Process) -> None:
        self._drain(process)
        self._forget(process)
        for run_id, job in process.jobs.items():
            self._conclude(process, job, process.last.get(run_id, {}))

    def _conclude(self, process: Process, job: Job, said: Event) -> None:
        if said.get("event") == "busy":
            self.elsewhere[job.run_id] = (job, time.monotonic() + ELSEWHERE_SECONDS)
        elif said.get("event") == "problem":
            self.problem = self.problem or EnvironmentProblem(str(said["message"]))
        elif said.get("event") == "finished":
            self._finish(job, str(said["outcome"]), said.get("reason"))
        elif self.stop_asked_at is not None:
            self._finish(job, "stopped", "stopped before it had begun, or killed: it goes on from its last checkpoint")
        elif said.get("event") == "alone":
            self._alone(job, str(said.get("reason")))
        elif len(process.jobs) > 1:
            self._alone(job, f"the process of {len(process.jobs)} runs {process.death()[0]}")
        else:
            self._died(process, job)

    def _alone(self, job: Job, reason: str) -> None:
        """Try a run by itself: what ended the process of several says nothing of any of them."""
        self._tell(job, {"event": "alone", "reason": reason})
        self.waiting.append(replace(job, stack=None))

    def _died(self, process: Process, job: Job) -> None:
        """A worker that ended without a word: its death is the run's result."""
        how, outcome = process.death()
        likely = ", most likely by the system because memory ran out" if outcome == "oom" else ""
        printed = "\n".join(process.printed)
        result = Result(
            run_id=job.run_id, outcome=outcome, reason=f"the run's process {how}{likely}\n{printed}".rstrip()
        )
        self.store.write_result(result)
        self._finish(job, outcome, result.reason)

    def _finish(self, job: Job, outcome: str, reason: str | None) -> None:
        self.outcomes[job.run_id] = outcome
        self._tell(job, {"event": "finished", "outcome": outcome, "reason": reason})

    def _forget(self, process: Process) -> None:
        for stream in (process.process.stdout, process.process.stderr, process.process.stdin):
            if stream is not None:
                with contextlib.suppress(KeyError, ValueError):
                    self.selector.unregister(stream)
                with contextlib.suppress(OSError):
                    stream.close()
        process.process.wait()
        for job in process.jobs.values():
            clear_dead(job.directory, process.process.pid)
        if process in self.running:
            self.running.remove(process)

    def _tell(self, job: Job, event: Event) -> None:
        self.on_event({**event, "run_id": job.run_id})


def _result(store: Store, job: Job) -> Result | None:
    """The run's result; None when there is none, or none that decodes (then it is run again)."""
    try:
        return store.record(job.run_id).result
    except PalinodeError:
        return None
