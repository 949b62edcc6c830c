"""The index is a cache with one row for each run. A listing reads a run directory again only if files of the run have changed.

The index is a text file of two lines. The first line holds the version of the index and the CRC-32 of the second line. The second
line is the JSON of all rows. When a row changes, the whole file is replaced atomically. So no lock is needed: when two processes
write the file, one valid cache remains. A row is used only while the inode, size and change time of the run's files stay the same.
If the index is missing, damaged, of another version or read-only, the runs are read from their directories, without an error.

A listing reads only the last line of the metrics, and only for runs that have ended. A listing notices metrics that are missing,
destroyed or cut short. `Record.metrics` notices a damaged line in the middle.
"""

from __future__ import annotations

import contextlib
import json
import os
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

INDEX_FILE = "index.json"
INDEX_VERSION = 6


@dataclass(frozen=True)
class RunRow:
    """The row of one run in a listing. A field is None when the run does not have this value.

    Attributes:
        steps: the number of optimizer steps that the recipe plans for the whole run.
        step: the optimizer step at which the run ended.
        loss: the validation loss at the end of the run, in nats per token, in the pass in which training scored most targets.
        runs_together: the largest number of runs whose weights were stacked with those of this run; 1 for a run alone.
        may_differ_by: what a run of a stack may differ by from the same run alone.
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
    runs_together: int | None = None
    may_differ_by: str | None = None


def run_ids(root: Path) -> list[str]:
    """The names of the run directories in `root`, sorted. Symbolic links are left out."""
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if is_run_id(entry.name) and entry.is_dir(follow_symlinks=False))


def listing(root: Path) -> list[RunRow]:
    """The rows of all runs, sorted by run id. If files of a run have changed, its row is read again and the index is replaced."""
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
    """Read the index: run id -> (signature, row). The result is empty if there is no undamaged index of this version."""
    path = root / INDEX_FILE
    if path.is_symlink() or not path.is_file():
        return {}
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        if head != _head(body):
            return {}
        return {run_id: (mark, RunRow(**row)) for run_id, (mark, row) in json.loads(body).items()}
    except (OSError, ValueError, TypeError):
        return {}


def save(root: Path, rows: Mapping[str, tuple[str, RunRow]]) -> None:
    """Replace all rows of the index by the given rows.

    Raises:
        EnvironmentProblem: the store cannot be written.
    """
    body = json.dumps({run_id: (mark, asdict(row)) for run_id, (mark, row) in sorted(rows.items())}).encode()
    fsio.write_bytes(root / INDEX_FILE, _head(body) + b"\n" + body)


def _head(body: bytes) -> bytes:
    return f"{INDEX_VERSION} {zlib.crc32(body)}".encode()


def signature(directory: Path) -> str:
    """A text that changes when the run's spec or result is replaced, because every write makes a new inode.

    The text for a run that has ended also changes when the metrics change. The text for an unfinished run ignores the metrics,
    because they still grow.
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
        runs_together=result.runs_together if result.fingerprint else None,
        may_differ_by=result.may_differ_by or None,
    )


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
