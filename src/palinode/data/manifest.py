"""The manifest of a store on disk (of tokens, or of text): written last, and what the store's files are checked against."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from palinode.base import fsio
from palinode.base.errors import Damaged

MANIFEST = "manifest.json"


def read_manifest(directory: Path, store: str, version: int, keys: Iterable[str] = ()) -> dict[str, Any]:
    """The manifest in a directory.

    Args:
        store: the kind of store, for the message.
        keys: the entries it must have.

    Raises:
        Damaged: there is none, it is no JSON, it is of another version, or an entry is missing.
    """
    path = directory / MANIFEST
    manifest = fsio.read_json(path)
    if not isinstance(manifest, dict) or manifest.get("version") != version or not set(keys) <= manifest.keys():
        raise Damaged(f"is not the manifest of a {store} store of version {version}", file=str(path))
    return manifest


def check_size(path: Path, size_bytes: int) -> None:
    """Check that a file has the size that was written.

    Raises:
        Damaged: it is missing, or has another size.
    """
    size = path.stat().st_size if path.is_file() else 0
    if size != size_bytes:
        raise Damaged(f"has {size} bytes, {size_bytes} were written", file=str(path))


def check_sha256(path: Path, sha256: str) -> None:
    """Check every byte of a file.

    Raises:
        Damaged: it cannot be read, or is not what was written.
    """
    try:
        same = file_sha256(path) == sha256
    except OSError as error:
        raise Damaged("cannot be read", file=str(path)) from error
    if not same:
        raise Damaged("is not what was written (SHA-256 differs)", file=str(path))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
