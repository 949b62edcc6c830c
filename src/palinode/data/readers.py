"""Local files and folders as corpora, in bounded memory: txt, md, jsonl, csv, parquet, WikiText's own layout, files of token ids.

A folder with `wiki.{train,valid,test}.tokens` (or .raw), or with `{train,val,test}.bin`, has its own splits. The first layout that
fits is used. Any other folder is all readable files below it, in the order of their paths. Every error names the file and the line.

Files of token ids are nanoGPT's header-free .bin, the .bin with a header of llm.c and modded-nanogpt, and .npy. A .bin holds
little-endian uint16, or uint32 if its name ends in `.u32.bin`. The file does not say what the ids mean, so `data.tokenizer` must:
the tokenizer that wrote the file (`gpt2`, a path), or `ids:<vocabulary size>` if it is not here. Each file is one document.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palinode.base.config import content_hash
from palinode.base.errors import BadInput
from palinode.data.cache import file_sha256
from palinode.data.config import TEST, TRAIN, VALIDATION, Split
from palinode.data.corpus import TEXT_SEPARATOR, Corpus, Document

READER_VERSION = 1  # must be raised when a change makes other documents of the same files
SPLIT_WORDS: dict[str, Split] = {"train": TRAIN, "valid": VALIDATION, "val": VALIDATION, "test": TEST}
TEXT_FIELD = "text"  # the column or key that holds a document
READ_BYTES = 1 << 20
PARQUET_ROWS = 4096  # read at a time
LONGEST_LINE_BYTES = 1 << 28  # of a jsonl file; a file with a longer line is of another kind
LONGEST_CSV_FIELD_CHARACTERS = 1 << 28  # the csv module's own limit, 131,072, is shorter than many documents
WIKITEXT_TITLE = re.compile(r"^ = [^=](.*[^=])? = \n?$")  # sections have two or more equals signs
TOKEN_SUFFIXES = (".bin", ".npy")
READ_TOKENS = 1 << 20
HEADER_MAGIC = 20240520  # llm.c and modded-nanogpt: 256 int32 with magic, version, count; then uint16
HEADER_VERSION = 1
HEADER_BYTES = 256 * 4


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
    for beginning, ending, read, holds in SPLIT_LAYOUTS:
        if not (folder / f"{beginning}train{ending}").is_file():
            continue
        named = {folder / f"{beginning}{word}{ending}": split for word, split in SPLIT_WORDS.items()}
        files = {path: split for path, split in named.items() if path.is_file()}
        _refuse_links_out(folder, list(files))
        if VALIDATION not in files.values():
            expected = " or ".join(f"{beginning}{word}{ending}" for word in ("val", "valid"))
            raise BadInput(f"has a train file but no {expected}", file=str(folder), field="data.corpus")
        readers = {path: partial(read, path, split) for path, split in files.items()}
        return _corpus(name, folder.name, readers, has_splits=True, holds=holds)
    return None


def _folder(folder: Path, name: str) -> Corpus:
    files = []
    for parent, folders, names in os.walk(folder):  # does not follow links to folders: no loops
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        _refuse_links_out(folder, [Path(parent, each) for each in folders])
        files += [Path(parent, each) for each in names if Path(each).suffix in READERS and not each.startswith(".")]
    _refuse_links_out(folder, files)
    files.sort(key=lambda path: path.relative_to(folder).parts)
    if not files:
        raise BadInput(f"holds no {', '.join(READERS)} file", file=str(folder), field="data.corpus")
    return _of_files(files, folder.name, name)


def _refuse_links_out(folder: Path, paths: list[Path]) -> None:
    """Refuse a link that leads out of the folder: the folder may come from a stranger, and the file it names may be private.

    The snapshots of a hub's cache are links to its `blobs`, which stand next to `snapshots`.

    Raises:
        BadInput: naming the link.
    """
    root = Path(os.path.realpath(folder))
    inside = [root, *(parent.parent / "blobs" for parent in root.parents if parent.name == "snapshots")]
    for path in paths:
        target = Path(os.path.realpath(path))
        if path.is_symlink() and not any(target.is_relative_to(place) for place in inside):
            hint = "copy the file into the folder, or take the link away"
            message = f"is a link to {target}, outside of {folder.name}"
            raise BadInput(message, file=str(path), field="data.corpus", hint=hint)


def _of_files(files: list[Path], source: str, name: str) -> Corpus:
    """A corpus of files of text, or of files of token ids."""
    ids = [path for path in files if path.suffix in TOKEN_SUFFIXES]
    if ids and len(ids) < len(files):
        text = next(path for path in files if path not in ids)
        raise BadInput(f"mixes token files ({ids[0].name}) and text files ({text.name})", file=str(files[0].parent))
    readers = {path: partial(_reader(path), path) for path in files}
    if ids:
        return _corpus(name, source, readers, holds="ids")
    return _corpus(name, source, readers, separator=TEXT_SEPARATOR)


def _reader(path: Path) -> Callable[[Path], Iterator[Document]]:
    if path.suffix not in READERS:
        hint = f"valid: {', '.join(READERS)}"
        raise BadInput(f"unknown kind of file {path.suffix!r}", file=str(path), field="data.corpus", hint=hint)
    return READERS[path.suffix]


def _corpus(
    name: str,
    source: str,
    readers: Mapping[Path, Callable[[], Iterator[Document]]],
    *,
    separator: str = "",
    has_splits: bool = False,
    holds: str = "text",
) -> Corpus:
    """The documents of all files, in the order of `readers`."""
    hashes = [(path.name, _sha256(path)) for path in readers]
    fingerprint = content_hash([READER_VERSION, separator, has_splits, hashes])
    return Corpus(
        name,
        fingerprint,
        lambda: itertools.chain.from_iterable(read() for read in readers.values()),
        separator,
        holds,
        has_splits,
        source,
    )


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


def plain_text(path: Path) -> Iterator[Document]:
    """A text file is one document, read in pieces of 1 MiB."""
    yield Document(str(path), lambda: decoded(path))


def json_lines(path: Path) -> Iterator[Document]:
    """Each line is an object; its `text` is a document. Blank lines are skipped."""
    with open(path, "rb") as handle:
        number = 0
        while line := handle.readline(LONGEST_LINE_BYTES):
            number += 1
            if not line.strip():
                continue
            yield Document.of(f"{path}:{number}", _text_of_line(line, number, path))


def comma_separated(path: Path) -> Iterator[Document]:
    """The `text` column of each row is a document; the first row names the columns."""
    csv.field_size_limit(LONGEST_CSV_FIELD_CHARACTERS)
    reader = csv.reader(_lines(path), strict=True)
    try:
        columns = next(reader, [])
        place = _column(columns, path)
        for row in reader:
            if len(row) != len(columns) and row:
                message = f"line {reader.line_num} has {len(row)} fields, the first line {len(columns)}"
                raise BadInput(message, file=str(path), field=TEXT_FIELD)
            if row:
                yield Document.of(f"{path}:{reader.line_num}", row[place])
    except csv.Error as error:
        raise BadInput(f"line {reader.line_num} is not CSV: {error}", file=str(path)) from error


def parquet(path: Path) -> Iterator[Document]:
    """The `text` column of each row is a document; some thousand rows are read at a time."""
    import polars

    try:
        table = polars.scan_parquet(path)
        columns = table.collect_schema()
        _column(list(columns), path)
        if columns[TEXT_FIELD] != polars.String:
            raise BadInput(f"column holds {columns[TEXT_FIELD]}, not text", file=str(path), field=TEXT_FIELD)
        rows = int(table.select(polars.len()).collect().item())
        for start in range(0, rows, PARQUET_ROWS):
            texts = table.select(TEXT_FIELD).slice(start, PARQUET_ROWS).collect()[TEXT_FIELD]
            for number, text in enumerate(texts, start):
                if text is None:
                    raise BadInput(f"row {number} is null", file=str(path), field=TEXT_FIELD)
                yield Document.of(f"{path}:row {number}", text)
    except (polars.exceptions.PolarsError, OSError) as error:
        raise BadInput(f"is not a parquet file that can be read: {error}", file=str(path)) from error


def wikitext(path: Path, split: Split | None = None) -> Iterator[Document]:
    """A `wiki.*.tokens` or `.raw` file: one document for each article. The documents of a split join to the file."""
    return articles(_lines(path), str(path), split)


def articles(lines: Iterator[str], name: str, split: Split | None) -> Iterator[Document]:
    """Lines of WikiText, cut into a document at each title: ` = Title = ` after a blank line (tables have ` = W = ` too)."""
    article: list[str] = []
    title = ""
    for line in lines:
        if WIKITEXT_TITLE.match(line) and (not article or not article[-1].strip()):
            if title:
                yield Document.of(f"{name}: {title}", "".join(article), split)
                article = []
            title = line.strip()
        article.append(line)
    if article:
        yield Document.of(f"{name}: {title}", "".join(article), split)


def decoded(path: Path) -> Iterator[str]:
    """UTF-8 text in pieces, without a byte order mark; line ends stay as they are.

    Raises:
        BadInput: it is not UTF-8 text, or cannot be read.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    start_byte = 0
    for content in _contents(path):
        try:
            text = decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            raise BadInput(f"is not UTF-8 text (near byte {start_byte + error.start})", file=str(path)) from error
        if "\0" in text:
            raise BadInput(f"holds a NUL near byte {start_byte + text.index(chr(0))}: not a text file", file=str(path))
        start_byte += len(content)
        if text:
            yield text


