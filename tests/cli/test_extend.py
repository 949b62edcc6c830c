"""`palinode extend`: the longer experiment has the ids it would have anyway, and stands beside the shorter one."""

from pathlib import Path

import pytest
import quick_audit
from tiny_experiment import TOML, everything_in

from palinode.experiment import audits, plan
from palinode.results.record import ChoiceEntry
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
        (("extend", "demo"), "palinode extend: give one of --steps and --seeds"),
        (("extend", "demo", "--steps", "9", "--seeds", "5"), "palinode extend: give one of --steps and --seeds"),
        (("extend", entry.runs[0].run_id, "--seeds", "5"), "is a run (its experiment: `palinode extend demo--laptop`)"),
        (("extend", "demo.toml", "--seeds", "5"), "give the name of the experiment, not its file"),
        (("extend", "demo", "--seeds", "5", "--store", "nowhere"), "nowhere: there is no results store here"),
    ):
        told = palinode(*arguments)
        assert (told.code, told.out, len(told.err.splitlines()), words in told.err) == (2, "", 1, True), told.err
    store.write_experiment(entry.with_(to_choose="recipe.optimizer.learning_rate"))
    assert "its trials are not done" in palinode("extend", "demo", "--seeds", "5").err
    choice = ChoiceEntry(arm="ltr", scale="base", field="x", values=(1.0,), scores=(1.0,), chosen=1.0, runs=("a",))
    store.write_experiment(entry.with_(choices=(choice,)))
    told = palinode("extend", "demo", "--seeds", "5")
    assert (told.code, told.err) == (
        2,
        "NAME: the store lacks the tuning of demo--laptop, which its plan has (`palinode run FILE --seeds` on its file)\n",
    )


def test_damage_in_the_store_is_named_and_nothing_is_written(palinode, here):
    store = make_store(here / "runs")
    entry = store.entry("demo")
    spec = store.run_directory(entry.runs[0].run_id) / "spec.json"
    spec.write_text("{")
    before = everything_in(here)
    for arguments in (("--steps", "900"), ("--seeds", "5")):
        told = palinode("extend", "demo", *arguments)
        assert (told.code, told.out, len(told.err.splitlines())) == (4, "", 1)
        assert f"runs/{entry.runs[0].run_id}/spec.json" in told.err
    (store.root / "experiments" / "demo--laptop.json").write_text("{")
    told = palinode("extend", "demo", "--seeds", "5")
    assert (told.code, "experiments/demo--laptop.json" in told.err) == (4, True)
    before[str(here / "runs" / "experiments" / "demo--laptop.json")] = b"{"
    assert everything_in(here) == before


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
