"""Read TOML and JSON files strictly, as plain data. Every error names the file, and also the line if the line is known."""

from __future__ import annotations

import functools
import json
import os
import re
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from palinode.base.errors import BadInput

LARGEST_FILE_BYTES = 10**6  # a spec is one or two pages long, so a larger file is no spec
DEEPEST_NESTING = 64
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
TOML_PLACE = re.compile(
    r"^(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|(?P<end>end of document))\)$"
)


def read_text(path: Path) -> str:
    """The text of a small UTF-8 file, without a byte-order mark.

    Raises:
        BadInput: the file is missing, a directory, a broken link, unreadable, too large, empty, binary or not UTF-8.
    """
    file = str(path)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise BadInput("is a directory, not a file", file=file)
        if not stat.S_ISREG(status.st_mode):
            raise BadInput("is not a regular file", file=file)
        if status.st_size > LARGEST_FILE_BYTES:
            raise BadInput(f"holds {status.st_size:,} bytes; a spec has at most {LARGEST_FILE_BYTES:,}", file=file)
        content = path.read_bytes()
    except FileNotFoundError:
        raise BadInput("there is no such file", file=file) from None
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot be read: {getattr(error, 'strerror', None) or error}", file=file) from None
    return _decoded(content, file)


def parse_toml(text: str, file: str) -> dict[str, Any]:
    """A TOML document as plain data.

    Raises:
        BadInput: the text is not valid TOML; the error names the line and column of the first mistake.
    """
    return _parsed(tomllib.loads, text, file, "TOML")


def parse_json(text: str, file: str) -> dict[str, Any]:
    """A JSON document as plain data; duplicate keys, NaN and Infinity are refused.

    Raises:
        BadInput: the text is not valid JSON; the error names the line and column of the first mistake, or the key.
    """

    def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for key, value in pairs:
            if key in table:
                raise BadInput("key is given twice", file=file, field=key)
            table[key] = value
        return table

    def refuse_constant(name: str) -> Any:
        raise BadInput(f"{name} is not a number in JSON", file=file)

    load = functools.partial(json.loads, object_pairs_hook=without_twins, parse_constant=refuse_constant)
    return _parsed(load, text, file, "JSON")


def _parsed(load: Callable[[str], Any], text: str, file: str, language: str) -> dict[str, Any]:
    try:
        value = load(text)
        _refuse_depth(value)
    except RecursionError:
        raise BadInput(f"nested deeper than {DEEPEST_NESTING} levels", file=file) from None
    except ValueError as error:
        raise BadInput(_problem(error, language), file=file) from None
    if not isinstance(value, dict):
        names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
        raise BadInput(f"the top level must be a table, not {names.get(type(value), 'a number')}", file=file)
    return value


def _decoded(content: bytes, file: str) -> str:
    if not content.strip():
        raise BadInput("is empty", file=file)
    if content.startswith(UTF16_MARKS):
        raise BadInput("is UTF-16", file=file, hint="save it as UTF-8")
    if b"\0" in content:
        raise BadInput("holds NUL bytes: this is not a text file", file=file)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadInput(f"line {line}: is not UTF-8", file=file, hint="save it as UTF-8") from None


def _problem(error: ValueError, language: str) -> str:
    """The message for an error of a parser, with the line. For a number or a date that Python cannot represent, it has no line."""
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}"
    if not (match := TOML_PLACE.match(str(error))):
        return f"not {language}: {error}"
    place = "end of the file" if match["end"] else f"line {match['line']}, column {match['column']}"
    return f"{place}: not {language}: {match['what']}"


def _refuse_depth(value: Any) -> None:
    """Raise RecursionError for data that is nested too deep. The check goes level by level, so the check needs no deep stack."""
    level, depth = [value], 0
    while level:
        if depth > DEEPEST_NESTING:
            raise RecursionError
        inside = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list)))
        level, depth = [value for values in inside for value in values], depth + 1
