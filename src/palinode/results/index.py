"""A cache of one row per run, so that listing 5,000 runs reads no run directory twice.

The index is a whole SQLite file, replaced atomically when a row changed: readers open it immutable, nobody locks, and
two writers leave one of two valid caches (also on network disks, where SQLite's own locks do not hold). A row counts
only while the (inode, size, time of change) of the files it was made from are what they were. A missing, damaged,
foreign or unwritable index is never an error.

Of the metrics a listing reads the last line, and only of a run that has ended: that a file is gone, destroyed or cut
short is seen here, a line lost in its middle only where the metrics are read.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from palinode.base import fsio
from palinode.base.errors import Damaged, EnvironmentProblem
from palinode.base.measures import RecordOutcome
from palinode.results.files import read_metrics
from palinode.results.record import METRICS_FILE, RESULT_FILE, SPEC_FILE, ended_at_step, read_run

INDEX_FILE = "index.sqlite"
INDEX_VERSION = 3
SCHEMA = "CREATE TABLE runs (run_id TEXT PRIMARY KEY, signature TEXT NOT NULL, row TEXT NOT NULL) WITHOUT ROWID"


@dataclass(frozen=True)
class RunRow:
    """What a listing shows of one run. `None` means that the run has no such number.

    Attributes:
        steps: optimizer steps of the whole run, by its recipe.
        step: the optimizer step at which it ended.
        loss: at its end, on validation, in the pass it trained most on: nats per token.
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


def run_ids(root: Path, is_run_id: Callable[[str], bool]) -> list[str]:
    """The names of the run directories below `root`, sorted; links are not followed."""
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if is_run_id(entry.name) and entry.is_dir(follow_symlinks=False))


def listing(root: Path, is_run_id: Callable[[str], bool]) -> list[RunRow]:
    """All rows, by run id; rows whose files changed are read again, and the index is replaced when any did."""
    known = load(root)
    fresh = {run_id: signature(root / run_id) for run_id in run_ids(root, is_run_id)}
    rows: dict[str, tuple[str, RunRow]] = {}
    for run_id, seen in fresh.items():
        cached = known.get(run_id)
        rows[run_id] = cached if cached is not None and cached[0] == seen else (seen, read_row(root / run_id))
    if rows != known:
        with contextlib.suppress(EnvironmentProblem):  # a read-only store is listed without a cache
            save(root, rows)
    return [row for _, row in rows.values()]


def load(root: Path) -> dict[str, tuple[str, RunRow]]:
    """The cached rows; empty when there is no index or it is not one of this version."""
    path = root / INDEX_FILE
    if path.is_symlink() or not path.is_file():
        return {}
    try:
        with contextlib.closing(_open(path)) as connection:
            schema = [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema")]
            if connection.execute("PRAGMA user_version").fetchone() != (INDEX_VERSION,) or schema != [SCHEMA]:
                return {}
            found = connection.execute("SELECT run_id, signature, row FROM runs ORDER BY run_id").fetchall()
        return {run_id: (seen, RunRow(**json.loads(row))) for run_id, seen, row in found}
    except (sqlite3.Error, ValueError, TypeError):
        return {}


def save(root: Path, rows: Mapping[str, tuple[str, RunRow]]) -> None:
    """Replace the index by these rows.

    Raises:
        EnvironmentProblem: the store cannot be written.
    """
    encoded = [(run_id, seen, json.dumps(asdict(row), sort_keys=True)) for run_id, (seen, row) in sorted(rows.items())]
    with fsio.committed(root / INDEX_FILE) as temporary:
        try:
            with contextlib.closing(sqlite3.connect(temporary)) as connection:
                connection.execute("PRAGMA journal_mode=OFF")  # the file is new and is thrown away if we are killed
                connection.execute("PRAGMA synchronous=OFF")  # fsio flushes the whole file before the rename
                connection.execute(SCHEMA)
                connection.executemany("INSERT INTO runs VALUES (?, ?, ?)", encoded)
                connection.execute(f"PRAGMA user_version={INDEX_VERSION}")
                connection.commit()
        except sqlite3.Error as error:
            raise EnvironmentProblem(f"cannot write: {error}", file=str(root / INDEX_FILE)) from error


def logical_dump(root: Path) -> str:
    """The index without what depends on this machine's files: equal after a rebuild or a copy."""
    return json.dumps({run_id: asdict(row) for run_id, (_, row) in load(root).items()}, sort_keys=True)


def signature(directory: Path) -> str:
    """Changes whenever the run's spec or result was replaced (every write makes a new inode), or the metrics of a run that
    has ended; those of others grow all the time."""
    spec, result = (_file_signature(directory / name) for name in (SPEC_FILE, RESULT_FILE))
    return "/".join((spec, result, *([] if result == "none" else [_file_signature(directory / METRICS_FILE)])))


def read_row(directory: Path) -> RunRow:
    """The row of one run, read from its directory. Damage is an outcome."""
    run_id = directory.name
    try:
        spec, result = read_run(directory)
        if result is not None:
            _look_at_metrics(directory / METRICS_FILE, ended_at_step(result))
    except Damaged as error:
        place = Path(error.file).name if error.file else SPEC_FILE
        return RunRow(run_id=run_id, outcome="damaged", reason=f"{place}: {error.message}")
    begun = RunRow(
        run_id=run_id,
        outcome="unfinished",
        seed=_int(spec.get("seed")),
        model=_kind(spec, "model"),
        objective=_kind(spec, "objective"),
        steps=_int(recipe.get("steps")) if isinstance(recipe := spec.get("recipe"), dict) else None,
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
        step=_int(result.counters.get("optimizer_steps")),
        loss=result.score("validation.own.nats_per_token"),
    )


def _look_at_metrics(path: Path, ended_at: float) -> None:
    """Raise Damaged, as reading all of them does; where their end looks well that is enough for a listing."""
    try:
        read_metrics(path, ended_at, fsio.read_last_rows)
    except Damaged:
        read_metrics(path, ended_at)


def _open(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True)
    connection.execute("PRAGMA trusted_schema=OFF")
    return connection


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


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
