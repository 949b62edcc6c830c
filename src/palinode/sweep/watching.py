"""How far the runs of an experiment are, from the files of the store alone: `palinode watch` and the driver of workers read it."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Literal

from palinode.base.errors import EnvironmentProblem, PalinodeError
from palinode.base.measures import DIRECTIONS, FINAL_OUTCOMES
from palinode.results.files import number, whole
from palinode.results.holds import STALE_SECONDS, StoredHold, Watch, newest_hold
from palinode.results.record import RESULT_FILE, ExperimentEntry, RunEntry
from palinode.results.rows import Row, read_recent_rows
from palinode.results.store import Store

SECONDS_PER_HOUR = 3600.0
MOST_LOOKS = 200  # a look costs about five calls to the disk


@dataclass(frozen=True)
class SoFar:
    """How far a run without a result is.

    Attributes:
        state: `running`; `stalled`, if it was begun and no process works on it now; `unfinished`, if it was not begun.
        step: the step of its last row of metrics; 0 if it has none.
        loss: the loss in this row, in nats per token, in the pass in which training scored most targets; None if it has none.
        seconds_left: the seconds of training that are left at the speed of its last rows; None if it does not run.
        host: the name of the host that works on it; None if no host does.
        beat_seconds: the seconds since the last heartbeat of this host.
    """

    state: Literal["running", "stalled", "unfinished"]
    step: int = 0
    loss: float | None = None
    seconds_left: float | None = None
    host: str | None = None
    beat_seconds: float | None = None


def so_far(directory: Path, steps: int | None) -> SoFar:
    """How far a run without a result is. A run whose metrics cannot be read has no step and no loss.

    A process works on the run if its last heartbeat is not older than two and a half of them. Here the clocks of two hosts are
    compared, as nothing but words depends on it.

    Args:
        steps: the steps of the whole run; None if they are not known.
    """
    try:
        rows, hold = read_recent_rows(directory), newest_hold(directory)
    except PalinodeError:
        return SoFar("unfinished")
    last = rows[-1] if rows else {}
    step, loss = whole(last.get("step")), own_loss(last)
    if hold is None or hold.has_ended(can_lock=False):
        return SoFar("stalled" if rows or hold is not None else "unfinished", step, loss)
    beat = max(0.0, time.time() - hold.written(directory))
    host = str((hold.content or {}).get("host", "?"))
    if beat > STALE_SECONDS:
        return SoFar("stalled", step, loss, None, host, beat)
    return SoFar("running", step, loss, _seconds_left(rows, steps), host, beat)


def own_loss(row: Row) -> float | None:
    """The loss in a row of metrics, in nats per token, in the pass in which training had scored most targets until then."""
    scores = {name: score.get("nats_per_token") for name, score in row.get("scores", {}).items()}
    losses = {name: loss for name, loss in (row.get("nats_by_group") or scores).items() if isinstance(loss, float)}
    own = max(DIRECTIONS, key=lambda way: row.get(f"tokens_scored_{way}") or 0)
    return losses.get(own, next(iter(losses.values()), None))


def _seconds_left(rows: Sequence[Row], steps: int | None) -> float | None:
    """The seconds for the steps that are left, at the speed between the first and the last of these rows."""
    if not rows or steps is None:
        return None
    (first, began), (last, now) = (
        (whole(row.get("step")), number(row.get("seconds")) or 0.0) for row in (rows[0], rows[-1])
    )
    if last == first:  # one row: at the mean speed since the start
        first, began = 0, 0.0
    return (steps - last) * (now - began) / (last - first) if last > first else None


@dataclass(frozen=True)
class Progress:
    """How far some runs are.

    Attributes:
        outcomes: run id -> outcome, for the runs that have a result.
        hosts: run id -> the name of the host that works on it.
        open: the ids of the other runs.
        prices: the prices of an hour of the processes that work now, each with its currency; None where it is unknown.
        again: how often a run was taken up again: its host was preempted or died, or the run failed, or was interrupted.
    """

    outcomes: dict[str, str]
    hosts: dict[str, str]
    open: tuple[str, ...]
    prices: tuple[tuple[float, str] | None, ...] = ()
    again: int = 0

    @property
    def words(self) -> str:
        """The progress as one line, such as `37 done, 20 running on 11 hosts, 63 open, 2 taken up again`."""
        counts = Counter(self.outcomes.values())
        parts = [f"{counts.pop('done', 0):,} done", *(f"{count:,} {outcome}" for outcome, count in counts.items())]
        if self.hosts:
            hosts = len(set(self.hosts.values()))
            parts.append(f"{len(self.hosts):,} running on {hosts:,} host{'' if hosts == 1 else 's'}")
        again = [f"{self.again:,} taken up again"] if self.again else []
        return ", ".join([*parts, f"{len(self.open):,} open", *again])

    @property
    def is_over(self) -> bool:
        """Whether every run has a result."""
        return not self.hosts and not self.open


@dataclass
class Onlooker:
    """Looks at runs again and again. The result of a run is read once, and a hold that does not change any more is no work.

    The first look at a run is at once. Later looks are in turn, so that 10,000 runs cost a disk no more than `most` runs.

    Attributes:
        most: the largest number of runs that are looked at again in one call.
        states: run id -> the outcome, or the hold, that the last look found; the runs at the front were not looked at for longest.
        seconds: run id -> the seconds that the run took, for the runs that are done.
        attempts: run id -> the number of its newest hold that was seen, or of the attempt that ended the run.
    """

    store: Store
    most: int = MOST_LOOKS
    states: dict[str, str | StoredHold | None] = field(default_factory=dict)
    watch: Watch = field(default_factory=Watch)
    outcomes: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
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
        prices: list[tuple[float, str] | None] = []
        run_ids = list(run_ids)
        for run_id in self._due(run_ids):
            self.states.pop(run_id, None)
            self.states[run_id] = self._outcome(run_id) or self._hold(run_id)
        for run_id in run_ids:
            if isinstance(state := self.states[run_id], str):
                outcomes[run_id] = state
            elif state is not None:
                hosts[run_id] = str((state.content or {}).get("host", "?"))
                prices.append(state.price_per_hour)
            else:
                left.append(run_id)
        again = sum(max(0, self.attempts.get(run_id, 1) - 1) for run_id in (*outcomes, *hosts, *left))
        return Progress(outcomes, hosts, tuple(left), tuple(prices), again)

    def _due(self, run_ids: Sequence[str]) -> list[str]:
        """The runs to look at now. Half of the later looks are for runs that somebody works on, which are the next to end."""
        wanted = set(run_ids)
        again = {
            run_id: state
            for run_id, state in self.states.items()
            if run_id in wanted and not (isinstance(state, str) and state in FINAL_OUTCOMES)
        }
        held = [run_id for run_id, state in again.items() if isinstance(state, StoredHold)][: self.most // 2]
        others = [run_id for run_id in again if run_id not in held][: self.most - len(held)]
        return [*(run_id for run_id in run_ids if run_id not in self.states), *held, *others]

    def left_words(self, seen: Progress, entry: ExperimentEntry, runs: Sequence[RunEntry]) -> str:
        """The time and the cost that are left at the present number of processes, such as `; 4.1 h and 38.20 EUR left`. A run that
        works counts as half done. Empty while nobody works, or no run tells its time; no cost where a price is unknown.
        """
        cells = {run.run_id: (run.arm, run.scale) for run in runs}
        took: dict[tuple[str, str], list[float]] = {}
        for run_id in seen.outcomes.keys() & self.seconds.keys():
            took.setdefault(cells[run_id], []).append(self.seconds[run_id])
        planned = {(cell["arm"], cell["scale"]): cell.get("seconds") for cell in entry.plan.get("cells", ())}
        of_cell = {cell: fmean(took[cell]) if cell in took else planned.get(cell) for cell in set(cells.values())}
        parts = [(of_cell[cells[run_id]], 0.5 if run_id in seen.hosts else 1.0) for run_id in (*seen.hosts, *seen.open)]
        if not seen.hosts or any(seconds is None for seconds, _ in parts):
            return ""
        hours = sum((seconds or 0.0) * share for seconds, share in parts) / SECONDS_PER_HOUR
        known = [price for price in seen.prices if price is not None]
        is_priced = len(known) == len(seen.prices) and len({currency for _, currency in known}) == 1
        cost = f" and {hours * fmean(price for price, _ in known):.2f} {known[0][1]}" if is_priced else ""
        return f"; {hours / len(seen.hosts):.2g} h{cost} left"

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
            self.attempts[run_id] = max(result.attempts, self.attempts.get(run_id, 0))
            if result.outcome == "done":
                self.seconds[run_id] = float(result.seconds.get("total") or 0.0)
        return self.outcomes[key]

    def _hold(self, run_id: str) -> StoredHold | None:
        """The hold of the process that works on a run; None if nobody does."""
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
        return None if self.watch.is_stale(directory, newest) else newest
