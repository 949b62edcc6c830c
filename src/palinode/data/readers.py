"""Reads local files and folders as corpora, in bounded memory: txt, md, jsonl, csv, parquet, WikiText folders, files of token ids.

A folder with `wiki.{train,valid,test}.tokens` (or .raw), or with `{train,val,test}.bin`, has its own splits. If several of these
layouts fit, the first one is used. The corpus of any other folder is all readable files below the folder, in the order of their
paths. Every error names the file and the line.

Files of token ids are the .bin files of nanoGPT (no header), the .bin files of llm.c and modded-nanogpt (with a header), and .npy
files. A .bin file holds little-endian uint16 ids, or uint32 ids if its name ends in `.u32.bin`. A file of ids does not name its
tokenizer, so `data.tokenizer` must name the tokenizer that wrote the file (`gpt2`, a path), or `ids:<vocabulary size>` if this
tokenizer is not on the machine. Each file of ids is one document.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palinode.base.config import content_hash
from palinode.base.errors import BadInput
from palinode.data.cache import file_sha256
from palinode.data.config import TEST, TRAIN, VALIDATION, DataConfig, Split
from palinode.data.corpus import TEXT_SEPARATOR, Corpus, Document

READER_VERSION = 1  # raise this version when a change of the readers makes other documents of the same files
SPLIT_WORDS: dict[str, Split] = {"train": TRAIN, "valid": VALIDATION, "val": VALIDATION, "test": TEST}
SPLIT_NAMES = SPLIT_WORDS | {"training": TRAIN, "validation": VALIDATION, "dev": VALIDATION, "testing": TEST}
CARD = re.compile(r"(readme|licen[cs]e|copying|notice|citation|dataset_?card|contributing)([._-].*)?", re.IGNORECASE)
CSV_MARKS = (",", ";", "\t", "|")
SEPARATOR_LINE = re.compile(r"sep=(.)\s*")  # the first line that Excel may write
CSV_PROBLEMS = {  # a part of each error message of the csv module, and the meaning of this message
    "expected after": "a field goes on after its closing quote",
    "unexpected end": "a quoted field begins here and does not end",
    "new-line character": "a line ends with CR alone, others with LF",
    "larger than": f"a field has more than {1 << 28} characters: is a quote not closed?",
}
UTF8 = "utf-8"
GUESSED_BYTES = 4096  # the number of bytes that are read to guess an encoding or the width of token ids
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WESTERN = ("cp1252", "mac_roman", "cp850")
# Guesses for text in which most letters are not ASCII: the language, the encoding, the letters of the script (lower case if the
# script has lower case), and the smallest share of such letters.
SCRIPTS = (
    ("Japanese", "shift_jis", "[\u3041-\u30ff]", 0.2),
    ("Japanese", "euc_jp", "[\u3041-\u30ff]", 0.2),
    ("Korean", "euc_kr", "[\uac00-\ud7a3]", 0.9),
    ("Chinese", "gb2312", "[\u4e00-\u9fff]", 0.9),
    ("Chinese", "big5", "[\u4e00-\u9fff]", 0.9),
    ("Cyrillic", "cp1251", "[\u0430-\u045f]", 0.7),
    ("Cyrillic", "koi8-r", "[\u0430-\u045f]", 0.7),
    ("Cyrillic", "cp866", "[\u0430-\u045f]", 0.7),
    ("Greek", "cp1253", "[\u03ac-\u03ce]", 0.7),
)
TEXT_FIELD = "text"  # the column or key that holds a document
READ_BYTES = 1 << 20
PARQUET_ROWS = 4096  # the number of rows that are read at a time
LONGEST_LINE_BYTES = 1 << 28  # the longest line of a jsonl file; a file with a longer line is not jsonl
LONGEST_CSV_FIELD_CHARACTERS = 1 << 28  # the default limit of the csv module, 131,072, is shorter than many documents
WIKITEXT_TITLE = re.compile(r"^ = [^=](.*[^=])? = \n?$")  # titles of sections have two or more equals signs
TOKEN_SUFFIXES = (".bin", ".npy")
READ_TOKENS = 1 << 20
# The magic number of llm.c and modded-nanogpt: 256 int32 with magic, version, count; then uint16 ids.
HEADER_MAGIC = 20240520
# The id type of each known header (magic, version): the files of llm.c for GPT-2 and for Llama 3.
HEADER_KINDS = {(HEADER_MAGIC, 1): "<u2", (20240801, 7): "<u4"}
FEWEST_GUESSED_IDS = 64  # the smallest number of ids for a guess of their layout
MOST_HALVES = 4  # the largest number of different upper halves of 4-byte ids, for a vocabulary up to 262,144
HEADER_BYTES = 256 * 4


@dataclass(frozen=True)
class Reading:
    """The options for reading the files of a corpus; `DataConfig` describes the same options.

    Attributes:
        text_fields: the names of the columns or keys that hold a document.
        encoding: the encoding of text files.
        document_separator: the marker between the documents of one text file; empty for no marker.
        own_splits: whether a file whose name contains train, validation or test puts its documents in this split.
        documents_only: whether cards and licences in a folder are left out, and .TXT is read as .txt.
    """

    text_fields: tuple[str, ...] = (TEXT_FIELD,)
    encoding: str = UTF8
    document_separator: str = ""
    own_splits: bool = True
    documents_only: bool = True

    @classmethod
    def of(cls, config: DataConfig) -> Reading:
        """The reading options of a config. A config with a hash of the corpus is read by the rules that it was resolved with."""
        is_new, fields = config.corpus_sha256 is None, config.text_field
        return cls(
            (fields,) if isinstance(fields, str) else fields,
            config.encoding,
            config.document_separator,
            own_splits=(is_new and "split" not in config.model_fields_set) or config.split == "given",
            documents_only=is_new or config.files == "documents",
        )

    @property
    def options(self) -> list[Any]:
        """The options of text files if the user changed one of them; empty if all have their defaults."""
        options: list[Any] = [self.text_fields, self.encoding, self.document_separator]
        return [] if options == [(TEXT_FIELD,), UTF8, ""] else options


def local_corpus(path: Path, name: str, reading: Reading | None = None) -> Corpus:
    """The corpus in a file or folder.

    Raises:
        BadInput: the path has no readable file.
    """
    reading = reading or Reading()
    if not path.exists():
        raise BadInput("no such file or folder", file=str(path), field="data.corpus")
    if path.is_dir():
        return _split_folder(path, name) or _folder(path, name, reading)
    holds, separator = ("ids", "") if _suffix(path) in TOKEN_SUFFIXES else ("text", TEXT_SEPARATOR)
    return _corpus(name, path.name, {path: _reader(path, reading, None)}, separator, holds=holds, reading=reading)


def _split_folder(folder: Path, name: str) -> Corpus | None:
    """The corpus of a folder with one of the SPLIT_LAYOUTS: a train file and files for other splits; None for other folders."""
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


def _folder(folder: Path, name: str, reading: Reading) -> Corpus:
    files = []
    for parent, folders, names in os.walk(folder):  # os.walk does not follow links to folders, so there are no loops
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        _refuse_links_out(folder, [Path(parent, each) for each in folders])
        paths = [Path(parent, each) for each in names if not each.startswith(".")]
        files += [path for path in paths if (_suffix(path) if reading.documents_only else path.suffix) in READERS]
    _refuse_links_out(folder, files)
    files.sort(key=lambda path: path.relative_to(folder).parts)
    if not files:
        raise BadInput(f"holds no {', '.join(READERS)} file", file=str(folder), field="data.corpus")
    notes: list[str] = []
    kept = _without_strays(folder, files, reading, notes)
    splits = _splits_by_name(folder, kept, notes) if reading.own_splits else {}
    kept = [path for path in kept if path in splits] if splits else kept
    holds, separator = ("ids", "") if _suffix(kept[0]) in TOKEN_SUFFIXES else ("text", TEXT_SEPARATOR)
    readers = {path: _reader(path, reading, splits.get(path)) for path in kept}
    corpus = _corpus(name, folder.name, readers, separator, has_splits=bool(splits), holds=holds, reading=reading)
    fingerprint = content_hash([corpus.fingerprint, list(splits.values())]) if splits else corpus.fingerprint
    leaves_out = any(CARD.fullmatch(path.name) for path in set(files) - set(kept))
    leaves_out = leaves_out or any(path.suffix not in READERS for path in kept)
    return replace(corpus, fingerprint=fingerprint, notes=tuple(notes), leaves_out=leaves_out)


def _without_strays(folder: Path, files: list[Path], reading: Reading, notes: list[str]) -> list[Path]:
    """The files without cards, empty files and token files among text. Each kind that is left out adds a line to `notes`."""

    def leave_out(kept: list[Path], strays: list[Path], why: str) -> list[Path]:
        if not strays or len(strays) == len(kept):
            return kept
        listed = ", ".join(str(path.relative_to(folder)) for path in strays[:3])
        notes.append(f"{len(strays)} {why} left out: {listed}{', ...' if len(strays) > 3 else ''}")
        return [path for path in kept if path not in strays]

    if reading.documents_only:
        files = leave_out(files, [path for path in files if CARD.fullmatch(path.name)], "card or licence file(s)")
    files = leave_out(files, [path for path in files if path.is_file() and not path.stat().st_size], "empty file(s)")
    ids = [path for path in files if _suffix(path) in TOKEN_SUFFIXES]
    if 2 * len(ids) >= len(files) > len(ids):
        text = next(path for path in files if path not in ids)
        message = f"mixes token files ({ids[0].relative_to(folder)}) and text files ({text.relative_to(folder)})"
        raise BadInput(message, file=str(folder), field="data.corpus", hint="keep them in two folders")
    return leave_out(files, ids, "token file(s) among text")


def _splits_by_name(folder: Path, files: list[Path], notes: list[str]) -> dict[Path, Split]:
    """The split of each file whose name or folder names a split.

    The result is empty unless at least half of the files name a split, one of them names train, and there are two different splits.
    The file name counts before the folder, and the inner folder counts before the outer folder.
    """
    splits: dict[Path, Split] = {}
    for path in files:
        for part in reversed(path.relative_to(folder).with_suffix("").parts):
            named = {SPLIT_NAMES[word] for word in re.findall("[a-z]+", part.lower()) if word in SPLIT_NAMES}
            if len(named) == 1:
                splits[path] = named.pop()
                break
    if 2 * len(splits) < len(files) or TRAIN not in splits.values() or len(set(splits.values())) < 2:
        return {}
    counts = ", ".join(f"{each} {list(splits.values()).count(each)}" for each in (TRAIN, VALIDATION, TEST))
    notes.append(f"file names say the splits, which are used (split = 'given'); files: {counts}")
    if others := [path for path in files if path not in splits]:
        notes.append(f"{len(others)} file(s) that name no split are left out: {others[0].relative_to(folder)}")
    return splits


def _refuse_links_out(folder: Path, paths: list[Path]) -> None:
    """Refuse a link that leads out of the folder: a folder may come from a stranger, and the target of a link may be private.

    A snapshot in the cache of the Hugging Face hub has links to the folder `blobs` next to `snapshots`. Such links are allowed.

    Raises:
        BadInput: a link leads out of the folder; the error names the link.
    """
    root = Path(os.path.realpath(folder))
    inside = [root, *(parent.parent / "blobs" for parent in root.parents if parent.name == "snapshots")]
    for path in paths:
        target = Path(os.path.realpath(path))
        if path.is_symlink() and not any(target.is_relative_to(place) for place in inside):
            hint = "copy the file into the folder, or take the link away"
            message = f"is a link to {target}, outside of {folder.name}"
            raise BadInput(message, file=str(path), field="data.corpus", hint=hint)


def _suffix(path: Path) -> str:
    return path.suffix.lower()


def _reader(path: Path, reading: Reading, split: Split | None) -> Callable[[], Iterator[Document]]:
    """A function that reads the documents of a file and puts each document in the split."""
    suffix = _suffix(path)
    if suffix == ".model":
        hint = "a tokenizer: convert it to a tokenizer.json and name that in data.tokenizer"
        raise BadInput("is a SentencePiece model, not text", file=str(path), field="data.corpus", hint=hint)
    if suffix not in READERS:
        hint = f"valid: {', '.join(READERS)}"
        raise BadInput(f"unknown kind of file {path.suffix!r}", file=str(path), field="data.corpus", hint=hint)

    def documents() -> Iterator[Document]:
        for document in READERS[suffix](path, reading):
            yield document if split is None else replace(document, split=split)

    return documents


def _corpus(
    name: str,
    source: str,
    readers: Mapping[Path, Callable[[], Iterator[Document]]],
    separator: str = "",
    *,
    has_splits: bool = False,
    holds: str = "text",
    reading: Reading | None = None,
) -> Corpus:
    """The corpus that has the documents of all files, in the order of `readers`."""
    hashes = [(path.name, _sha256(path)) for path in readers]
    parts: list[Any] = [READER_VERSION, separator, has_splits, hashes]
    if reading and reading.options:
        parts.append(reading.options)
    fingerprint = content_hash(parts)
    widths = [_layout(path, path.stat().st_size)[1].itemsize for path in readers if _suffix(path) == ".bin"]
    return Corpus(
        name,
        fingerprint,
        lambda: itertools.chain.from_iterable(read() for read in readers.values()),
        separator,
        holds,
        has_splits,
        source,
        id_bytes=min(widths, default=None),
    )


def _sha256(path: Path) -> str:
    """The hash of the content of a file. The content alone identifies a corpus; the date of a file does not matter.

    Raises:
        BadInput: the file is empty, is not a regular file, or cannot be read.
    """
    if not path.is_file():
        raise BadInput("is not a regular file", file=str(path), field="data.corpus")
    try:
        if path.stat().st_size == 0:
            raise BadInput("is empty", file=str(path), field="data.corpus")
        return file_sha256(path)
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", file=str(path), field="data.corpus") from error


def plain_text(path: Path, reading: Reading) -> Iterator[Document]:
    """The documents of a text file: one document, read in pieces of 1 MiB, or several documents if a separator is set."""
    if not reading.document_separator:
        yield Document(str(path), lambda: decoded(path, reading.encoding))
        return
    rest, number = "", 0
    for piece in decoded(path, reading.encoding):
        *texts, rest = (rest + piece).split(reading.document_separator)
        for text in texts:
            number += 1
            yield Document.of(f"{path}: document {number}", text)
    yield Document.of(f"{path}: document {number + 1}", rest)


def json_lines(path: Path, reading: Reading) -> Iterator[Document]:
    """The documents of a jsonl file: the text field of each line. Blank lines are skipped."""
    if reading.encoding != UTF8:
        for number, text in enumerate(_lines(path, reading.encoding), 1):
            if text.strip():
                yield Document.of(f"{path}:{number}", _text_of_line(text.encode(), number, path, reading))
        return
    with open(path, "rb") as handle:
        number = 0
        while line := handle.readline(LONGEST_LINE_BYTES):
            number += 1
            if not line.strip():
                continue
            yield Document.of(f"{path}:{number}", _text_of_line(line, number, path, reading))


def comma_separated(path: Path, reading: Reading) -> Iterator[Document]:
    """The documents of a CSV file: the text column of each row. The first row names the columns.

    The separator is the first of `,`, `;`, tab and `|` that gives the first row a text column. A line such as `sep=;` before the
    first row sets another separator.
    """
    csv.field_size_limit(LONGEST_CSV_FIELD_CHARACTERS)
    lines = _rows_of_csv(path, reading)
    first, lines_before = next(lines, ""), 0
    if announced := SEPARATOR_LINE.fullmatch(first):
        first, lines_before = next(lines, ""), 1
    marks = [mark for mark in CSV_MARKS if set(reading.text_fields) <= {*_first_row(first, mark)}]
    mark = announced[1] if announced else marks[0] if marks else max(CSV_MARKS, key=first.count)
    reader = csv.reader(itertools.chain([first], lines), delimiter=mark, strict=True)
    start = 0
    try:
        columns = next(reader, [])
        places = _columns(columns, path, reading)
        while True:
            start = reader.line_num + lines_before + 1
            if (row := next(reader, None)) is None:
                return
            if row and len(row) != len(columns):
                message = f"line {start} has {len(row)} fields, the first line {len(columns)}"
                hint = f"fields are taken to be separated by {mark!r}; a field that holds it must stand in quotes"
                raise BadInput(message, file=str(path), field=reading.text_fields[0], hint=hint)
            if row:
                line = reader.line_num + lines_before
                yield Document.of(f"{path}:{line}", _joined([row[place] for place in places]))
    except csv.Error as error:
        message = next((words for sign, words in CSV_PROBLEMS.items() if sign in str(error)), "cannot be read as a row")
        hint = 'a quote inside a quoted field is written twice, as "", not \\"; jsonl and parquet need no such rule'
        raise BadInput(
            f"line {start} is not CSV: {message}", file=str(path), field=reading.text_fields[0], hint=hint
        ) from error


def _first_row(line: str, mark: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=mark), [])
    except csv.Error:
        return []


def _rows_of_csv(path: Path, reading: Reading) -> Iterator[str]:
    """The lines of a CSV file. If all line ends of a file are CR, the file is cut at each CR."""
    for line in _lines(path, reading.encoding):
        if "\r" in line.rstrip("\r\n") and not line.endswith("\n"):
            yield from (part + "\n" for part in line.split("\r") if part)
        else:
            yield line


def parquet(path: Path, reading: Reading) -> Iterator[Document]:
    """The documents of a parquet file: the text column of each row. A null gives an empty document."""
    import polars

    names = list(reading.text_fields)
    try:
        table = polars.scan_parquet(path)
        columns = table.collect_schema()
        _columns(list(columns), path, reading)
        for name in names:
            if not isinstance(columns[name], (polars.String, polars.Categorical, polars.Enum)):
                raise BadInput(f"column holds {columns[name]}, not text", file=str(path), field=name)
        table = table.select(polars.col(name).cast(polars.String) for name in names)
        rows = int(table.select(polars.len()).collect().item())
        for start in range(0, rows, PARQUET_ROWS):
            for number, texts in enumerate(table.slice(start, PARQUET_ROWS).collect().rows(), start):
                yield Document.of(f"{path}:row {number}", _joined([text or "" for text in texts]))
    except (polars.exceptions.PolarsError, OSError) as error:
        raise BadInput(f"is not a parquet file that can be read: {error}", file=str(path)) from error


def _joined(texts: list[str]) -> str:
    """The text of one row: the texts of its columns that are not empty, with an empty line between them."""
    return texts[0] if len(texts) == 1 else TEXT_SEPARATOR.join(text for text in texts if text)


def wikitext(path: Path, split: Split | None = None) -> Iterator[Document]:
    """The documents of a `wiki.*.tokens` or `.raw` file, one for each article. The documents join to the text of the file."""
    return articles(_lines(path), str(path), split)


def articles(lines: Iterator[str], name: str, split: Split | None) -> Iterator[Document]:
    """The documents in lines of WikiText. A document begins at each title: ` = Title = ` after a blank line.

    The blank line is needed because tables have lines such as ` = W = ` too.
    """
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


def decoded(path: Path, encoding: str = UTF8) -> Iterator[str]:
    """The text of a file in pieces, without a byte order mark; line ends stay as they are.

    Raises:
        BadInput: the file is not text in this encoding, or cannot be read.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == UTF8 else encoding)()
    start_byte = 0
    for content in _contents(path):
        try:
            text = decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            named = "UTF-8" if encoding == UTF8 else encoding
            message = f"is not {named} text (near byte {start_byte + error.start})"
            raise BadInput(message, file=str(path), hint=_likely_encoding(path)) from error
        if "\0" in text:
            message = f"holds a NUL near byte {start_byte + text.index(chr(0))}: not a text file"
            raise BadInput(message, file=str(path), hint=_likely_encoding(path))
        start_byte += len(content)
        if text:
            yield text


