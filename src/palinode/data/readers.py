"""Local files and folders as corpora: txt, md, jsonl, csv, parquet, WikiText's own layout, and files of token ids.

A folder with `wiki.{train,valid,test}.tokens` (or .raw), or with `{train,val,test}.bin`, has its own splits. The first layout that
fits is used. Any other folder is all readable files below it, in the order of their paths.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from palinode.base.config import content_hash
from palinode.base.errors import BadInput
from palinode.data.config import TEST, TRAIN, VALIDATION, Split
from palinode.data.corpus import TEXT_SEPARATOR, Corpus, Document
from palinode.data.manifest import file_sha256
from palinode.data.text_files import READERS, wikitext
from palinode.data.token_files import SUFFIXES, token_file

READER_VERSION = 1  # must be raised when a change makes other documents of the same files
SPLIT_WORDS: dict[str, Split] = {"train": TRAIN, "valid": VALIDATION, "val": VALIDATION, "test": TEST}
# Folders with splits of their own: how file names begin and end, what reads them, and what they hold. WikiText comes at word level
# with <unk> (.tokens) or as raw text; a folder may have both.
SPLIT_LAYOUTS: tuple[tuple[str, tuple[str, ...], Callable[[Path, Split], Iterator[Document]], str], ...] = (
    ("wiki.", (".tokens", ".raw"), wikitext, "text"),
    ("", (".u32.bin", *SUFFIXES), token_file, "ids"),
)
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
        return _split_folder(path, name) or _folder(path, name)
    return _of_files([path], path.name, name)


def _split_folder(folder: Path, name: str) -> Corpus | None:
    """The train file of a layout and its siblings with the same ending, or None."""
    for beginning, endings, read, holds in SPLIT_LAYOUTS:
        for ending in endings:
            if (folder / f"{beginning}train{ending}").is_file():
                files = _split_files(folder, beginning, ending)
                readers = [partial(read, path, split) for path, split in files.items()]
                return _corpus(name, folder.name, list(files), readers, has_splits=True, holds=holds)
    return None


def _split_files(folder: Path, beginning: str, ending: str) -> dict[Path, Split]:
    named = {folder / f"{beginning}{word}{ending}": split for word, split in SPLIT_WORDS.items()}
    files = {path: split for path, split in named.items() if path.is_file()}
    if VALIDATION not in files.values():
        expected = " or ".join(f"{beginning}{word}{ending}" for word in ("val", "valid"))
        raise BadInput(f"has a train file but no {expected}", file=str(folder), field="data.corpus")
    return files


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
        text = next(path for path in files if path not in ids)
        raise BadInput(f"mixes token files ({ids[0].name}) and text files ({text.name})", file=str(files[0].parent))
    readers = [partial(_reader(path), path) for path in files]
    if ids:
        return _corpus(name, source, files, readers, holds="ids")
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
    separator: str = "",
    has_splits: bool = False,
    holds: str = "text",
) -> Corpus:
    hashes = [(path.name, _sha256(path)) for path in files]

    def documents() -> Iterator[Document]:
        for read in readers:
            yield from read()

    fingerprint = content_hash([READER_VERSION, separator, has_splits, hashes])
    return Corpus(name, fingerprint, documents, separator, holds, has_splits, source)


def _sha256(path: Path) -> str:
    """The hash of a file's content: a file with other content is another corpus, whatever its date is.

    Raises:
        BadInput: it is empty, not a regular file, or cannot be read.
    """
    if not path.is_file():
        raise BadInput("is not a regular file", file=str(path), field="data.corpus")
    try:
        if path.stat().st_size == 0:
            raise BadInput("is empty", file=str(path), field="data.corpus")
        return file_sha256(path)
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", file=str(path), field="data.corpus") from error
