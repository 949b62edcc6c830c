"""Trains runs on this machine: each run, or each stack of runs, has one process; at most `workers` processes run at a time.

A run that fails, runs out of memory or is killed gets a result that says so, and the other runs continue. A finished run is not
repeated, even when another experiment trained it. The first interrupt asks the runs to write a checkpoint and end. The second
interrupt kills the runs. No process outlives the sweep: a run ends by itself when the driver, the process of the sweep, is gone.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import selectors
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import IO

from palinode.base.errors import EnvironmentProblem, PalinodeError
from palinode.base.event import Event
from palinode.results.holds import Watch, end_dead, holder
from palinode.results.record import Result
from palinode.results.store import Store
from palinode.sweep.nursery import Nursery
from palinode.sweep.process import CORES, INTERRUPTS, WORKER, Job, Process

POLL_SECONDS = 0.05  # the longest time until a signal or the end of a process is noticed
# Runs of other processes are looked at in rounds, and only while this sweep has a worker without a run. A round ends after LOOKS
# runs that are still held, and the pause doubles after a round that found nothing: 200 hosts then make 200 * 8 looks in a minute.
LOOKS = 8
LOOK_AHEAD = 64  # a sweep of many runs does not compare all of them before each start
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
# The time that a run gets to write its checkpoint. Killing the run after this time costs at most one checkpoint interval.
STOP_GRACE_SECONDS = 30.0
STOP_LOOK_SECONDS = 5.0  # the time from one look at what has to stop to the next
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # two numbers: microseconds of computing allowed in a period of microseconds
# The cores that an engine has given a process; the first that is set counts. Slurm sets the second one only if the user asked for
# cores for each task. Its CPU affinity does not say it on a cluster that does not confine its jobs.
GIVEN_CORES = (CORES, "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")
LAST_EVENTS = ("finished", "alone", "problem", "busy", "lost")  # the events that end a worker's report on a run


@dataclass(frozen=True)
class Sharing:
    """How a sweep shares the runs of a store with other hosts. Such a sweep ends when no run is left that it may take.

    Attributes:
        may_start: whether this host may take a run now. Called just before the run is taken.
        must_stop: whether a run that is being trained has to write a checkpoint and end. Called every STOP_LOOK_SECONDS.
        watch: remembers the holds of other hosts from one sweep to the next.
        held_after: called after a process has asked for the hold of a run, with the seconds that the answer took.
        rank: the runs of lower rank are taken first, among the next LOOK_AHEAD runs. The rank may change during the sweep.
        devices: the GPUs of each worker, as `CUDA_VISIBLE_DEVICES` names them; empty on a CPU.
    """

    may_start: Callable[[Job], bool]
    must_stop: Callable[[Job], bool]
    watch: Watch
    devices: tuple[str, ...] = ()
    rank: Callable[[Job], int] = lambda job: 0
    held_after: Callable[[float], None] = lambda seconds: None


@dataclass(frozen=True)
class SweepEnd:
    """How a sweep ended.

    Attributes:
        outcomes: run id -> outcome, for every run that has one.
        reused: the ids of the runs that had finished before the sweep.
        interrupted: the number of the signal that ended the sweep early; None when no signal did.
        late: the ids of the runs that were not started, or were stopped, because of the deadline.
        left_to_workers: the ids of the runs that are written for workers, which go on without this process.
    """

    outcomes: Mapping[str, str]
    reused: frozenset[str]
    interrupted: int | None
    late: frozenset[str] = frozenset()
    left_to_workers: frozenset[str] = frozenset()

    @property
    def is_cut_short(self) -> bool:
        """Whether runs are left that this process does not wait for."""
        return self.interrupted is not None or bool(self.late or self.left_to_workers)

    @property
    def exit_code(self) -> int:
        """The exit code: 0 all runs are done, 1 some runs failed or diverged, 130 or 143 a signal interrupted the sweep.

        A deadline stops a sweep as SIGTERM does, with 143.
        """
        if self.interrupted is not None:
            return 130 if self.interrupted == signal.SIGINT else 143
        if self.late:
            return 143
        return int(any(outcome != "done" for outcome in self.outcomes.values()))


def default_workers(threads: int) -> int:
    """The number of runs that fit on the cores at the same time when each run computes with this number of threads."""
    return max(1, usable_cores() // max(1, threads))


def usable_cores(quota: Path = CPU_QUOTA) -> int:
    """The number of cores that this process may use: by its CPU affinity, by what the engine that started it has given it, and by
    the CPU quota of its container.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    given = next((os.environ[name] for name in GIVEN_CORES if name in os.environ), "")
    if given.isascii() and given.isdecimal() and int(given) > 0:
        cores = min(cores, int(given))
    try:
        limit, period = quota.read_text().split()
        return max(1, min(cores, round(int(limit) / int(period))))
    except (OSError, ValueError):  # there is no cgroup, or the quota has no limit ("max")
        return cores


