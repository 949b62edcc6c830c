"""Whether what a metrics row holds has the shape that readers count on: a store may come from a stranger."""

from __future__ import annotations

from typing import Any


def is_geometry(geometry: Any) -> bool:
    """Numbers by name, and a table of numbers by distance."""
    if not isinstance(geometry, dict):
        return False
    by_distance = geometry.get("position_cosine_by_distance", {})
    numbers = [value for name, value in geometry.items() if name != "position_cosine_by_distance"]
    return (
        isinstance(by_distance, dict)
        and all(distance.isdecimal() for distance in by_distance)
        and all(isinstance(value, int | float) for value in (*numbers, *by_distance.values()))
    )


def is_placed(row: dict[str, Any]) -> bool:
    """Levels: trivial accuracies by name; passes: slices as lists of whole numbers; lengths: whole numbers with scores."""
    trivial = row["levels"].get("trivial", {})
    return (
        isinstance(trivial, dict)
        and all(value is None or isinstance(value, int | float) for value in trivial.values())
        and all(isinstance(found, dict) and _is_slices(found.get("slices", {})) for found in row["by_pass"].values())
        and all(length.isdecimal() and is_scores(found) for length, found in row["lengths"].items())
    )


def _is_slices(slices: Any) -> bool:
    names = ("value", "sequences", "tokens_scored", "hits")
    return isinstance(slices, dict) and all(
        isinstance(cells, list)
        and all(isinstance(cell, dict) and all(isinstance(cell.get(name), int) for name in names) for cell in cells)
        for cells in slices.values()
    )


def is_scores(scores: Any) -> bool:
    """A table of tables: direction -> score -> number."""
    return isinstance(scores, dict) and all(isinstance(item, dict) for item in scores.values())
