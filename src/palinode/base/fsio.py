"""The only module that writes files. A reader never sees half a file: after a crash the disk holds the old or the new file.

A whole file is written to a temporary name in the same directory, synced to disk, and renamed over the old file. A table is a
JSON file that holds the hash of its other keys under `self_sha256`, so that a reader notices when one digit has changed.
A row of metrics is appended with one write call. Each row has a CRC-32, so that a reader can tell a whole row from a torn one.

Torn rows and damage: a writer that is killed, or that meets a full disk, leaves the beginning of a row without a line end. This
beginning is called a torn row. No writer removes a torn row; the next writer appends its first row to the same line. So a torn row
does not count as damage at the end of the file, or directly before a whole row on the same line. The line end is the last byte of a
write, so every line with a line end ends with a whole row. All other text that is not a whole row counts as damage.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from palinode.base.errors import BadInput, Damaged, EnvironmentProblem

TEMPORARY_MARK = ".palinode-tmp-"
REMOVED_MARK = ".palinode-removed-"
CRASH_POINT_VARIABLE = "PALINODE_CRASH_POINT"
ROW_MARK = '{"crc":'
ROW_START = re.compile(r'\{"crc":[0-9]{1,10},"row":\{')
TORN_MARKS = re.compile(r'(?:\{(?:"(?:c(?:r(?:c"?)?)?)?)?)*')  # one or more beginnings of ROW_MARK in sequence
MOST_TORN_ROWS = 1000  # the most torn rows on one line: a reader tries to read the rest of the line after each torn row
MOST_DIGITS = 40  # the most digits of an integer in JSON: counters have fewer, and Python refuses 5,000 digits
SELF_HASH = "self_sha256"
NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
# The number of bytes that a listing reads at the end of a file. The last rows of a run with a layer cut are about 10 kB long.
TAIL_BYTES = 2**16


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file and sync it to disk. The write is atomic: a reader sees the old file or the new file.

    Raises:
        EnvironmentProblem: the disk is full or read-only, or permission is missing. The old file stays intact.
    """
    with committed(path) as temporary, open(temporary, "wb") as handle:
        handle.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file in UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file with sorted keys and without NaN, as `write_bytes` does."""
    write_bytes(path, json_bytes(value))


def write_table(path: Path, table: Mapping[str, Any]) -> None:
    """Write a table: a JSON file with the hash of its content, as `write_bytes` does."""
    write_json(path, _sealed(table))


def create_table(path: Path, table: Mapping[str, Any]) -> bool:
    """Write a table that does not exist yet and sync it to disk. When the table exists, write nothing and return False.

    When several processes create one path at the same time, on one host or on several hosts, one process gets True. On a file
    system without hard links, the file is empty for a moment.

    Raises:
        EnvironmentProblem: the disk is full or read-only, or permission is missing.
    """
    temporary = _temporary(path)
    try:
        try:
            temporary.write_bytes(json_bytes(_sealed(table)))
            _fsync(temporary)
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            return _create_in_place(path, json_bytes(_sealed(table)))
        finally:
            temporary.unlink(missing_ok=True)
        _fsync(path.parent)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write: {error.strerror or error}", file=str(path)) from error
    return True


@contextlib.contextmanager
def committed(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to. When the block ends without an error, the file is synced and renamed to `path`.

    Writers of memory maps, safetensors and parquet need a path. The temporary name holds the process id and a random number.

    Raises:
        BadInput: the path is a pipe or a device, whose place no file may take.
        EnvironmentProblem: the disk is full or read-only, or permission is missing.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise BadInput("is a pipe or a device; name a file", file=str(path))
    temporary = _temporary(path)
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
    """Append one JSON row and its CRC-32 with one write call."""
    body = json.dumps(row, sort_keys=True, separators=(",", ":"), allow_nan=False)
    line = f'{{"crc":{zlib.crc32(body.encode())},"row":{body}}}\n'.encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            crash_point(f"{path.name}.before_append")
            _write_all(descriptor, line)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise EnvironmentProblem(f"cannot append: {error.strerror or error}", file=str(path)) from error


@contextlib.contextmanager
def log_for_child(path: Path) -> Iterator[int]:
    """Yield the descriptor of a new file for the output of a process that is started.

    Raises:
        EnvironmentProblem: the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write: {error.strerror or error}", file=str(path)) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Rows(NamedTuple):
    """The content of an appended file: the rows with a true CRC-32, and the first damaged line, such as "line 3"."""

    rows: list[dict[str, Any]]
    damaged: str | None = None


