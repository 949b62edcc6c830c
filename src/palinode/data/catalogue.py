"""Finds a corpus by its name: the embedded corpus, a corpus that a user added or fetched, or the path of a file or folder."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palinode.base.errors import BadInput, Damaged, EnvironmentProblem, nearest
from palinode.data import novels as eltec
from palinode.data.cache import MANIFEST, corpora_directory, data_path
from palinode.data.corpus import PYTHON_DOCS, Corpus
from palinode.data.hub import HUB_SETS, hub_documents
from palinode.data.python_docs import python_docs, python_docs_directory
from palinode.data.readers import Reading, local_corpus
from palinode.data.text_store import read_text_store, text_manifest, verify_text_store, write_text_store

LOG = logging.getLogger("palinode")
FETCHED = (*HUB_SETS, eltec.NOVELS)  # the corpora that `palinode data get` fetches
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def find_corpus(name: str, cache: Path | None = None, reading: Reading | None = None) -> Corpus:
    """The corpus that a config names: the embedded corpus, a corpus that was added or fetched by name, or the files of a path.

    Raises:
        BadInput: no corpus has this name, or its files cannot be read; the error names file and line.
        Damaged: the stored text differs from what was written.
        EnvironmentProblem: a Hugging Face data set was not fetched yet, or a name begins with `data:` and $PALINODE_DATA is not
            set.
    """
    is_here = bool(NAME.fullmatch(name)) and _is_here(corpora_directory(cache) / name)
    if (name == PYTHON_DOCS or is_here) and reading and reading.options:
        message = "the text was read when it was added: text_field, encoding and document_separator are for files"
        raise BadInput(message, file=name, field="data.corpus", hint="`palinode data add` has the same options")
    if name == PYTHON_DOCS:
        return python_docs(cache)
    if is_here:
        return read_text_store(corpora_directory(cache) / name, name)
    if path := data_path(name, "data.corpus"):
        return local_corpus(path, name, reading)
    if name in FETCHED:
        # Only a user's command fetches a set: a run must not need a network, and each process of a sweep would fetch the set.
        raise EnvironmentProblem(
            f"{name} is not on this machine", field="data.corpus", hint=f"`palinode data get {name}`"
        )
    valid = [PYTHON_DOCS, *FETCHED, *names(cache)]
    hint = nearest(name, valid) or "a path, or a name from `palinode data ls`"
    raise BadInput(f"no corpus named {name!r}, and no such file", field="data.corpus", hint=hint)


@dataclass(frozen=True)
class Entry:
    """A line of `palinode data ls`: a corpus that has a name.

    Attributes:
        name: the name of the corpus, which is a value of `data.corpus`.
        state: the state of the corpus: "embedded", "here", "can be fetched" or "damaged".
        source: a description of the source in words.
        licence: the name of the licence of the text.
        documents, characters: the numbers of documents and characters; None if the corpus is not on this machine.
        directory: the folder of the corpus; None if there is none.
    """

    name: str
    state: str
    source: str
    licence: str
    documents: int | None = None
    characters: int | None = None
    directory: Path | None = None


def add(path: Path | str, name: str, cache: Path | None = None, reading: Reading | None = None) -> Entry:
    """Store the text of a file or folder under a name. If the same text already has this name, nothing changes.

    Args:
        path: the file or folder.
        name: the name that the corpus gets.
        cache: the folder of stores; None for the default folder.
        reading: the options for reading the files.

    Raises:
        BadInput: the name is not allowed or belongs to another text, or the files cannot be read.
    """
    _check_name(name)
    corpus = local_corpus(Path(path).expanduser(), str(path), reading)
    if corpus.holds != "text":
        raise BadInput("token files are not copied", file=str(path), hint="name their path in data.corpus")
    directory = corpora_directory(cache) / name
    if _is_here(directory):
        if show(name, cache).get("fingerprint") == corpus.fingerprint:
            return _entry(name, directory)
        raise BadInput(f"{name!r} is already the name of another corpus", field="name", hint=f"delete {directory}")
    facts = {"source": corpus.source, "licence": corpus.licence, "fingerprint": corpus.fingerprint}
    try:
        write_text_store(directory, corpus.documents(), facts, corpus.separator)
    except BadInput:
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
        raise
    for note in corpus.notes:
        LOG.warning("%s: %s", path, note)
    return _entry(name, directory)


def get(name: str, cache: Path | None = None, source: Path | None = None, max_characters: int | None = None) -> Entry:
    """Download a data set at its fixed revision. If the data set is on this machine, nothing changes.

    Args:
        name: the short name of the data set.
        cache: the folder of stores; None for the default folder.
        source: the folder of a local copy of the repository; None to use the network.
        max_characters: the train split ends with the document that reaches this number of characters; None for no limit.

    Raises:
        BadInput: the name is unknown, or the local copy does not contain the data set.
        EnvironmentProblem: `datasets` is not installed, or there is no network.
    """
    if name not in FETCHED:
        raise BadInput(f"no data set named {name!r} to fetch", field="name", hint=nearest(name, FETCHED))
    directory = corpora_directory(cache) / name
    if _is_here(directory):
        return _entry(name, directory)
    if name == eltec.NOVELS:
        if max_characters is not None:
            raise BadInput(f"{name} is fetched whole", field="--limit-characters")
        facts = {"source": f"{eltec.REPOSITORY} {eltec.RELEASE}", "licence": eltec.LICENCE}
        write_text_store(directory, eltec.novel_documents(source), facts)
    else:
        hub_set = HUB_SETS[name]
        facts = {
            "source": f"{hub_set.repository} {hub_set.configuration or ''}".strip(),
            "licence": hub_set.licence,
            "revision": f"local copy {source.name}" if source else hub_set.revision,
            "limit_characters": str(max_characters),
        }
        documents = hub_documents(name, hub_set, source, max_characters)
        write_text_store(directory, documents, facts, hub_set.separator)
    return _entry(name, directory)


def entries(cache: Path | None = None) -> list[Entry]:
    """Every corpus that has a name: the embedded corpus, the corpora on this machine, and the corpora that can be fetched."""
    here = names(cache)
    fetchable = [
        Entry(name, "can be fetched", f"{hub_set.repository} ({hub_set.size})", hub_set.licence)
        for name, hub_set in HUB_SETS.items()
        if name not in here
    ]
    if eltec.NOVELS not in here:
        source = f"{eltec.REPOSITORY} ({eltec.SIZE})"
        fetchable.append(Entry(eltec.NOVELS, "can be fetched", source, eltec.LICENCE))
    embedded = Entry(PYTHON_DOCS, "embedded", "this Python's own documentation", "PSF-2.0")
    return [embedded, *(_entry(name, corpora_directory(cache) / name) for name in here), *fetchable]


def show(name: str, cache: Path | None = None, verify: bool = False) -> dict[str, Any]:
    """The manifest of a corpus on this machine: counts, hash, source, licence, revision.

    Args:
        name: the name of the corpus.
        cache: the folder of stores; None for the default folder.
        verify: whether every byte of the corpus is checked too.

    Raises:
        BadInput: this machine has no corpus of that name.
        Damaged: the stored corpus differs from what was written.
    """
    directory = corpora_directory(cache) / name
    if name == PYTHON_DOCS:
        directory = python_docs_directory(cache)
    elif name not in names(cache):
        hint = f"`palinode data get {name}`" if name in FETCHED else nearest(name, [PYTHON_DOCS, *names(cache)])
        raise BadInput(f"no corpus named {name!r} is here", field="name", hint=hint)
    return verify_text_store(directory) if verify else text_manifest(directory)


def names(cache: Path | None = None) -> list[str]:
    """The names of the stored corpora on this machine, sorted."""
    directory = corpora_directory(cache)
    return sorted(path.parent.name for path in directory.glob(f"*/{MANIFEST}")) if directory.is_dir() else []


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        hint = "at most 64 letters, digits, '.', '_' and '-'; the first is a letter or a digit"
        raise BadInput(f"{name!r} cannot name a corpus", field="name", hint=hint)
    if name == PYTHON_DOCS or name in FETCHED:
        raise BadInput(f"{name!r} is the name of a built-in corpus", field="name", hint="choose another")


def _is_here(directory: Path) -> bool:
    return (directory / MANIFEST).is_file()


def _entry(name: str, directory: Path) -> Entry:
    try:
        manifest = text_manifest(directory)
    except Damaged as error:
        return Entry(name, "damaged", error.message, "unknown", directory=directory)
    source, licence = manifest.get("source", ""), manifest.get("licence", "unknown")
    return Entry(name, "here", source, licence, manifest["documents"], manifest["characters"], directory)
