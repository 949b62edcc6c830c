"""The index is a cache with one row for each run. With the index, a listing of 5,000 runs reads no run directory twice.

The index is one SQLite file. When a row changes, the whole file is replaced atomically, and readers open the file as immutable. So
no lock is needed (SQLite's own locks fail on network disks), and when two processes write, one valid cache remains. A row is used
only while the inode, size and change time of the run's files stay the same. A missing, damaged, foreign or read-only index is no
error: the runs are then read from their directories.

A listing reads only the last line of the metrics, and only for runs that have ended. A listing notices metrics that are missing,
destroyed or cut short. `Record.metrics` notices a damaged line in the middle.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from palinode.base import fsio
from palinode.base.errors import Damaged, EnvironmentProblem
from palinode.base.measures import RecordOutcome
from palinode.results.files import count, is_run_id
from palinode.results.record import RESULT_FILE, SPEC_FILE, ended_at_step, read_run
from palinode.results.rows import check_end, metrics_paths

INDEX_FILE = "index.sqlite"
INDEX_VERSION = 4
SCHEMA = (
    "CREATE TABLE runs (run_id TEXT PRIMARY KEY, signature TEXT NOT NULL, row TEXT NOT NULL, crc INTEGER NOT NULL)"
    " WITHOUT ROWID"
)


@dataclass(frozen=True)
class RunRow:
    """The row of one run in a listing. A field is None when the run does not have this value.

    Attributes:
        steps: the number of optimizer steps that the recipe plans for the whole run.
        step: the optimizer step at which the run ended.
        loss: the validation loss at the end of the run, in nats per token, in the pass in which training scored most targets.
    """

    run_id: str
    outcome: RecordOutcome
    reason: str | None = None
    seed: int | None = None
    model: str | None = None
    objective: str | None = None
    parameters: int | None = None
    tokens_read: float | None = None
    nats_per_token_ltr: float | None = None
    seconds: float | None = None
    attempts: int | None = None
    steps: int | None = None
    step: int | None = None
    loss: float | None = None


def run_ids(root: Path) -> list[str]:
    """The names of the run directories in `root`, sorted. Links are left out."""
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if is_run_id(entry.name) and entry.is_dir(follow_symlinks=False))


def listing(root: Path) -> list[RunRow]:
    """All rows, sorted by run id. A row whose files have changed is read again, and then the index is replaced."""
    cache = load(root)
    rows: dict[str, tuple[str, RunRow]] = {}
    for run_id in run_ids(root):
        cached, current = cache.get(run_id), signature(root / run_id)
        rows[run_id] = cached if cached is not None and cached[0] == current else (current, read_row(root / run_id))
    if rows != cache:
        with contextlib.suppress(EnvironmentProblem):  # a read-only store has no cache
            save(root, rows)
    return [row for _, row in rows.values()]


def load(root: Path) -> dict[str, tuple[str, RunRow]]:
    """Read the index: run id -> (signature, row). The result is empty when there is no index of this version."""
    path = root / INDEX_FILE
    if path.is_symlink() or not path.is_file():
        return {}
    try:
        with contextlib.closing(_open(path)) as connection:
            schema = [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema")]
            if connection.execute("PRAGMA user_version").fetchone() != (INDEX_VERSION,) or schema != [SCHEMA]:
                return {}
            rows = connection.execute("SELECT run_id, signature, row, crc FROM runs ORDER BY run_id").fetchall()
        sound = [(run_id, mark, row) for run_id, mark, row, crc in rows if crc == _crc(run_id, mark, row)]
        return {run_id: (mark, RunRow(**json.loads(row))) for run_id, mark, row in sound}
    except (sqlite3.Error, ValueError, TypeError):
        return {}


def save(root: Path, rows: Mapping[str, tuple[str, RunRow]]) -> None:
    """Replace the rows of the index by these rows.

    Raises:
        EnvironmentProblem: the store cannot be written.
    """
    texts = [(run_id, mark, json.dumps(asdict(row), sort_keys=True)) for run_id, (mark, row) in sorted(rows.items())]
    encoded = [(*columns, _crc(*columns)) for columns in texts]
    with fsio.committed(root / INDEX_FILE) as temporary:
        try:
            with contextlib.closing(sqlite3.connect(temporary)) as connection:
                connection.execute("PRAGMA journal_mode=OFF")  # a killed process leaves only a temporary file
                connection.execute("PRAGMA synchronous=OFF")  # fsio syncs the file before the rename
                connection.execute(SCHEMA)
                connection.executemany("INSERT INTO runs VALUES (?, ?, ?, ?)", encoded)
                connection.execute(f"PRAGMA user_version={INDEX_VERSION}")
                connection.commit()
        except sqlite3.Error as error:
            raise EnvironmentProblem(f"cannot write: {error}", file=str(root / INDEX_FILE)) from error


def signature(directory: Path) -> str:
    """A text that changes when the run's spec or result is replaced, because every write makes a new inode.

    For a run that has ended, the text also changes with the metrics. For other runs it does not, because their metrics still grow.
    """
    spec, result = (_file_signature(directory / name) for name in (SPEC_FILE, RESULT_FILE))
    metrics = [] if result == "none" else [_file_signature(path) for path in metrics_paths(directory)]
    return "/".join((spec, result, *metrics))


def read_row(directory: Path) -> RunRow:
    """Read the row of one run from its directory. A damaged run has the outcome `damaged`."""
    run_id = directory.name
    try:
        spec, result = read_run(directory)
        if result is not None:
            check_end(directory, ended_at_step(result))
    except Damaged as error:
        place = Path(error.file).name if error.file else SPEC_FILE
        return RunRow(run_id=run_id, outcome="damaged", reason=f"{place}: {error.message}")
    begun = RunRow(
        run_id=run_id,
        outcome="unfinished",
        seed=count(spec.get("seed")),
        model=_kind(spec, "model"),
        objective=_kind(spec, "objective"),
        steps=count(recipe.get("steps")) if isinstance(recipe := spec.get("recipe"), dict) else None,
    )
    if result is None:
        return begun
    return replace(
        begun,
        outcome=result.outcome,
        reason=result.reason,
        parameters=result.parameters.get("total"),
        tokens_read=result.counters.get("tokens_read"),
        nats_per_token_ltr=result.score("validation.ltr.nats_per_token"),
        seconds=result.seconds.get("total"),
        attempts=result.attempts,
        step=count(result.counters.get("optimizer_steps")),
        loss=result.score("validation.own.nats_per_token"),
    )


def _open(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True)
    connection.execute("PRAGMA trusted_schema=OFF")
    return connection


def _crc(*columns: str) -> int:
    return zlib.crc32("\0".join(columns).encode())


def _file_signature(path: Path) -> str:
    try:
        status = os.lstat(path)
    except OSError:
        return "none"
    kind = "file" if stat.S_ISREG(status.st_mode) else "other"
    return f"{kind}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


def _kind(spec: Mapping[str, Any], part: str) -> str | None:
    table = spec.get(part)
    kind = table.get("kind") if isinstance(table, dict) else None
    return kind if isinstance(kind, str) else None
