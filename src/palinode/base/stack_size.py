"""The largest number of runs that are trained together in one process: a number, or `auto` for a number chosen by measurement."""

from __future__ import annotations

from typing import Literal

from palinode.base.errors import BadInput, nearest, printable

StackSize = int | Literal["auto"]
AUTO: Literal["auto"] = "auto"
MOST_RUNS = 256  # the largest number of runs in one process


def stack_size(value: str | int) -> StackSize:
    """The stack size that a user wrote.

    Raises:
        BadInput: the value is neither `auto` nor a whole number from 1 to MOST_RUNS.
    """
    text = str(value).strip()
    if text == AUTO:
        return AUTO
    if text.isdecimal() and text.isascii() and 1 <= int(text[:9]) <= MOST_RUNS and not isinstance(value, bool):
        return int(text)
    guess = None if text[:1].isdigit() or text[:1] == "-" else nearest(text, [AUTO])
    hint = guess if guess and guess.startswith("did") else f"a number from 1 to {MOST_RUNS}, or {AUTO}"
    raise BadInput(f"{printable(text, 40)!r} is no number of runs to train together", field="--stack", hint=hint)
