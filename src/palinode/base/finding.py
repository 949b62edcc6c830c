"""The result of an audit check: pass, fail or could_not_tell, with its law, its numbers, and how to reproduce it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from palinode.base.config import Config
from palinode.base.measures import CheckOutcome

TOO_LITTLE = ("C1.two-sided", "C2.markov-excess")  # these fail when a model does not see what it may: a defect, no leak
SHOW_COLLAPSE = "C7"  # the losses are honest; the value of an auxiliary term means nothing
SHOW_LEAKS = ("C1", "C2", "C8.directions")  # C8: an rtl loss far below the ltr loss is taken for a leak


class Finding(Config):
    """The result of one check on one subject.

    Attributes:
        check: code and name, such as `C1.perturbation`.
        outcome: pass, fail or could_not_tell. A check whose positive control did not fail could not tell.
        law: the sentence that must hold.
        message: one line for people: what was measured, and where.
        numbers: measured values by name, units in the names.
        threshold: the bound that decided, in the unit of the first number.
        reproduce: the seed, length, mode and positions that reproduce it.
        pictures: named square matrices of influence, 0 or more; a row is a target position, a column a source position.
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
        """Whether the check failed because the arm sees what it may not."""
        return self.outcome == "fail" and self.check not in TOO_LITTLE and self.check.startswith(SHOW_LEAKS)

    @property
    def shows_collapse(self) -> bool:
        """Whether the check failed because an auxiliary term vanished."""
        return self.outcome == "fail" and self.check.startswith(SHOW_COLLAPSE)


class AuditReport(Config):
    """All findings on one arm or one model."""

    subject: str
    findings: tuple[Finding, ...]
    seconds: float = 0.0

    @property
    def outcome(self) -> CheckOutcome:
        """fail if a check failed; else could_not_tell if a check could not tell, or there was none; else pass."""
        outcomes = {finding.outcome for finding in self.findings}
        if "fail" in outcomes:
            return "fail"
        return "could_not_tell" if "could_not_tell" in outcomes or not outcomes else "pass"

    @property
    def leaks(self) -> tuple[Finding, ...]:
        """The failed checks that show a leak. A check that shows an arm seeing too little is not among them."""
        return tuple(finding for finding in self.findings if finding.shows_leak)

    @property
    def collapses(self) -> tuple[Finding, ...]:
        """The failed checks that show a vanished auxiliary term."""
        return tuple(finding for finding in self.findings if finding.shows_collapse)
