"""The text about the checks: one table, from which the page and the report are made; every check of the package is in it."""

import re
from pathlib import Path

import palinode.checks
from palinode.checks.explained import DOCS_PAGE, EXPLANATIONS, as_markdown, explanation
from palinode.cli.audit import MEANING

ROOT = Path(__file__).parents[2]
LITERAL = re.compile(r'"(C[1-9])\.([a-z_-]+)"')


def test_the_page_is_made_from_the_table():
    page = (ROOT / DOCS_PAGE).read_text(encoding="utf-8")
    assert page == as_markdown(), f"write palinode.checks.explained.as_markdown() to {DOCS_PAGE}"


def test_every_check_that_the_package_names_is_explained():
    rooms = [Path(palinode.checks.__file__).parent, ROOT / "src" / "palinode" / "audit"]
    sources = [path.read_text(encoding="utf-8") for room in rooms for path in room.glob("*.py")]
    named = {match for source in sources for match in LITERAL.findall(source)}
    assert len(named) >= 20
    assert {(code, part) for code, part in named if part not in explanation(code).parts} == set()
    assert [one.code for one in EXPLANATIONS] == [f"C{number}" for number in range(1, 10)]


def test_a_code_that_nobody_knows_has_no_text():
    assert explanation("X1") is None


def test_an_audit_names_the_page():
    assert DOCS_PAGE in MEANING
