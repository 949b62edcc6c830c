"""Names and seeds that are good everywhere: in a file name, on a terminal, in a report, on another system."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from palinode.base.errors import BadInput
from palinode.spec.run_spec import SEED_LIMIT

NAME_LIMIT_CHARACTERS = 100
RESERVED_NAMES = frozenset(
    ["con", "prn", "aux", "nul", *(f"com{n}" for n in range(1, 10)), *(f"lpt{n}" for n in range(1, 10))]
)
FILE_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def good_name(name: str) -> str:
    """The name, when it can be shown and stored everywhere.

    Raises:
        ValueError: it is empty, too long, could be read as a path or an option, is reserved, or holds control characters.
    """
    if not name or name != name.strip():
        raise ValueError(f"a name cannot be empty or begin or end with a space, got {name[:40]!r}")
    if len(name) > NAME_LIMIT_CHARACTERS:
        raise ValueError(f"a name has at most {NAME_LIMIT_CHARACTERS} characters, this one has {len(name)}")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        raise ValueError(f"a name cannot hold control characters, got {name[:40]!r}")
    if name[0] in "-." or name.endswith(".") or ".." in name or set(name) & set("/\\"):
        raise ValueError(f"a name cannot look like a path or an option, got {name[:40]!r}")
    if name.partition(".")[0].casefold() in RESERVED_NAMES:
        raise ValueError(f"{name!r} is a reserved file name on some systems")
    return name


def good_file_name(name: str) -> str:
    """A name that becomes part of a file name on every system: letters, digits, `.`, `_` and `-` (no `--`).

    Raises:
        ValueError: it holds anything else.
    """
    if strange := sorted(set(good_name(name)) - FILE_NAME_CHARACTERS):
        raise ValueError(f"names files: letters, digits, '.', '_' and '-', not {strange[0]!r} (in {name[:40]!r})")
    if "--" in name:
        raise ValueError(f"'--' parts an experiment's name from its size; {name[:40]!r} cannot hold it")
    return name


def distinct_names(names: Iterable[str], *, field: str) -> None:
    """Refuse two names that are the same, or differ only in case (some file systems cannot tell them apart)."""
    seen: dict[str, str] = {}
    for name in names:
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in seen:
            how = "is used twice" if seen[folded] == name else f"differs from {seen[folded]!r} only in case"
            raise BadInput(f"the name {name!r} {how}", field=field)
        seen[folded] = name


def good_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    """The seeds, when they are one or more different numbers from 0 to 2^63 - 1.

    Raises:
        ValueError: none, a number twice, or a number out of range.
    """
    if not seeds:
        raise ValueError("at least one seed is needed")
    seen: set[int] = set()
    for seed in seeds:
        if not 0 <= seed < SEED_LIMIT:
            raise ValueError(f"a seed is a whole number from 0 to 2^63 - 1, got {seed}")
        if seed in seen:
            raise ValueError(f"seed {seed} is given twice")
        seen.add(seed)
    return seeds


def check_file_name(name: str, *, field: str) -> None:
    """Raise BadInput at `field` unless `name` can name a file."""
    try:
        good_file_name(name)
    except ValueError as error:
        raise BadInput(str(error), field=field) from None


def check_seeds(seeds: tuple[int, ...], *, field: str) -> None:
    """Raise BadInput at `field` unless these are good seeds."""
    try:
        good_seeds(seeds)
    except ValueError as error:
        raise BadInput(str(error), field=field) from None
