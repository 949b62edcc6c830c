"""Tables as plain text: columns as wide as their longest cell, numbers to the right."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from palinode.base.errors import printable

LONGEST_CELL_CHARACTERS = 60
LEAST_NAME_CHARACTERS = 8  # a column is not cut below this, however narrow the terminal is
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
        most_characters: how wide a line may be; the widest columns of texts are cut to fit. None: as wide as it gets.
    """
    lines = [list(columns), *([_cell(text) for text in row] for row in rows)]
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
    """How wide the terminal is that standard output goes to; None for a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _cell(text: str) -> str:
    """Safe for a terminal, with plain spaces where numbers are grouped by thin ones."""
    return printable(with_plain_spaces(text), LONGEST_CELL_CHARACTERS)


def with_plain_spaces(text: str) -> str:
    """The text with plain spaces where a page has narrow ones between groups of digits."""
    return text.translate(dict.fromkeys((0x2009, 0x202F), " "))
