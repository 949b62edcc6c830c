"""What text comes as: documents in a fixed order, each read as a stream of pieces, and a fingerprint of the source.

A document's pieces are text, or arrays of token ids when the corpus is a token file. Nothing here holds a corpus in
memory: `documents()` can be called again and again, and each pass streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