def read_rows(path: Path) -> Rows:
    """The rows of an appended file, and its first damaged line. A torn row is no damage (see the top of this file).

    Raises:
        Damaged: the file exists and cannot be read.
    """
    lines = _lines_from(path, 0)
    rows: list[dict[str, Any]] = []
    damaged = None
    for number, line in enumerate(lines, start=1):
        found, is_sound = _rows_of_line(line, ends=number < len(lines))
        rows += found
        damaged = damaged or (None if is_sound else f"line {number}")
    return Rows(rows, damaged)


def read_rows_from(path: Path, start_byte: int) -> tuple[list[dict[str, Any]], int]:
    """The rows of an appended file from a byte on, and the byte from which the next call reads the rows that were appended since.

    Damaged lines are left out. If the file is shorter than `start_byte`, it was replaced, and it is read from its start.

    Raises:
        Damaged: the file exists and cannot be read.
    """
    start = start_byte if path.exists() and path.stat().st_size >= start_byte else 0
    *lines, _ = _lines_from(path, start) or [b""]  # the last line may be torn: it is read with the row that ends it
    rows = [row for line in lines for row in _rows_of_line(line, ends=True)[0]]
    return rows, start + sum(len(line) + 1 for line in lines)


def read_last_rows(path: Path) -> Rows:
    """The rows of the last line of an appended file, even if a torn row follows this line. A listing needs no other rows.

    Raises:
        Damaged: the file exists and cannot be read.
    """
    lines = _lines_from(path, -TAIL_BYTES)
    if len(lines) < 3:  # the file has one line, or a line is longer than the bytes that were read
        return read_rows(path)
    (last, is_sound), (torn, is_torn) = _rows_of_line(lines[-2], ends=True), _rows_of_line(lines[-1], ends=False)
    return Rows([*last, *torn], None if is_sound and is_torn else "the last line")


def read_recent_rows(path: Path, count: int) -> list[dict[str, Any]]:
    """The rows of the last `count` lines of an appended file, or fewer: only the end of the file is read. Damage is left out.

    Raises:
        Damaged: the file exists and cannot be read.
    """
    lines = _lines_from(path, -TAIL_BYTES)[-count - 1 :]  # the last one is empty or torn
    return [row for line in lines for row in _rows_of_line(line, ends=True)[0]]


def rewrite_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replace the content of an appended file by these rows: a run that resumes removes the rows after its checkpoint."""
    bodies = [json.dumps(row, sort_keys=True, separators=(",", ":"), allow_nan=False) for row in rows]
    write_text(path, "".join(f'{{"crc":{zlib.crc32(body.encode())},"row":{body}}}\n' for body in bodies))


def make_directory(path: Path) -> Path:
    """Make a directory, and every missing directory above it.

    Raises:
        EnvironmentProblem: the directory cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblem(f"cannot be made: {error.strerror}", file=str(path)) from error
    return path


