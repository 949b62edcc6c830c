"""Text files as documents, in bounded memory. Every error names the file and the line."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from palinode.base.errors import BadInput
from palinode.data.config import Split
from palinode.data.corpus import Document

TEXT_FIELD = "text"  # the column or key that holds a document
READ_BYTES = 1 << 20
PARQUET_ROWS = 4096  # read at a time
LONGEST_LINE_BYTES = 1 << 28  # of a jsonl file; a file with a longer line is of another kind
LONGEST_CSV_FIELD_CHARACTERS = 1 << 28  # the csv module's own limit, 131,072, is shorter than many documents
WIKITEXT_TITLE = re.compile(r"^ = [^=](.*[^=])? = \n?$")  # sections have two or more equals signs


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


READERS: dict[str, Callable[[Path], Iterator[Document]]] = {
    ".txt": plain_text,
    ".md": plain_text,
    ".jsonl": json_lines,
    ".csv": comma_separated,
    ".parquet": parquet,
}
