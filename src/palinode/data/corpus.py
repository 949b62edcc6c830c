"""A corpus: documents in a fixed order, each a stream of pieces, and a fingerprint of the source.

The pieces of a document are text, or arrays of token ids if the corpus is a token file. No corpus is ever in memory as a whole:
`documents()` can be called again and again, and each call streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palinode.data.config import Split

Piece = str | NDArray[np.integer]
PYTHON_DOCS = "python-docs"
TEXT_SEPARATOR = "\n\n"  # between documents; encoded, scored and counted as two bytes, like any other text


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        name: for messages: a file, `file:line`, or a title.
        pieces: a fresh stream of its content, in order; joined, the pieces are the document.
        split: the split that the corpus itself puts it in, or None.
    """

    name: str
    pieces: Callable[[], Iterator[Piece]]
    split: Split | None = None

    @classmethod
    def of(cls, name: str, text: str, split: Split | None = None) -> Document:
        """A document of one piece, small enough to be one string."""
        return cls(name, lambda: iter((text,)), split)

    @property
    def text(self) -> str:
        """The whole text (for tests and small documents)."""
        return "".join(piece for piece in self.pieces() if isinstance(piece, str))


@dataclass(frozen=True)
class Corpus:
    """A source of documents.

    Attributes:
        name: the name as the user wrote it.
        fingerprint: another one whenever the source's bytes, or how they are read, may have changed; part of the name of the
            cached store.
        documents: a fresh stream of the documents, always in the same order.
        separator: the text between two documents of a split.
        holds: "text", or "ids" if the pieces are token ids.
        has_splits: every document has a `split` of the corpus' own.
        source, licence: for people.
        notes: one line each on how the files were read, where a reader may expect something else.
        id_bytes: the fewest bytes of a token id in its .bin files; None for text and .npy.
        leaves_out: files were left out, or read, otherwise than by the rule `files = "all"`.
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
