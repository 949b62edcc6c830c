"""The text about the checks: one table, from which the page and the report are made; every check of the package is in it."""

from pathlib import Path

from palinode.checks.explained import DOCS_PAGE, EXPLANATIONS, as_markdown, explanation
from palinode.checks.laws import LAWS
from palinode.cli.audit import MEANING

ROOT = Path(__file__).parents[2]


def test_the_page_is_made_from_the_table():
    page = (ROOT / DOCS_PAGE).read_text(encoding="utf-8")
    assert page == as_markdown(), f"write palinode.checks.explained.as_markdown() to {DOCS_PAGE}"


def test_every_family_is_explained_with_its_laws():
    assert [one.code for one in EXPLANATIONS] == [f"C{number}" for number in range(1, 10)]
    assert {check: law for one in EXPLANATIONS for check, law in one.laws.items()} == LAWS


def test_a_code_that_nobody_knows_has_no_text():
    assert explanation("X1") is None


def test_an_audit_names_the_page():
    assert DOCS_PAGE in MEANING