def _contents(path: Path) -> Iterator[bytes]:
    """The file in pieces, and one empty piece at its end."""
    try:
        with open(path, "rb") as handle:
            while content := handle.read(READ_BYTES):
                yield content
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", file=str(path)) from error
    yield b""


def _lines(path: Path) -> Iterator[str]:
    """Lines with their ends, cut at newlines only (`splitlines` would cut at form feeds too)."""
    rest = ""
    for piece in decoded(path):
        *lines, rest = (rest + piece).split("\n")
        for line in lines:
            yield line + "\n"
    if rest:
        yield rest


def _text_of_line(line: bytes, number: int, path: Path) -> str:
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise BadInput(f"line {number} is not UTF-8 text", file=str(path)) from error
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise BadInput(f"line {number} is not JSON: {reason}", file=str(path)) from error
    if not isinstance(row, dict) or TEXT_FIELD not in row:
        raise BadInput(f"line {number} has no {TEXT_FIELD!r}", file=str(path), field=TEXT_FIELD)
    if not isinstance(row[TEXT_FIELD], str):
        message = f"line {number}: must be text, got {type(row[TEXT_FIELD]).__name__}"
        raise BadInput(message, file=str(path), field=TEXT_FIELD)
    return str(row[TEXT_FIELD])


