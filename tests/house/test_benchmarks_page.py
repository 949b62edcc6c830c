"""docs/benchmarks.md says what the committed results say, and every program has its results."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NOT_MEASURING = {"machine", "page", "plain", "shakespeare"}


@pytest.fixture
def page(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    spec = importlib.util.spec_from_file_location("benchmarks_page", BENCHMARKS / "page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_made_from_the_results(page):
    assert page.PAGE.read_text(encoding="utf-8") == page.page(page.RESULTS), "run: python benchmarks/page.py"


def test_every_program_has_results_and_a_section(page):
    programs = {path.stem for path in BENCHMARKS.glob("*.py")} - NOT_MEASURING
    assert programs == {path.stem for path in page.RESULTS.glob("*.json")} == set(page.SECTIONS)
