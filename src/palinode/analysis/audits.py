"""What the audits say about an arm: those made before its runs and those the runs made of themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from palinode.base.errors import Damaged
from palinode.base.finding import Finding
from palinode.results.record import ExperimentRecord, ExperimentRun

Leak = Literal["none", "expected", "unexpected"]


@dataclass(frozen=True)
class Audited:
    """A finding and where it was made: at a scale (before the runs), or by the run of one seed."""

    finding: Finding
    scale: str
    seed: int | None = None


@dataclass(frozen=True)
class ArmAudit:
    """Everything the audits found on one arm at some scales.

    Attributes:
        scales_audited: scales with an audit made before the runs; a scale that lacks one is not believed.
        leak: whether a check shows the arm seeing what it may not, and whether the experiment said so beforehand.
        collapse: the same of an auxiliary term that vanished.
        damaged: run audits that do not decode.
    """

    arm: str
    expect_leak: bool
    findings: tuple[Audited, ...]
    scales_audited: tuple[str, ...]
    leak: Leak
    damaged: tuple[str, ...] = ()
    expect_collapse: bool = False
    collapse: Leak = "none"

    def failed(self) -> tuple[Audited, ...]:
        """The findings with outcome fail."""
        return tuple(item for item in self.findings if item.finding.outcome == "fail")

    def unexpected_failures(self) -> tuple[Audited, ...]:
        """Those that the experiment did not say beforehand."""
        if self.expect_leak:
            return ()
        return tuple(item for item in self.failed() if not (self.expect_collapse and item.finding.shows_collapse))

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
    reports = [(name, record.audits[arm, name]) for name in scales if (arm, name) in record.audits]
    found = [Audited(finding, name) for name, report in reports for finding in report.findings]
    damaged: list[str] = []
    for name in scales:
        for run in record.runs_of(arm, name):
            findings, problem = _run_audit(run)
            damaged += [problem] if problem else []
            known = [item.finding for item in found if item.scale == name and item.seed is None]
            found += [Audited(finding, name, run.entry.seed) for finding in findings if finding not in known]
    return ArmAudit(
        arm,
        entry.expect_leak,
        tuple(found),
        tuple(name for name, _ in reports),
        _said(any(item.finding.shows_leak for item in found), entry.expect_leak),
        tuple(damaged),
        entry.expect_collapse,
        _said(any(item.finding.shows_collapse for item in found), entry.expect_collapse),
    )


def _said(found: bool, expected: bool) -> Leak:
    return "none" if not found else "expected" if expected else "unexpected"


def _run_audit(run: ExperimentRun) -> tuple[tuple[Finding, ...], str | None]:
    """The findings that a run made of itself, and what is wrong with their file."""
    try:
        report = run.record.audit_report() if run.record is not None else None
    except Damaged as error:
        return (), str(error)
    return (report.findings if report is not None else ()), None