def sweep(
    jobs: Sequence[Job],
    store: Store,
    *,
    workers: int,
    stack: int = 1,
    on_event: Callable[[Event], None] = lambda event: None,
    worker: Sequence[str] = WORKER,
    nursery: Nursery | None = None,
    deadline: float | None = None,
) -> SweepEnd:
    """Train the runs of these jobs.

    Args:
        stack: the largest number of runs with one key that share a process.
        on_event: a function that gets every event. An event names its `run_id`: `reused`, `started`, `elsewhere` (another process
            works on the run), the run's own metrics rows, `output` (a printed line), `alone` (the stack of the run failed, for a
            `reason`; the run is tried again by itself), `finished` (with `outcome` and `reason`).
        worker: the command that starts a worker. The directories of the runs are appended to the command.
        nursery: forks the workers; without a nursery every worker is started.
        deadline: the time of `time.monotonic` at which the sweep has to end. A run that is not expected to end before it is not
            started, and a run that has not ended by then is stopped as by an interrupt; None: no deadline.

    Raises:
        EnvironmentProblem: a disk or a device failed. The other runs were first asked to stop.
    """
    waiting = deque({job.run_id: job for job in jobs}.values())
    driver = _Driver(store, workers, stack, on_event, worker, nursery or Nursery(), waiting, deadline)
    return driver.sweep()


def sweep_shared(
    jobs: Sequence[Job],
    store: Store,
    sharing: Sharing,
    *,
    workers: int,
    stack: int = 1,
    on_event: Callable[[Event], None] = lambda event: None,
    worker: Sequence[str] = WORKER,
    nursery: Nursery | None = None,
) -> SweepEnd:
    """Train those runs of these jobs that this host may take, and leave the runs that other hosts hold. The arguments are those of
    `sweep`.

    Raises:
        EnvironmentProblem: a disk or a device failed. The other runs were first asked to stop.
    """
    driver = _Driver(store, workers, stack, on_event, worker, nursery or Nursery(), deque(jobs), sharing=sharing)
    driver.watch = sharing.watch
    return driver.sweep()


