"""Straight lines through means over seeds, over the decimal logarithm of a count: of parameters, or of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from palinode.analysis.intervals import ends, mean, t_interval


class Point(NamedTuple):
    """One point of a line: the count `at`, and the mean over seeds with its interval, which allows for the other points.

    `scale` is the name of the scale that the point belongs to; empty if it belongs to none.
    """

    at: float
    mean: float
    low: float | None
    high: float | None
    scale: str = ""


def slope_per_decade(points: Sequence[tuple[float, float]]) -> float | None:
    """How much y changes when x is ten times as large, by least squares over pairs (x, y); None without two different x."""
    if len({x for x, _ in points}) < 2:
        return None
    return float(np.polyfit([math.log10(x) for x, _ in points], [y for _, y in points], 1)[0])


def points_over_seeds(
    values: Sequence[tuple[float, Sequence[float]]], confidence: float, scales: Sequence[str] = ()
) -> tuple[Point, ...]:
    """The points of a line, by x, from pairs (x, values of the seeds). Each t interval allows for the other points (Bonferroni).

    Args:
        scales: the name of the scale of each pair; empty if the pairs belong to no scales.
    """
    of_one = 1 - (1 - confidence) / max(1, len(values))
    named = zip(values, scales or [""] * len(values), strict=True)
    known = [(at, here, scale, ends(t_interval(here, of_one))) for (at, here), scale in named if here]
    points = [Point(at, mean(here), low, high, scale) for at, here, scale, (low, high) in known]
    return tuple(sorted(points, key=lambda point: (point.at, point.mean)))
