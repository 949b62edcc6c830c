"""The heat maps of the audit: they show which target positions depend on which source positions. Leaks are red.

In each map, a line surrounds the pairs of positions between which the objective allows influence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from palinode.analysis.audits import Picture, pictures
from palinode.checks.text import ranges
from palinode.report import charts
from palinode.report.study import Figure, Place, Rows, Study, file_name, rounded
from palinode.report.words import number

MAP_PIXELS = 280
SHADE_EXPONENT = 0.35  # shade = (strength / peak) ** 0.35, so that weak influence is visible next to strong influence


def map_figures(study: Study) -> Iterator[Figure]:
    """The heat maps: one figure per influence picture of each arm. Many maps get coarser squares, so that the page stays small."""
    shown = [picture for arm in study.arms() for picture in pictures(study.record, arm)]
    most_cells = 64 if len(shown) <= 6 else 48 if len(shown) <= 12 else 32 if len(shown) <= 30 else 16
    for picture in shown:
        block = -(-picture.length // most_cells)
        chart = charts.influence_map(picture.length, law_boundary(picture), MAP_PIXELS)
        place = Place(picture.arm, file_name(picture.arm, picture.group))
        rows, title = map_rows(picture, block), f"{picture.group}: which targets depend on which sources"
        yield place.figure("influence", title, rows, {"": chart}, notes=map_notes(picture, block))


def map_rows(picture: Picture, block: int) -> Rows:
    """The rows of a heat map: one row per square with influence.

    A square covers `block` x `block` cells of the influence matrix. A square leaks if one of its cells leaks. A leaking square
    shows its strongest leak; a square without a leak shows its strongest cell.
    """
    peak = max((value for row in picture.influence for value in row), default=0.0)
    starts = range(0, picture.length, block)
    rows: Rows = []
    for target in starts:
        for source in starts:
            targets = range(target, min(target + block, picture.length))
            sources = range(source, min(source + block, picture.length))
            cells = [(t, s) for t in targets for s in sources]
            leaking = [cell for cell in cells if cell in picture.leaks]
            strength = max(picture.influence[t][s] for t, s in leaking or cells)
            if strength > 0:
                rows.append(_row(targets, sources, strength, (strength / peak) ** SHADE_EXPONENT, bool(leaking)))
    return rows


def law_boundary(picture: Picture) -> Rows:
    """The line segments around the region of allowed influence; no segments if the audit did not store what is allowed."""
    if picture.allowed is None:
        return []
    size = picture.length

    def lawful(target: int, source: int) -> bool:
        return 0 <= target < size and 0 <= source < size and picture.is_allowed(target, source)

    segments: Rows = []
    for line in range(size + 1):
        upright = [lawful(at, line - 1) != lawful(at, line) for at in range(size)]
        level = [lawful(line - 1, at) != lawful(line, at) for at in range(size)]
        segments += [{"x": line, "x2": line, "y": low, "y2": high} for low, high in _stretches(upright)]
        segments += [{"x": low, "x2": high, "y": line, "y2": line} for low, high in _stretches(level)]
    return segments


def map_notes(picture: Picture, block: int) -> tuple[str, ...]:
    """The sentences that describe an influence picture."""
    notes = []
    if picture.leaks:
        if own := picture.targets_that_see_themselves:
            notes.append(f"{len(own)} of {picture.length} positions see their own target: {ranges(own)}.")
        notes.append(f"{number(len(picture.leaks))} forbidden pairs of positions carry influence.")
    elif picture.failed:
        notes.append("The leak does not show at this length; the finding says where it does.")
    else:
        notes.append("No forbidden pair of positions carries influence.")
    if picture.allowed is None:
        notes.append("The audit stored no law for this picture.")
    if block > 1:
        notes.append(f"Each square covers {block} × {block} positions and shows the strongest influence among them.")
    return tuple(notes)


def _row(targets: range, sources: range, strength: float, shade: float, leaks: bool) -> dict[str, Any]:
    return {
        "target": targets.start,
        "target_end": targets.stop,
        "source": sources.start,
        "source_end": sources.stop,
        "targets": _span(targets),
        "sources": _span(sources),
        "influence": rounded(strength, 2),
        "shade": round(shade, 2),
        "state": "LEAK" if leaks else "allowed",
    }


def _span(positions: range) -> str:
    return str(positions.start) if len(positions) == 1 else f"{positions.start} to {positions.stop - 1}"


def _stretches(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """The half-open ranges of indices whose flags are true."""
    edges = np.flatnonzero(np.diff(np.array([False, *flags, False], dtype=np.int8)))
    return [(int(low), int(high)) for low, high in edges.reshape(-1, 2)]
