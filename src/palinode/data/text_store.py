"""A corpus kept as text, whatever it was made from: documents.jsonl, one {"name", "text", "split"} a line, and a manifest.

A document that came in pieces keeps them as rows in a row ("more": true on all but the last), so that neither writing nor
reading ever holds a large document.
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
from palinode.data.config import SPLITS
from palinode.data.corpus import TEXT_SEPARATOR, Corpus, Document

TEXT_STORE_VERSION = 1
MANIFEST, DOCUMENTS = "manifest.json", "documents.jsonl"


def write_text_store(
    directory: Path, documents: Iterable[Document], facts: Mapping[str, str], separator: str = TEXT_SEPARATOR
) -> dict[str, Any]:
    """Write documents and return the manifest, which is written last.

    Args:
        facts: `source`, `licence`, and what else people or caches want to know.

    Raises:
        BadInput: there was no document.
    """
    digest, count, size, characters, given = hashlib.sha256(), 0, 0, 0, 0
    fsio.remove_stray_temporaries(directory)
    with ExitStack() as stack:
        temporary = stack.enter_context(fsio.committed(directory / DOCUMENTS))
        handle = stack.enter_context(open(temporary, "wb"))
        for document in documents:
            for row in _rows(document):
                line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
                handle.write(line)
                digest.update(line)
                size, characters = size + len(line), characters + len(row["text"])
            count, given = count + 1, given + (document.split is not None)
        if not characters:
            raise BadInput("holds no text", file=facts.get("source"))
    manifest = {
        "version": TEXT_STORE_VERSION,
        "documents": count,
        "characters": characters,
        "file_bytes": size,
        "sha256": digest.hexdigest(),
        "has_splits": given == count,
        "separator": separator,
        **facts,
    }
    fsio.write_json(directory / MANIFEST, manifest)
    return manifest


def read_text_store(directory: Path, name: str) -> Corpus:
    """The corpus in a text store; its size is checked now, its hash by `verify_text_store`.

    Raises:
        Damaged: the manifest or the text is missing, or not of the size that was written.
    """
    manifest = read_manifest(directory)
    return Corpus(
        name=name,
        fingerprint=content_hash(
            [manifest["version"], manifest["sha256"], manifest["separator"], manifest["has_splits"]]
        ),
        documents=lambda: _documents(directory / DOCUMENTS),
        separator=manifest["separator"],
        has_splits=manifest["has_splits"],
        source=manifest.get("source", ""),
        licence=manifest.get("licence", "unknown"),
    )


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a text store, checked against the size of its file."""
    manifest = fsio.read_json(directory / MANIFEST)
    needed = {"version", "documents", "file_bytes", "sha256", "has_splits", "separator"}
    if not isinstance(manifest, dict) or not needed <= manifest.keys() or manifest["version"] != TEXT_STORE_VERSION:
        raise Damaged("is not the manifest of a text store of this version", file=str(directory / MANIFEST))
    path = directory / DOCUMENTS
    size = path.stat().st_size if path.is_file() else -1
    if size != manifest["file_bytes"]:
        raise Damaged(f"has {size} bytes, {manifest['file_bytes']} were written", file=str(path))
    return manifest


def verify_text_store(directory: Path) -> dict[str, Any]:
    """Check every byte of a text store against its manifest, and return the manifest.

    Raises:
        Damaged: the content is not what was written.
    """
    manifest = read_manifest(directory)
    with open(directory / DOCUMENTS, "rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != manifest["sha256"]:
        raise Damaged(f"sha256 is {found[:12]}, {manifest['sha256'][:12]} was written", file=str(directory / DOCUMENTS))
    return manifest


def _rows(document: Document) -> Iterator[dict[str, Any]]:
    """One row, or for a document that comes in pieces one row each; all but the last say that more follows."""
    held = None
    for piece in document.pieces():
        if held is not None:
            yield {"name": document.name, "text": held, "split": document.split, "more": True}
        held = str(piece)
    yield {"name": document.name, "text": held or "", "split": document.split}


def _documents(path: Path) -> Iterator[Document]:
    start, end, rows = 0, 0, 0  # where the current document begins, where its last row ends, and how many it has
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
        row = json.loads(line)
        sound = isinstance(row["name"], str) and isinstance(row["text"], str) and row["split"] in (*SPLITS, None)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"line {number} is not a document", file=str(path)) from error
    if not sound:
        raise Damaged(f"line {number} is not a document", file=str(path))
    checked: dict[str, Any] = row
    return checked
