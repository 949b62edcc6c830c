"""The index is a cache with one row for each run. A listing reads a run directory again only if the run has changed.

The index is a text file of two lines. The first line holds the version of the index and the CRC-32 of the second line. The second
line is the JSON of all rows. The whole file is replaced atomically. So no lock is needed: when two processes write the file, one
valid cache remains. If the index is missing, damaged, of another version or read-only, the runs are read from their directories,
without an error.

    index.json              the rows of all runs
    index.d/<host>.jsonl    the rows of the runs that ended on one host, appended by the processes that trained them

A row of a run that has ended is used while the inode and the change time of the run's directory stay the same: a file that is
written, replaced or removed changes them. A file that is overwritten in place does not; `Store.experiment` and `palinode ls
--verify` read the files and notice it. A row of another run is used while the inode, size and change time of its files stay the
same.

A new index takes the rows of ended runs from index.d, so that it reads no run directory of theirs. It is written when more than 1 %
of the rows have changed, or when it is older than a minute: at 100,000 runs the file has some 25 MB.

A listing reads only the last line of the metrics, and only for runs that have ended. A listing notices metrics that are missing,
destroyed or cut short. `Record.metrics` notices a damaged line in the middle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

from palinode.base import fsio
from palinode.base.errors import Damaged, EnvironmentProblem, PalinodeError
from palinode.base.measures import RecordOutcome, RunOutcome
from palinode.results.files import count, is_run_id, read_table
from palinode.results.holds import this_host
from palinode.results.record import RESULT_FILE, SPEC_FILE, Result, ended_at_step, read_run
from palinode.results.rows import check_end, metrics_names

INDEX_FILE, ENDED_DIRECTORY = "index.json", "index.d"
INDEX_VERSION = 7
WRITTEN_ABOVE_SHARE, WRITTEN_AFTER_SECONDS = 0.01, 60.0
OF_DIRECTORY = "directory:"  # the beginning of the mark of a run that has ended
Marked = tuple[str, "RunRow"]  # a row, and the mark that its files had when it was read


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


@dataclass(frozen=True)
class Index:
    """The content of the index.

    Attributes:
        rows: run id -> (mark, row).
        read: name of a file in index.d -> the number of its bytes whose rows this index has seen.
    """

    rows: Mapping[str, Marked] = field(default_factory=dict)
    read: Mapping[str, int] = field(default_factory=dict)


def listing(root: Path) -> list[RunRow]:
    """The rows of all runs, sorted by run id. If a run has changed, its row is read again; the index is replaced if it pays."""
    stored = load(root)
    ended: Index | None = None
    rows: dict[str, Marked] = {}
    changed = 0
    for run_id in run_ids(root):
        directory = f"{root}/{run_id}"
        marked = stored.rows.get(run_id)
        if marked is None or marked[0] != _mark(directory, of_directory=marked[0].startswith(OF_DIRECTORY)):
            ended = _appended(root, stored.read) if ended is None else ended
            marked = _read(directory, ended.rows.get(run_id))
            changed += 1
        rows[run_id] = marked
    changed += len(stored.rows.keys() - rows.keys())
    if changed and (changed > WRITTEN_ABOVE_SHARE * len(rows) or _age_seconds(root) > WRITTEN_AFTER_SECONDS):
        with contextlib.suppress(EnvironmentProblem):  # a read-only store has no cache
            save(root, Index(rows, stored.read if ended is None else ended.read))
    return [row for _, row in rows.values()]


def rebuild(root: Path) -> None:
    """Read every run directory, and replace the index. A run whose files were overwritten in place gets a new row.

    A store that cannot be written keeps its index.
    """
    rows = {run_id: _read(f"{root}/{run_id}", None) for run_id in run_ids(root)}
    if rows:
        with contextlib.suppress(EnvironmentProblem):
            save(root, Index(rows, _appended(root, {}).read))


def append_ended(root: Path, result: Result) -> None:
    """Append the row of a run that has ended to this host's file in index.d. A full or read-only disk is no error.

    Call this function after all files of the run are written. The file is a cache: without it, a listing reads the run directory.
    """
    directory = root / result.run_id
    with contextlib.suppress(PalinodeError, OSError):
        spec = read_table(directory / SPEC_FILE)
        row = {name: value for name, value in vars(_row(result.run_id, spec, result)).items() if value is not None}
        host = hashlib.sha256(json.dumps(this_host(), sort_keys=True).encode()).hexdigest()[:16]
        entry = {"run_id": result.run_id, "mark": signature(directory), "row": row}
        fsio.append_line(root / ENDED_DIRECTORY / f"{host}.jsonl", entry)


def load(root: Path) -> Index:
    """Read the index. The result is empty if there is no undamaged index of this version."""
    path = root / INDEX_FILE
    if path.is_symlink() or not path.is_file():
        return Index()
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        if head != _head(body):
            return Index()
        stored = json.loads(body)
        names = stored["columns"]
        rows = {
            run_id: (mark, RunRow(**dict(zip(names, values, strict=True))))
            for run_id, (mark, *values) in stored["rows"].items()
        }
        return Index(rows, stored["read"])
    except (OSError, ValueError, TypeError, KeyError):
        return Index()


def save(root: Path, index: Index) -> None:
    """Replace the index.

    Raises:
        EnvironmentProblem: the store cannot be written.
    """
    names = [column.name for column in fields(RunRow)]
    rows = {run_id: (mark, *vars(row).values()) for run_id, (mark, row) in sorted(index.rows.items())}
    body = json.dumps({"columns": names, "rows": rows, "read": dict(index.read)}, separators=(",", ":")).encode()
    fsio.write_bytes(root / INDEX_FILE, _head(body) + b"\n" + body)


def _head(body: bytes) -> bytes:
    return f"{INDEX_VERSION} {zlib.crc32(body)}".encode()


def _age_seconds(root: Path) -> float:
    try:
        return time.time() - os.lstat(root / INDEX_FILE).st_mtime
    except OSError:
        return float("inf")


def _appended(root: Path, read: Mapping[str, int]) -> Index:
    """The rows in index.d that an index has not seen, and the number of bytes that each file has now."""
    rows: dict[str, Marked] = {}
    sizes: dict[str, int] = {}
    for path in sorted((root / ENDED_DIRECTORY).glob("*.jsonl")):
        if path.is_symlink():
            continue
        try:
            found, sizes[path.name] = fsio.read_rows_from(path, read.get(path.name, 0))
        except Damaged:
            continue
        for entry in found:
            with contextlib.suppress(TypeError, KeyError):  # a file of another version, or of a stranger
                rows[str(entry["run_id"])] = (str(entry["mark"]), RunRow(**entry["row"]))
    return Index(rows, sizes)


def _read(directory: str, appended: Marked | None) -> Marked:
    """The row of a run, from index.d if it is the row of these files, else from the run directory; and the mark of the files."""
    path = Path(directory)
    of_directory, of_files = _mark(directory, of_directory=True), signature(path)
    known = appended is not None and appended[0] == of_files and appended[1].run_id == path.name
    row = appended[1] if appended is not None and known else read_row(path)
    return (of_directory if row.outcome in get_args(RunOutcome) else of_files), row


def _mark(directory: str, *, of_directory: bool) -> str:
    """The text that changes when the row of a run must be read again."""
    if not of_directory:
        return signature(directory)
    try:
        status = os.lstat(directory)
    except OSError:
        return "none"
    return f"{OF_DIRECTORY}{status.st_ino}:{status.st_mtime_ns}"


def signature(directory: Path | str) -> str:
    """A text that changes when the run's spec or result is replaced, because every write makes a new inode.

    The text for a run that has ended also changes when the metrics change. The text for an unfinished run ignores the metrics,
    because they still grow.
    """
    spec, result = (_file_signature(f"{directory}/{name}") for name in (SPEC_FILE, RESULT_FILE))
    names = [] if result == "none" else metrics_names(directory)
    return "/".join((spec, result, *(_file_signature(f"{directory}/{name}") for name in names)))


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
    return _row(run_id, spec, result)


def _row(run_id: str, spec: Mapping[str, Any], result: Result | None) -> RunRow:
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


def _file_signature(path: str) -> str:
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
