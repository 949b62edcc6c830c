"""What the audits say about an arm: those made before its runs and those the runs made of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from palinode.base.errors import Damaged
from palinode.base.finding import AuditReport, Finding
from palinode.results.record import ArmEntry, ExperimentRecord, ExperimentRun

Leak = Literal["none", "expected", "unexpected"]


@dataclass(frozen=True)
class Audited:
    """A finding and where it was made: at a scale (before the runs), or by the run of one seed."""

    finding: Finding
    scale: str
    seed: int | None = None


@dataclass(frozen=True)
class ArmAudit:
    """What the audits of one arm found, at some scales.

    Attributes:
        reports: scale -> the audit made before the runs; a scale that lacks one is not believed.
        hashes: scale -> the hash that its report is stored under.
        after_training: what the runs found in themselves and no report holds.
        damaged: run audits that do not decode.
    """

    arm: ArmEntry
    reports: Mapping[str, AuditReport]
    hashes: Mapping[str, str] = field(default_factory=dict)
    after_training: tuple[Audited, ...] = ()
    damaged: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[Audited, ...]:
        """All findings: those made before the runs come first."""
        before = (Audited(one, scale) for scale, report in self.reports.items() for one in report.findings)
        return (*before, *self.after_training)

    @property
    def leaks(self) -> tuple[Audited, ...]:
        """The findings that show the arm seeing what it may not."""
        return tuple(item for item in self.findings if item.finding.shows_leak)

    @property
    def leak(self) -> Leak:
        """Whether a check shows the arm seeing what it may not, and whether the experiment said so beforehand."""
        return _declared(bool(self.leaks), self.arm.expect_leak)

    @property
    def collapse(self) -> Leak:
        """The same of an auxiliary term that vanished."""
        return _declared(any(item.finding.shows_collapse for item in self.findings), self.arm.expect_collapse)

    @property
    def failed(self) -> tuple[Audited, ...]:
        """The findings with outcome fail."""
        return tuple(item for item in self.findings if item.finding.outcome == "fail")

    @property
    def unexpected(self) -> tuple[Audited, ...]:
        """The failed findings that the experiment did not declare: an arm that is expected to leak may fail any check."""
        if self.arm.expect_leak:
            return ()
        return tuple(item for item in self.failed if not (self.arm.expect_collapse and item.finding.shows_collapse))

    @property
    def untold(self) -> tuple[Audited, ...]:
        """The findings that could not tell."""
        return tuple(item for item in self.findings if item.finding.outcome == "could_not_tell")


def arm_audit(record: ExperimentRecord, arm: str, scale: str | None = None) -> ArmAudit:
    """Gather the audits of one arm, at one scale or at all of them; a finding that was made twice is kept once.

    Raises:
        BadInput: the experiment has no such arm.
    """
    entry = record.entry.arm(arm)
    scales = record.entry.scales if scale is None else (scale,)
    reports = {name: record.audits[arm, name] for name in scales if (arm, name) in record.audits}
    after_training: list[Audited] = []
    damaged: list[str] = []
    for name in scales:
        before = reports[name].findings if name in reports else ()
        for run in record.runs_of(arm, name):
            findings, problem = _run_audit(run)
            damaged += [problem] if problem else []
            after_training += [Audited(one, name, run.entry.seed) for one in findings if one not in before]
    return ArmAudit(entry, reports, record.entry.audits.get(arm, {}), tuple(after_training), tuple(damaged))


def _declared(happened: bool, expected: bool) -> Leak:
    return "none" if not happened else "expected" if expected else "unexpected"


def _run_audit(run: ExperimentRun) -> tuple[tuple[Finding, ...], str | None]:
    """The findings that a run made of itself, and what is wrong with their file."""
    try:
        report = run.record.audit_report() if run.record is not None else None
    except Damaged as error:
        return (), str(error)
    return (report.findings if report is not None else ()), None
