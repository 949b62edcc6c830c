"""docs/statistics.md says what its results say, and the simulations behind it hold on a smaller scale."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from palinode.analysis.deciding import ADDED_ERROR
from palinode.analysis.family import family_intervals

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
    assert round(result["added"]["mixture_error"], 3) == ADDED_ERROR, "a caution of the verdict says this number"
    patterns = [row for row in result["families"] if (row["arms"], row["scales"]) == (4, 6)]
    assert len(patterns) == 8
    assert all(row["family_error"] <= 0.065 for row in patterns)
    assert all(row["error"] <= 0.055 for row in (*result["family_looks"], *result["plain_looks"]))
    assert all(row["covers"] >= 0.94 for row in result["slopes"])
    assert all(row["wrong"] <= 0.065 and 0.93 <= row["single_coverage"] <= 0.97 for row in result["a_a"])
    assert (training["complete_pairs"], training["planned_pairs"]) == (40, 40)
    assert training["better_or_worse"] <= training["target_most"]


def test_a_few_experiments_without_a_difference_through_the_product(program):
    row = program.a_a_row(3, 2, experiments=40)
    assert row["wrong"] <= 0.2
    assert row["single_coverage"] >= 0.88


@pytest.mark.parametrize(("arms", "scales", "pairs"), [(4, 6, 3), (2, 2, 4), (3, 3, 5)])
def test_many_grids_at_once_are_the_products_grids_one_by_one(program, arms, scales, pairs):
    scores = np.random.default_rng(arms).standard_normal((3, 1 + arms, scales, pairs))
    means, errors, halves = program.many.family_halves(scores, 0.05 / (arms * scales))
    parameters = {f"s{scale}": count for scale, count in enumerate(program.many.parameters(scales))}
    for number, grid in enumerate(scores):
        values = {
            f"s{scale}": {f"a{arm}": dict(enumerate(grid[arm, scale].tolist())) for arm in range(1 + arms)}
            for scale in range(scales)
        }
        for (arm, scale), found in family_intervals(values, "a0", 0.95, parameters).items():
            place = number, int(arm[1:]) - 1, int(scale[1:])
            half = (found.interval.high - found.interval.low) / 2
            assert (found.mean, found.standard_error, half) == pytest.approx(
                (means[place], errors[place], halves[place])
            )


@pytest.mark.nightly
def test_the_error_of_looks_in_a_family(program):
    assert program.many.family_looks_row(4, 6, "equal", program.deviations, 4000)["error"] <= 0.055
    assert program.many.plain_looks_row(4, one_baseline=False, paths=20_000)["error"] <= 0.055


@pytest.mark.nightly
@pytest.mark.parametrize("pairs", [3, 5])
@pytest.mark.parametrize("pattern", ["equal", "varying", "falling", "one noisy arm"])
def test_the_error_of_a_family(program, pattern, pairs):
    assert program.family_row((4, 6), pairs, pattern, grids=1000)["family_error"] <= 0.065


@pytest.mark.nightly
@pytest.mark.parametrize("effect", [0.0])
def test_the_error_of_looks(program, effect):
    assert program.looks_row(effect)["better_or_worse"] <= 0.055
