"""The text about the checks: one table, from which the page and the report are made; every check of the package is in it."""

import runpy
from pathlib import Path

from palinode.checks.explained import explanation, explanations
from palinode.checks.laws import LAWS
from palinode.cli.audit import MEANING

ROOT = Path(__file__).parents[2]


def test_the_page_is_made_from_the_table():
    script = runpy.run_path(str(ROOT / "docs" / "checks.py"))
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"](), "run: python docs/checks.py"


def test_every_family_is_explained_with_its_laws():
    assert [one.code for one in explanations()] == [f"C{number}" for number in range(1, 10)]
    assert {check: law for one in explanations() for check, law in one.laws.items()} == LAWS


def test_a_code_that_nobody_knows_has_no_text():
    assert explanation("X1") is None


def test_an_audit_names_the_page():
    assert "docs/checks.md" in MEANING
