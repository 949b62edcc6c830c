"""Sizes and arms with published settings have the published values; everything else is as in the size or arm beside them."""

from pathlib import Path

import pytest

from palinode.base.config import diff
from palinode.spec.load import load

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
WINDOWS = {(4, 192): 63, (8, 384): 55, (16, 768): 40, (16, 1536): 24, (32, 1536): 18}
BATCHES = {"recipe.batch_windows", "recipe.growth.late_steps", "recipe.accumulation.most"} | {
    "recipe.accumulation.from_first_step",
    "recipe.steps",
    "recipe.checkpoint_every_steps",
}


@pytest.fixture(scope="module")
def mask():
    experiment = load(EXPERIMENTS / "mask.py").experiment
    return experiment.resolve("paper"), experiment.resolve("published")


def test_the_published_size_has_the_published_batches(mask):
    windows = {}
    for run in mask[1].runs:
        recipe, model = run.spec.recipe, run.spec.model
        assert recipe.accumulation.most is None
        assert [recipe.growth.window_tokens(step, 1024) for step in (0, 80, 81, 161, 401)] == [32, 32, 64, 128, 1024]
        windows[model.layers, model.width] = recipe.batch_windows
        assert run.scale == f"{model.layers}x{model.width}, {recipe.batch_windows} windows"
    assert len(windows) == 16
    assert {shape: windows[shape] for shape in WINDOWS} == WINDOWS


def test_nothing_else_differs_from_the_paper_size(mask):
    paper, published = mask
    assert len(paper.runs) == len(published.runs)
    for one, other in zip(paper.runs, published.runs, strict=True):
        assert (one.arm, one.seed) == (other.arm, other.seed)
        assert {path for path, _, _ in diff(one.spec, other.spec)} <= BATCHES


def test_the_token_limit_ends_the_smallest_step(mask):
    """One micro-batch a step in the largest model: the tokens must be read before the steps end."""
    assert all(run.spec.recipe.steps * 18 * 1024 > run.spec.recipe.max_ltr_tokens for run in mask[1].runs)


def test_every_published_embedding_loss_has_an_arm_with_its_norms():
    experiment = load(EXPERIMENTS / "encdec_published.py").experiment
    runs = {run.arm: run.spec for run in experiment.resolve("smoke").runs}
    changed = {"model.embedding_loss.norm_affine": True, "model.embedding_loss.centred": False}
    for name in ("encdec-cosine", "encdec-mse", "encdec-mse8-sub"):
        ours, published = runs[name], runs[f"{name}-published"]
        assert {path: value for path, _, value in diff(ours, published)} == changed
    ids = {run.arm: run.spec.run_id for run in load(EXPERIMENTS / "encdec.py").experiment.resolve("smoke").runs}
    shared = set(runs) & set(ids)
    assert shared == {"encdec", "encdec-cosine", "encdec-mse", "encdec-mse8-sub", "encdec-mse-published"}
    assert {arm: runs[arm].run_id for arm in shared} == {arm: ids[arm] for arm in shared}
