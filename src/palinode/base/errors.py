"""The errors that a user can cause or meet, and the exit code of each.

Every such error is one line: which file, which field, what is wrong, and what to do about it.
Exit codes: 0 ok, 1 finished but some runs failed or diverged, 2 bad input, 3 audit failed, 4 damaged data,
5 environment, 70 internal bug, 130 SIGINT, 143 SIGTERM.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Self

MOST_SUGGESTIONS = 3
MOST_LISTED = 24  # the most names that a hint lists: there are 24 tasks
OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")
LONGEST_TYPO_CHARACTERS = 100  # a longer name is no typo of a field


class PalinodeError(Exception):
    """An error with a place (file, field), a hint, and an exit code.

    Args:
        message: what is wrong, without the place.
        file: the file it is in, as the user named it.
        field: the dotted path of the field inside that file.
        hint: what to do about it (for instance the nearest valid name).
    """

    exit_code = 70
    longest_characters = 2000  # of the line that says it

    def __init__(self, message: str, *, file: str | None = None, field: str | None = None, hint: str | None = None):
        super().__init__(message)
        self.message = message
        self.file = file
        self.field = field
        self.hint = hint

    def at(self, *, file: str | None = None, field: str | None = None) -> PalinodeError:
        """The same error; its file and field are set where they were missing."""
        self.file = self.file or file
        self.field = self.field or field
        return self

    def inside(self, place: str | None) -> Self:
        """The same error; its field becomes one inside `place`, unless it begins with that already."""
        if place and not f"{self.field or ''}.".startswith(f"{place}."):
            self.field = ".".join(step for step in (place, self.field) if step)
        return self

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.file, self.field) if part)
        text = f"{place}: {self.message}" if place else self.message
        text = f"{text} ({self.hint})" if self.hint else text
        return printable(text)


class BadInput(PalinodeError):
    """The user's input cannot be used: exit 2, nothing was written."""

    exit_code = 2
    longest_characters = 200


class UnknownKey(BadInput):
    """A key that its level does not have; the hint names the nearest one, and all others.

    Args:
        key: the key as the user wrote it.
        valid: the keys of this level.
        more: what else the message says, after the key.
    """

    longest_characters = 1000

    def __init__(self, key: str, valid: Iterable[str], more: str = "", *, file: str | None = None, field: str):
        keys = sorted(valid)
        closest = nearest(key, keys) or ""
        hints = ([closest] if closest.startswith("did") else []) + ([f"valid: {', '.join(keys)}"] if keys else [])
        message = f"unknown key {printable(key, 60)!r}{more}"
        super().__init__(message, file=file, field=printable(field, 100), hint="; ".join(hints) or None)


class Unfinished(BadInput, NotImplementedError):
    """A class that a user wrote lacks a method that is needed: exit 2.

    Args:
        part: an object of the class that the user wrote.
        lacks: what the class must do, such as "must define cost(slots, sees)".
    """

    def __init__(self, part: object, lacks: str):
        super().__init__(f"{type(part).__name__} {lacks}", hint="see docs/adding.md")


class AuditFailed(PalinodeError):
    """An arm can see its own answer, or an audit check failed where none was expected: exit 3."""

    exit_code = 3


class Damaged(PalinodeError):
    """Stored data is damaged, and there is no good copy to use instead: exit 4."""

    exit_code = 4


class EnvironmentProblem(PalinodeError):
    """The machine lacks something or refused: disk, memory, device or network: exit 5."""

    exit_code = 5


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether the machine or an accelerator had no memory left. PyTorch raises a RuntimeError then, or a class of its own."""
    named = any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__)
    described = isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)
    return isinstance(error, MemoryError) or named or described


def printable(text: str, limit_characters: int = 1000) -> str:
    """The text as one line without control characters, which could change the terminal."""
    flat = "".join(character if character.isprintable() else "?" for character in text.replace("\n", " "))
    return flat if len(flat) <= limit_characters else flat[: limit_characters - 1] + "…"


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """A hint: the valid names closest to `name`, or those that share a word with it, or all of them when there are few.

    None when none of these is possible.
    """
    names = sorted(valid)
    is_short = len(name) <= LONGEST_TYPO_CHARACTERS
    edits = {candidate: _edits(name.casefold(), candidate.casefold()) for candidate in names if is_short}
    fewest = min(edits.values(), default=0)
    longer = [candidate for candidate in names if len(name) > 2 and candidate.startswith(name)]
    if longer and fewest > 2:  # no typo, but the beginning of a name
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
        what: what they name, such as "arm".
        none: the hint where no name is near.
    """
    if name not in (valid := list(names)):
        raise BadInput(f"no {what} is named {name!r}", field=field, hint=nearest(name, valid) or none)


def _words(name: str) -> set[str]:
    """The words of more than two letters in a name: `multi_query_recall` and `mad-recall` share one."""
    return {word for word in re.split(r"[^a-z0-9]+", name.casefold()) if len(word) > 2}


def _edits(left: str, right: str) -> int:
    """The number of letters to delete, add, change or swap with their neighbour (optimal string alignment distance)."""
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, letter in enumerate(left):
        older, before, row = before, row, [i + 1]
        for j, other in enumerate(right):
            changed = before[j] + (letter != other)
            swapped = i and j and letter == right[j - 1] and other == left[i - 1]
            row.append(min(before[j + 1] + 1, row[j] + 1, changed, older[j - 1] + 1 if swapped else changed))
    return row[-1]
