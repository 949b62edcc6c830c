"""The text store: a corpus as text on disk. Each line of documents.jsonl is one table {"name", "text", "split"}.

A document that comes in pieces has one line for each piece, with "more": true on every line but the last. So neither the writer nor
the reader ever holds a large document in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from palinode.base import fsio
from palinode.base.config import content_hash
from palinode.base.errors import BadInput, Damaged
from palinode.data.cache import MANIFEST, check_sha256, check_size, read_manifest
from palinode.data.config import SPLITS
from palinode.data.corpus import TEXT_SEPARATOR, Corpus, Document

TEXT_STORE_VERSION = 1
DOCUMENTS = "documents.jsonl"


def write_text_store(
    directory: Path, documents: Iterable[Document], facts: Mapping[str, str], separator: str = TEXT_SEPARATOR
) -> dict[str, Any]:
    """Write documents and return the manifest, which is written last.

    Args:
        directory: the folder of the store.
        documents: the documents, in their order.
        facts: further entries of the manifest, such as `source` and `licence`.
        separator: the text between two documents of a split.

    Raises:
        BadInput: the documents have no text.
    """
    digest, count, size, characters, with_split = hashlib.sha256(), 0, 0, 0, 0
    fsio.remove_stray_temporaries(directory)
    with ExitStack() as stack:
        temporary = stack.enter_context(fsio.committed(directory / DOCUMENTS))
        handle = stack.enter_context(open(temporary, "wb"))
        for document in documents:
            for row in _rows(document):
                line = _line(row, document)
                handle.write(line)
                digest.update(line)
                size, characters = size + len(line), characters + len(row["text"])
            count, with_split = count + 1, with_split + (document.split is not None)
        if not characters:
            raise BadInput("holds no text", file=facts.get("source"))
    manifest = {
        "version": TEXT_STORE_VERSION,
        "documents": count,
        "characters": characters,
        "file_bytes": size,
        "sha256": digest.hexdigest(),
        "has_splits": with_split == count,
        "separator": separator,
        **facts,
    }
    fsio.write_json(directory / MANIFEST, manifest)
    return manifest


def read_text_store(directory: Path, name: str) -> Corpus:
    """The corpus in a text store. This function checks only the size of the text; `verify_text_store` checks every byte.

    Raises:
        Damaged: see `text_manifest`.
    """
    manifest = text_manifest(directory)
    return Corpus(
        name=name,
        fingerprint=content_hash([manifest[key] for key in ("version", "sha256", "separator", "has_splits")]),
        documents=lambda: _documents(directory / DOCUMENTS),
        separator=manifest["separator"],
        has_splits=manifest["has_splits"],
        source=manifest.get("source", ""),
        licence=manifest.get("licence", "unknown"),
    )


def text_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a text store.

    Raises:
        Damaged: the manifest or the text is missing, or the text does not have the size that was written.
    """
    keys = ("documents", "file_bytes", "sha256", "has_splits", "separator")
    manifest = read_manifest(directory, "text", TEXT_STORE_VERSION, keys)
    check_size(directory / DOCUMENTS, manifest["file_bytes"])
    return manifest


def verify_text_store(directory: Path) -> dict[str, Any]:
    """Check every byte of a text store against its manifest, and return the manifest.

    Raises:
        Damaged: the content of the store differs from what was written.
    """
    manifest = text_manifest(directory)
    check_sha256(directory / DOCUMENTS, manifest["sha256"])
    return manifest


def _rows(document: Document) -> Iterator[dict[str, Any]]:
    """The lines of a document, one for each piece."""
    last = None
    for piece in document.pieces():
        if last is not None:
            yield {"name": document.name, "text": last, "split": document.split, "more": True}
        last = str(piece)
    yield {"name": document.name, "text": last or "", "split": document.split}


def _line(row: Mapping[str, Any], document: Document) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    except UnicodeEncodeError as error:
        raise BadInput("holds half a surrogate pair, which is not text", file=document.name) from error


def _documents(path: Path) -> Iterator[Document]:
    # For the current document: the byte where it begins, the byte after its last row, and the number of its rows.
    start, end, rows = 0, 0, 0
    with open(path, "rb") as handle:
        for number, line in enumerate(handle, 1):
            row = _row(line, number, path)
            end, rows = end + len(line), rows + 1
            if row.get("more"):
                continue
            if rows == 1:
                yield Document.of(row["name"], row["text"], row["split"])
            else:
                yield Document(row["name"], partial(_parts, path, start, rows), row["split"])
            start, rows = end, 0


def _parts(path: Path, start: int, rows: int) -> Iterator[str]:
    with open(path, "rb") as handle:
        handle.seek(start)
        for _ in range(rows):
            yield str(json.loads(handle.readline())["text"])


def _row(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
        if isinstance(row["name"], str) and isinstance(row["text"], str) and row["split"] in (*SPLITS, None):
            return row
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise Damaged(f"line {number} is not a document", file=str(path))
