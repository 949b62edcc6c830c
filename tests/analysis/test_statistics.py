"""docs/statistics.md says what its results say, and the simulations behind it hold on a smaller scale."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def program(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    spec = importlib.util.spec_from_file_location("verdict_statistics", ROOT / "benchmarks" / "verdict_statistics.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stored(program):
    return json.loads(program.RESULT.read_text()), json.loads(program.TRAINING.read_text())


def test_the_page_is_made_from_the_results(program):
    assert program.PAGE.read_text() == program.page(*stored(program)), (
        "run: python benchmarks/verdict_statistics.py --page"
    )


def test_the_stored_results_meet_their_targets(program):
    result, training = stored(program)
    patterns = [row for row in result["families"] if (row["arms"], row["scales"]) == (4, 6)]
    assert len(patterns) == 8
    assert all(row["family_error"] <= 0.065 for row in patterns)
    assert all(row["wrong"] <= 0.065 and 0.93 <= row["single_coverage"] <= 0.97 for row in result["a_a"])
    assert (training["complete_pairs"], training["planned_pairs"]) == (40, 40)
    assert training["better_or_worse"] <= training["target_most"]


def test_a_few_experiments_without_a_difference_through_the_product(program):
    row = program.a_a_row(3, 2, experiments=40)
    assert row["wrong"] <= 0.2
    assert row["single_coverage"] >= 0.88


@pytest.mark.nightly
@pytest.mark.parametrize("pairs", [3, 5])
@pytest.mark.parametrize("pattern", ["equal", "varying", "falling", "one noisy arm"])
def test_the_error_of_a_family(program, pattern, pairs):
    assert program.family_row((4, 6), pairs, pattern, grids=1000)["family_error"] <= 0.065


@pytest.mark.nightly
@pytest.mark.parametrize("effect", [0.0])
def test_the_error_of_looks(program, effect):
    assert program.looks_row(effect)["better_or_worse"] <= 0.055
