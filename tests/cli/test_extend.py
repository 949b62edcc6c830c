"""`palinode extend`: the longer experiment has the ids it would have anyway, and stands beside the shorter one."""

from pathlib import Path

import pytest
import quick_audit
from tiny_experiment import TOML

from palinode.experiment import audits, plan
from palinode.results.store import Store
from palinode.run.one import Attempt
from synthetic_store import make_store


def test_names_and_numbers_that_cannot_be_are_refused(palinode, here):
    store = make_store(here / "runs")
    entry = store.entry("demo")
    store.write_experiment(entry.with_(source={"file": "x.csv"}))
    for arguments, words in (
        (("extend", "dmo", "--steps", "9"), "did you mean 'demo'"),
        (("extend", "demo", "--steps", "9"), "its numbers are imported"),
        (("extend", "demo", "--steps", "0"), "--steps"),
    ):
        told = palinode(*arguments)
        assert (told.code, words in told.err) == (2, True), told.err


@pytest.mark.nightly
def test_an_experiment_is_extended(palinode, here, monkeypatch):
    monkeypatch.setattr(audits, "audit_arm", quick_audit.quick_audit_arm)
    monkeypatch.setattr(audits, "audit_ahead", quick_audit.no_audit_ahead)
    monkeypatch.setattr(plan, "calibrate", quick_audit.quick_calibrate)
    monkeypatch.setattr(Attempt, "audit", lambda self: None)
    Path("tiny.toml").write_text(TOML.replace('kind = "cosine"', 'kind = "warm-down"\nshare = 0.5'))
    Path("cosine.toml").write_text(TOML.replace('"tiny"', '"cosine"'))
    for name in ("tiny", "cosine"):
        assert palinode("run", f"{name}.toml", "--seeds", "1,", "--quiet").code == 0
    refused = palinode("extend", "cosine", "--steps", "8")
    assert (refused.code, "cosine depends on the length" in refused.err) == (2, True)
    told = palinode("extend", "tiny", "--steps", "8")
    assert told.code == 0, told.err
    assert "2 of 2 runs go on from a checkpoint of a shorter run" in told.err
    store = Store("runs")
    longer = store.entry("tiny--default-8-steps")
    assert [run.run_id for run in store.entry("tiny--default").runs] != [run.run_id for run in longer.runs]
    assert palinode("run", "tiny.toml", "--seeds", "1,", "--set", "recipe.steps=8", "--quiet").code == 0
    assert [run.run_id for run in store.entry("tiny--default").runs] == [run.run_id for run in longer.runs]
    assert {store.record(run.run_id).result.outcome for run in longer.runs} == {"done"}
    assert palinode("ls", "--verify").code == 0
