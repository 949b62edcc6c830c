"""Tables of the pages, and how a number stands in a cell: nothing where it was not measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    """Lines of a table."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def plain(value: float | None, decimals: int = 4) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


def signed(value: float | None, decimals: int = 4) -> str:
    return "" if value is None else f"{value:+.{decimals}f}"


def whole(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def between(row: Mapping[str, Any], said: Callable[[float], str]) -> str:
    """The interval `low` to `high` of a row."""
    return "" if row["low"] is None else f"{said(row['low'])} to {said(row['high'])}"
