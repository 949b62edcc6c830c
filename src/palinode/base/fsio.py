"""The only place that writes files. A reader never sees half a file; a crash leaves the old one or the new one.

Commit: write to a temporary name in the same directory, fsync the file, rename over the target, fsync the directory.
Append (metrics): one write call per line, each line with a CRC-32, so that a torn tail is found and dropped on reading.

What a torn tail is, and what is damage: a writer that is killed, or finds the disk full, leaves the beginning of a line
and no line end. Nobody cuts it off: the writer that goes on appends its first row to it. So the beginning of a row is
sound at the end of the file, and in the middle just before a whole row on the same line. The line end is the last byte
of a write, so every line that has one ends with a whole row. Whatever else is no row was written by nobody: damage.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from palinode.base.errors import Damaged, EnvironmentProblem

TEMPORARY_MARK = ".palinode-tmp-"
CRASH_POINT_VARIABLE = "PALINODE_CRASH_POINT"
ROW_MARK = '{"crc":'
TORN_MARKS = re.compile(r'(?:\{(?:"(?:c(?:r(?:c"?)?)?)?)?)*')  # beginnings of ROW_MARK, one after the other
TAIL_BYTES = 2**16  # what a listing reads of a file: the last rows of a run that cuts layers are some 10 kB long


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


class Rows(NamedTuple):
    """What an appended file holds: the rows whose CRC holds, and the first line that no writer left, such as "line 3"."""

    rows: list[dict[str, Any]]
    damaged: str | None = None


def read_rows(path: Path) -> Rows:
    """The rows of an appended file and where it is damaged; a torn line (see the top of this file) is no damage.

    Raises:
        Damaged: the file is there and cannot be read.
    """
    lines = _lines_from(path, 0)
    rows: list[dict[str, Any]] = []
    damaged = None
    for number, line in enumerate(lines, start=1):
        found, is_sound = _rows_of_line(line, ends=number < len(lines))
        rows += found
        damaged = damaged or (None if is_sound else f"line {number}")
    return Rows(rows, damaged)


def read_last_rows(path: Path) -> Rows:
    """The rows of the last line of an appended file, and of what was torn after it: a listing reads no more than this.

    Raises:
        Damaged: the file is there and cannot be read.
    """
    lines = _lines_from(path, -TAIL_BYTES)
    if len(lines) < 3:  # one line, or a line longer than what was read
        return read_rows(path)
    (last, is_sound), (torn, is_torn) = _rows_of_line(lines[-2], ends=True), _rows_of_line(lines[-1], ends=False)
    return Rows([*last, *torn], None if is_sound and is_torn else "the last line")


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


def _lines_from(path: Path, start: int) -> list[bytes]:
    """The lines of a file from this byte on, or from its end where it is negative; none of a file that is not there."""
    try:
        with open(path, "rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size + start) if start < 0 else start)
            return handle.read().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Damaged(f"cannot be read: {error.strerror}", file=str(path)) from error


def _rows_of_line(line: bytes, *, ends: bool) -> tuple[list[dict[str, Any]], bool]:
    """The whole rows of a line, and whether a writer can have left it; `ends`: it has a line end."""
    if (row := _checked_row(line)) is not None:
        return [row], True
    text, decoder = line.decode("utf-8", "replace"), json.JSONDecoder()
    rows: list[dict[str, Any]] = []
    others: list[str] = []  # what stands before, between and after the rows
    end, at = 0, text.find(ROW_MARK)
    while at >= 0:
        try:
            wrapped, after = decoder.raw_decode(text, at)
            row = _with_true_crc(wrapped)
        except (ValueError, RecursionError):
            row, after = None, at + 1
        if row is not None:
            rows.append(row)
            others.append(text[end:at])
            end = after
        at = text.find(ROW_MARK, after)
    others.append(text[end:])
    ends_well = bool(rows) and not others[-1] if ends else True
    return rows, ends_well and all(map(_is_torn, others))


def _is_torn(text: str) -> bool:
    """Whether this is the beginning of a row, or several of them: rows are ASCII without control codes."""
    return text.isascii() and text.isprintable() and TORN_MARKS.fullmatch(text.partition(ROW_MARK)[0]) is not None


def _checked_row(line: bytes) -> dict[str, Any] | None:
    try:
        return _with_true_crc(json.loads(line))
    except (ValueError, RecursionError):
        return None


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
