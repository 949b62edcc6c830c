"""A corpus kept as text, whatever it was made from: documents.jsonl, one {"name", "text", "split"} a line, and a manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from palinode.base import fsio
from palinode.base.errors import BadInput, Damaged
from palinode.data.config import SPLITS
from palinode.data.corpus import TEXT_SEPARATOR, Corpus, Document

TEXT_STORE_VERSION = 1
MANIFEST, DOCUMENTS = "manifest.json", "documents.jsonl"


def write_text_store(
    directory: Path, documents: Iterable[Document], facts: Mapping[str, str], separator: str = TEXT_SEPARATOR
) -> dict[str, Any]:
    """Write documents (each held as one string) and return the manifest; the manifest is written last.

    Args:
        facts: `source`, `licence`, `fingerprint`, `revision`: what people and caches want to know.

    Raises:
        BadInput: there was no document.
    """
    digest, count, size, given = hashlib.sha256(), 0, 0, 0
    with ExitStack() as stack:
        temporary = stack.enter_context(fsio.committed(directory / DOCUMENTS))
        handle = stack.enter_context(open(temporary, "wb"))
        for document in documents:
            row = {"name": document.name, "text": document.text, "split": document.split}
            line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            handle.write(line)
            digest.update(line)
            count, size, given = count + 1, size + len(line), given + (document.split is not None)
        if not count:
            raise BadInput("holds no text", file=facts.get("source"))
    manifest = {
        "version": TEXT_STORE_VERSION,
        "documents": count,
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
        fingerprint=f"text-store/{manifest['sha256']}",
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


def _documents(path: Path) -> Iterator[Document]:
    with open(path, "rb") as handle:
        for number, line in enumerate(handle, 1):
            try:
                row = json.loads(line)
                name, text, split = row["name"], row["text"], row["split"]
            except (ValueError, KeyError, TypeError) as error:
                raise Damaged(f"line {number} is not a document", file=str(path)) from error
            if not isinstance(text, str) or split not in (*SPLITS, None):
                raise Damaged(f"line {number} is not a document", file=str(path))
            yield Document.of(name, text, split)
