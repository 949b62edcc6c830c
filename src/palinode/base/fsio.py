"""The only place that writes files. A reader never sees half a file; a crash leaves the old one or the new one.

Commit: write to a temporary name in the same directory, fsync the file, rename over the target, fsync the directory.
Append (metrics): one write call per line, each line with a CRC-32, so that a torn tail is found and dropped on reading.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from palinode.base.errors import Damaged, EnvironmentProblem

TEMPORARY_MARK = ".palinode-tmp-"
CRASH_POINT_VARIABLE = "PALINODE_CRASH_POINT"
ROW_MARK = '{"crc":'


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file atomically and durably.

    Raises:
        EnvironmentProblem: the disk refused (full, read-only, no permission); the old file is intact, no temporary stays.
    """
    with committed(path) as temporary, open(temporary, "wb") as handle:
        handle.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 text file atomically and durably."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON (sorted keys, no NaN) atomically and durably."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode("utf-8", "backslashreplace"))  # half a character is kept as its JSON escape


@contextlib.contextmanager
def committed(path: Path) -> Iterator[Path]:
    """A temporary path to write to; on leaving without an error it becomes `path`, whole and durable.

    For writers that need a real file (memory maps, safetensors, parquet). The temporary name holds pid and nonce.
    """
    temporary = path.with_name(f"{path.name}{TEMPORARY_MARK}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        crash_point(f"{path.name}.written")
        _fsync(temporary)
        crash_point(f"{path.name}.before_rename")
        os.replace(temporary, path)
        crash_point(f"{path.name}.after_rename")
        _fsync(path.parent)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write: {error.strerror or error}", file=str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON row with its CRC-32 (of the row without it) as one write call."""
    body = json.dumps(row, sort_keys=True, separators=(",", ":"), allow_nan=False)
    line = f'{{"crc":{zlib.crc32(body.encode())},"row":{body}}}\n'.encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            crash_point(f"{path.name}.before_append")
            _write_all(descriptor, line)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise EnvironmentProblem(f"cannot append: {error.strerror or error}", file=str(path)) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of an appended file whose CRC holds; a torn or damaged line is skipped (its rows are recomputed on resume)."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_bytes().split(b"\n"):
        row = _checked_row(line)
        rows += [row] if row is not None else _rows_of_damaged(line)
    return rows


def rewrite_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replace an appended file by these rows, atomically (used on resume, to drop rows after the checkpoint)."""
    bodies = [json.dumps(row, sort_keys=True, separators=(",", ":"), allow_nan=False) for row in rows]
    write_text(path, "".join(f'{{"crc":{zlib.crc32(body.encode())},"row":{body}}}\n' for body in bodies))


def read_json(path: Path) -> Any:
    """Read a JSON file of ours.

    Raises:
        Damaged: it is missing, unreadable, not UTF-8 or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise Damaged(f"cannot be read as JSON: {type(error).__name__}", file=str(path)) from error


def remove_stray_temporaries(directory: Path) -> list[Path]:
    """Delete temporaries in a directory whose process is gone; returns what was deleted."""
    removed = []
    for path in directory.glob(f"*{TEMPORARY_MARK}*"):
        pid = path.name.rpartition(TEMPORARY_MARK)[2].partition("-")[0]
        if pid.isascii() and pid.isdigit() and not _alive(int(pid)):
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed


def crash_point(label: str, act: Callable[[], None] | None = None) -> None:
    """Where a test may kill this process: nothing happens unless PALINODE_CRASH_POINT names this label."""
    if os.environ.get(CRASH_POINT_VARIABLE) == label:
        (act or _kill_now)()


def _kill_now() -> None:
    os.kill(os.getpid(), 9)


def _checked_row(line: bytes) -> dict[str, Any] | None:
    try:
        return _with_true_crc(json.loads(line))
    except (ValueError, RecursionError):
        return None


def _rows_of_damaged(line: bytes) -> Iterator[dict[str, Any]]:
    """Whole rows in a line that is no row: after a torn tail, the next row appended stands on the same line."""
    text, decoder = line.decode("utf-8", "replace"), json.JSONDecoder()
    at = text.find(ROW_MARK)
    while at >= 0:
        try:
            wrapped, end = decoder.raw_decode(text, at)
            row = _with_true_crc(wrapped)
        except (ValueError, RecursionError):
            row, end = None, at + 1
        if row is not None:
            yield row
        at = text.find(ROW_MARK, end)


def _with_true_crc(wrapped: Any) -> dict[str, Any] | None:
    """The row of `{"crc": .., "row": {..}}` when the checksum is that of the row."""
    if not isinstance(wrapped, dict) or not isinstance(wrapped.get("row"), dict):
        return None
    body = json.dumps(wrapped["row"], sort_keys=True, separators=(",", ":"))
    return wrapped["row"] if zlib.crc32(body.encode()) == wrapped.get("crc") else None


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # OverflowError: no process can have this number
        return False
    except PermissionError:
        return True
    return True
