"""Reads minimal pairs and last words. A minimal pair is two sentences that differ in one place.

Read are .jsonl files, folders of them and .zip files of them, as BLiMP (arXiv 1912.00582) is published. Each line has the keys
`sentence_good` and `sentence_bad`, and may have `field` and `UID`, the name of the paradigm; without `UID` the name of the file is
the name of the paradigm. In a folder or a zip, a file without any such line is left out: the repository of BLiMP also has a file of
results. BLiMP writes one of its fields as `syntax/semantics`, `syntax_semantics` and `syntax-semantics`: here they are one.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from palinode.base.errors import BadInput
from palinode.data.cache import data_path

GOOD, BAD, TEXT = "sentence_good", "sentence_bad", "text"
BLIMP_PREFIX = "blimp:"
SUFFIX, ZIP = ".jsonl", ".zip"
APPLE_FOLDER = "__MACOSX"  # the folder that macOS adds to zip files: its .jsonl files hold no pairs
LARGEST_BYTES = 2**30  # of all files together; BLiMP has 35 MB


class Pair(NamedTuple):
    """A good sentence and a bad one, with their paradigm and its field."""

    field: str
    paradigm: str
    good: str
    bad: str


def read_pairs(name: str, field: str = "pairs") -> list[Pair]:
    """The pairs of a file, a folder or a zip file, in the order of the names of the files.

    Args:
        name: a path, or a path below $PALINODE_DATA after `data:`. `blimp:` before it is allowed.
        field: the setting that named it, for errors.

    Raises:
        BadInput: there are no pairs there, or a line is not a pair. The error names the file and the line.
    """
    path, pairs = _path(name, field), list[Pair]()
    is_one = path.is_file() and path.suffix.lower() != ZIP
    for file, content in _contents(path, field):
        rows = list(json_rows(file, content, field))
        if is_one or any(isinstance(row, dict) and {GOOD, BAD} & row.keys() for _, row in rows):
            pairs += _pairs_of(file, rows, field)
    if not pairs:
        raise BadInput(f"no {SUFFIX} with {GOOD} and {BAD}", file=name, field=field)
    return pairs


def read_last_words(name: str, field: str = "last_word") -> list[str]:
    """The texts of a .jsonl file with the key `text`, as LAMBADA (arXiv 1606.06031) is published, or of a folder or zip of them.

    Raises:
        BadInput: there are no texts there, or a line has none. The error names the file and the line.
    """
    texts = []
    for file, content in _contents(_path(name, field), field):
        for number, row in json_rows(file, content, field):
            if not isinstance(row, dict) or not isinstance(row.get(TEXT), str) or not row[TEXT].strip():
                raise BadInput(f"line {number} has no {TEXT}", file=file, field=field)
            texts.append(row[TEXT])
    if not texts:
        raise BadInput(f"no {SUFFIX} with {TEXT}", file=name, field=field)
    return texts


def lines_sha256(name: str, field: str = "pairs") -> str:
    """The hash of what `read_pairs` or `read_last_words` reads.

    Raises:
        BadInput: there is nothing to read.
    """
    digest = hashlib.sha256()
    for file, content in _contents(_path(name, field), field):
        digest.update(f"{PurePosixPath(file).name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _path(name: str, field: str) -> Path:
    path = data_path(name.removeprefix(BLIMP_PREFIX), field)
    if path is None or not path.exists():
        raise BadInput("no such file or folder", file=name, field=field)
    return path


def _contents(path: Path, field: str) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every .jsonl file, sorted by name."""
    if path.suffix.lower() == ZIP:
        try:
            with zipfile.ZipFile(path) as archive:
                _check_size(path, sum(member.file_size for member in archive.infolist()), field)
                for name in sorted(archive.namelist()):
                    if _holds_pairs(PurePosixPath(name)):
                        yield f"{path}: {name}", archive.read(name)
        except (
            zipfile.BadZipFile,
            zlib.error,
            OSError,
            RuntimeError,
        ) as error:  # RuntimeError: encrypted, or a new format
            raise BadInput(f"is no zip file that can be read: {error}", file=str(path), field=field) from None
        return
    files = (
        [one for one in sorted(path.rglob(f"*{SUFFIX}")) if _holds_pairs(one.relative_to(path))]
        if path.is_dir()
        else [path]
    )
    try:
        _check_size(path, sum(file.stat().st_size for file in files), field)
        for file in files:
            yield str(file), file.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", file=str(path), field=field) from None


def _holds_pairs(place: Path | PurePosixPath) -> bool:
    is_hidden = APPLE_FOLDER in place.parts or any(part.startswith(".") for part in place.parts)
    return place.suffix == SUFFIX and not is_hidden


def _check_size(path: Path, size: int, field: str) -> None:
    if size > LARGEST_BYTES:
        raise BadInput(
            f"has {size:,} bytes of text, and at most {LARGEST_BYTES:,} are read", file=str(path), field=field
        )


def _pairs_of(file: str, rows: Iterable[tuple[int, Any]], field: str) -> Iterator[Pair]:
    for number, row in rows:
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in (GOOD, BAD)):
            raise BadInput(f"line {number} has no {GOOD} and {BAD}", file=file, field=field)
        paradigm = str(row.get("UID") or PurePosixPath(file.rpartition(": ")[2]).stem)
        part = str(row.get("field") or "").replace("/", "_").replace("syntax-semantics", "syntax_semantics")
        yield Pair(part, paradigm, row[GOOD], row[BAD])


def json_rows(file: str, content: bytes, field: str) -> Iterator[tuple[int, Any]]:
    """(line number, JSON value) of every line that is not blank.

    Raises:
        BadInput: a line is not JSON. The error names the file and the line.
    """
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise BadInput(f"line {number} is not JSON: {type(error).__name__}", file=file, field=field) from None
        yield number, row
