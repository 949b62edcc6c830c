"""Checks of names and seeds. A name must work in file names, terminals and reports on every system."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, GetCoreSchemaHandler, ValidatorFunctionWrapHandler
from pydantic_core import CoreSchema, core_schema

from palinode.base.decision import UNTIL_DECIDED
from palinode.base.errors import BadInput
from palinode.spec.run_spec import SEED_LIMIT

T = TypeVar("T")
NAME_LIMIT_CHARACTERS = 100
RESERVED_NAMES = frozenset(
    ["con", "prn", "aux", "nul", *(f"com{n}" for n in range(1, 10)), *(f"lpt{n}" for n in range(1, 10))]
)
NO_CHARACTERS = "\ufffe\uffff"  # XML, and so every figure, forbids them
FILE_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def good_name(name: str) -> str:
    """The name, after a check that it can be shown and stored on every system.

    Raises:
        ValueError: the name is empty, too long or reserved, looks like a path or an option, or has control characters.
    """
    if not name or name != name.strip():
        raise ValueError(f"a name cannot be empty or begin or end with a space, got {name[:40]!r}")
    if len(name) > NAME_LIMIT_CHARACTERS:
        raise ValueError(f"a name has at most {NAME_LIMIT_CHARACTERS} characters, but this one has {len(name)}")
    if any(unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") or one in NO_CHARACTERS for one in name):
        raise ValueError(f"a name cannot hold control characters, got {name[:40]!r}")
    if name[0] in "-." or name.endswith(".") or ".." in name or set(name) & set("/\\"):
        raise ValueError(f"a name cannot look like a path or an option, got {name[:40]!r}")
    if name.partition(".")[0].casefold() in RESERVED_NAMES:
        raise ValueError(f"{name!r} is a reserved file name on some systems")
    return name


def good_file_name(name: str) -> str:
    """The name, after a check that it can be part of a file name: letters, digits, `.`, `_` and `-` (no `--`).

    Raises:
        ValueError: the name has other characters.
    """
    if strange := sorted(set(good_name(name)) - FILE_NAME_CHARACTERS):
        allowed = "letters, digits, '.', '_' and '-'"
        raise ValueError(f"a name of files has {allowed}, not {strange[0]!r} (in {name[:40]!r})")
    if "--" in name:
        raise ValueError(f"'--' separates an experiment's name from its size, so {name[:40]!r} cannot have it")
    return name


def distinct_names(names: Iterable[str], *, field: str) -> None:
    """Refuse equal names, and names that differ only in case, because some file systems ignore case."""
    seen: dict[str, str] = {}
    for name in names:
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in seen:
            how = "is used twice" if seen[folded] == name else f"differs from {seen[folded]!r} only in case"
            raise BadInput(f"the name {name!r} {how}", field=field)
        seen[folded] = name


def good_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    """The seeds, after a check that they are one or more different numbers from 0 to 2^63 - 1.

    Raises:
        ValueError: the list of seeds is empty, or a seed is repeated or out of range.
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


def checked(check: Callable[[T], T], value: T, *, field: str) -> T:
    """The value, after a check of this module. A value that the check refuses raises a BadInput that names `field`."""
    try:
        return check(value)
    except ValueError as error:
        raise BadInput(str(error), field=field) from None


# The types of config fields that hold names or seeds.
Name = Annotated[str, AfterValidator(good_name)]
FileName = Annotated[str, AfterValidator(good_file_name)]
Seeds = Annotated[tuple[int, ...], AfterValidator(good_seeds)]


class _OrUntilDecided:
    """Lets a field hold seeds or the text "until decided". An error of the field is about seeds, not about two possible types."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def seeds_or_text(value: Any, validate_seeds: ValidatorFunctionWrapHandler) -> Any:
            if isinstance(value, str) and value != UNTIL_DECIDED:
                raise ValueError(f"must be a list of seeds or {UNTIL_DECIDED!r}, got {value[:40]!r}")
            return value if value == UNTIL_DECIDED else validate_seeds(value)

        plain = core_schema.plain_serializer_function_ser_schema(lambda value: value)
        seeds = handler.generate_schema(Seeds)
        return core_schema.no_info_wrap_validator_function(seeds_or_text, seeds, serialization=plain)


PlannedSeeds = Annotated[tuple[int, ...] | Literal["until decided"], _OrUntilDecided()]
