"""The driver of workers: runs are written into the store, and workers that engines start on other hosts train them.

Nothing goes over a pipe. The driver keeps a number of workers alive while runs are open, and reads the progress from the files of
the store. The workers go on when the driver ends.
"""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from palinode.base import fsio
from palinode.base.errors import EnvironmentProblem
from palinode.base.event import Event
from palinode.base.measures import FINAL_OUTCOMES
from palinode.results.holds import failures
from palinode.results.record import RESULT_FILE
from palinode.results.store import Store
from palinode.sweep.executors import Executor, Handle
from palinode.sweep.host import MOST_FAILURES
from palinode.sweep.local import SweepEnd
from palinode.sweep.process import PYTHON_MODULE, Job
from palinode.sweep.watching import Onlooker, Progress

LOOK_SECONDS = 1.0
LOOKS = 40  # at runs, in LOOK_SECONDS
AT_ONCE_SECONDS = 60.0  # a worker that ends in this time, while no run was taken or has ended, has ended at once
MOST_ENDED_AT_ONCE = 3
# How long a worker may take to end by itself: one that begins now looks for the file of its driver for 60 s.
NOTICE_SECONDS = 90.0
KILL_SECONDS = 120.0  # how long a worker may take to stop

Say = Callable[[str], None]
OnEvent = Callable[[Event], None]
# How the runs of one stage are trained: (jobs, store, name of the experiment, a function that gets the events) -> how it ended.
Elsewhere = Callable[[Sequence[Job], Store, str, OnEvent], SweepEnd]


def detach(jobs: Sequence[Job], store: Store, full_name: str, on_event: OnEvent) -> SweepEnd:
    """Leave the runs to workers that the user starts. An `Elsewhere`: runs that have ended count as in a sweep."""
    return _left(_begin(jobs, store, on_event))


def leave(jobs: Sequence[Job], store: Store, full_name: str, on_event: OnEvent) -> SweepEnd:
    """Leave the runs to workers, as `detach` does, but do not try failed runs again: for a worker that decides."""
    return _left(Onlooker(store).look(job.run_id for job in jobs))


def _left(seen: Progress) -> SweepEnd:
    left = frozenset((*seen.hosts, *seen.open))
    return SweepEnd(seen.outcomes, frozenset(seen.outcomes), None, left_to_workers=left)


@dataclass
class _Member:
    """A worker that was started: when, and what workers had done before (`Onlooker.signs_of_work`)."""

    handle: Handle
    began: float
    signs_before: int


