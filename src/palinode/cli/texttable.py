"""Tables as plain text: columns wide enough for their longest cell, numbers to the right."""

from __future__ import annotations

from collections.abc import Sequence

from palinode.base.errors import printable

LONGEST_CELL_CHARACTERS = 60


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """A header line and one line per row.

    Args:
        right: the names of the columns that are aligned to the right.
    """
    lines = [list(columns), *([_cell(text) for text in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for cell, width, name in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(text: str) -> str:
    """Safe for a terminal, with plain spaces where numbers are grouped by thin ones."""
    return printable(with_plain_spaces(text), LONGEST_CELL_CHARACTERS)


def with_plain_spaces(text: str) -> str:
    """The narrow spaces that group digits on a page, as plain ones."""
    return text.translate(dict.fromkeys((0x2009, 0x202F), " "))
