"""The work of one host on a store that several hosts share: `palinode worker`.

The store is the queue. A host takes open runs one by one, and trains them as a sweep does. Which host gets a run is decided by the
hold on the directory of the run (`results/holds.py`), so the hosts need not know each other. Each host goes through the runs in an
order of its own, so that hosts do not meet at the same run.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from palinode.base import fsio
from palinode.base.errors import EnvironmentProblem, PalinodeError
from palinode.base.event import Event
from palinode.base.measures import FAILED_OUTCOMES, FINAL_OUTCOMES
from palinode.base.numerics import NUMERICS_VERSION
from palinode.results.holds import Watch, failures, holder, take, this_host
from palinode.results.record import CODE_RECORD_FILE, RESULT_FILE, SPEC_FILE, ExperimentEntry, decided_with
from palinode.results.store import Store
from palinode.sweep.local import Sharing, SweepEnd, default_workers, sweep_shared
from palinode.sweep.nursery import Nursery
from palinode.sweep.process import WORKER, Job, Parallel, about_price

T = TypeVar("T")
PAUSES_SECONDS = (5.0, 10.0, 20.0, 40.0, 60.0)  # while no run is free; half of a pause is left to chance
SLOW_HOLD_SECONDS = 5.0  # a disk that needs longer for a hold has too much to do, so pauses are twice as long
NAP_SECONDS = 1.0  # how soon a host that waits notices that its time is over
RETRY_SECONDS = (1.0, 4.0, 16.0)  # after an error that a network disk may get over
PASSING_ERRORS = (errno.EIO, errno.ESTALE)
MOST_FAILURES = 2  # a run that failed is tried once more, on another host
ROOM_FACTOR = 2  # no run is taken while the disk has less room than so many times what the largest run needs
FILES_PER_RUN = 20  # about 14 files a run with checkpoints, and room for temporary ones


@dataclass(frozen=True)
class HostOptions:
    """The options of `palinode worker`.

    Attributes:
        experiment: the name of the only experiment to work on; None: all experiments of the store.
        slots: the number of runs, or stacks of runs, at the same time; None: one for each GPU, or for as many GPUs as processes
            share a run, else as many as the cores allow.
        stack: the largest number of runs of one shape that are trained together in one process.
        seconds: the time after which no run is going on; None: no limit.
        idle_seconds: how long to wait for new runs after every run of the store has ended.
        allow_code: whether the user's code that the store carries may run.
        decide: makes the decisions of an experiment whose runs have ended (`experiment.run.decide`): full name -> whether runs are
            left. The caller has the hold on the decisions. None: this host decides nothing.
        probe: the name of the file of a driver; the work ends when the driver has deleted it. None: no driver.
        worker: the command that starts the process of a run.
        price: the names of the devices of the runs -> the price of an hour of this host, and its currency; None: unknown.
        processes, parallel: the number of processes that share a run, and how; None for runs in one process.
    """

    experiment: str | None = None
    slots: int | None = None
    stack: int = 1
    seconds: float | None = None
    idle_seconds: float = 0.0
    allow_code: bool = False
    decide: Callable[[str], bool] | None = None
    probe: str | None = None
    worker: Sequence[str] = WORKER
    price: Callable[[Iterable[str]], tuple[float, str] | None] = lambda devices: None
    processes: int = 1
    parallel: Parallel | None = None


def work(
    store: Store,
    options: HostOptions,
    on_event: Callable[[Event], None] = lambda event: None,
    say: Callable[[str], None] = lambda text: None,
) -> int:
    """Train open runs until no run is open, the time is used up, or a signal comes.

    Args:
        on_event: a function that gets the events of the runs, as in `sweep`.
        say: a function that gets the messages of this host.

    Returns:
        the exit code: 0, 1 when a run failed on this host, 130 or 143 after a signal.

    Raises:
        EnvironmentProblem: the store or a device failed, or this program has another numerics version than all open runs.
    """
    store.share_data()
    host = _Host(store, options, on_event, say)
    with Nursery(() if host.devices else ("palinode.sweep.worker",), say) as nursery:
        return host.loop(nursery)


def gpus() -> tuple[str, ...]:
    """The ids of the GPUs that this process may use."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(one.strip() for one in visible.split(",") if one.strip() not in ("", "-1"))
    import torch

    return tuple(str(index) for index in range(torch.cuda.device_count()))


def gpu_names() -> tuple[str, ...]:
    """The names of the GPUs that this process may use, each name once."""
    import torch

    return tuple(dict.fromkeys(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))))