def _column(columns: list[str], path: Path) -> int:
    if TEXT_FIELD not in columns:
        hint = f"columns: {', '.join(columns[:8])}" if columns else "it has no columns"
        raise BadInput(f"has no column {TEXT_FIELD!r}", file=str(path), field=TEXT_FIELD, hint=hint)
    return columns.index(TEXT_FIELD)


def token_file(path: Path, split: Split | None = None) -> Iterator[Document]:
    """The ids of a file as one document.

    Raises:
        BadInput: the file cannot be a list of token ids.
    """
    ids = _npy(path) if path.suffix == ".npy" else _bin(path)
    if not len(ids):
        raise BadInput("holds no token", file=str(path))
    yield Document(str(path), lambda: _in_pieces(ids), split)


def _in_pieces(ids: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
    for start in range(0, len(ids), READ_TOKENS):
        yield np.asarray(ids[start : start + READ_TOKENS]).astype(np.int64)


def _bin(path: Path) -> NDArray[np.integer]:
    kind = np.dtype("<u4") if path.name.endswith(".u32.bin") else np.dtype("<u2")
    size = path.stat().st_size
    start = _header_bytes(path, size)
    if (size - start) % kind.itemsize:
        raise BadInput(f"has {size} bytes, which is no whole number of {kind.itemsize}-byte token ids", file=str(path))
    return np.memmap(path, dtype=kind, mode="r", offset=start) if size > start else np.empty(0, dtype=kind)


def _header_bytes(path: Path, size: int) -> int:
    """The length of the header: 0 for a file without one.

    Raises:
        BadInput: the header names another number of tokens than the file holds.
    """
    with open(path, "rb") as handle:
        header = np.frombuffer(handle.read(12), dtype=np.uint8)
    if len(header) < 12 or size < HEADER_BYTES:
        return 0
    magic, version, count = (int(value) for value in header.view("<i4"))
    if magic != HEADER_MAGIC or version != HEADER_VERSION:
        return 0
    if size - HEADER_BYTES != 2 * count:
        raise BadInput(f"its header announces {count} tokens, it holds {(size - HEADER_BYTES) / 2:g}", file=str(path))
    return HEADER_BYTES


def _npy(path: Path) -> NDArray[np.integer]:
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise BadInput(f"is not a .npy file of numbers: {error}", file=str(path)) from error
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise BadInput("must hold one row of whole numbers (a 1-D integer array)", file=str(path))
    return ids


READERS: dict[str, Callable[[Path], Iterator[Document]]] = {
    ".txt": plain_text,
    ".md": plain_text,
    ".jsonl": json_lines,
    ".csv": comma_separated,
    ".parquet": parquet,
    **dict.fromkeys(TOKEN_SUFFIXES, token_file),
}
# Folders with splits of their own: how file names begin and end, what reads them, and what they hold. WikiText comes at word level
# with <unk> (.tokens) or as raw text; a folder may have both.
SPLIT_LAYOUTS: tuple[tuple[str, str, Callable[[Path, Split], Iterator[Document]], str], ...] = (
    *(("wiki.", ending, wikitext, "text") for ending in (".tokens", ".raw")),
    *(("", ending, token_file, "ids") for ending in (".u32.bin", *TOKEN_SUFFIXES)),
)