@dataclass
class _Driver:
    """The state of a sweep.

    Attributes:
        closed: the jobs that wait for the run whose weights they start from.
        elsewhere: run id -> job that another process works on. The jobs at the front were not looked at for the longest time.
        next_look, pause_seconds: the time of the next round of looks at these jobs, and the mean pause after it.
        signals: the numbers of the interrupts so far.
        problem: the first failure of a disk or a device that a worker reported; None without a failure.
    """

    store: Store
    workers: int
    stack: int
    on_event: Callable[[Event], None]
    worker: Sequence[str]
    nursery: Nursery
    waiting: deque[Job]
    deadline: float | None = None
    late: set[str] = field(default_factory=set)
    closed: list[Job] = field(default_factory=list)
    elsewhere: dict[str, Job] = field(default_factory=dict)
    next_look: float = 0.0
    pause_seconds: float = FIRST_PAUSE_SECONDS
    running: list[Process] = field(default_factory=list)
    outcomes: dict[str, str] = field(default_factory=dict)
    reused: set[str] = field(default_factory=set)
    signals: list[int] = field(default_factory=list)
    stop_requested_at: float | None = None
    problem: EnvironmentProblem | None = None
    watch: Watch = field(default_factory=Watch)
    selector: selectors.DefaultSelector = field(default_factory=selectors.DefaultSelector)
    sharing: Sharing | None = None
    next_stop_look: float = 0.0

    def sweep(self) -> SweepEnd:
        """Do the sweep and return how it ended. No worker is left at the end.

        Raises:
            EnvironmentProblem: a disk or a device failed.
        """
        with self.listening_to_signals():
            try:
                self.loop()
            finally:
                self.end_all()
        return self.end()

    def loop(self) -> None:
        """Work until every run has ended."""
        while self.waiting or self.elsewhere or self.running or self.closed:
            if self.signals or self.problem or self._is_late(0.0):
                self._stop()
            self._start_what_fits()
            self._look_elsewhere()
            self._stop_what_must()
            self._listen(POLL_SECONDS if self.running or self.elsewhere or self.waiting else 0.0)
            for process in [one for one in self.running if one.process.poll() is not None]:
                self._conclude_process(process)

    def end(self) -> SweepEnd:
        """The SweepEnd that describes how the sweep ended.

        Raises:
            EnvironmentProblem: a worker reported that a disk or a device failed.
        """
        if self.problem is not None and not self.signals:
            raise self.problem
        interrupted = self.signals[0] if self.signals else None
        return SweepEnd(self.outcomes, frozenset(self.reused), interrupted, frozenset(self.late))

    def end_all(self) -> None:
        """Ask the workers that still run to stop, wait a little, then kill them."""
        for process in self.running:
            process.ask_to_stop()
        deadline = time.monotonic() + STOP_GRACE_SECONDS
        for process in list(self.running):
            while process.process.poll() is None and time.monotonic() < deadline and len(self.signals) < 2:
                self._drain(process)
                time.sleep(POLL_SECONDS)
            process.kill()
            self._forget(process)
        self.selector.close()

    @contextlib.contextmanager
    def listening_to_signals(self) -> Iterator[None]:
        """Collect interrupts instead of raising. Python allows this in the main thread only, so other threads change nothing."""
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

    def _is_late(self, seconds: float) -> bool:
        """Whether work that takes so many seconds would end after the deadline."""
        return self.deadline is not None and time.monotonic() + seconds >= self.deadline

    def _stop(self) -> None:
        if self._is_late(0.0) and not self.signals:
            self.late |= {job.run_id for job in (*self.waiting, *self.closed)} | self.elsewhere.keys()
        self.waiting.clear()
        self.closed.clear()
        self.elsewhere.clear()
        if self.stop_requested_at is None:
            self.stop_requested_at = time.monotonic()
            for process in self.running:
                process.ask_to_stop()
        if len(self.signals) > 1 or time.monotonic() - self.stop_requested_at > STOP_GRACE_SECONDS:
            for process in self.running:
                process.kill()

    def _stop_what_must(self) -> None:
        """Ask the processes to stop whose runs may not go on, for example because the user stopped their experiment."""
        if self.sharing is None or time.monotonic() < self.next_stop_look:
            return
        self.next_stop_look = time.monotonic() + STOP_LOOK_SECONDS
        for process in self.running:
            if all(self.sharing.must_stop(job) for job in process.jobs.values()):
                process.ask_to_stop()

    def _may_start(self, job: Job) -> bool:
        return self.sharing is None or self.sharing.may_start(job)

    def _next(self) -> Job:
        if self.sharing is None:
            return self.waiting.popleft()
        job = min(islice(self.waiting, LOOK_AHEAD), key=self.sharing.rank)
        self.waiting.remove(job)
        return job

    def _start_what_fits(self) -> None:
        while self.waiting and len(self.running) < self.workers:
            job = self._next()
            if not self._may_start(job):
                continue
            if (result := self.store.ended(job.run_id)) is not None:
                self._reuse(job, result)
                continue
            owner, stale_hold = holder(job.directory, self.watch)
            if owner is not None:
                self._wait_for_other(job, owner)
                continue
            if not self._has_source(job):
                continue
            if not self.nursery.is_ready():  # signals are looked at while it imports
                self.waiting.appendleft(job)
                return
            if self._is_late(job.seconds):
                self._leave(job)
                continue
            stale_holds = {job.run_id: stale_hold} if stale_hold is not None else {}
            if job.together:
                jobs = [job, *self._rest_of_fixed_stack(job, stale_holds)]
            else:  # a run with a stale hold gets a process of its own
                jobs = [job] if stale_holds else [job, *self._companions(job)]
            self._start(jobs, stale_holds)

    def _has_source(self, job: Job) -> bool:
        """Whether the weights that the job starts from are there. A job whose source is still to come waits, and is closed; a job
        whose source ended in another way fails with it.
        """
        if job.after is None or self._is_open(job):
            return True
        source = self.store.ended(job.after)
        at_work = (one for process in self.running for one in process.jobs.values())
        coming = {one.run_id for one in (*self.waiting, *self.closed, *at_work)} | self.elsewhere.keys()
        if source is None and job.after in coming and self.sharing is None:
            self.closed.append(job)
            return False
        outcome = source.outcome if source is not None else self.outcomes.get(job.after, "not done")
        reason = f"start_from: run {job.after} is {outcome}, so it has no weights to start from"
        result = Result(run_id=job.run_id, outcome="failed", reason=reason)
        self.store.write_result(result)
        self._finish(job, result.outcome, reason)
        return False

    def _open(self, run_id: str) -> None:
        """Let the jobs that waited for this run go on."""
        self.waiting.extend(job for job in self.closed if job.after == run_id)
        self.closed = [job for job in self.closed if job.after != run_id]

    def _leave(self, job: Job) -> None:
        """Leave a job, and those that start from it, for another call, because the time is too short."""
        self.late.add(job.run_id)
        followers = [one for one in self.closed if one.after == job.run_id]
        self.closed = [one for one in self.closed if one not in followers]
        for follower in followers:
            self._leave(follower)

    def _is_open(self, job: Job) -> bool:
        source = self.store.ended(job.after) if job.after is not None else None
        return job.after is None or (source is not None and source.outcome == "done")

    def _rest_of_fixed_stack(self, job: Job, stale_holds: dict[str, int]) -> list[Job]:
        """The waiting jobs of the fixed stack of this job; the numbers of their stale holds are added to `stale_holds`."""
        companions: list[Job] = []
        for other in [one for one in self.waiting if one.together == job.together]:
            owner, stale_hold = holder(other.directory, self.watch)
            if owner is None and self.store.ended(other.run_id) is None and self._is_open(other):
                companions.append(other)
                stale_holds |= {other.run_id: stale_hold} if stale_hold is not None else {}
        for other in companions:
            self.waiting.remove(other)
        return companions

    def _companions(self, job: Job) -> list[Job]:
        """The waiting jobs that share a process with this job. The free workers get equal numbers of jobs."""
        alike = [one for one in self.waiting if job.stack is not None and one.stack == job.stack and not one.together]
        most = min(self.stack, math.ceil((1 + len(alike)) / (self.workers - len(self.running)))) - 1
        companions: list[Job] = []
        for other in alike:
            is_full = len(companions) >= most
            if is_full or _result(self.store, other) or not self._may_start(other) or not self._is_open(other):
                continue
            if holder(other.directory, self.watch) == (None, None):
                companions.append(other)
        for other in companions:
            self.waiting.remove(other)
        return companions

    def _reuse(self, job: Job, result: Result) -> None:
        self.outcomes[job.run_id] = result.outcome
        self.reused.add(job.run_id)
        self._open(job.run_id)
        self._emit(job, {"event": "reused", "outcome": result.outcome, "reason": result.reason})

    def _wait_for_other(self, job: Job, holder_text: str) -> None:
        if job.run_id not in self.elsewhere and self.sharing is None:
            self._emit(job, {"event": "elsewhere", "message": f"{holder_text} is working on it"})
        self._put_aside(job)

    def _put_aside(self, job: Job) -> None:
        """Leave a job to the other process that works on it. The next look at it comes after those at all other such jobs."""
        if self.sharing is not None:
            return
        if not self.elsewhere:
            self.pause_seconds = FIRST_PAUSE_SECONDS
            self.next_look = time.monotonic() + self._pause()
        self.elsewhere.pop(job.run_id, None)
        self.elsewhere[job.run_id] = job

    def _look_elsewhere(self) -> None:
        """Look again at some runs of other processes. Each run has finished, is still held, or may be taken."""
        is_full = len(self.running) >= self.workers
        if not self.elsewhere or is_full or time.monotonic() < self.next_look:
            return
        held = 0
        before = len(self.elsewhere)
        for job in list(self.elsewhere.values()):
            holder_text, _ = holder(job.directory, self.watch)
            if holder_text is not None:
                self._wait_for_other(job, holder_text)
                held += 1
                if held == LOOKS:
                    break
                continue
            del self.elsewhere[job.run_id]
            if (result := _result(self.store, job)) is not None:  # a failure counts, too: the run was tried just now
                self._reuse(job, result)
            else:
                self.waiting.append(job)
        something_changed = len(self.elsewhere) < before
        doubled = min(2 * self.pause_seconds, LONGEST_PAUSE_SECONDS)
        self.pause_seconds = FIRST_PAUSE_SECONDS if something_changed else doubled
        self.next_look = time.monotonic() + self._pause()

    def _pause(self) -> float:
        """The next pause. Half of it is left to chance, so that hosts that were started together do not look at the same moment."""
        return self.pause_seconds * random.uniform(0.5, 1.5)  # noqa: S311 - no secret, and no result depends on it

    def _start(self, jobs: Sequence[Job], stale_holds: Mapping[str, int]) -> None:
        used = {process.device for process in self.running}
        devices = self.sharing.devices if self.sharing is not None else ()
        device = next((one for one in devices if one not in used), None)
        process = Process.start(self.worker, jobs, stale_holds, self.nursery.start, device)
        for name, stream in process.streams():
            os.set_blocking(stream.fileno(), False)
            self.selector.register(stream, selectors.EVENT_READ, (process, name))
        self.running.append(process)
        for job in jobs:
            self._emit(job, {"event": "started", "pid": process.process.pid})

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
        """Read the available output. A whole line is an event (stream `out`) or printed text (stream `err`)."""
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
                self._take_line(process, name, line)

    def _take_line(self, process: Process, name: str, line: bytes) -> None:
        text = line.decode("utf-8", errors="replace")
        if name == "err":
            process.printed_lines.append(text)
            self._emit(next(iter(process.jobs.values())), {"event": "output", "text": text})
            return
        try:
            event = json.loads(text)
            job = process.jobs[event["run_id"]]
        except (ValueError, KeyError, TypeError):  # the line is no event, but printed text that was not redirected
            return
        if event.get("event") in LAST_EVENTS:
            process.last_events[job.run_id] = event
        else:
            self._emit(job, event)

    def _conclude_process(self, process: Process) -> None:
        self._drain(process)
        self._forget(process)
        for run_id, job in process.jobs.items():
            self._conclude_run(process, job, process.last_events.get(run_id, {}))

    def _conclude_run(self, process: Process, job: Job, report: Event) -> None:
        if self.sharing is not None and "hold_seconds" in report:
            self.sharing.held_after(float(report["hold_seconds"]))
        if report.get("event") == "lost":
            self._emit(job, {"event": "elsewhere", "message": str(report["reason"])})
        if report.get("event") in ("busy", "lost"):
            self._put_aside(job)
        elif report.get("event") == "problem":
            self.problem = self.problem or EnvironmentProblem(str(report["message"]))
        elif report.get("event") == "finished":
            self._finish(job, str(report["outcome"]), report.get("reason"))
        elif process.asked_to_stop or self.stop_requested_at is not None:
            self._finish(
                job, "stopped", "stopped before it had begun, or killed: it continues from its last checkpoint"
            )
        elif report.get("event") == "alone":
            self._try_alone(job, str(report.get("reason")))
        elif len(process.jobs) > 1 or job.together:
            self._try_alone(job, f"the process of the stack {process.death()[0]}")
        else:
            self._write_death(process, job)

    def _try_alone(self, job: Job, reason: str) -> None:
        """Try a run by itself. When a process of several runs fails, the failure does not show which run caused it."""
        self._emit(job, {"event": "alone", "reason": reason})
        self.waiting.append(replace(job, stack=None, together=()))

    def _write_death(self, process: Process, job: Job) -> None:
        """Write the result of a run whose worker ended without an event, unless another process has taken over the run."""
        owner, _ = holder(job.directory, self.watch)
        if owner is not None:
            self._wait_for_other(job, owner)
            return
        if (result := self.store.ended(job.run_id)) is not None:
            self._reuse(job, result)
            return
        how, outcome = process.death()
        end_dead(job.directory, process.process.pid, outcome)
        likely = ", most likely by the system because memory ran out" if outcome == "oom" else ""
        printed = "\n".join(process.printed_lines)
        result = Result(
            run_id=job.run_id, outcome=outcome, reason=f"the run's process {how}{likely}\n{printed}".rstrip()
        )
        self.store.write_result(result)
        self._finish(job, outcome, result.reason)

    def _finish(self, job: Job, outcome: str, reason: str | None) -> None:
        self.outcomes[job.run_id] = outcome
        self._open(job.run_id)
        if outcome == "stopped" and self._is_late(0.0) and not self.signals:
            self.late.add(job.run_id)
        self._emit(job, {"event": "finished", "outcome": outcome, "reason": reason})

    def _forget(self, process: Process) -> None:
        for stream in (process.stdout, process.stderr, process.stdin):
            with contextlib.suppress(KeyError, ValueError):
                self.selector.unregister(stream)
            with contextlib.suppress(OSError):
                stream.close()
        process.process.wait()
        for job in process.jobs.values():
            end_dead(job.directory, process.process.pid)
        if process in self.running:
            self.running.remove(process)

    def _emit(self, job: Job, event: Event) -> None:
        self.on_event({**event, "run_id": job.run_id})


def _result(store: Store, job: Job) -> Result | None:
    """The result of the run; None when the result is missing or does not decode, so that the run is repeated."""
    try:
        return store.record(job.run_id).result
    except PalinodeError:
        return None
