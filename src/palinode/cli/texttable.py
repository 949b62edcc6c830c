"""Text and tables that are safe for a terminal: a column is as wide as its longest cell, and numbers are aligned to the right."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from palinode.base.errors import printable

LONGEST_CELL_CHARACTERS = 60
LEAST_NAME_CHARACTERS = 8  # the least width of a column, however narrow the terminal is
GAP = "  "


def text_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[str] = (),
    most_characters: int | None = None,
) -> str:
    """A header line and one line per row.

    Args:
        right: the names of the columns that are aligned to the right.
        most_characters: the width of a line; the widest columns of texts are cut to fit. None: the width has no limit.
    """
    lines = [list(columns), *([shown(text, LONGEST_CELL_CHARACTERS) for text in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    texts = [index for index, name in enumerate(columns) if name not in right]
    while most_characters is not None and sum(widths) + len(GAP) * (len(widths) - 1) > most_characters:
        widest = max(texts, key=lambda index: widths[index])
        if widths[widest] <= LEAST_NAME_CHARACTERS:
            break
        widths[widest] -= 1
    return "\n".join(
        GAP.join(
            cell.rjust(width) if name in right else printable(cell, width).ljust(width)
            for cell, width, name in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    )


def terminal_characters() -> int | None:
    """The width in characters of the terminal that standard output goes to; None for a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def shown(text: str, limit_characters: int = 200) -> str:
    """A name or message from a file, safe for a terminal; the narrow spaces in large numbers become plain spaces."""
    return printable(text.translate(dict.fromkeys((0x2009, 0x202F), " ")), limit_characters)


def stamps(audit: Mapping[str, Any], expected: str) -> list[str]:
    """The marks LEAK and COLLAPSE that an audit shows, each followed by `expected` if the experiment declares the failure."""
    kinds = (("LEAK", "leaks", "expect_leak"), ("COLLAPSE", "collapses", "expect_collapse"))
    return [f"{word}{expected if audit.get(declared) else ''}" for word, key, declared in kinds if audit.get(key)]
