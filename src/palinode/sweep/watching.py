"""How far the runs of an experiment are, from the files of the store alone: `palinode watch` and the driver of workers read it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from palinode.base.errors import EnvironmentProblem, PalinodeError
from palinode.results.holds import Watch, newest_hold
from palinode.results.record import RESULT_FILE
from palinode.results.store import Store


@dataclass(frozen=True)
class Progress:
    """How far some runs are.

    Attributes:
        outcomes: run id -> outcome, for the runs that have a result.
        hosts: run id -> the name of the host that works on it.
        open: the ids of the other runs.
    """

    outcomes: dict[str, str]
    hosts: dict[str, str]
    open: tuple[str, ...]

    @property
    def words(self) -> str:
        """The progress as one line, such as `37 done, 20 running on 11 hosts, 63 open`."""
        counts = Counter(self.outcomes.values())
        parts = [f"{counts.pop('done', 0):,} done", *(f"{count:,} {outcome}" for outcome, count in counts.items())]
        if self.hosts:
            hosts = len(set(self.hosts.values()))
            parts.append(f"{len(self.hosts):,} running on {hosts:,} host{'' if hosts == 1 else 's'}")
        return ", ".join([*parts, f"{len(self.open):,} open"])

    @property
    def is_over(self) -> bool:
        """Whether every run has a result."""
        return not self.hosts and not self.open


@dataclass
class Onlooker:
    """Looks at runs again and again. The result of a run is read once, and a hold that does not change any more is no work.

    Attributes:
        attempts: run id -> the number of its newest hold that was seen.
    """

    store: Store
    watch: Watch = field(default_factory=Watch)
    outcomes: dict[str, str] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)

    @property
    def signs_of_work(self) -> int:
        """The number of results and attempts that were seen. It grows when a worker takes or ends a run."""
        return len(self.outcomes) + sum(self.attempts.values())

    def look(self, run_ids: Iterable[str]) -> Progress:
        """The progress of these runs at this moment."""
        hosts: dict[str, str] = {}
        outcomes: dict[str, str] = {}
        left: list[str] = []
        for run_id in run_ids:
            if (outcome := self._outcome(run_id)) is not None:
                outcomes[run_id] = outcome
            elif (host := self._host(run_id)) is not None:
                hosts[run_id] = host
            else:
                left.append(run_id)
        return Progress(outcomes, hosts, tuple(left))

    def _outcome(self, run_id: str) -> str | None:
        path = self.store.run_directory(run_id) / RESULT_FILE
        try:
            inode = str(os.lstat(path).st_ino)
        except OSError:
            return None
        key = f"{run_id} {inode}"  # a result that is replaced has another inode
        if key not in self.outcomes:
            try:
                result = self.store.record(run_id).result
            except PalinodeError:
                return None
            if result is None:
                return None
            self.outcomes[key] = result.outcome
        return self.outcomes[key]

    def _host(self, run_id: str) -> str | None:
        directory = self.store.run_directory(run_id)
        try:
            newest = newest_hold(directory)
        except EnvironmentProblem:
            return None
        if newest is None:
            return None
        self.attempts[directory.name] = newest.number
        if not newest.content or newest.content.get("released"):
            return None
        return None if self.watch.is_stale(directory, newest) else str(newest.content.get("host", "?"))
