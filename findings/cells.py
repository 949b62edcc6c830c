"""Tables of the pages, how a number stands in a cell (nothing where it was not measured), and what is said of many of them."""

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


def not_adjusted(rows: Sequence[Mapping[str, Any]], confidence: float) -> str:
    """How many intervals stand on a page, for whoever looks for the one that does not hold 0."""
    count = sum(row["low"] is not None for row in rows)
    return (
        f"{count} intervals of {confidence:.0%} each, none of them adjusted for the others; those against the same arm share its "
        "runs."
    )
