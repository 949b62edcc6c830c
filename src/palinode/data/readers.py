"""Local files and folders as corpora: txt, md, jsonl, csv, parquet, WikiText's own layout, and files of token ids.

A folder is read as the first of these that it is: `wiki.{train,valid,test}.tokens` (or .raw), or `{train,val,test}.bin`,
which bring their own splits; otherwise every readable file below it, in the order of their paths.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from palinode.base.config import content_hash
from palinode.base.errors import BadInput
from palinode.data.config import TEST, TRAIN, VALIDATION, Split
from palinode.data.corpus import TEXT_SEPARATOR, Corpus, Document
from palinode.data.text_files import READERS, wikitext
from palinode.data.token_files import SUFFIXES, token_file

READER_VERSION = 1  # raised when the same files would give other documents
SPLIT_WORDS: dict[str, Split] = {"train": TRAIN, "valid": VALIDATION, "val": VALIDATION, "test": TEST}
WIKITEXT_ENDINGS = (".tokens", ".raw")  # word level with <unk>, or raw text; a folder may hold both
READABLE = (*READERS, *SUFFIXES)

Reader = Callable[[], Iterator[Document]]


def local_corpus(path: Path, name: str) -> Corpus:
    """The corpus in a file or folder.

    Raises:
        BadInput: there is nothing readable at this path.
    """
    if not path.exists():
        raise BadInput("no such file or folder", file=str(path), field="data.corpus")
    if path.is_dir():
        return _wikitext_folder(path, name) or _token_folder(path, name) or _folder(path, name)
    return _of_files([path], path.name, name)


def _wikitext_folder(folder: Path, name: str) -> Corpus | None:
    """`wiki.train.tokens` and its siblings (those that end like the train file), or None."""
    for ending in WIKITEXT_ENDINGS:
        if (folder / f"wiki.train{ending}").is_file():
            found = _split_files(folder, "wiki.", ending)
            readers = [partial(wikitext, path, split) for path, split in found]
            return _corpus(name, folder.name, [path for path, _ in found], readers, separator="", has_splits=True)
    return None


def _token_folder(folder: Path, name: str) -> Corpus | None:
    """`train.bin` and its siblings, or None."""
    for ending in (".u32.bin", *SUFFIXES):
        if (folder / f"train{ending}").is_file():
            found = _split_files(folder, "", ending)
            readers = [partial(token_file, path, split) for path, split in found]
            paths = [path for path, _ in found]
            return _corpus(name, folder.name, paths, readers, separator="", has_splits=True, holds="ids")
    return None


def _split_files(folder: Path, before: str, ending: str) -> list[tuple[Path, Split]]:
    named = [(folder / f"{before}{word}{ending}", split) for word, split in SPLIT_WORDS.items()]
    found = [(path, split) for path, split in named if path.is_file()]
    if VALIDATION not in {split for _, split in found}:
        expected = " or ".join(f"{before}{word}{ending}" for word in ("val", "valid"))
        raise BadInput(f"has a train file but no {expected}", file=str(folder), field="data.corpus")
    return found


def _folder(folder: Path, name: str) -> Corpus:
    files = []
    for parent, folders, names in os.walk(folder):  # does not follow links to folders: no loops
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        files += [Path(parent, each) for each in names if Path(each).suffix in READABLE and not each.startswith(".")]
    files.sort(key=lambda path: path.relative_to(folder).parts)
    if not files:
        raise BadInput(f"holds no {', '.join(READABLE)} file", file=str(folder), field="data.corpus")
    return _of_files(files, folder.name, name)


def _of_files(files: list[Path], source: str, name: str) -> Corpus:
    """A corpus of files of text, or of files of token ids."""
    ids = [path for path in files if path.suffix in SUFFIXES]
    if ids and len(ids) < len(files):
        other = next(path for path in files if path not in ids)
        raise BadInput(f"mixes token files ({ids[0].name}) and text files ({other.name})", file=str(files[0].parent))
    readers = [partial(_reader(path), path) for path in files]
    if ids:
        return _corpus(name, source, files, readers, separator="", holds="ids")
    return _corpus(name, source, files, readers, separator=TEXT_SEPARATOR)


def _reader(path: Path) -> Callable[[Path], Iterator[Document]]:
    if path.suffix in SUFFIXES:
        return token_file
    if path.suffix not in READERS:
        hint = f"valid: {', '.join(READABLE)}"
        raise BadInput(f"unknown kind of file {path.suffix!r}", file=str(path), field="data.corpus", hint=hint)
    return READERS[path.suffix]


def _corpus(
    name: str,
    source: str,
    files: list[Path],
    readers: Sequence[Reader],
    *,
    separator: str,
    has_splits: bool = False,
    holds: str = "text",
) -> Corpus:
    hashes = [(path.name, _file_sha256(path)) for path in files]

    def documents() -> Iterator[Document]:
        for read in readers:
            yield from read()

    fingerprint = content_hash([READER_VERSION, separator, has_splits, hashes])
    return Corpus(name, fingerprint, documents, separator, holds, has_splits, source)


def _file_sha256(path: Path) -> str:
    """The hash of a file's content: a changed file is another corpus, whatever its date says.

    Raises:
        BadInput: it is empty, not a regular file, or cannot be read.
    """
    if not path.is_file():
        raise BadInput("is not a regular file", file=str(path), field="data.corpus")
    try:
        if path.stat().st_size == 0:
            raise BadInput("is empty", file=str(path), field="data.corpus")
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", file=str(path), field="data.corpus") from error
