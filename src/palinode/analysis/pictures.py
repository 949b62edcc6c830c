"""The influence pictures of an audit: which source tokens change the prediction of which target, and where that is a leak.

A finding stores two square matrices for each group of targets; a row is a target, a column is a source: `<group> influence` (0 or
more) and `<group> allowed` (1 where the objective lets the target depend on the source).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from palinode.analysis.audits import ArmFinding, arm_audit
from palinode.results.record import ExperimentRecord

INFLUENCE, ALLOWED = " influence", " allowed"
Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Picture:
    """One influence matrix and what is allowed in it; T is the number of positions.

    Attributes:
        group: which targets, such as `rtl`.
        influence: (T, T), target by source.
        allowed: (T, T), above 0 where influence is allowed. None if the audit did not store it: then only the influence of a target
            on its own prediction counts as a leak.
        failed: whether the finding failed. If it did not, no cell counts as a leak.
    """

    arm: str
    scale: str
    check: str
    group: str
    influence: Matrix
    allowed: Matrix | None
    failed: bool

    @property
    def length(self) -> int:
        """T, in positions."""
        return len(self.influence)

    def is_allowed(self, target: int, source: int) -> bool:
        """Whether the prediction of `target` may depend on `source`."""
        return source != target if self.allowed is None else self.allowed[target][source] > 0

    @cached_property
    def leaks(self) -> frozenset[tuple[int, int]]:
        """The (target, source) cells with influence that is not allowed."""
        if not self.failed:
            return frozenset()
        cells = ((target, source) for target in range(self.length) for source in range(self.length))
        return frozenset((t, s) for t, s in cells if self.influence[t][s] > 0 and not self.is_allowed(t, s))

    @property
    def targets_that_see_themselves(self) -> tuple[int, ...]:
        """The positions whose prediction depends on their own token, in order."""
        return tuple(sorted(target for target, source in self.leaks if target == source))

    @property
    def targets_that_leak(self) -> tuple[int, ...]:
        """The positions whose prediction depends on a token that is not allowed, in order."""
        return tuple(sorted({target for target, _ in self.leaks}))


def pictures(record: ExperimentRecord, arm: str) -> tuple[Picture, ...]:
    """One picture of an arm per check and group: at the first scale with a leak, otherwise at the first scale."""
    chosen: dict[tuple[str, str], Picture] = {}
    for item in arm_audit(record, arm).findings:
        for picture in pictures_of(item, arm):
            key = (picture.check, picture.group)
            if key not in chosen or (picture.leaks and not chosen[key].leaks):
                chosen[key] = picture
    return tuple(chosen.values())


def pictures_of(item: ArmFinding, arm: str) -> list[Picture]:
    """The pictures that one finding stored."""
    stored = item.finding.pictures
    found = []
    for name, matrix in stored.items():
        if name.endswith(ALLOWED) or not _is_square(matrix):
            continue
        group = name.removesuffix(INFLUENCE)
        law = stored.get(group + ALLOWED)
        law = law if law is not None and _is_square(law) and len(law) == len(matrix) else None
        failed = item.finding.outcome == "fail"
        found.append(Picture(arm, item.scale, item.finding.check, group, matrix, law, failed))
    return found


def _is_square(matrix: Matrix) -> bool:
    return len(matrix) > 0 and all(len(row) == len(matrix) for row in matrix)
