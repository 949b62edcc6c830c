"""Writes docs/checks.md: every family of checks with its laws. Run: python docs/checks.py"""

from __future__ import annotations

from pathlib import Path

from palinode.base import fsio
from palinode.checks.explained import explanations

PAGE = Path(__file__).parent / "checks.md"
OPENING = """# The checks

An audit tests whether a result can be trusted. The code of a check names the family (C1 to C9) and, after a dot, one question of
this family, such as `C2.canary`. A check has one of three outcomes:

- **pass**: the law holds, and the check would have found a planted fault.
- **fail**: the law is broken. The message says where: a pair of positions, a step, a file.
- **could not tell**: the check could not measure. This outcome does not count as a pass, and the verdict lists it.

Most checks have a positive control: a fault that the check plants itself and must find. If a check does not find its own fault, the
outcome is "could not tell". `palinode audit FILE` prints every finding. The report of an experiment prints them under "Audit", with
the numbers. Under "To see it again" the report names the seed, length and pass that give the same finding again.

The times below are for a model of 100,000 to 1,000,000 parameters on one CPU core.
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