def _likely_encoding(path: Path) -> str | None:
    """A hint that names the likely encoding of a file, from its first bytes; None if the bytes are not text."""
    with open(path, "rb") as handle:
        start = handle.read(GUESSED_BYTES)
    for mark, encoding in BYTE_ORDER_MARKS:
        if start.startswith(mark):
            return f"it begins like {encoding}: data.encoding = {encoding!r}"
    length = len(start) // 4 * 4
    zeros = [start[place:length:4].count(0) * 8 > length for place in range(4)]
    zero_patterns: dict[tuple[bool, ...], str] = {
        (False, True, True, True): "utf-32-le",
        (True, True, True, False): "utf-32-be",
        (False, True, False, True): "utf-16-le",
        (True, False, True, False): "utf-16-be",
    }
    if length and tuple(zeros) in zero_patterns:
        return f"it looks like {zero_patterns[tuple(zeros)]}: data.encoding = {zero_patterns[tuple(zeros)]!r}"
    if b"\0" in start:
        return None
    language, encoding = _likely_language(start)
    return f"it may be {encoding} ({language}): data.encoding = {encoding!r}"


def _likely_language(start: bytes) -> tuple[str, str]:
    """The likely language and encoding of text without NULs: the first of SCRIPTS whose letters it has, else a Western one."""
    for language, encoding, script, share in SCRIPTS:
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(start)
        except UnicodeDecodeError:
            continue
        letters = [character for character in text if character.isalpha()]
        others = [character for character in letters if not character.isascii()]
        if 2 * len(others) > len(letters) and len(re.findall(script, text)) >= share * len(others):
            return language, "gb18030" if encoding == "gb2312" else encoding
    counts = {encoding: len(re.findall("[ß-öø-ÿ]", start.decode(encoding, "ignore"))) for encoding in WESTERN}
    return "Western European", max(WESTERN, key=counts.__getitem__)