@dataclass
class Fleet:
    """Workers that an engine starts. `sweep` is an `Elsewhere`.

    Attributes:
        name: the name of the engine, for messages.
        workers: the largest number of workers that are alive at the same time.
        arguments: the options of `palinode worker`, besides the store and the experiment.
        ended_at_once: the number of workers in sequence that ended at once.
    """

    name: str
    executor: Executor
    workers: int
    say: Say
    arguments: Sequence[str] = ()
    members: list[_Member] = field(default_factory=list)
    ended_at_once: int = 0

    def sweep(self, jobs: Sequence[Job], store: Store, full_name: str, on_event: OnEvent) -> SweepEnd:
        """Keep workers alive until every run has ended.

        Raises:
            EnvironmentProblem: several workers in sequence ended at once; the error has the last line of one of them.
        """
        reused = frozenset(_begin(jobs, store, on_event).outcomes)
        nonce = secrets.token_hex(8)
        probe = store.probe_path(nonce)
        fsio.write_text(probe, f"{full_name}\n")
        try:
            command = self._command(store, full_name, nonce)
            outcomes = self._watch(jobs, store, full_name, command, on_event)
        except KeyboardInterrupt:
            left = frozenset(job.run_id for job in jobs)
            return SweepEnd({}, reused, signal.SIGINT, left_to_workers=left)
        except BaseException:
            fsio.remove(probe)
            self._end_members()
            raise
        fsio.remove(probe)
        self._end_members()
        return SweepEnd(outcomes, reused, None)

    def _command(self, store: Store, full_name: str, nonce: str) -> list[str]:
        place = ["--store", str(store.root.resolve()), "--experiment", full_name]
        return [*PYTHON_MODULE, "palinode", "worker", *place, "--probe", nonce, *self.arguments]

    def _watch(
        self, jobs: Sequence[Job], store: Store, full_name: str, command: Sequence[str], on_event: OnEvent
    ) -> dict[str, str]:
        """Start workers and look at the runs until none is left; return the outcomes."""
        onlooker, run_ids, words = Onlooker(store, LOOKS), [job.run_id for job in jobs], ""
        told = set(onlooker.look(run_ids).outcomes)
        while True:
            seen = onlooker.look(run_ids)
            for run_id in sorted(seen.outcomes.keys() - told):
                told.add(run_id)
                result = store.record(run_id).result
                reason, seconds = (result.reason, result.seconds.get("train")) if result is not None else (None, None)
                end = {
                    "event": "finished",
                    "outcome": seen.outcomes[run_id],
                    "reason": reason,
                    "train_seconds": seconds,
                }
                on_event({**end, "run_id": run_id})
            if seen.words != words:
                words = seen.words
                entry = store.entry(full_name)
                runs = store.runs_of_workers(entry)
                self.say(f"{words}{onlooker.left_words(seen, entry, runs)}")
            self._forget_ended(onlooker.signs_of_work)
            if self._is_over(seen, store):
                return seen.outcomes
            missing = min(self.workers, len(seen.open) + len(seen.hosts)) - len(self.members)
            asked = [self._start(command, onlooker.signs_of_work) for _ in range(missing)]
            if asked:
                names = ", ".join(filter(None, asked))
                number = f"{len(asked)} worker{'' if len(asked) == 1 else 's'}"
                self.say(f"{number} asked of {self.name}{f' ({names})' if names else ''}")
            time.sleep(LOOK_SECONDS)

    def _start(self, command: Sequence[str], signs_of_work: int) -> str:
        """Ask for a worker, and return what the engine calls it."""
        handle = self.executor.start(command)
        self.members.append(_Member(handle, time.monotonic(), signs_of_work))
        return handle.name

    def _is_over(self, seen: Progress, store: Store) -> bool:
        """Whether every run has ended. A run that failed once may be tried again by a worker on another host."""
        if not seen.is_over:
            return False
        failed = [run_id for run_id, outcome in seen.outcomes.items() if outcome not in FINAL_OUTCOMES]
        settled = all(len(failures(store.run_directory(run_id))) >= MOST_FAILURES for run_id in failed)
        return settled or all(member.handle.state() == "queued" for member in self.members)

    def _forget_ended(self, signs_of_work: int) -> None:
        """Forget the workers that have ended.

        Raises:
            EnvironmentProblem: several workers in sequence ended at once.
        """
        for member in [one for one in self.members if one.handle.state() == "ended"]:
            self.members.remove(member)
            at_once = time.monotonic() - member.began < AT_ONCE_SECONDS and signs_of_work == member.signs_before
            self.ended_at_once = self.ended_at_once + 1 if at_once else 0
            if self.ended_at_once == MOST_ENDED_AT_ONCE:
                why = member.handle.why() or "it printed nothing"
                raise EnvironmentProblem(f"{self.name} workers end at once: {why}")

    def _end_members(self) -> None:
        """Wait for the workers, which have lost the file of their driver. Ask the engine to end those that do not notice."""
        for handle in self._alive_after(NOTICE_SECONDS):
            handle.stop()
        for handle in self._alive_after(KILL_SECONDS):
            handle.kill()
        self.members.clear()

    def _alive_after(self, seconds: float) -> list[Handle]:
        """The workers that have not ended after so many seconds. The call returns earlier when all have ended."""
        end = time.monotonic() + seconds
        while True:
            alive = [member.handle for member in self.members if member.handle.state() != "ended"]
            if not alive or time.monotonic() > end:
                return alive
            time.sleep(LOOK_SECONDS / 10)


def _begin(jobs: Sequence[Job], store: Store, on_event: OnEvent) -> Progress:
    """The progress of these runs after failed runs were opened again: the same command tries them again, as a sweep does."""
    onlooker = Onlooker(store)
    seen = onlooker.look(job.run_id for job in jobs)
    failed = [run_id for run_id, outcome in seen.outcomes.items() if outcome not in FINAL_OUTCOMES]
    for run_id in failed:
        fsio.remove(store.run_directory(run_id) / RESULT_FILE)
    seen = Onlooker(store).look(job.run_id for job in jobs) if failed else seen
    for run_id, outcome in seen.outcomes.items():
        on_event({"event": "reused", "run_id": run_id, "outcome": outcome, "reason": None})
    return seen
