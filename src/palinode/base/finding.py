"""The result of an audit check: the outcome (pass, fail or could_not_tell), the law, the numbers, and how to reproduce them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field

from palinode.base.config import LATER, Config
from palinode.base.measures import CheckOutcome

TOO_LITTLE = ("C1.two-sided", "C2.markov-excess")  # checks that fail when a model sees too little: a defect, no leak
SHOW_COLLAPSE = "C7"  # a failed C7 shows a collapse: the losses are correct, but an auxiliary term measures nothing
SHOW_LEAKS = ("C1", "C2", "C8.directions")  # C8.directions: an rtl loss far below the ltr loss counts as a leak


class Finding(Config):
    """The result of one check on one subject.

    Attributes:
        check: the code and the name of the check, such as `C1.perturbation`.
        outcome: pass, fail or could_not_tell. The outcome is could_not_tell when the positive control of the check did not fail.
        law: the sentence that the check tests.
        message: one line for people: the measured value, and the place where it was measured.
        numbers: name -> measured value; the names contain the units.
        threshold: the bound that decides the outcome, in the unit of the first number.
        reproduce: the seed, length, mode and positions that reproduce the check.
        pictures: name -> square matrix of influence; a row is a target position, a column a source position. May be empty.
    """

    check: str
    outcome: CheckOutcome
    law: str
    message: str
    numbers: Mapping[str, float | int | str | None] = Field(default_factory=dict)
    threshold: float | None = None
    reproduce: Mapping[str, Any] = Field(default_factory=dict)
    pictures: Mapping[str, tuple[tuple[float, ...], ...]] = Field(default_factory=dict)

    @property
    def shows_leak(self) -> bool:
        """Whether the check failed because the arm sees a token that it may not see."""
        return self.outcome == "fail" and self.check not in TOO_LITTLE and self.check.startswith(SHOW_LEAKS)

    @property
    def shows_collapse(self) -> bool:
        """Whether the check failed because an auxiliary term vanished."""
        return self.outcome == "fail" and self.check.startswith(SHOW_COLLAPSE)


class AuditReport(Config):
    """All findings on one arm or one model.

    Attributes:
        seconds: what the audit takes alone.
        parts: the hash of a part -> its seconds. Audits share a part of the same hash, which is measured once.
    """

    subject: str
    findings: tuple[Finding, ...]
    seconds: float = 0.0
    parts: Annotated[Mapping[str, float], LATER] = Field(default_factory=dict)

    @property
    def outcome(self) -> CheckOutcome:
        """fail if a check failed; else could_not_tell if some check has this outcome, or no check was run; else pass."""
        outcomes = {finding.outcome for finding in self.findings}
        if "fail" in outcomes:
            return "fail"
        return "could_not_tell" if "could_not_tell" in outcomes or not outcomes else "pass"

    @property
    def leaks(self) -> tuple[Finding, ...]:
        """The failed checks that show a leak. A check that fails because an arm sees too little shows no leak."""
        return tuple(finding for finding in self.findings if finding.shows_leak)

    @property
    def collapses(self) -> tuple[Finding, ...]:
        """The failed checks that show a vanished auxiliary term."""
        return tuple(finding for finding in self.findings if finding.shows_collapse)


def seconds_together(reports: Iterable[AuditReport]) -> float:
    """The seconds of several audits. A part that they share counts once; older reports do not name their parts."""
    whole, parts = 0.0, dict[str, float]()
    for report in reports:
        parts |= report.parts
        whole += 0.0 if report.parts else report.seconds
    return whole + sum(parts.values())
