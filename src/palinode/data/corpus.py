"""A corpus: documents in a fixed order, and a fingerprint of the source. Each document is a stream of pieces.

The pieces of a document are text, or arrays of token ids if the corpus is a token file. A corpus is never in memory as a whole:
`documents()` can be called many times, and each call gives a new stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palinode.data.config import Split

Piece = str | NDArray[np.integer]
PYTHON_DOCS = "python-docs"
TEXT_SEPARATOR = "\n\n"  # the text between documents: two bytes, encoded, scored and counted like any other text


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        name: the name of the document in messages: a file, `file:line`, or a title.
        pieces: a function that returns a new stream of the pieces; joined in order, the pieces are the document.
        split: the split in which the corpus puts the document; None if the corpus has no splits.
    """

    name: str
    pieces: Callable[[], Iterator[Piece]]
    split: Split | None = None

    @classmethod
    def of(cls, name: str, text: str, split: Split | None = None) -> Document:
        """A document with one piece; its text must be small enough for one string."""
        return cls(name, lambda: iter((text,)), split)

    @property
    def text(self) -> str:
        """The whole text of the document as one string; only tests and small documents use this property."""
        return "".join(piece for piece in self.pieces() if isinstance(piece, str))


@dataclass(frozen=True)
class Corpus:
    """A source of documents.

    Attributes:
        name: the name of the corpus, as the user wrote it.
        fingerprint: a hash that changes whenever the bytes of the source, or the rules of reading, may have changed; the hash is
            part of the name of the cached store.
        documents: a function that returns a new stream of the documents, always in the same order.
        separator: the text between two documents of a split.
        holds: the kind of the pieces: "text", or "ids" for token ids.
        has_splits: whether the corpus puts every document in a split.
        source: a description of the source in words.
        licence: the name of the licence of the text.
        notes: notes of one line each, about files that Palinode reads in a way that a user may not expect.
        id_bytes: the smallest number of bytes of a token id in the .bin files of the corpus; None for text and .npy files.
        leaves_out: whether the rule `files = "all"` would choose other files for this corpus.
    """

    name: str
    fingerprint: str
    documents: Callable[[], Iterator[Document]]
    separator: str = TEXT_SEPARATOR
    holds: str = "text"
    has_splits: bool = False
    source: str = ""
    licence: str = "unknown"
    notes: tuple[str, ...] = ()
    leaves_out: bool = False
    id_bytes: int | None = None
