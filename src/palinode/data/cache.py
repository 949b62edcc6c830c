"""The folders of stores on disk, and the manifest of each store: written last, and what the store's files are checked against.

Token stores can be built again; corpora that a user added by name cannot.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from palinode.base import fsio
from palinode.base.errors import BadInput, Damaged, EnvironmentProblem

MANIFEST = "manifest.json"
CACHE_VARIABLE = "PALINODE_CACHE"
DATA_VARIABLE = "PALINODE_DATA"
DATA_PREFIX = "data:"


def cache_directory(cache: Path | None = None) -> Path:
    """The folder of token stores: `cache`, $PALINODE_CACHE, or the user's XDG cache folder.

    Token stores can be deleted at any time; they are built again. The whole folder can be deleted only if it is the XDG one: any
    other contains `corpora_directory` too, which cannot be built again.
    """
    import platformdirs

    return _from_user(cache) or Path(platformdirs.user_cache_dir("palinode"))


def corpora_directory(cache: Path | None = None) -> Path:
    """The folder of corpora added or fetched by name: `corpora` in `cache`, $PALINODE_CACHE or the user's XDG data folder."""
    import platformdirs

    return (_from_user(cache) or Path(platformdirs.user_data_dir("palinode"))) / "corpora"


def data_path(name: str, field: str) -> Path | None:
    """The path that a user's `name` means: itself, or below $PALINODE_DATA after `data:`; None for a plain name without a file.

    Raises:
        BadInput: a path after `data:` that leads out of the folder.
        EnvironmentProblem: `data:` without $PALINODE_DATA.
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


def _from_user(cache: Path | None) -> Path | None:
    if cache is not None:
        return cache
    variable = os.environ.get(CACHE_VARIABLE)
    return Path(variable) if variable else None


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
