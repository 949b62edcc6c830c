"""The metrics of a run are JSON rows. Each attempt (a process that works on the run) writes its rows into a file of its own.

    metrics-3.jsonl    the rows of the attempt with hold number 3
    metrics.jsonl      the rows of all attempts, if a version without holds wrote the run, or the rows of an imported run

The first row of an attempt names the step from which it goes on: `{"event": "attempt", "from_step": 40, "rows": {...}, ...}`. Rows
of earlier attempts no longer belong to the run if their step is later than `from_step`, or if they are marked `final`. The first
row of an attempt, each checkpoint and the result store the number and the hash of all rows that the run has at that moment, so that
a lost row is noticed. Damage in a row that no longer belongs to the run is no error.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palinode.base import fsio
from palinode.base.errors import Damaged
from palinode.results.files import is_regular, whole

METRICS_FILE = "metrics.jsonl"
ATTEMPT_FILE = re.compile(r"metrics-([1-9][0-9]{0,8})\.jsonl")
ATTEMPT_EVENT = "attempt"
FROM_THE_START = -1  # the `from_step` of an attempt that trains from the start: rows of step 0 are dropped, too
TRAIN_AGAIN = "delete the run's directory and run it again"  # there is no other copy of the metrics of a run
Row = dict[str, Any]


@dataclass
class RowsSeal:
    """The number of rows that a run has at some moment, and the hash of the content of these rows in their order."""

    count: int = 0
    _digest: Any = field(default_factory=hashlib.sha256)

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> RowsSeal:
        """The seal (number and hash) of the given rows."""
        seal = cls()
        for row in rows:
            seal.add(row)
        return seal

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one more row, and update the hash with its content."""
        self.count += 1
        self._digest.update(json.dumps(row, sort_keys=True, separators=(",", ":")).encode() + b"\n")

    def stored(self) -> dict[str, Any]:
        """The seal as a dict, in the form in which checkpoints and results store it."""
        return {"count": self.count, "sha256": self._digest.hexdigest()}


def metrics_path(directory: Path, attempt: int) -> Path:
    """The metrics file of one attempt. Attempt 0 means the file metrics.jsonl, which runs without holds have."""
    return directory / (f"metrics-{attempt}.jsonl" if attempt else METRICS_FILE)


def metrics_paths(directory: Path) -> list[Path]:
    """The metrics files of all attempts, in the order of the attempts. Links and directories are listed, but cannot be read."""
    return [directory / name for name in metrics_names(directory)]


def metrics_names(directory: Path | str) -> list[str]:
    """The names of the metrics files of all attempts, in the order of the attempts."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    attempts = {name: int(match[1]) for name in names if (match := ATTEMPT_FILE.fullmatch(name))}
    return ([METRICS_FILE] if METRICS_FILE in names else []) + sorted(attempts, key=lambda name: attempts[name])


def last_attempt(directory: Path) -> int:
    """The largest number of an attempt in metrics.jsonl, the file of runs without holds; 0 if the file has no rows."""
    path = directory / METRICS_FILE
    return max((whole(row.get("attempt")) for row in fsio.read_rows(path).rows), default=0) if is_regular(path) else 0


def read_rows(directory: Path) -> tuple[list[Row], str | None]:
    """The rows of a run in the order of writing, and the place of its first damaged line, such as "metrics-1.jsonl, line 3".

    Raises:
        Damaged: a metrics file cannot be read, or is no regular file.
    """
    rows: list[Row] = []
    damaged = None
    for path in metrics_paths(directory):
        of_attempt, line = _read(path, fsio.read_rows)
        damaged = damaged or (f"{path.name}, {line}" if line else None)
        for row in of_attempt:
            if row.get("event") == ATTEMPT_EVENT:
                rows = up_to_step(rows, whole(row.get("from_step")))
                same = RowsSeal.of(rows).stored() == row.get("rows")
                damaged = None if same else damaged or f"{path.name}, the row before which rows are missing or changed,"
            else:
                rows.append(row)
    return rows, damaged


def up_to_step(rows: Iterable[Row], step: int) -> list[Row]:
    """The rows up to and including this step, without final rows: the rows that were written before the step's checkpoint."""
    return [row for row in rows if whole(row.get("step")) <= step and not row.get("final")]


def read_recent_rows(directory: Path, count: int = 20) -> list[Row]:
    """The last rows in the newest metrics file that has rows. A listing of unfinished runs needs no other rows.

    Raises:
        Damaged: the metrics file cannot be read.
    """
    for path in reversed(metrics_paths(directory)):
        rows = [row for row in fsio.read_recent_rows(path, count) if row.get("event") != ATTEMPT_EVENT]
        if rows:
            return rows
    return []


def check_end(directory: Path, ended_at_step: float) -> None:
    """Check the end of the metrics of a run that is done, for a listing. `checked_rows` checks all rows.

    Raises:
        Damaged: the end of a metrics file is damaged, or the rows do not reach `ended_at_step`.
    """
    last = [_read(path, fsio.read_last_rows) for path in metrics_paths(directory)]
    rows = [row for of_attempt, _ in last for row in of_attempt if row.get("event") != ATTEMPT_EVENT]
    if any(damaged for _, damaged in last) or _shortage(rows, ended_at_step, directory):
        checked_rows(directory, ended_at_step)  # this call raises the error, with the message that a full check gives


def checked_rows(directory: Path, ended_at_step: float, seal: Mapping[str, Any] | None = None) -> list[Row]:
    """The rows of a run, after a check that no row is damaged, missing or changed.

    Args:
        ended_at_step: the last step of a run that is done, which the rows must reach; 0 for any other run. Rows without an
            `attempt` are imported, and may end earlier.
        seal: the number and the hash of the rows, from the run's result; empty in results of versions without seals.

    Raises:
        Damaged: a file has a damaged line, or rows are missing or changed. A row that a killed process wrote only in part is not
            damage, because the next attempt of the run wrote the row again (see `fsio`).
    """
    rows, damaged = read_rows(directory)
    if damaged is not None:
        name, _, line = damaged.partition(", ")
        raise Damaged(f"{line} is damaged", file=str(directory / name), hint=TRAIN_AGAIN)
    if shortage := _shortage(rows, ended_at_step, directory):
        raise shortage
    if seal and RowsSeal.of(rows).stored() != dict(seal):
        message = f"has {len(rows)} rows of the run, and {seal.get('count')} were written"
        if len(rows) == seal.get("count"):
            message = "holds other rows than those that were written"
        raise Damaged(message, file=str(_newest(directory)), hint=TRAIN_AGAIN)
    return rows


def _shortage(rows: list[Row], ended_at_step: float, directory: Path) -> Damaged | None:
    if ended_at_step and not metrics_paths(directory):
        return Damaged("is missing, though the run is done", file=str(_newest(directory)), hint=TRAIN_AGAIN)
    last = max((whole(row.get("step")) for row in rows), default=0)
    if last < ended_at_step and all("attempt" in row for row in rows):
        message = f"ends at step {last}, but the run ended at step {ended_at_step}"
        return Damaged(message, file=str(_newest(directory)), hint=TRAIN_AGAIN)
    return None


def _newest(directory: Path) -> Path:
    return (metrics_paths(directory) or [directory / METRICS_FILE])[-1]


def _read(path: Path, read: Callable[[Path], fsio.Rows]) -> fsio.Rows:
    if not is_regular(path):
        raise Damaged("is not a regular file", file=str(path), hint=TRAIN_AGAIN)
    return read(path)
