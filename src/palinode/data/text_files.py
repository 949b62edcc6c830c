"""Text files as documents, in bounded memory, with the place of whatever is wrong with them."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from pathlib import Path

from palinode.base.errors import BadInput
from palinode.data.corpus import Document

READ_BYTES = 1 << 20


def plain_text(path: Path) -> Iterator[Document]:
    """A text file is one document, read in pieces of 1 MiB."""
    yield Document(str(path), lambda: _decoded(path))


def _decoded(path: Path) -> Iterator[str]:
    """UTF-8 text in pieces; a byte order mark is dropped, line ends are kept as they are."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    done = 0
    with open(path, "rb") as handle:
        while True:
            content = handle.read(READ_BYTES)
            try:
                text = decoder.decode(content, final=not content)
            except UnicodeDecodeError as error:
                raise BadInput(f"is not UTF-8 text (near byte {done + error.start})", file=str(path)) from error
            if "\0" in text:
                raise BadInput(f"holds a NUL (after byte {done}): not a text file", file=str(path))
            done += len(content)
            if text:
                yield text
            if not content:
                return


READERS: dict[str, Callable[[Path], Iterator[Document]]] = {".txt": plain_text, ".md": plain_text}
