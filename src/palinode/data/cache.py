"""The folders of token stores, which can be built again, and of corpora that a user added by name."""

from __future__ import annotations

import os
from pathlib import Path

from palinode.base.errors import EnvironmentProblem

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
        EnvironmentProblem: `data:` without $PALINODE_DATA.
    """
    if name.startswith(DATA_PREFIX):
        root = os.environ.get(DATA_VARIABLE)
        if not root:
            first = Path(name.removeprefix(DATA_PREFIX)).parts[:1]
            hint = f"set it to the folder that holds {first[0]}" if first else None
            raise EnvironmentProblem(f"{name!r} needs the environment variable {DATA_VARIABLE}", field=field, hint=hint)
        return Path(root) / name.removeprefix(DATA_PREFIX)
    path = Path(name).expanduser()
    looks_like_a_path = os.sep in name or name.startswith((".", "~")) or bool(path.suffix)
    return path if looks_like_a_path or path.exists() else None


def _from_user(cache: Path | None) -> Path | None:
    if cache is not None:
        return cache
    variable = os.environ.get(CACHE_VARIABLE)
    return Path(variable) if variable else None
