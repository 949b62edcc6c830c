"""Corpora with names: added from files, or fetched from the Hugging Face hub, and kept as text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palinode.base.errors import BadInput, Damaged, nearest
from palinode.data.cache import corpora_directory
from palinode.data.corpus import HUB_NAMES, PYTHON_DOCS, Corpus
from palinode.data.readers import local_corpus
from palinode.data.text_store import MANIFEST, read_manifest, read_text_store, verify_text_store, write_text_store

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
HUB_SIZES = {  # characters, about: what `get` without a limit will store
    "wikitext-2": "13 MB",
    "wikitext-103": "550 MB",
    "tinystories": "1.9 GB",
    "fineweb-edu": "48 GB; use a limit",
}


@dataclass(frozen=True)
class Entry:
    """A corpus by name, as `palinode data ls` shows it.

    Attributes:
        name: what `data.corpus` may say.
        state: "embedded", "here", "can be fetched" or "damaged".
        documents, characters: None where it is not here (yet).
        source, licence: for people.
        directory: where it is kept, or None.
    """

    name: str
    state: str
    documents: int | None
    characters: int | None
    source: str
    licence: str
    directory: Path | None


def add(path: Path | str, name: str, cache: Path | None = None) -> Entry:
    """Keep the text of a file or folder under a name. Adding the same text again changes nothing.

    Raises:
        BadInput: the name cannot be used or means another text already, or the files cannot be read.
    """
    _check_name(name)
    corpus = local_corpus(Path(path).expanduser(), str(path))
    if corpus.holds != "text":
        raise BadInput("token files are not copied", file=str(path), hint="name their path in data.corpus")
    directory = corpora_directory(cache) / name
    if (directory / MANIFEST).is_file():
        if show(name, cache).get("fingerprint") == corpus.fingerprint:
            return _entry(name, directory)
        raise BadInput(f"{name!r} is already the name of another corpus", field="name", hint=f"delete {directory}")
    facts = {"source": corpus.source, "licence": corpus.licence, "fingerprint": corpus.fingerprint}
    write_text_store(directory, corpus.documents(), facts, corpus.separator)
    return _entry(name, directory)


def get(name: str, cache: Path | None = None, source: Path | None = None, max_characters: int | None = None) -> Entry:
    """Fetch a Hugging Face set once, streamed, at its pinned revision. A set that is here already is left as it is.

    Args:
        source: a local copy of the hub repository, instead of the network.
        max_characters: keep only the first train documents, up to so many characters.

    Raises:
        BadInput: unknown name, or a local copy that does not hold it.
        EnvironmentProblem: `datasets` is not installed, or there is no network.
    """
    from palinode.data.hub import HUB_SETS, hub_documents

    if name not in HUB_SETS:
        raise BadInput(f"no data set named {name!r} to fetch", field="name", hint=nearest(name, HUB_SETS))
    wanted, directory = HUB_SETS[name], corpora_directory(cache) / name
    if not _is_here(directory):
        facts = {
            "source": f"{wanted.repository} {wanted.configuration or ''}".strip(),
            "licence": wanted.licence,
            "revision": f"local copy {source.name}" if source else wanted.revision,
            "limit_characters": str(max_characters),
        }
        documents = hub_documents(name, wanted, source, max_characters)
        write_text_store(directory, documents, facts, wanted.separator)
    return _entry(name, directory)


def entries(cache: Path | None = None) -> list[Entry]:
    """Every corpus that has a name: the embedded one, those that are here, those that can be fetched."""
    from palinode.data.hub import HUB_SETS

    here = [_entry(name, corpora_directory(cache) / name) for name in names(cache)]
    known = {entry.name for entry in here}
    embedded = Entry(PYTHON_DOCS, "embedded", None, None, "this Python's own documentation", "PSF-2.0", None)
    others = [
        Entry(name, "can be fetched", None, None, f"{wanted.repository} ({HUB_SIZES[name]})", wanted.licence, None)
        for name, wanted in HUB_SETS.items()
        if name not in known
    ]
    return [embedded, *here, *others]


def show(name: str, cache: Path | None = None, verify: bool = False) -> dict[str, Any]:
    """The manifest of a corpus that is here: counts, hash, source, licence, revision.

    Args:
        verify: hash every byte as well.

    Raises:
        BadInput: nothing of that name is here.
        Damaged: it is not what was written.
    """
    directory = corpora_directory(cache) / name
    if name == PYTHON_DOCS:
        from palinode.data.python_docs import python_docs_directory

        directory = python_docs_directory(cache)
    elif name not in names(cache):
        fetch = f"`palinode data get {name}`" if name in HUB_NAMES else nearest(name, [PYTHON_DOCS, *names(cache)])
        raise BadInput(f"no corpus named {name!r} is here", field="name", hint=fetch)
    return verify_text_store(directory) if verify else read_manifest(directory)


def find(name: str, cache: Path | None = None) -> Corpus | None:
    """The corpus that was added or fetched under this name, or None.

    Raises:
        Damaged: it is here, but not as it was written.
    """
    if not NAME.fullmatch(name) or not _is_here(corpora_directory(cache) / name):
        return None
    return read_text_store(corpora_directory(cache) / name, name)


def names(cache: Path | None = None) -> list[str]:
    """The names of the corpora that are here, sorted."""
    directory = corpora_directory(cache)
    return sorted(path.parent.name for path in directory.glob(f"*/{MANIFEST}")) if directory.is_dir() else []


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        hint = "letters, digits, '.', '_' and '-', at most 64, not starting with a sign"
        raise BadInput(f"{name!r} cannot name a corpus", field="name", hint=hint)
    if name == PYTHON_DOCS or name in HUB_NAMES:
        raise BadInput(f"{name!r} is the name of a built-in corpus", field="name", hint="choose another")


def _is_here(directory: Path) -> bool:
    return (directory / MANIFEST).is_file()


def _entry(name: str, directory: Path) -> Entry:
    try:
        manifest = read_manifest(directory)
    except Damaged as error:
        return Entry(name, "damaged", None, None, error.message, "unknown", directory)
    source, licence = manifest.get("source", ""), manifest.get("licence", "unknown")
    return Entry(name, "here", manifest["documents"], manifest["characters"], source, licence, directory)
