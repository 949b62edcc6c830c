"""The errors that a user can cause or meet, and the exit code of each error.

Every error is one line that names the file, the field, the fault, and the way to correct the fault.
Exit codes: 0 ok, 1 finished but some runs failed or diverged, 2 bad input, 3 audit failed, 4 damaged data,
5 environment, 70 internal bug, 130 SIGINT, 143 SIGTERM.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Self

MOST_SUGGESTIONS = 3
MOST_LISTED = 24  # the largest number of names in a hint: the list of all 24 tasks must fit
OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")
LONGEST_TYPO_CHARACTERS = 100  # a name that is longer is not taken for a misspelt field


class PalinodeError(Exception):
    """An error with a place (file, field), a hint, and an exit code.

    Args:
        message: the fault, without the file and the field.
        file: the file with the fault, as the user named it.
        field: the dotted path of the field inside the file.
        hint: the way to correct the fault (for instance the nearest valid name).
    """

    exit_code = 70
    longest_characters = 2000  # the largest length of the error's line

    def __init__(self, message: str, *, file: str | None = None, field: str | None = None, hint: str | None = None):
        super().__init__(message)
        self.message = message
        self.file = file
        self.field = field
        self.hint = hint

    def at(self, *, file: str | None = None, field: str | None = None) -> PalinodeError:
        """The same error. If the error names no file or no field, it gets this file or this field."""
        self.file = self.file or file
        self.field = self.field or field
        return self

    def inside(self, place: str | None) -> Self:
        """The same error, with `place` put before its field, unless its field already begins with `place`."""
        if place and not f"{self.field or ''}.".startswith(f"{place}."):
            self.field = ".".join(step for step in (place, self.field) if step)
        return self

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.file, self.field) if part)
        text = f"{place}: {self.message}" if place else self.message
        text = f"{text} ({self.hint})" if self.hint else text
        return printable(text)


class BadInput(PalinodeError):
    """The user's input cannot be used: the exit code is 2, and nothing was written."""

    exit_code = 2
    longest_characters = 200


class LostByte(BadInput):
    """A byte of a text has no token, so that the tokens would be those of another text.

    Args:
        place: the offset of the byte in the UTF-8 text.
        value: the byte.
        text: what the text is.
    """

    def __init__(self, place: int, value: int, *, file: str | None = None, text: str = "the text"):
        message = f"has no token for 0x{value:02x} at byte {place} of {text}, which would be lost"
        super().__init__(message, file=file, field="data.tokenizer")
        self.place = place
        self.value = value


class UnknownKey(BadInput):
    """A key that is not valid in its table; the hint names the nearest valid key, and all other valid keys.

    Args:
        key: the key as the user wrote it.
        valid: the valid keys of the table.
        more: the text that follows the key in the message.
    """

    longest_characters = 1000

    def __init__(self, key: str, valid: Iterable[str], more: str = "", *, file: str | None = None, field: str):
        keys = sorted(valid)
        closest = nearest(key, keys) or ""
        hints = ([closest] if closest.startswith("did") else []) + ([f"valid: {', '.join(keys)}"] if keys else [])
        message = f"unknown key {printable(key, 60)!r}{more}"
        super().__init__(message, file=file, field=printable(field, 100), hint="; ".join(hints) or None)


class Unfinished(BadInput, NotImplementedError):
    """A class that a user wrote lacks a method that is needed: the exit code is 2.

    Args:
        part: an object of the class that the user wrote.
        lacks: the end of the message, such as "must define cost(slots, sees)".
    """

    def __init__(self, part: object, lacks: str):
        super().__init__(f"{type(part).__name__} {lacks}", hint="see docs/adding.md")


class AuditFailed(PalinodeError):
    """An arm can see its own answer, or an audit check failed that was not expected to fail: the exit code is 3."""

    exit_code = 3


class Damaged(PalinodeError):
    """Stored data is damaged, and the store has no good copy of the data: the exit code is 4."""

    exit_code = 4


class EnvironmentProblem(PalinodeError):
    """The machine lacks disk space, memory, a device or a network, or refuses access to one: the exit code is 5."""

    exit_code = 5


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the machine or of an accelerator was used up (PyTorch raises several classes)."""
    named = any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__)
    described = isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)
    return isinstance(error, MemoryError) or named or described


def printable(text: str, limit_characters: int = 1000) -> str:
    """The text as one line without control characters, which could change the terminal."""
    flat = "".join(character if character.isprintable() else "?" for character in text.replace("\n", " "))
    return flat if len(flat) <= limit_characters else flat[: limit_characters - 1] + "…"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint for a name that is not among these names: the nearest of them, or all."""
    hint = nearest(name, names)
    return hint if hint and hint.startswith("did") else f"valid: {', '.join(sorted(names))}"


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """A hint: the valid names closest to `name`, or the valid names that share a word with `name`, or a short list of all names.

    None when no valid name is close, no valid name shares a word, and the list of all names is too long.
    """
    names = sorted(valid)
    is_short = len(name) <= LONGEST_TYPO_CHARACTERS
    edits = {candidate: _edits(name.casefold(), candidate.casefold()) for candidate in names if is_short}
    fewest = min(edits.values(), default=0)
    longer = [candidate for candidate in names if len(name) > 2 and candidate.startswith(name)]
    if longer and fewest > 2:  # the user wrote the beginning of a valid name
        return f"did you mean {min(longer, key=len)!r}?"
    closest = [
        candidate
        for candidate, count in edits.items()
        if count == fewest <= max(1, min(len(name), len(candidate)) // 2)
    ]
    if suggested := closest or [candidate for candidate in names if _words(candidate) & _words(name)]:
        return f"did you mean {' or '.join(repr(candidate) for candidate in suggested[:MOST_SUGGESTIONS])}?"
    return f"valid: {', '.join(names)}" if 0 < len(names) <= MOST_LISTED else None


def check_known(name: str, names: Iterable[str], *, what: str, field: str, none: str | None = None) -> None:
    """Raise BadInput with the nearest names unless `name` is one of `names`.

    Args:
        what: the kind of thing that has the names, such as "arm".
        none: the hint when no valid name is near.
    """
    if name not in (valid := list(names)):
        raise BadInput(f"no {what} is named {name!r}", field=field, hint=nearest(name, valid) or none)


def _words(name: str) -> set[str]:
    """The words of more than two letters in a name: `multi_query_recall` and `mad-recall` share the word `recall`."""
    return {word for word in re.split(r"[^a-z0-9]+", name.casefold()) if len(word) > 2}


def _edits(left: str, right: str) -> int:
    """The number of letters to delete, add, change, or swap with a neighbour (optimal string alignment distance)."""
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, letter in enumerate(left):
        older, before, row = before, row, [i + 1]
        for j, other in enumerate(right):
            changed = before[j] + (letter != other)
            swapped = i and j and letter == right[j - 1] and other == left[i - 1]
            row.append(min(before[j + 1] + 1, row[j] + 1, changed, older[j - 1] + 1 if swapped else changed))
    return row[-1]
