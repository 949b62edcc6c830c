"""Where text comes from: documents in a fixed order, each read as a stream of pieces, and a fingerprint of the source.

A document's pieces are text, or arrays of token ids when the corpus is a token file. Nothing here holds a corpus in
memory: `documents()` can be called again and again, and each pass streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palinode.base.errors import BadInput, EnvironmentProblem, nearest
from palinode.data.cache import data_path
from palinode.data.config import Split

Piece = str | NDArray[np.integer]
PYTHON_DOCS = "python-docs"
HUB_NAMES = ("wikitext-2", "wikitext-103", "tinystories", "fineweb-edu")
TEXT_SEPARATOR = "\n\n"  # between documents; it is encoded, scored and counted as two bytes like any other text


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        name: where it is, for messages: a file, `file:line`, or a title.
        pieces: a fresh stream of its content, in order; joined, they are the document.
        split: the split the corpus itself puts it in, or None.
    """

    name: str
    pieces: Callable[[], Iterator[Piece]]
    split: Split | None = None

    @classmethod
    def of(cls, name: str, text: str, split: Split | None = None) -> Document:
        """A document small enough to be held as one string."""
        return cls(name, lambda: iter((text,)), split)

    @property
    def text(self) -> str:
        """The whole text (for tests and small documents)."""
        return "".join(piece for piece in self.pieces() if isinstance(piece, str))


@dataclass(frozen=True)
class Corpus:
    """A source of documents.

    Attributes:
        name: as the user wrote it.
        fingerprint: changes whenever the source's bytes or the way they are read may have changed; names the cached store.
        documents: a fresh stream of the documents, always in the same order.
        separator: the text between two documents of a split.
        holds: "text", or "ids" when the pieces are token ids.
        has_splits: every document says which split it belongs to.
        source, licence: for people.
    """

    name: str
    fingerprint: str
    documents: Callable[[], Iterator[Document]]
    separator: str = TEXT_SEPARATOR
    holds: str = "text"
    has_splits: bool = False
    source: str = ""
    licence: str = "unknown"


def find_corpus(name: str, cache: Path | None = None) -> Corpus:
    """The corpus a config names: embedded, added or fetched by name, a path, or a Hugging Face set (fetched before).

    Raises:
        BadInput: no such corpus, or its files cannot be read as one (file and line named).
        EnvironmentProblem: a Hugging Face set that was not fetched yet.
    """
    from palinode.data import catalogue  # the doors below open only when their kind of corpus is asked for

    if name == PYTHON_DOCS:
        from palinode.data.python_docs import python_docs

        return python_docs(cache)
    if added := catalogue.find(name, cache):
        return added
    if path := data_path(name, "data.corpus"):
        from palinode.data.readers import local_corpus

        return local_corpus(path, name)
    if name in HUB_NAMES:
        # Never fetched behind the user's back: a sweep would do it once per process, and a run would need a network.
        raise EnvironmentProblem(
            f"{name} is not on this machine", field="data.corpus", hint=f"`palinode data get {name}`"
        )
    known = [PYTHON_DOCS, *HUB_NAMES, *catalogue.names(cache)]
    hint = nearest(name, known) or "a path, or a name from `palinode data ls`"
    raise BadInput(f"no corpus named {name!r}, and no such file", field="data.corpus", hint=hint)
