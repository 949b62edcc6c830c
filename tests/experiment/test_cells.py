"""What is known of an experiment before its first step is known without weights, and each thing is worked out once."""

from collections import Counter
from pathlib import Path

import pytest

from palinode import Store
from palinode.audit import AuditedArm
from palinode.base.errors import BadInput, EnvironmentProblem
from palinode.base.finding import AuditReport
from palinode.experiment import audits, calibrate
from palinode.experiment import cells as cells_module
from palinode.experiment import run as run_module
from palinode.experiment.cells import cells_of, expected_passes, expected_steps, pinned, refuse_what_cannot_be
from palinode.experiment.plan import plan
from palinode.experiment.run import run_experiment
from palinode.models import MODELS
from palinode.models.described import _described
from palinode.spec.load import load
from palinode.sweep.local import SweepEnd

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def resolved(name: str, changes=None):
    return pinned(load(EXPERIMENTS / f"{name}.py").experiment.resolve("smoke", changes))


@pytest.fixture
def builds(monkeypatch) -> Counter:
    """How many built-in models are built from here on, by the device that their weights are on."""
    counts: Counter[str] = Counter()
    _described.cache_clear()
    for config in MODELS.values():

        def counted(self, vocab_size, max_length, seed, build=config.build):
            model = build(self, vocab_size, max_length, seed)
            counts[next(model.parameters()).device.type] += 1
            return model

        monkeypatch.setattr(config, "build", counted)
    return counts


@pytest.fixture
def nothing_measured_or_trained(monkeypatch):
    """Audits pass, calibration measures nothing, and the sweep is interrupted before its first step."""
    report = AuditReport(subject="", findings=(), seconds=0.0)
    monkeypatch.setattr(audits, "audit_ahead", lambda *arguments, **options: None)
    monkeypatch.setattr(audits, "audit_arm", lambda settings, **options: AuditedArm("0" * 64, report))
    monkeypatch.setattr(calibrate, "_measured_in_processes", lambda *arguments: {})
    monkeypatch.setattr(run_module, "sweep", lambda *arguments, **options: SweepEnd({}, frozenset(), interrupted=2))


@pytest.mark.parametrize(("name", "cells"), [("demo", 3), ("recall", 24)])
def test_no_real_model_is_built_before_the_first_step(name, cells, builds, nothing_measured_or_trained, tmp_path):
    experiment = resolved(name)
    assert len(cells_of(experiment)) == cells
    events = []
    end = run_experiment(experiment, Store(tmp_path), run_module.HowToRun(on_event=events.append))
    assert end.interrupted == 2
    assert [event["event"] for event in events if event["event"] != "note"] == ["audit"] * cells + ["plan"]
    models = {(cell.spec.model, cell.source.vocab_size, cell.spec.data.window_tokens) for cell in cells_of(experiment)}
    assert builds == {"meta": len(models)}


def test_a_cell_is_the_runs_that_differ_in_their_seed_alone():
    experiment = resolved("recall")
    cells = cells_of(experiment)
    assert {spec.run_id for cell in cells for spec in cell.specs} == {run.spec.run_id for run in experiment.runs}
    assert all(spec.settings == cell.settings for cell in cells for spec in cell.specs)
    assert len({id(cell.source) for cell in cells}) == len({cell.spec.data for cell in cells})


def test_the_plan_is_the_cells_and_asks_no_objective_again(monkeypatch, tmp_path):
    experiment = resolved("demo")
    cells = cells_of(experiment)
    refuse_what_cannot_be(cells)
    for cell in cells:
        monkeypatch.setattr(type(cell.spec.objective), "draw", None)
    planned = plan(experiment, cells, Store(tmp_path), workers=1, measure="never")
    for cell, row in zip(cells, planned.cells, strict=True):
        passes = expected_passes(cell.settings)
        assert row.tokens_read == pytest.approx(passes * row.window_tokens)
        assert row.train_flops == cell.counters["train_flops"] > 0
        assert row.optimizer_steps == cell.steps == cell.spec.recipe.steps


def test_a_token_limit_ends_a_run_early():
    experiment = resolved("demo", {"recipe.max_tokens_read": 16 * 128 * 6})
    steps = {cell.arm.name: expected_steps(cell.settings) for cell in cells_of(experiment)}
    assert steps["ltr"] == 6
    assert steps["both"] == pytest.approx(6 / 1.5)


REFUSED = {
    "recipe.optimizer.rates: ": {"recipe.optimizer.rates": [{"role": "fliter"}]},
    "evaluation.length_factors: ": {"evaluation.length_factors": [4], "model.position": "learned"},
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_cannot_be_is_refused_without_weights(field, builds):
    name = "recall" if "length" in field else "demo"
    with pytest.raises(BadInput) as refused:
        refuse_what_cannot_be(cells_of(resolved(name, REFUSED[field])))
    assert str(refused.value).startswith(field)
    assert set(builds) == {"meta"}


@pytest.mark.parametrize("layers", [1, 2])
def test_a_model_is_refused_where_its_training_needs_more_than_the_memory(layers, builds, monkeypatch):
    cell = cells_of(resolved("demo", {"model.layers": layers}))[0]
    needed = cells_module.LEAST_BYTES_PER_PARAMETER * cell.cost.total_parameters
    monkeypatch.setattr(cells_module, "machine_memory_bytes", lambda: needed)
    refuse_what_cannot_be([cell])
    monkeypatch.setattr(cells_module, "machine_memory_bytes", lambda: needed - 1)
    with pytest.raises(EnvironmentProblem, match="model: its parameters take at least"):
        refuse_what_cannot_be([cell])
    assert set(builds) == {"meta"}
