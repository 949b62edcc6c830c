"""Where Palinode keeps what it can build again (token stores) and what a user added by name (corpora)."""

from __future__ import annotations

import os
from pathlib import Path

from palinode.base.errors import EnvironmentProblem

CACHE_VARIABLE = "PALINODE_CACHE"
DATA_VARIABLE = "PALINODE_DATA"
DATA_PREFIX = "data:"


def cache_directory(cache: Path | None = None) -> Path:
    """Where token stores are kept: the given folder, $PALINODE_CACHE, or the user's XDG cache folder.

    Token stores can be deleted at any time, and are built again. The whole folder can be only where it is the XDG one: in a folder
    placed by hand lies `corpora_directory` too, which cannot be built again.
    """
    if chosen := _chosen(cache):
        return chosen
    import platformdirs

    return Path(platformdirs.user_cache_dir("palinode"))


def corpora_directory(cache: Path | None = None) -> Path:
    """Corpora added or fetched by name: the user's XDG data folder, or `corpora` in the given folder or $PALINODE_CACHE."""
    if chosen := _chosen(cache):
        return chosen / "corpora"
    import platformdirs

    return Path(platformdirs.user_data_dir("palinode")) / "corpora"


def data_path(name: str, field: str) -> Path | None:
    """The path a user's `name` means: itself, or below $PALINODE_DATA after `data:`; None for a plain name without a file.

    Raises:
        EnvironmentProblem: `data:` without $PALINODE_DATA.
    """
    if name.startswith(DATA_PREFIX):
        root = os.environ.get(DATA_VARIABLE)
        if not root:
            held = Path(name.removeprefix(DATA_PREFIX)).parts[:1]
            hint = f"set it to the folder that holds {held[0]}" if held else None
            raise EnvironmentProblem(f"{name!r} needs the environment variable {DATA_VARIABLE}", field=field, hint=hint)
        return Path(root) / name.removeprefix(DATA_PREFIX)
    path = Path(name).expanduser()
    looks_like_a_path = os.sep in name or name.startswith((".", "~")) or bool(path.suffix)
    return path if looks_like_a_path or path.exists() else None


def _chosen(cache: Path | None) -> Path | None:
    if cache is not None:
        return cache
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else None
