"""The audits of an arm: those before its runs, and those that each run makes of its trained model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from palinode.base.errors import Damaged
from palinode.base.finding import AuditReport, Finding
from palinode.results.record import ArmEntry, ExperimentRecord, ExperimentRun

Leak = Literal["none", "expected", "unexpected"]


@dataclass(frozen=True)
class ArmFinding:
    """A finding with its scale and, when a run made it, the seed of that run."""

    finding: Finding
    scale: str
    seed: int | None = None


@dataclass(frozen=True)
class ArmAudit:
    """The audits of one arm, at one or several scales.

    Attributes:
        reports: scale -> the audit before the runs. No verdict relies on a scale without one.
        hashes: scale -> the hash under which its report is stored.
        after_training: the findings of the runs that are not in `reports`.
        damaged: the errors in audits of runs.
    """

    arm: ArmEntry
    reports: Mapping[str, AuditReport]
    hashes: Mapping[str, str] = field(default_factory=dict)
    after_training: tuple[ArmFinding, ...] = ()
    damaged: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[ArmFinding, ...]:
        """All findings; those from before the runs come first."""
        before = (ArmFinding(one, scale) for scale, report in self.reports.items() for one in report.findings)
        return (*before, *self.after_training)

    @property
    def leaks(self) -> tuple[ArmFinding, ...]:
        """The findings that show a leak."""
        return tuple(item for item in self.findings if item.finding.shows_leak)

    @property
    def leak(self) -> Leak:
        """Whether a check shows a leak, and whether the experiment expects one."""
        return _declared(bool(self.leaks), self.arm.expect_leak)

    @property
    def collapse(self) -> Leak:
        """Whether a check shows that an auxiliary term vanished, and whether the experiment expects this."""
        return _declared(any(item.finding.shows_collapse for item in self.findings), self.arm.expect_collapse)

    @property
    def failed(self) -> tuple[ArmFinding, ...]:
        """The findings with outcome fail."""
        return tuple(item for item in self.findings if item.finding.outcome == "fail")

    @property
    def unexpected(self) -> tuple[ArmFinding, ...]:
        """The failed findings that the experiment does not expect. An arm that is expected to leak may fail any check."""
        if self.arm.expect_leak:
            return ()
        return tuple(item for item in self.failed if not (self.arm.expect_collapse and item.finding.shows_collapse))

    @property
    def undecided(self) -> tuple[ArmFinding, ...]:
        """The findings that could not tell."""
        return tuple(item for item in self.findings if item.finding.outcome == "could_not_tell")


def arm_audit(record: ExperimentRecord, arm: str, scale: str | None = None) -> ArmAudit:
    """The audits of one arm, at one scale or at all of them. A finding of a run that repeats an earlier one is left out.

    Raises:
        BadInput: the experiment has no such arm.
    """
    entry = record.entry.arm(arm)
    scales = record.entry.scales if scale is None else (scale,)
    reports = {name: record.audits[arm, name] for name in scales if (arm, name) in record.audits}
    after_training: list[ArmFinding] = []
    damaged: list[str] = []
    for name in scales:
        before = reports[name].findings if name in reports else ()
        for run in record.runs_of(arm, name):
            findings, problem = _run_audit(run)
            damaged += [problem] if problem else []
            after_training += [ArmFinding(one, name, run.entry.seed) for one in findings if one not in before]
    return ArmAudit(entry, reports, record.entry.audits.get(arm, {}), tuple(after_training), tuple(damaged))


def _declared(happened: bool, expected: bool) -> Leak:
    return "none" if not happened else "expected" if expected else "unexpected"


def _run_audit(run: ExperimentRun) -> tuple[tuple[Finding, ...], str | None]:
    """The findings in the audit of a run, and the error in its file."""
    try:
        report = run.record.audit_report() if run.record is not None else None
    except Damaged as error:
        return (), str(error)
    return (report.findings if report is not None else ()), None