def _grouped(ids: Sequence[str], size: int) -> tuple[str, ...]:
    """The ids of GPUs in groups of this size. A last group that is smaller is left out, unless it is the only one."""
    starts = range(0, max(len(ids) - size, 0) + 1, size) if ids else ()
    return tuple(",".join(ids[start : start + size]) for start in starts)


Pair = tuple[str, str, int]


@dataclass
class _Open:
    """An open run: its job, the names of its experiments, what its events are labelled with, and parts of its spec."""

    job: Job
    experiments: list[ExperimentEntry]
    label: Event
    numerics: int
    device: str
    has_code: bool


@dataclass
class _Host:
    """The state of `work`.

    Attributes:
        ended: the ids of the runs that need not be looked at again.
        settled: the ids of the runs that no host tries again.
        open: run id -> open run.
        undecided: the names of the experiments whose runs are settled, and for which a decision is left to make.
        failed: the number of runs and decisions that failed on this host.
        pairs: run id -> the experiment, scale and seed whose runs are compared with each other.
        kinds: pair -> the kinds of machine that trained its runs.
        hold_seconds: how long it took to get, or not to get, the hold that was asked for last.
        own_kinds: threads and device of a run -> the kind of this host; empty if this host cannot train such a run.
    """

    store: Store
    options: HostOptions
    on_event: Callable[[Event], None]
    say: Callable[[str], None]
    watch: Watch = field(default_factory=Watch)
    worker_id: str = field(default_factory=lambda: secrets.token_hex(8))
    began: float = field(default_factory=time.monotonic)
    ended: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)
    undecided: list[str] = field(default_factory=list)
    open: dict[str, _Open] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)
    failed: int = 0
    pairs: dict[str, Pair] = field(default_factory=dict)
    kinds: dict[Pair, set[str]] = field(default_factory=dict)
    own_kinds: dict[tuple[int, str], str] = field(default_factory=dict)
    hold_seconds: float = 0.0
    slots: int = 0
    devices: tuple[str, ...] = ()
    price: tuple[float, str] | None = None

    def __post_init__(self) -> None:
        total = self._find_open()
        self._refuse_other_numerics()
        if any(one.device != "cpu" for one in self.open.values()):
            self.devices = _grouped(gpus(), self.options.processes)[: self.options.slots]
        threads = max((one.job.threads for one in self.open.values()), default=1)
        self.slots = self.options.slots or len(self.devices) or default_workers(self.options.processes * threads)
        on = f" ({', '.join(gpu_names()) or 'on GPUs'})" if self.devices else ""
        slots = f"{self.slots} slot{'' if self.slots == 1 else 's'}{on}"
        self.say(f"{platform.node()}, {slots}, {self.store.root}: {len(self.open):,} of {total:,} runs open")
        self.price = self.options.price({one.device for one in self.open.values()})
        about: Event = {"slots": self.slots, "devices": list(self.devices), "price": self.price}
        self._log("began", **this_host(), pid=os.getpid(), **about)

    def loop(self, nursery: Nursery) -> int:
        """Take and train runs until nothing is left to do, and return the exit code."""
        sharing = Sharing(
            self._may_start, self._must_stop, self.watch, self.devices, self._preference, self._note_hold_seconds
        )
        pauses, idle_since = _pauses(), time.monotonic()
        while not self._is_over():
            jobs = [self.open[run_id].job for run_id in sorted(self.open, key=self._rank)]
            if jobs:
                idle_since = time.monotonic()
                end = self._with_retries(lambda: self._sweep(jobs, sharing, nursery))  # noqa: B023 - called at once
                self.failed += sum(outcome in FAILED_OUTCOMES for outcome in end.outcomes.values())
                if end.interrupted is not None:
                    return end.exit_code
                pauses = _pauses() if end.outcomes else pauses
            self._with_retries(self._find_open)
            if self._with_retries(self._decide):
                continue
            if not self.open and not self.undecided and time.monotonic() - idle_since >= self.options.idle_seconds:
                break
            if not jobs or not end.outcomes:
                self._sleep(next(pauses) * (2 if self.hold_seconds > SLOW_HOLD_SECONDS else 1))
        return int(self.failed > 0)

    def _sweep(self, jobs: Sequence[Job], sharing: Sharing, nursery: Nursery) -> SweepEnd:
        def labelled(event: Event) -> None:
            self._log_event(event)
            self.on_event({**event, **self.open[event["run_id"]].label})

        options = self.options
        return sweep_shared(
            jobs,
            self.store,
            sharing,
            workers=self.slots,
            stack=options.stack,
            on_event=labelled,
            worker=(*options.worker, *about_price(self.price, self.slots)),
            nursery=nursery,
        )

    # --- which runs are open -----------------------------------------------------------------------------------------

    def _find_open(self) -> int:
        """Find the runs that have not ended and that this host may train, and return the number of all runs."""
        runs: dict[str, tuple[Event, list[ExperimentEntry]]] = {}
        of_decision: dict[str, list[str]] = {}  # the name of an experiment -> the ids of its runs and trials
        for entry in self._entries():
            run_ids = of_decision.setdefault(decided_with(entry), [])
            # Where a setting is left to choose, the trials come first, and have an entry of their own.
            for run in () if entry.to_choose else self.store.queue(entry):
                label = {"arm": run.arm, "scale": run.scale, "seed": run.seed}
                runs.setdefault(run.run_id, (label, []))[1].append(entry)
                run_ids.append(run.run_id)
                self.pairs[run.run_id] = (entry.full_name, run.scale, run.seed)
        known, self.open = self.open, {}
        for run_id, (label, of_run) in runs.items():
            if run_id in self.ended or self._has_ended(run_id) or all(map(self._is_stopped, of_run)):
                continue
            if (found := known.get(run_id) or self._read(run_id, label, of_run)) is None:
                continue
            found.experiments = of_run
            if found.has_code and not self.options.allow_code:
                self._say_once("some runs need code that the store carries: --allow-code runs it, and they stay open")
            elif (found.numerics == NUMERICS_VERSION or not self.slots) and self._may_follow(found.job.after):
                self.open[run_id] = found
        self.undecided = [name for name, run_ids in of_decision.items() if self._is_undecided(name, run_ids)]
        return len(runs)

    def _entries(self) -> list[ExperimentEntry]:
        """The experiments to work on, with those of their trials."""
        entries = [entry for entry in self.store.experiments() if not entry.source]
        if self.options.experiment is None:
            return entries
        name = self.store.entry(self.options.experiment).full_name
        return [entry for entry in entries if name in (entry.full_name, decided_with(entry))]

    def _read(self, run_id: str, label: Event, entries: list[ExperimentEntry]) -> _Open | None:
        """What this host needs of the spec of a run; None while the spec is not written yet or cannot be read."""
        directory = self.store.run_directory(run_id)
        try:
            spec = fsio.read_table(directory / SPEC_FILE)
        except PalinodeError:
            return None
        has_code = (directory / CODE_RECORD_FILE).exists()
        may_load = self.options.allow_code or not has_code
        key = _stack_key(directory) if self.options.stack > 1 and may_load else None
        threads, steps = int(spec.get("threads", 1)), dict(spec.get("recipe", {})).get("steps", 0)
        after = dict(spec.get("start_from") or {}).get("run")
        job = Job(run_id, directory, threads, key, after=after)
        numerics, device = int(spec.get("numerics_version", 1)), str(spec.get("device", "cpu"))
        return _Open(job, entries, {**label, "steps": steps}, numerics, device, has_code)

    def _may_follow(self, source: str | None) -> bool:
        """Whether a run may be taken that starts from the weights of another run: it has ended, or failed as often as it may."""
        if source is None or self.store.ended(source) is not None:
            return True
        return len(failures(self.store.run_directory(source))) >= MOST_FAILURES

    def _has_ended(self, run_id: str) -> bool:
        """Whether this host need not train the run: it has ended, or it failed here, or on two hosts."""
        directory = self.store.run_directory(run_id)
        if not os.path.lexists(directory / RESULT_FILE):
            return False
        try:
            result = self.store.record(run_id).result
        except PalinodeError:  # a damaged result is made again
            return False
        if result is None:
            return False
        if result.outcome in FINAL_OUTCOMES:
            self.settled.add(run_id)
            self.kinds.setdefault(self.pairs[run_id], set()).add(result.kind)
        else:
            failed = failures(directory)
            if failed and len(failed) < MOST_FAILURES and not any(hold.is_of(this_host()) for hold in failed):
                return False
        self.ended.add(run_id)
        return True

    def _refuse_other_numerics(self) -> None:
        """Refuse runs of another numerics version, if all open runs are such runs."""
        versions = {one.numerics for one in self.open.values()}
        if versions and NUMERICS_VERSION not in versions:
            theirs = ", ".join(map(str, sorted(versions)))
            message = f"{platform.node()} has numerics version {NUMERICS_VERSION}, the runs are for {theirs}"
            raise EnvironmentProblem(message, hint="all hosts need the version of palinode that wrote the runs")

    # --- what the sweep asks -----------------------------------------------------------------------------------------

    def _may_start(self, job: Job) -> bool:
        is_free = not (self._must_stop(job) or self._has_ended(job.run_id))
        return is_free and self._has_room()

    def _note_hold_seconds(self, seconds: float) -> None:
        self.hold_seconds = seconds

    def _must_stop(self, job: Job) -> bool:
        return self._is_over() or all(map(self._is_stopped, self.open[job.run_id].experiments))

    def _is_over(self) -> bool:
        """Whether the time of this host is used up, or its driver needs it no more."""
        is_late = self.options.seconds is not None and time.monotonic() - self.began >= self.options.seconds
        return is_late or (self.options.probe is not None and not _is_there(self.store.probe_path(self.options.probe)))

    def _is_stopped(self, entry: ExperimentEntry) -> bool:
        name = decided_with(entry)
        if not any(self.store.stop_path(one).exists() for one in {entry.full_name, name}):
            return False
        self._say_once(f"{name} is stopped; `palinode run` on its file goes on with it")
        return True

    def _has_room(self) -> bool:
        cells = [
            cell for one in self.open.values() for entry in one.experiments for cell in entry.plan.get("cells", ())
        ]
        needed = ROOM_FACTOR * max((int(cell.get("disk_bytes", 0)) for cell in cells), default=0)
        disk = os.statvfs(self.store.root)
        has_files = not disk.f_files or disk.f_favail >= ROOM_FACTOR * FILES_PER_RUN
        if disk.f_bavail * disk.f_frsize >= needed and has_files:
            return True
        self._say_once(f"no run is taken while {self.store.root} has too little room")
        return False

    # --- decisions ---------------------------------------------------------------------------------------------------

    def _is_undecided(self, name: str, run_ids: Sequence[str]) -> bool:
        """Whether a decision of this experiment is left to make now, by this or another process."""
        if (
            self.options.decide is None
            or not self.store.plan_path(name).exists()
            or self.store.stop_path(name).exists()
        ):
            return False
        if (self.store.plan_path(name).parent / CODE_RECORD_FILE).exists() and not self.options.allow_code:
            self._say_once(
                f"{name} needs code that the store carries: --allow-code runs it, else nothing is decided here"
            )
            return False
        return all(map(self._is_settled, run_ids)) and self._can_decide(name)

    def _can_decide(self, name: str) -> bool:
        """Whether the plan of an experiment is there, and has the numerics version of this program."""
        try:
            theirs = fsio.read_table(self.store.plan_path(name)).get("numerics_version")
        except PalinodeError:  # another process has just made the last decision
            return False
        if theirs != NUMERICS_VERSION:
            self._say_once(f"{name}: numerics version {theirs} decides, and this host has {NUMERICS_VERSION}")
        return bool(theirs == NUMERICS_VERSION)

    def _is_settled(self, run_id: str) -> bool:
        """Whether no host tries a run again: it has ended, or it failed as often as it may."""
        if run_id in self.settled or run_id not in self.ended:
            return run_id in self.settled
        self.ended.discard(run_id)  # another host may have tried the failed run again
        if self._has_ended(run_id) and len(failures(self.store.run_directory(run_id))) >= MOST_FAILURES:
            self.settled.add(run_id)
        return run_id in self.settled

    def _decide(self) -> bool:
        """Make the decisions that are left, unless another process makes them, and return whether one was made."""
        decided = False
        for name in self.undecided:
            directory = self.store.decisions(name)
            owner, stale = holder(directory, self.watch)
            if owner is not None or (hold := take(directory, stale=stale)) is None:
                continue
            with hold:
                if self.store.plan_path(name).exists():  # else another process was faster
                    self._decide_for_all(name)
                    decided = True
        if decided:
            self._find_open()
        return decided

    def _decide_for_all(self, name: str) -> None:
        assert self.options.decide is not None
        try:
            if not self.options.decide(name):
                self.say(f"{name}: all is decided, `palinode compare {name}` shows it")
        except EnvironmentProblem:
            raise
        except PalinodeError as problem:
            self.failed += 1
            self.store.forget_plan(name)
            self.say(f"{name}: nothing more is decided: {problem}")

    # --- kinds of machine, and the log of this host --------------------------------------------------------------------

    def _preference(self, job: Job) -> int:
        """Which runs this host takes first: 0 where its own kind has trained runs of the seed, 2 where only other kinds have."""
        kinds = self.kinds.get(self.pairs[job.run_id])
        if not kinds:
            return 1
        return 0 if self._own_kind(self.open[job.run_id]) in kinds else 2

    def _own_kind(self, found: _Open) -> str:
        key = (found.job.threads, found.device)
        if key not in self.own_kinds:
            may_load = self.options.allow_code or not found.has_code
            self.own_kinds[key] = _kind_here(found.job.directory, self.options) if may_load else ""
        return self.own_kinds[key]

    def _log_event(self, event: Event) -> None:
        """Log the start and the end of a run, and remember the kind of machine that this host is."""
        run_id = event["run_id"]
        if event["event"] in ("started", "elsewhere"):
            self._log(event["event"], run_id=run_id)
        if event["event"] != "finished":
            return
        about: Event = {"outcome": event["outcome"], "reason": str(event.get("reason") or "").partition("\n")[0]}
        with contextlib.suppress(PalinodeError):
            result = self.store.record(run_id).result
            if result is not None and result.fingerprint:
                self.kinds.setdefault(self.pairs[run_id], set()).add(result.kind)
                self.own_kinds[self.open[run_id].job.threads, self.open[run_id].device] = result.kind
                about |= {"kind": result.kind, "environment": result.fingerprint.get("environment")}
        self._log("ended", run_id=run_id, **about)

    def _log(self, event: str, **about: Any) -> None:
        """Append a line to the log of this host, workers/<id>.jsonl. Nothing depends on the log, so a full disk ends no run."""
        row = {"event": event, "at": datetime.now(UTC).isoformat(timespec="seconds"), **about}
        with contextlib.suppress(EnvironmentProblem):
            fsio.append_line(self.store.workers_directory() / f"{self.worker_id}.jsonl", row)

    # --- waiting -----------------------------------------------------------------------------------------------------

    def _rank(self, run_id: str) -> tuple[int, str]:
        """Sorts the runs into the order of this host."""
        return self._preference(self.open[run_id].job), hashlib.sha256(f"{self.worker_id}{run_id}".encode()).hexdigest()

    def _sleep(self, seconds: float) -> None:
        self._log("pause", seconds=round(seconds, 1))
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._is_over():
            time.sleep(min(left, NAP_SECONDS))

    def _with_retries(self, act: Callable[[], T]) -> T:
        """Do it again after an error that a network disk may get over.

        Raises:
            EnvironmentProblem: the error came each time, or is another one.
        """
        for seconds in (*RETRY_SECONDS, None):
            try:
                return act()
            except (EnvironmentProblem, OSError) as error:
                cause = error if isinstance(error, OSError) else error.__cause__
                if not isinstance(cause, OSError) or cause.errno not in PASSING_ERRORS:
                    raise
                problem = EnvironmentProblem(str(error), file=None if error is not cause else str(self.store.root))
                if seconds is None:
                    raise problem from cause
                self.say(f"{problem}; it is tried again in {seconds:g} s")
                time.sleep(seconds)
        raise AssertionError("the last try returns or raises")

    def _say_once(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            self.say(text)


def _is_there(path: Path) -> bool:
    """Whether a file is there. A network disk that cannot say it now does not mean that a driver has deleted its file."""
    try:
        return path.exists()
    except OSError:
        return True


def _pauses() -> Iterator[float]:
    """The seconds from one look at the store to the next, while this host finds no run that is free."""
    number = 0
    while True:
        mean = PAUSES_SECONDS[min(number, len(PAUSES_SECONDS) - 1)]
        yield mean * random.uniform(0.5, 1.5)  # noqa: S311 - no secret, and no result depends on it
        number += 1


def _kind_here(directory: Path, options: HostOptions) -> str:
    """The kind of machine that this host is for a run; empty if it cannot train the run. This function imports torch."""
    from palinode.run.environment import kind_here
    from palinode.run.one import WorkedOn
    from palinode.spec.load import load_run

    worked_on = WorkedOn().with_(options.processes, options.parallel or "")
    try:
        return kind_here(load_run(directory, allow_code=True), shared=worked_on.fingerprint())
    except PalinodeError:
        return ""


def _stack_key(directory: Path) -> str | None:
    """The key with which runs are stacked. This function imports torch, and runs the user's code of the run."""
    from palinode.run.one import stack_key
    from palinode.spec.load import load_run

    return stack_key(load_run(directory, allow_code=True))