def sync(path: Path) -> None:
    """Wait until the appended rows of a file are on the disk. A missing file is no error.

    Raises:
        EnvironmentProblem: the disk reports an error.
    """
    try:
        _fsync(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise EnvironmentProblem(f"cannot write: {error.strerror or error}", file=str(path)) from error


def read_json(path: Path) -> Any:
    """Read a JSON file that this module wrote.

    Raises:
        Damaged: the file is missing, unreadable, not UTF-8, not JSON, or holds what this module does not write: such a number, or a
            key twice.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Damaged(f"cannot be read as JSON: {type(error).__name__}", file=str(path)) from error
    return _decoded(content, str(path))


def read_table(path: Path) -> dict[str, Any]:
    """Read a table, and check the hash of its content. A table from before version 0.2 has no hash and is read without the check.

    Raises:
        Damaged: the file cannot be read, is no table, or has a content that does not match the hash.
    """
    return table_of(read_json(path), str(path))


def decoded_table(content: bytes, file: str) -> dict[str, Any]:
    """The table in the bytes of a file, with the checks of `read_table`.

    Args:
        file: the name of the file in an error.
    """
    return table_of(_decoded(content, file), file)


def table_of(value: Any, file: str) -> dict[str, Any]:
    """A JSON value as a table without its hash.

    Raises:
        Damaged: the value is no table, or its content does not match the hash.
    """
    if not isinstance(value, dict):
        raise Damaged("is not a table", file=file)
    return unsealed(value, file)


def unsealed(table: Mapping[str, Any], file: str) -> dict[str, Any]:
    """The content of a table without its hash.

    Raises:
        Damaged: the content does not match the hash; the error names the file.
    """
    content = {key: value for key, value in table.items() if key != SELF_HASH}
    if SELF_HASH not in table and (renamed := _renamed_hash(content)):
        raise Damaged(f"was changed since it was written: {renamed!r} was {SELF_HASH!r}", file=file)
    if SELF_HASH in table and table[SELF_HASH] != _table_sha256(content):
        hint = f"after a change on purpose, delete its key {SELF_HASH}"
        raise Damaged("was changed since it was written: its content does not have its hash", file=file, hint=hint)
    return content


def is_protected(path: Path) -> bool:
    """Whether a table holds the hash of its content. Tables that were written before version 0.2 have no hash.

    Raises:
        Damaged: the file cannot be read as JSON.
    """
    return SELF_HASH in read_json(path)


def remove(path: Path) -> None:
    """Delete a file, if it is there.

    Raises:
        EnvironmentProblem: the file cannot be deleted.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise EnvironmentProblem(f"cannot be deleted: {error.strerror or error}", file=str(path)) from error


def remove_directory(path: Path) -> None:
    """Delete a directory and what is in it. Links in it are deleted, not followed. After a crash the path is whole or gone.

    A process that is killed leaves a directory whose name begins with REMOVED_MARK.

    Raises:
        EnvironmentProblem: the directory, or something in it, cannot be deleted.
    """
    away = path if path.name.startswith(REMOVED_MARK) else path.with_name(f"{REMOVED_MARK}{path.name}")
    try:
        if away != path:
            shutil.rmtree(away, ignore_errors=True)
            os.replace(path, away)
        crash_point(f"{path.name}.moved_away")
        shutil.rmtree(away)
    except FileNotFoundError:
        return
    except OSError as error:
        raise EnvironmentProblem(f"cannot be deleted: {error.strerror or error}", file=str(path)) from error


def remove_stray_temporaries(directory: Path) -> list[Path]:
    """Delete the temporary files of processes that have ended; return the paths of the deleted files."""
    removed = []
    for path in directory.glob(f"*{TEMPORARY_MARK}*"):
        pid = path.name.rpartition(TEMPORARY_MARK)[2].partition("-")[0]
        if pid.isascii() and pid.isdigit() and not is_alive(int(pid)):
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed


def is_alive(pid: int) -> bool:
    """Whether a process of this host has this process id and can still work.

    A process that has ended keeps its id until its parent asks for its exit code. The first process of a container may never ask.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # OverflowError: no process can have this id
        return False
    except PermissionError:
        pass
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:1]
    except OSError:  # a system without /proc, or a process that has just ended
        return True
    return state not in (["Z"], ["X"])


def crash_point(label: str, act: Callable[[], None] | None = None) -> None:
    """A place where a test can make this process fail. Nothing happens unless the variable PALINODE_CRASH_POINT is set.

    If the value of the variable is this label, the process is killed here. If the value is a number and an error, such as
    `7:ENOSPC`, the seventh crash point that the process reaches raises this OSError.
    """
    wanted = os.environ.get(CRASH_POINT_VARIABLE, "")
    if wanted == label:
        (act or functools.partial(os.kill, os.getpid(), 9))()
    number, _, name = wanted.partition(":")
    if number.isdecimal() and next(_places()) == int(number):
        code = getattr(errno, name)
        raise OSError(code, os.strerror(code))


@functools.cache
def _places() -> Iterator[int]:
    return itertools.count(1)


def _lines_from(path: Path, start: int) -> list[bytes]:
    """The lines of a file from the byte `start` on; a negative `start` counts from the end. A missing file has no lines."""
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
    """The whole rows of a line, and whether the line is without damage. `ends` says whether the line has a line end."""
    with contextlib.suppress(ValueError, RecursionError):
        if (row := _with_true_crc(json.loads(line))) is not None:
            return [row], True
    text, decoder = line.decode("utf-8", "replace"), json.JSONDecoder()
    rows: list[dict[str, Any]] = []
    others: list[str] = []  # the text before, between and after the rows
    end, torn = 0, 0
    start = ROW_START.search(text)
    while start is not None and torn <= MOST_TORN_ROWS:
        at = start.start()
        try:
            wrapped, after = decoder.raw_decode(text, at)
            row = _with_true_crc(wrapped)
        except (ValueError, RecursionError):
            row, after = None, at + 1
        if row is not None:
            rows.append(row)
            others.append(text[end:at])
            end = after
        torn += row is None
        start = ROW_START.search(text, after)
    others.append(text[end:])
    ends_well = bool(rows) and not others[-1] if ends else True
    return rows, ends_well and all(map(_is_torn, others))


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}{TEMPORARY_MARK}{os.getpid()}-{secrets.token_hex(4)}")


def _decoded(content: bytes, file: str) -> Any:
    try:
        text = content.decode("utf-8")
        return json.loads(text, parse_int=_integer, parse_constant=_no_constant, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"cannot be read as JSON: {type(error).__name__}", file=file) from error


def json_bytes(value: Any) -> bytes:
    """A value as the bytes of a JSON file, with sorted keys and without NaN."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", "backslashreplace")  # a lone surrogate is written as its JSON escape


def _create_in_place(path: Path, content: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    try:
        _write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True


def _sealed(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with the hash of its content."""
    return {**table, SELF_HASH: _table_sha256(table)}


def _table_sha256(table: Mapping[str, Any]) -> str:
    body = json.dumps(table, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(body.encode()).hexdigest()


def _renamed_hash(table: Mapping[str, Any]) -> str | None:
    """The key, other than `self_sha256`, whose value is the hash of the other entries; None when no key has this value."""
    for key, value in table.items():
        if isinstance(value, str) and len(value) == hashlib.sha256().digest_size * 2:
            others = {name: other for name, other in table.items() if name != key}
            if value == _table_sha256(others):
                return key
    return None


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _no_constant(name: str) -> float:
    raise ValueError(name)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key is given twice")
    return table


def _is_torn(text: str) -> bool:
    """Whether a text consists of the beginnings of one or several rows. Rows are ASCII without control codes."""
    return text.isascii() and text.isprintable() and TORN_MARKS.fullmatch(text.partition(ROW_MARK)[0]) is not None


def _with_true_crc(wrapped: Any) -> dict[str, Any] | None:
    """The row in `{"crc": .., "row": {..}}`, or None when the checksum does not match the row."""
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
