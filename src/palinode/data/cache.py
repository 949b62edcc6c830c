"""Where Palinode keeps what it can build again (token stores) and what a user added by name (corpora)."""

from __future__ import annotations

import os
from pathlib import Path

from palinode.base.errors import BadInput

CACHE_VARIABLE = "PALINODE_CACHE"
DATA_VARIABLE = "PALINODE_DATA"
DATA_PREFIX = "data:"


def cache_directory(cache: Path | None = None) -> Path:
    """What can be deleted at any time: the given folder, $PALINODE_CACHE, or the user's XDG cache folder."""
    if chosen := _chosen(cache):
        return chosen
    import platformdirs

    return Path(platformdirs.user_cache_dir("palinode"))


def corpora_directory(cache: Path | None = None) -> Path:
    """Corpora added or fetched by name: they outlive a cleared cache unless the cache was placed by hand."""
    if chosen := _chosen(cache):
        return chosen / "corpora"
    import platformdirs

    return Path(platformdirs.user_data_dir("palinode")) / "corpora"


def data_path(name: str, field: str) -> Path | None:
    """The path a user's `name` means: itself, or below $PALINODE_DATA after `data:`; None for a plain name without a file.

    Raises:
        BadInput: `data:` without $PALINODE_DATA.
    """
    if name.startswith(DATA_PREFIX):
        root = os.environ.get(DATA_VARIABLE)
        if not root:
            raise BadInput(f"{name!r} needs the environment variable {DATA_VARIABLE}", field=field)
        return Path(root) / name.removeprefix(DATA_PREFIX)
    path = Path(name).expanduser()
    looks_like_a_path = os.sep in name or name.startswith((".", "~")) or bool(path.suffix)
    return path if looks_like_a_path or path.exists() else None


def _chosen(cache: Path | None) -> Path | None:
    if cache is not None:
        return cache
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else None
