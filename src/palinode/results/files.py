"""Reads the files of a store. The files may come from a stranger, or may have been damaged after they were written."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any, TypeVar

from palinode.base import fsio
from palinode.base.config import Config, decode
from palinode.base.errors import BadInput, Damaged

C = TypeVar("C", bound=Config)
# The directories of a store that hold no runs.
EXPERIMENTS, AUDITS, REPORTS, ENVIRONMENTS, WORKERS = "experiments", "audits", "reports", "environments", "workers"
DATA = "data"
DIRECTORIES = (EXPERIMENTS, AUDITS, REPORTS, ENVIRONMENTS, WORKERS, DATA)
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
LARGEST_JSON_BYTES = 256 * 2**20  # an audit with pictures has a few MB


def read_table(path: Path) -> dict[str, Any]:
    """Read one JSON file of a store. Links, pipes and devices are refused, because a stranger may have made the store.

    Raises:
        Damaged: the file is refused or cannot be read. The error names the file.
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
    return fsio.read_table(path)


def decode_stored(cls: type[C], data: Any, path: Path) -> C:
    """Decode data that was read from the store.

    Raises:
        Damaged: the data does not have the shape of `cls`. In a stored file, a wrong shape is damage, not bad input.
    """
    try:
        return decode(cls, data, file=str(path))
    except BadInput as error:
        raise Damaged(error.message, file=str(path), field=error.field) from error


def is_regular(path: Path) -> bool:
    """True for a regular file; False for a link, a pipe, a device or a directory."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def bytes_of(path: Path | str) -> int:
    """The bytes of a file, or of all files in a directory. Links are not followed; a file that vanishes meanwhile has no bytes."""
    total, left = 0, [os.fspath(path)]
    while left:
        place = left.pop()
        try:
            if not stat.S_ISDIR((status := os.lstat(place)).st_mode):
                total += status.st_size if stat.S_ISREG(status.st_mode) else 0
                continue
            left += [entry.path for entry in os.scandir(place)]
        except OSError:
            continue
    return total


def is_run_id(name: str) -> bool:
    """Whether a name can be the name of a run directory. The names of a store's other directories are not run ids."""
    return RUN_ID.fullmatch(name) is not None and name not in DIRECTORIES


def whole(value: Any) -> int:
    """The value if it is a whole number, else 0."""
    return value if isinstance(value, int) else 0


def count(value: Any) -> int | None:
    """The value if it is a whole number, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: Any) -> float | None:
    """The value as a float if it is a number, else None."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
