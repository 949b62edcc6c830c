"""An arm that diverges is a result. The other arms are trained and compared, also when its audit meets the divergence first."""

from pathlib import Path

import pytest
import quick_audit
from tiny_experiment import TOML

from palinode.audit import arms
from palinode.experiment import audits, plan
from palinode.results.store import Store

HOT = TOML[: TOML.index("[[arms]]")].replace("seeds = [1, 2]", "seeds = [1]") + (
    '[[arms]]\nname = "ltr"\n\n[[arms]]\nname = "hot"\nchange = {{ "recipe.optimizer.learning_rate" = {rate} }}\n\n'
    '[decision]\nbaseline = "ltr"\n'
)


@pytest.fixture
def trainer_audits(palinode, monkeypatch):
    """`palinode` with the part of the audit that trains by the arm's own recipe, and without the others, which take long."""
    monkeypatch.setattr(arms, "_model_findings", lambda *settings: ())
    monkeypatch.setattr(arms, "_canary_findings", lambda *settings: ())
    monkeypatch.setattr(arms, "_data_findings", lambda *settings: ())
    monkeypatch.setattr(audits, "audit_ahead", quick_audit.no_audit_ahead)
    monkeypatch.setattr(plan, "calibrate", quick_audit.quick_calibrate)
    return palinode


@pytest.mark.parametrize("rate", ["1e30", pytest.param("1e3", marks=pytest.mark.nightly)])
def test_an_arm_that_diverges_leaves_the_others_alone(trainer_audits, rate):
    Path("x.toml").write_text(HOT.format(rate=rate).replace("steps = 4", "steps = 12"))
    told = trainer_audits("run", "x.toml")
    assert told.code == 1, told.err
    outcomes = {
        record.spec["recipe"]["optimizer"]["learning_rate"]: record.outcome for record in Store("runs").records()
    }
    assert outcomes == {0.001: "done", float(rate): "diverged"}
    assert "internal error" not in told.err
    assert "1 of 2 runs failed or diverged" in told.err
