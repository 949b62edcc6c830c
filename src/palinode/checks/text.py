"""An audit as text: the outcome, each failed check and its place, and a small picture of which target sees which source.

    0123        columns: sources
0
1  #!           rows: targets; # sees the source, ! sees it but may not, . may see it but does not
"""

from __future__ import annotations

from collections.abc import Sequence

from palinode.base.finding import AuditReport, Finding
from palinode.base.measures import CHECK_WORDS, CheckOutcome

LEGEND = "# sees it   ! sees it and may not   . may see it and does not"
SEEN = 1e-9

Matrix = Sequence[Sequence[float]]


def audit_text(report: AuditReport, *, verbose: bool = False) -> str:
    """The audit of one arm: one line for each finding that did not pass (for all with `verbose`), and a picture of each pass."""
    lines = [f"{report.subject}: {_word(report.outcome)} ({len(report.findings)} findings, {report.seconds:.1f} s)"]
    shown = [finding for finding in report.findings if verbose or finding.outcome != "pass"]
    lines += [f"  {_word(finding.outcome):<14} {finding.check:<18} {finding.message}" for finding in shown]
    for finding in report.findings:
        for name in passes_pictured(finding):
            seen, allowed = finding.pictures[f"{name} influence"], finding.pictures[f"{name} allowed"]
            lines += ["", f"  {name}: {sight_sentence(seen, allowed)}"]
            lines += [f"    {row}" for row in picture_lines(seen, allowed)]
    if any(finding.pictures for finding in report.findings):
        lines += ["", f"  rows are targets, columns are the tokens they are predicted from: {LEGEND}"]
    return "\n".join(lines)


def passes_pictured(finding: Finding) -> list[str]:
    """The passes for which a finding has both pictures, one of influence and one of the contract."""
    names = [name.removesuffix(" influence") for name in finding.pictures if name.endswith(" influence")]
    return [name for name in names if f"{name} allowed" in finding.pictures]


def picture_lines(seen: Matrix, allowed: Matrix) -> list[str]:
    """The lines of a picture: one line for each target, one character for each source."""
    width = len(str(len(seen) - 1))
    header = " " * (width + 2) + "".join(str(source % 10) for source in range(len(seen)))
    rows = []
    for target, (row, mays) in enumerate(zip(seen, allowed, strict=True)):
        marks = "".join(_mark(value > SEEN, bool(may)) for value, may in zip(row, mays, strict=True))
        rows.append(f"{target:>{width}}  {marks}".rstrip())
    return [header, *rows]


def sight_sentence(seen: Matrix, allowed: Matrix) -> str:
    """A sentence about targets that see themselves, targets that see forbidden tokens, and targets that miss allowed tokens."""
    count = len(seen)
    themselves = [t for t in range(count) if seen[t][t] > SEEN and not allowed[t][t]]
    leaking = [t for t in range(count) if any(v > SEEN and not may for v, may in zip(seen[t], allowed[t], strict=True))]
    blind = [t for t in range(count) if any(v <= SEEN and may for v, may in zip(seen[t], allowed[t], strict=True))]
    parts = []
    if themselves:
        parts.append(f"targets {ranges(themselves)} see themselves")
    if leaking and leaking != themselves:
        parts.append(f"targets {ranges(leaking)} see tokens they may not")
    if blind:
        parts.append(f"targets {ranges(blind)} do not see all they may")
    return "; ".join(parts) if parts else "every target sees what it may, and nothing else"


def ranges(numbers: Sequence[int]) -> str:
    """Sorted whole numbers as ranges: [0, 1, 2, 5] becomes `0-2, 5`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _word(outcome: CheckOutcome) -> str:
    return "FAIL" if outcome == "fail" else CHECK_WORDS[outcome]


def _mark(seen: bool, may: bool) -> str:
    if seen:
        return "#" if may else "!"
    return "." if may else " "
