"""The folders where data is stored, and the manifest of each store: it is written last and used to check the other files.

Palinode can build a token store again, but it cannot build a corpus again that a user added by name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from palinode.base import fsio
from palinode.base.errors import BadInput, Damaged, EnvironmentProblem
from palinode.base.folders import CACHE_VARIABLE as CACHE_VARIABLE
from palinode.base.folders import cache_directory as cache_directory
from palinode.base.folders import given_folder

MANIFEST = "manifest.json"
DATA_VARIABLE = "PALINODE_DATA"
DATA_PREFIX = "data:"


def corpora_directory(cache: Path | None = None) -> Path:
    """The folder of corpora that users add or fetch by name: `corpora` in `cache`, in $PALINODE_CACHE or in the XDG data folder."""
    import platformdirs

    return (given_folder(cache) or Path(platformdirs.user_data_dir("palinode"))) / "corpora"


def data_path(name: str, field: str) -> Path | None:
    """The path that a user's `name` means; None if the name is a plain word and no file has this name.

    A name that begins with `data:` is a path below $PALINODE_DATA.

    Raises:
        BadInput: the path after `data:` leads out of the folder $PALINODE_DATA.
        EnvironmentProblem: the name begins with `data:` and $PALINODE_DATA is not set.
    """
    if name.startswith(DATA_PREFIX):
        inside = Path(name.removeprefix(DATA_PREFIX))
        if inside.is_absolute() or ".." in inside.parts:
            raise BadInput(f"{name!r} leads out of the folder of {DATA_VARIABLE}", field=field)
        root = os.environ.get(DATA_VARIABLE)
        if not root:
            first = inside.parts[:1]
            hint = f"set it to the folder that holds {first[0]}" if first else None
            raise EnvironmentProblem(f"{name!r} needs the environment variable {DATA_VARIABLE}", field=field, hint=hint)
        return Path(root) / inside
    path = Path(name).expanduser()
    looks_like_a_path = os.sep in name or name.startswith((".", "~")) or bool(path.suffix)
    return path if looks_like_a_path or path.exists() else None


def read_manifest(directory: Path, store: str, version: int, keys: Iterable[str] = ()) -> dict[str, Any]:
    """Read the manifest of a store.

    Args:
        directory: the folder of the store.
        store: the kind of the store, which the error message names.
        version: the version that the manifest must have.
        keys: the entries that the manifest must have.

    Raises:
        Damaged: the manifest is missing, is not JSON, has another version, or lacks an entry.
    """
    path = directory / MANIFEST
    manifest = fsio.read_json(path)
    if not isinstance(manifest, dict) or manifest.get("version") != version or not set(keys) <= manifest.keys():
        raise Damaged(f"is not the manifest of a {store} store of version {version}", file=str(path))
    return manifest


def check_size(path: Path, size_bytes: int) -> None:
    """Check that a file has the size that it had when it was written.

    Raises:
        Damaged: the file is missing, or has another size.
    """
    size = path.stat().st_size if path.is_file() else 0
    if size != size_bytes:
        raise Damaged(f"has {size} bytes, {size_bytes} were written", file=str(path))


def check_sha256(path: Path, sha256: str) -> None:
    """Check that the SHA-256 of a file is `sha256`, so that every byte is as it was written.

    Raises:
        Damaged: the file cannot be read, or its content differs from what was written.
    """
    try:
        same = file_sha256(path) == sha256
    except OSError as error:
        raise Damaged("cannot be read", file=str(path)) from error
    if not same:
        raise Damaged("is not what was written (SHA-256 differs)", file=str(path))


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, which is read in pieces."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
