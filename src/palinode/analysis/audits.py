"""The audits of an arm: the audit before its runs, the audit that each run makes of its trained model, and influence pictures.

An influence picture shows which source tokens change the prediction of which target token, and which of these changes are leaks.
A finding stores two square matrices for each group of targets. A row of a matrix is a target, a column is a source. The matrix
`<group> influence` holds numbers of 0 or more. The matrix `<group> allowed` holds 1 where the objective lets the target depend
on the source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from palinode.base.errors import Damaged
from palinode.base.finding import AuditReport, Finding
from palinode.results.record import ArmEntry, ExperimentRecord
from palinode.results.store import Store

Leak = Literal["none", "expected", "unexpected"]
INFLUENCE, ALLOWED = " influence", " allowed"
Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ArmFinding:
    """One finding about an arm, with its scale and, when a run made the finding, the seed of that run."""

    finding: Finding
    scale: str
    seed: int | None = None


@dataclass(frozen=True)
class ArmAudit:
    """The audits of one arm, at one or several scales.

    Attributes:
        reports: scale -> the audit before the runs. The verdict at a scale without this audit is `cannot tell`.
        hashes: scale -> the hash under which the audit report of this scale is stored.
        after_training: the findings about trained models. A finding that `reports` also has at the same scale is left out.
        damaged: the errors that were raised when stored audits of the arm and of its runs were read.
    """

    arm: ArmEntry
    reports: Mapping[str, AuditReport]
    hashes: Mapping[str, str] = field(default_factory=dict)
    after_training: tuple[ArmFinding, ...] = ()
    damaged: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[ArmFinding, ...]:
        """All findings of the arm; the findings of the audits before the runs come first."""
        before = (ArmFinding(one, scale) for scale, report in self.reports.items() for one in report.findings)
        return (*before, *self.after_training)

    @property
    def leaks(self) -> tuple[ArmFinding, ...]:
        """The findings that show a leak."""
        return tuple(item for item in self.findings if item.finding.shows_leak)

    @property
    def leak(self) -> Leak:
        """`none` if no check shows a leak, `expected` if the experiment says that this arm leaks, otherwise `unexpected`."""
        return _declared(bool(self.leaks), self.arm.expect_leak)

    @property
    def collapse(self) -> Leak:
        """`none` if no auxiliary term collapsed, `expected` if the experiment says that this arm's term does, else `unexpected`."""
        return _declared(any(item.finding.shows_collapse for item in self.findings), self.arm.expect_collapse)

    @property
    def failed(self) -> tuple[ArmFinding, ...]:
        """The findings whose outcome is `fail`."""
        return tuple(item for item in self.findings if item.finding.outcome == "fail")

    @property
    def unexpected(self) -> tuple[ArmFinding, ...]:
        """The failed findings that the experiment does not expect."""
        return tuple(item for item in self.failed if not is_expected(item.finding, self.arm))

    @property
    def undecided(self) -> tuple[ArmFinding, ...]:
        """The findings whose check could decide neither for pass nor for fail."""
        return tuple(item for item in self.findings if item.finding.outcome == "could_not_tell")


def arm_audit(record: ExperimentRecord, arm: str, scale: str | None = None) -> ArmAudit:
    """The audits of one arm, at one scale or at all scales.

    A finding from a run's audit is left out if the audit before the runs has an equal finding at the same scale.

    Raises:
        BadInput: the experiment has no arm of this name.
    """
    entry = record.entry.arm(arm)
    scales = record.entry.scales if scale is None else (scale,)
    hashes = record.entry.audits.get(arm, {})
    reports = {name: record.audits[arm, name] for name in scales if (arm, name) in record.audits}
    after_training: list[ArmFinding] = []
    damaged = [str(record.damaged[hashes[name]]) for name in scales if hashes.get(name) in record.damaged]
    for name in scales:
        before = reports[name].findings if name in reports else ()
        for run in record.runs_of(arm, name):
            try:
                after_training += [ArmFinding(one, name, run.entry.seed) for one in run.findings() if one not in before]
            except Damaged as error:
                damaged.append(str(error))
    return ArmAudit(entry, reports, hashes, tuple(after_training), tuple(damaged))


def is_expected(failed: Finding, arm: ArmEntry) -> bool:
    """Whether the experiment expects this failure of an arm. An arm that is expected to leak is allowed to fail any check."""
    return arm.expect_leak or (arm.expect_collapse and failed.shows_collapse)


def _declared(happened: bool, expected: bool) -> Leak:
    return "none" if not happened else "expected" if expected else "unexpected"


# --- influence pictures -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """One influence matrix, and the matrix of the influence that is allowed; T is the number of positions.

    Attributes:
        group: the name of the group of targets, such as `rtl`.
        influence: the influence of each source on each target: (T, T), a row is a target, a column is a source.
        allowed: a matrix (T, T) that is above 0 where influence is allowed. None if the audit did not store this matrix: then only
            the influence of a target on its own prediction counts as a leak.
        failed: whether the outcome of the finding is `fail`. If the finding did not fail, no cell of the matrix counts as a leak.
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
        """The number of positions T. Both matrices have the shape (T, T)."""
        return len(self.influence)

    def is_allowed(self, target: int, source: int) -> bool:
        """Whether the prediction of `target` may depend on `source`."""
        return source != target if self.allowed is None else self.allowed[target][source] > 0

    @cached_property
    def leaks(self) -> frozenset[tuple[int, int]]:
        """The cells (target, source) with influence above 0 although the objective does not allow influence there."""
        if not self.failed:
            return frozenset()
        cells = ((target, source) for target in range(self.length) for source in range(self.length))
        return frozenset((t, s) for t, s in cells if self.influence[t][s] > 0 and not self.is_allowed(t, s))

    @property
    def targets_that_see_themselves(self) -> tuple[int, ...]:
        """The target positions whose prediction depends on the token to be predicted, in ascending order."""
        return tuple(sorted(target for target, source in self.leaks if target == source))

    @property
    def targets_that_leak(self) -> tuple[int, ...]:
        """The target positions whose prediction depends on a token that the objective forbids, in ascending order."""
        return tuple(sorted({target for target, _ in self.leaks}))


def pictures(record: ExperimentRecord, arm: str) -> tuple[Picture, ...]:
    """The influence pictures of an arm: for each check and group of targets, one picture, if possible of a scale with a leak."""
    chosen: dict[tuple[str, str], Picture] = {}
    for item in arm_audit(record, arm).findings:
        for picture in pictures_of(item, arm):
            key = (picture.check, picture.group)
            if key not in chosen or (picture.leaks and not chosen[key].leaks):
                chosen[key] = picture
    return tuple(chosen.values())


def pictures_of(item: ArmFinding, arm: str) -> list[Picture]:
    """The influence pictures that one finding stored."""
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


def failed_about_run(store: Store, run_id: str) -> tuple[Finding, ...]:
    """The failed findings about one run: those of its own audit, and those of the arms that it is a run of.

    Raises:
        BadInput: the store has no such run.
        Damaged: a stored audit is damaged.
    """
    reports = [store.record(run_id).audit_report()]
    for entry in store.experiments():
        places = {(run.arm, run.scale) for run in entry.runs if run.run_id == run_id}
        hashes = {entry.audits.get(arm, {}).get(scale) for arm, scale in places}
        reports += [store.audit(one) for one in sorted(filter(None, hashes))]
    failed = [one for report in reports if report is not None for one in report.findings if one.outcome == "fail"]
    return tuple({(one.check, one.message): one for one in failed}.values())
