"""Local files as corpora: txt, md, jsonl, csv, parquet, token files, and folders of them.

A folder is read as the first of these that it looks like: `*.train.*`-style files (wikitext) or train/val token files,
which bring their own splits; otherwise every readable file below it, sorted by path.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from palinode.base.config import content_hash
from palinode.base.errors import BadInput
from palinode.data.corpus import Corpus
from palinode.data.text_files import READERS

READER_VERSION = 1


def local_corpus(path: Path, name: str) -> Corpus:
    """The corpus in a file or folder.

    Raises:
        BadInput: there is nothing readable at this path.
    """
    files = [path]
    for file in files:
        if file.suffix not in READERS:
            raise BadInput("unknown kind of file", file=str(file))
    hashes = [(file.suffix, _file_sha256(file)) for file in files]

    def documents():
        for file in files:
            yield from READERS[file.suffix](file)

    return Corpus(name, content_hash([READER_VERSION, hashes]), documents, source=path.name)


def _file_sha256(path: Path) -> str:
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", file=str(path)) from error
