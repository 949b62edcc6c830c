"""docs/audit.md: its code blocks run in order, and the output it quotes is what the audit prints."""

import re
from pathlib import Path

import pytest

from palinode import audit
from palinode.checks.laws import LAWS

PAGE = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def printed():
    """Run the page's Python blocks one after the other; what they print."""
    texts: list[str] = []
    names: dict[str, object] = {"print": texts.append}
    for number, (language, block) in enumerate(BLOCKS):
        if language == "python":
            exec(compile(block, f"docs/audit.md, block {number}", "exec"), names)
    return texts


@pytest.mark.nightly
def test_every_block_runs_and_its_assertions_hold(printed):
    assert sum(language == "python" for language, _ in BLOCKS) >= 6
    assert len(printed) == 1


@pytest.mark.nightly
def test_the_quoted_output_is_what_the_audit_prints(printed):
    [quoted] = [block for language, block in BLOCKS if language == "text"]
    for line in quoted.splitlines():
        for part in filter(None, (piece.strip() for piece in line.split("..."))):
            assert part in printed[0], part


def test_the_page_lists_every_check():
    listed = set(re.findall(r"C\d\.[a-z-]+", PAGE))
    assert listed == {check for check in LAWS if check[:2] in audit.CHECKS}
