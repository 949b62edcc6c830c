"""Sends the numbers of the runs of a store to a tracker: what is there now, or also what runs write later.

The runs know nothing of it. They write their metrics files, and this process reads what was appended.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from palinode.analysis.numbers import numbers_in, row_of_result
from palinode.base.decision import FIXED
from palinode.base.errors import Damaged
from palinode.base.measures import FINAL_OUTCOMES
from palinode.mirror.new_rows import Position, kind_of, new_rows
from palinode.mirror.sender import Sender, TrackerFailed
from palinode.mirror.sent import Sent
from palinode.mirror.tracker import hash_of_name
from palinode.results.files import EXPERIMENTS, is_regular, number, whole
from palinode.results.record import RESULT_FILE, SPEC_FILE, Record, RunEntry
from palinode.results.rows import Row
from palinode.results.store import Store

ROWS_IN_A_BATCH = 500
LOOK_SECONDS = 2.0  # from one look to the next
MOST_FAILURES = 3  # in a row: a tracker that fails for so many runs would fail for all
NO_NUMBERS = ("event", "split", "final", "step", "attempt")  # of a row: what says where its numbers belong
Places = list[tuple[str, RunEntry]]  # the full name of an experiment, and a run of it


class Mirror:
    """The runs of a store, or of one experiment, and what a tracker has of them.

    Attributes:
        rows: the number of rows that were sent so far.
        runs: the runs that had rows to send.
        damaged, failed: the runs that were left out because they cannot be read, or because the tracker failed on them.
    """

    def __init__(self, store: Store, sender: Sender, sent: Sent, experiment: str | None, tell: Callable[[str], None]):
        self.store, self.sender, self.sent, self.experiment, self.tell = store, sender, sent, experiment, tell
        self.rows = 0
        self.runs: set[str] = set()
        self.damaged: set[str] = set()
        self.failed: set[str] = set()
        self._failures = 0  # since the last batch that was taken
        self._places: Places = []
        self._all_planned = False  # whether no runs will be added: seeds "until decided" have no end that is known here
        self._seen: Sequence[tuple[str, int]] = ()

    def look(self, *, close: bool, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Send what runs have written since the last look.

        Args:
            close: whether each run is closed in the tracker, because this process does not look again.
            should_stop: asked before each run.

        Raises:
            TrackerFailed: the tracker failed on three runs, one after the other.
            BadInput: the experiment is gone.
            EnvironmentProblem: the file of what was sent cannot be written.
        """
        for name, run in self._current_places():
            key = f"{name}/{run.run_id}"
            if should_stop():
                return
            if key in self.damaged or key in self.failed:
                continue
            try:
                self._send(name, run, key, close=close)
            except Damaged as damage:
                self.damaged.add(key)
                self.tell(f"left out: {damage}")
            except TrackerFailed as failure:
                self.failed.add(key)
                self._failures += 1
                if self._failures == MOST_FAILURES:
                    failure.hint = f"on {MOST_FAILURES} runs in a row; what it printed is in {self.sender.log}"
                    raise
                self.tell(f"warning: {_words(name, run)} is left out: {failure}")

    def go_on(self, should_stop: threading.Event) -> None:
        """Look again and again, until every run of the experiment has a result, or until `should_stop` is set.

        The runs of a whole store are never over: others may follow.
        """
        while not should_stop.is_set():
            over = self.experiment is not None and self.is_over  # asked before the look, which then finds all rows
            self.look(close=False, should_stop=should_stop.is_set)
            if over:
                return
            should_stop.wait(LOOK_SECONDS)

    @property
    def is_over(self) -> bool:
        """Whether every run has a result, and no more runs will follow, so that a further look would find nothing."""
        directories = [self.store.run_directory(run.run_id) for _, run in self._current_places()]
        return self._all_planned and all(is_regular(directory / RESULT_FILE) for directory in directories)

    def _current_places(self) -> Places:
        """The runs of the experiments, read again when a file of the experiments has changed."""
        directory = self.store.root / EXPERIMENTS
        files = (
            sorted((one.name, one.stat().st_mtime_ns) for one in os.scandir(directory)) if directory.is_dir() else []
        )
        if files != self._seen or not files:
            experiments = self.store.experiments() if self.experiment is None else [self.store.entry(self.experiment)]
            # while trials choose a setting, the ids of the runs are only plans
            chosen = [entry for entry in experiments if not entry.to_choose]
            self._all_planned = all(not one.to_choose and one.seeds_planned == FIXED for one in experiments)
            self._places = [(entry.full_name, run) for entry in chosen for run in self.store.queue(entry)]
            self._seen = files
        return self._places

    def _send(self, name: str, run: RunEntry, key: str, *, close: bool) -> None:
        before, directory = self.sent.position(key), self.store.run_directory(run.run_id)
        if before.ended or not directory.is_dir():
            return
        # the result is written last: if it is there, the rows are whole
        record = self.store.record(run.run_id) if is_regular(directory / RESULT_FILE) else None
        rows, after = new_rows(directory, before)
        if record is not None and record.outcome in FINAL_OUTCOMES:
            rows += row_of_result(record)
            after = after.with_(ended=True)
        if not rows:
            return
        about = _about(name, run, record or self.store.record(run.run_id))
        steps = dict(before.steps)
        for first in range(0, len(rows), ROWS_IN_A_BATCH):
            batch = rows[first : first + ROWS_IN_A_BATCH]
            is_last = first + ROWS_IN_A_BATCH >= len(rows)
            closes = is_last and (close or after.ended)
            self.sender.send({"run": about, "rows": [_sent(row) for row in batch], "close": closes})
            self._failures = 0
            steps |= {kind_of(row): whole(row.get("step")) for row in batch}
            self.sent.record(key, after if is_last else Position(read=before.read, steps=steps))
            self.rows += len(batch)
        self.runs.add(key)
        if after.ended and record is not None:
            self.tell(f"{_words(name, run)}: {record.outcome}")


def _about(name: str, run: RunEntry, record: Record) -> dict[str, Any]:
    """What a tracker shows of a run: its place, its settings, and the time at which it began, in seconds since 1970."""
    began = (record.directory / SPEC_FILE).stat().st_mtime
    place = [name, run.arm, run.scale, f"seed-{run.seed}"]
    config = {"experiment": name, "arm": run.arm, "scale": run.scale, **record.spec}
    unique = f"{run.run_id}-{hash_of_name(name)}"  # two experiments may share a run, and each has it in its tracker
    return {"id": unique, "place": place, "began": began, "config": config}


def _sent(row: Row) -> dict[str, Any]:
    """A row as the process of the tracker gets it. The name of a number is such as `eval/validation/scores.ltr.accuracy`."""
    return {
        "step": whole(row.get("step")),
        "seconds": number(row.get("seconds")) or 0.0,
        "values": dict(_values(row)),
    }


def _values(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a row. The counters, which every row has, are taken from the rows of training alone."""
    kind = kind_of(row).replace(" ", "/")
    for field, item in row.items():
        if field not in NO_NUMBERS and (kind == "train" or isinstance(item, Mapping)):
            yield from ((f"{kind}/{path}", value) for path, value in numbers_in(item, field, with_lists=False))


def _words(name: str, run: RunEntry) -> str:
    return f"{name}, {run.arm}, {run.scale}, seed {run.seed}"
