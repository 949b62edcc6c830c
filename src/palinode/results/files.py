"""Reading the files of a store, which may come from a stranger, and may have been damaged since they were written."""

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
LARGEST_JSON_BYTES = 256 * 2**20  # an audit with pictures is a few MB; a file beyond this is not one of ours
TRAIN_AGAIN = "delete the run's directory and run it again"  # what a run measured on its way is written nowhere else


def read_table(path: Path) -> dict[str, Any]:
    """A JSON file of ours whose top level is a table. Links, pipes and devices are refused: stores come from strangers.

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
        raise Damaged(f"holds {status.st_size} bytes; ours never pass {LARGEST_JSON_BYTES}", file=str(path))
    value = fsio.read_json(path)
    if not isinstance(value, dict):
        raise Damaged("is not a table", file=str(path))
    return value


def decode_stored(cls: type[C], data: Any, path: Path) -> C:
    """Decode what the store holds.

    Raises:
        Damaged: it does not have the shape of `cls` (a stored file that does not decode is damage, not bad input).
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
        ended_at_step: the last step of a run that is done: there are rows, and those that a run logged (they say the
            attempt, which rows from elsewhere may lack) reach it. 0 of any other run.
        read: `fsio.read_rows`, or `fsio.read_last_rows` for a look at the end of the file alone.

    Raises:
        Damaged: it is not a file, holds a line that no run writes, or lacks rows. A line that a kill tore is none of these:
            what it would have said was computed again (see `fsio` for where one can stand).
    """
    if not os.path.lexists(path):
        if ended_at_step:
            raise Damaged("is missing, though the run is done", file=str(path), hint=TRAIN_AGAIN)
        return []
    if not is_regular(path):
        raise Damaged("is not a regular file", file=str(path), hint=TRAIN_AGAIN)
    rows, damaged = read(path)
    if damaged is not None:
        raise Damaged(f"{damaged} is nothing that a run writes", file=str(path), hint=TRAIN_AGAIN)
    last = max((whole(row.get("step")) for row in rows), default=0)
    if last < ended_at_step and all("attempt" in row for row in rows):
        told = f"ends at step {last}, the run at step {ended_at_step}"
        raise Damaged(told, file=str(path), hint=TRAIN_AGAIN)
    return rows


def is_regular(path: Path) -> bool:
    """Whether a file of its own is there: links, pipes, devices and directories are not."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def whole(value: Any) -> int:
    """A whole number that a row should hold; 0 where it holds something else."""
    return value if isinstance(value, int) else 0