def _contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file in pieces, and one empty piece at the end."""
    try:
        with open(path, "rb") as handle:
            while content := handle.read(READ_BYTES):
                yield content
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", file=str(path)) from error
    yield b""


def _lines(path: Path, encoding: str = UTF8) -> Iterator[str]:
    """The lines of a file with their line ends, cut only at newlines (`splitlines` would cut at form feeds too)."""
    rest = ""
    for piece in decoded(path, encoding):
        *lines, rest = (rest + piece).split("\n")
        for line in lines:
            yield line + "\n"
    if rest:
        yield rest


def _text_of_line(line: bytes, number: int, path: Path, reading: Reading) -> str:
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise BadInput(f"line {number} is not UTF-8 text", file=str(path), hint=_likely_encoding(path)) from error
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise BadInput(f"line {number} is not JSON: {reason}", file=str(path)) from error
    texts = []
    for name in reading.text_fields:
        if not isinstance(row, dict) or name not in row:
            there = [str(key)[:40] for key in row] if isinstance(row, dict) else []
            raise BadInput(f"line {number} has no {name!r}", file=str(path), field=name, hint=_other_fields(there))
        if not isinstance(row[name], str | None):
            message = f"line {number}: must be text, got {type(row[name]).__name__}"
            raise BadInput(message, file=str(path), field=name)
        texts.append(row[name] or "")
    return _joined(texts)


def _columns(columns: list[str], path: Path, reading: Reading) -> list[int]:
    """The indices of the text columns in a row."""
    for name in reading.text_fields:
        if name not in columns:
            raise BadInput(f"has no column {name!r}", file=str(path), field=name, hint=_other_fields(columns))
    return [columns.index(name) for name in reading.text_fields]


def _other_fields(columns: list[str]) -> str:
    if not columns:
        return "it has no columns"
    return f"columns: {', '.join(columns[:8])}; name one, or several, in data.text_field"


def token_file(path: Path, split: Split | None = None) -> Iterator[Document]:
    """The token ids of a file as one document.

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
    size = path.stat().st_size
    start, kind = _layout(path, size)
    if (size - start) % kind.itemsize:
        raise BadInput(f"has {size} bytes, which is no whole number of {kind.itemsize}-byte token ids", file=str(path))
    ids = np.memmap(path, dtype=kind, mode="r", offset=start) if size > start else np.empty(0, dtype=kind)
    if kind.itemsize == 2 and len(ids) >= FEWEST_GUESSED_IDS:
        _refuse_other_layouts(path, np.asarray(ids[: GUESSED_BYTES // 2]))
    return ids


def _layout(path: Path, size: int) -> tuple[int, np.dtype[Any]]:
    """The length of the header of a file in bytes (0 if there is no header), and the type of the ids.

    Raises:
        BadInput: the header states another number of tokens than the file holds, or has an unknown version.
    """
    plain = np.dtype("<u4") if path.name.endswith(".u32.bin") else np.dtype("<u2")
    with open(path, "rb") as handle:
        header = np.frombuffer(handle.read(12), dtype=np.uint8)
    if len(header) < 12 or size < HEADER_BYTES:
        return 0, plain
    magic, version, count = (int(value) for value in header.view("<i4"))
    if (magic, version) not in HEADER_KINDS:
        if magic == HEADER_MAGIC or 0 < version < 16 and count > 0 and size - HEADER_BYTES in (2 * count, 4 * count):
            known = ", ".join(f"{each[0]} version {each[1]}" for each in HEADER_KINDS)
            message = f"has an unknown header: magic {magic}, version {version}, {count} tokens"
            raise BadInput(message, file=str(path), hint=f"known: {known}; or save the ids as .npy")
        return 0, plain
    kind = np.dtype(HEADER_KINDS[magic, version])
    if size - HEADER_BYTES != kind.itemsize * count:
        held = (size - HEADER_BYTES) / kind.itemsize
        raise BadInput(f"its header announces {count} tokens, it holds {held:g}", file=str(path))
    return HEADER_BYTES, kind


def _refuse_other_layouts(path: Path, ids: NDArray[np.integer]) -> None:
    """Refuse 2-byte ids that look like 4-byte ids, or like big-endian ones.

    Raises:
        BadInput: every second id has few values while the other ids vary, or the low bytes vary less than the high bytes.
    """
    even, odd = ids[: len(ids) // 2 * 2 : 2], ids[1::2]
    for high, low, order in ((odd, even, "little"), (even, odd, "big")):
        if len(np.unique(high)) <= MOST_HALVES and len(np.unique(low)) > 8 * len(np.unique(high)):
            name = path.name.removesuffix(".bin") + ".u32.bin"
            hint = f"name it {name}" if order == "little" else "save them as .npy"
            message = f"looks like 4-byte {order}-endian ids: every second 2-byte id is 0 or near it"
            raise BadInput(message, file=str(path), field="data.corpus", hint=hint)
    low_bytes, high_bytes = len(np.unique(ids & 255)), len(np.unique(ids >> 8))
    if ids.max() > 255 and high_bytes > 2 * low_bytes and len(np.unique(ids)) > 16:
        message = f"looks like big-endian ids: their low bytes have {low_bytes} values, their high bytes {high_bytes}"
        raise BadInput(message, file=str(path), field="data.corpus", hint="save them as little-endian, or as .npy")


def _npy(path: Path) -> NDArray[np.integer]:
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise BadInput(f"is not a .npy file of numbers: {error}", file=str(path)) from error
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise BadInput("must hold one row of whole numbers (a 1-D integer array)", file=str(path))
    return ids


READERS: dict[str, Callable[[Path, Reading], Iterator[Document]]] = {
    ".txt": plain_text,
    ".md": plain_text,
    ".jsonl": json_lines,
    ".csv": comma_separated,
    ".tsv": comma_separated,
    ".parquet": parquet,
    **dict.fromkeys(TOKEN_SUFFIXES, lambda path, _: token_file(path)),
}
# The layouts of folders that have splits: the beginning and the end of a file name, the reader, and the kind of content. WikiText
# comes at word level with <unk> (.tokens) or as raw text (.raw); a folder may have both.
SPLIT_LAYOUTS: tuple[tuple[str, str, Callable[[Path, Split], Iterator[Document]], str], ...] = (
    *(("wiki.", ending, wikitext, "text") for ending in (".tokens", ".raw")),
    *(("", ending, token_file, "ids") for ending in (".u32.bin", *TOKEN_SUFFIXES)),
)
