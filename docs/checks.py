"""Writes docs/checks.md: every family of checks with its laws. Run: python docs/checks.py"""

from __future__ import annotations

from pathlib import Path

from palinode.base import fsio
from palinode.checks.explained import explanations

PAGE = Path(__file__).parent / "checks.md"
OPENING = """# The checks

An audit asks whether a result may be believed. A check has a code: the family (C1 to C9) and, after a dot, one question of it, such
as `C2.canary`. Its outcome is one of three:

- **pass**: the law holds, and a planted fault would have been seen.
- **fail**: the law is broken. The message says where: a pair of positions, a step, a file.
- **could not tell**: the check could not measure. This is no pass: the verdict lists it.

Most checks carry a positive control: a fault that the check plants itself and has to find. Where it does not find its own fault,
the outcome is "could not tell". `palinode audit FILE` prints every finding. The report of an experiment prints them under "Audit",
with the numbers and the words "To see it again" that say which seed, length and pass give the same finding.

The times are of a model of 100,000 to 1,000,000 parameters on one CPU core.
"""


def page() -> str:
    """The text of the page, made from the texts and the laws of the checks."""
    pieces = [OPENING]
    for one in explanations():
        rows = "\n\n".join(f"**{heading}.** {text}" for heading, text in one.rows)
        parts = "\n".join(f"| `{check}` | {law} |" for check, law in one.laws.items())
        pieces.append(f"## {one.code}: {one.title}\n\n{rows}\n\n| check | what has to hold |\n|---|---|\n{parts}\n")
    return "\n".join(pieces)


if __name__ == "__main__":
    fsio.write_text(PAGE, page())
