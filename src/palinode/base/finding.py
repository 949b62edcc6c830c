"""What an audit check found: pass, fail or could_not_tell, with its law, its numbers, and how to see it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from palinode.base.config import Config
from palinode.base.measures import CheckOutcome

TOO_LITTLE = ("C1.two-sided", "C2.markov-excess")  # fail when a model does not see what it may: wrong, but no leak
SHOW_COLLAPSE = "C7"  # the losses are honest; an auxiliary term's value is not what it is taken for
SHOW_LEAKS = ("C1", "C2", "C8.directions")  # C8: an rtl loss far below ltr is a leak until proven otherwise


class Finding(Config):
    """One check on one subject.

    Attributes:
        check: id and name, such as `C1.perturbation`.
        outcome: pass, fail or could_not_tell (a check without its positive control could not tell).
        law: the sentence that must hold.
        message: one line a reader understands: what was found and where.
        numbers: measured values by name, units in the names.
        threshold: the bound that decided, in the same unit as the first number.
        reproduce: seed, length, mode, pair of positions: enough to see it again.
        pictures: named square matrices (rows: target position, columns: source position) with influence in [0, inf).
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
        """Whether it failed in a way that shows an arm seeing what it may not."""
        return self.outcome == "fail" and self.check not in TOO_LITTLE and self.check.startswith(SHOW_LEAKS)

    @property
    def shows_collapse(self) -> bool:
        """Whether it failed because an auxiliary term vanished."""
        return self.outcome == "fail" and self.check.startswith(SHOW_COLLAPSE)


class AuditReport(Config):
    """All findings on one arm (or one model)."""

    subject: str
    findings: tuple[Finding, ...]
    seconds: float = 0.0

    @property
    def outcome(self) -> CheckOutcome:
        """fail if anything failed; else could_not_tell if anything could not be told; else pass."""
        outcomes = {finding.outcome for finding in self.findings}
        if "fail" in outcomes:
            return "fail"
        return "could_not_tell" if "could_not_tell" in outcomes or not outcomes else "pass"

    @property
    def leaks(self) -> tuple[Finding, ...]:
        """The failed checks that show an arm seeing what it may not (not those that show it seeing too little)."""
        return tuple(finding for finding in self.findings if finding.shows_leak)

    @property
    def collapses(self) -> tuple[Finding, ...]:
        """The failed checks that show an auxiliary term that vanished."""
        return tuple(finding for finding in self.findings if finding.shows_collapse)
