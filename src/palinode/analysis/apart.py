"""Runs of one arm that end far from its other runs: training went wrong, or went well, in some of them. Their mean describes none.

The scores are sorted and parted at their widest gap. Both groups are reported if the gap is much wider than the range of the larger
group. How much wider depends on the number of runs: few runs often lie close together by chance.
"""

from __future__ import annotations

from collections.abc import Sequence

# Number of runs -> the least gap, in ranges of the larger group. Normal scores have such a gap in 1 of 200 cases (a test draws
# them). With fewer than 5 runs it would have to be 50 ranges or more; with more than 10, that of 10 runs is rarer.
LEAST_GAPS = {5: 12.9, 6: 8.3, 7: 4.4, 8: 3.45, 9: 2.5, 10: 2.1}


def apart(scores: Sequence[float]) -> tuple[list[float], list[float]] | None:
    """The scores as two groups that lie far from each other: the smaller group and the larger one, both sorted.

    Of two equal groups the one with the lower scores is called the larger.

    Returns:
        None with fewer than 5 scores, or if no gap is wide enough.
    """
    if len(scores) < min(LEAST_GAPS):
        return None
    ordered = sorted(scores)
    first_above = max(range(1, len(ordered)), key=lambda index: ordered[index] - ordered[index - 1])
    below, above = ordered[:first_above], ordered[first_above:]
    smaller, larger = (below, above) if len(below) < len(above) else (above, below)
    least = LEAST_GAPS[min(len(ordered), max(LEAST_GAPS))] * (larger[-1] - larger[0])
    return (smaller, larger) if above[0] - below[-1] > least else None
