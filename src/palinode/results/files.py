"""Reads the files of a store. They may come from a stranger, or may have been damaged since they were written."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from palinode.base import fsio
from palinode.base.config import Config, decode
from palinode.base.errors import BadInput, Damaged

C = TypeVar("C", bound=Config)
LARGEST_JSON_BYTES = 256 * 2**20  # an audit with pictures has a few MB
TRAIN_AGAIN = "delete the run's directory and run it again"  # there is no other copy of the metrics of a run


def read_table(path: Path) -> dict[str, Any]:
    """The table in a JSON file of a store. Links, pipes and devices are refused, because a stranger may have made the store.

    Raises:
        Damaged: naming the file.
    """
    try:
        status = path.lstat()
    except OSError as error:
        raise Damaged(f"cannot be read: {error.strerror}", file=str(path)) from error
    if not stat.S_ISREG(status.st_mode):
        raise Damaged("is not a regular file", file=str(path))
    if status.st_size > LARGEST_JSON_BYTES:
        raise Damaged(
            f"has {status.st_size} bytes; a store's JSON file has at most {LARGEST_JSON_BYTES}", file=str(path)
        )
    value = fsio.read_json(path)
    if not isinstance(value, dict):
        raise Damaged("is not a table", file=str(path))
    return value


def decode_stored(cls: type[C], data: Any, path: Path) -> C:
    """Decode data that was read from the store.

    Raises:
        Damaged: the data does not have the shape of `cls`. In a stored file this is damage, not bad input.
    """
    try:
        return decode(cls, data, file=str(path))
    except BadInput as error:
        raise Damaged(error.message, file=str(path), field=error.field) from error


def read_metrics(
    path: Path, ended_at_step: float, read: Callable[[Path], fsio.Rows] = fsio.read_rows
) -> list[dict[str, Any]]:
    """The rows of a metrics file.

    Args:
        ended_at_step: the last step of a run that is done; the rows must reach it. 0 for any other run. Rows without an
            `attempt` are imported, and may end earlier.
        read: `fsio.read_rows`, or `fsio.read_last_rows` to read only the end of the file.

    Raises:
        Damaged: it is not a file, has a damaged line, or lacks rows. A row that was torn by a kill is no damage: the next
            attempt of the run wrote it again (see `fsio`).
    """
    if not os.path.lexists(path):
        if ended_at_step:
            raise Damaged("is missing, though the run is done", file=str(path), hint=TRAIN_AGAIN)
        return []
    if not is_regular(path):
        raise Damaged("is not a regular file", file=str(path), hint=TRAIN_AGAIN)
    rows, damaged = read(path)
    if damaged is not None:
        raise Damaged(f"{damaged} is damaged", file=str(path), hint=TRAIN_AGAIN)
    last = max((whole(row.get("step")) for row in rows), default=0)
    if last < ended_at_step and all("attempt" in row for row in rows):
        message = f"ends at step {last}, but the run ended at step {ended_at_step}"
        raise Damaged(message, file=str(path), hint=TRAIN_AGAIN)
    return rows


def is_regular(path: Path) -> bool:
    """Whether the path is a regular file: no link, pipe, device or directory."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def whole(value: Any) -> int:
    """The value as a whole number; 0 if it is not one."""
    return value if isinstance(value, int) else 0
