"""`palinode rm`: a run that is needed or held stays, and a command that is killed leaves no half of a run."""

import os
from pathlib import Path

import pytest

from palinode.base import fsio
from palinode.base.fsio import CRASH_POINT_VARIABLE
from palinode.results.holds import take
from palinode.results.store import Store
from synthetic_store import Synthetic, make_store


@pytest.fixture
def made(here) -> Store:
    return make_store(Path("runs"), Synthetic(seeds=(1,)))


def test_rm_deletes_an_experiment_and_leaves_the_runs_that_another_one_uses(palinode, made):
    entry = made.entry("demo")
    shared = entry.runs[0].run_id
    made.write_experiment(entry.with_(name="other", runs=entry.runs[:1], arms=entry.arms[:1], audits={}, comparison=""))
    refused = palinode("rm", "demo")
    assert (refused.code, "add --yes" in refused.err) == (2, True)
    assert len(made.run_ids()) == 3
    told = palinode("rm", "demo--laptop", "--yes")
    assert told.code == 0, told.err
    assert f"run {shared} stays: other--laptop uses it" in told.out
    assert made.run_ids() == [shared]
    assert [one.name for one in made.experiments()] == ["other"]
    assert palinode("ls", "--verify").code == 0


def test_rm_asks_and_an_answer_other_than_yes_deletes_nothing(palinode, made, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, left in ((False, 3), (True, 0)):
        monkeypatch.setattr("typer.confirm", lambda question, answer=answer: answer)
        assert palinode("rm", "demo").code == int(not answer)
        assert len(made.run_ids()) == left


def test_rm_refuses_a_run_that_is_needed_or_held(palinode, made):
    run_id, other, _ = (run.run_id for run in made.entry("demo").runs)
    before = made.run_ids()
    with take(made.run_directory(run_id)):
        told = palinode("rm", run_id, "--yes")
        assert (told.code, "is working on run" in told.err) == (2, True)
        assert palinode("rm", "demo", "--yes").code == 2
    made.write_spec("child", {**made.record(run_id).spec, "start_from": {"run": run_id, "step": None}})
    told = palinode("rm", run_id, "--yes")
    assert (told.code, "start_from of run child" in told.err) == (2, True)
    entry = made.entry("demo")
    made.write_experiment(entry.with_(name="second", runs=entry.runs[1:2]))
    told = palinode("rm", other, "--yes")
    assert (told.code, "used by 2 experiments: demo--laptop, second--laptop" in told.err) == (2, True)
    assert made.run_ids() == sorted([*before, "child"])
    told = palinode("rm", "demo", "--yes")
    assert f"run {run_id} stays: start_from of child uses it" in told.out
    assert made.run_ids() == sorted([run_id, other, "child"])


def test_rm_refuses_while_an_experiment_cannot_be_read(palinode, made):
    """It may use the run."""
    (made.root / "experiments" / "other--x.json").write_text("{")
    told = palinode("rm", made.run_ids()[0], "--yes")
    assert (told.code, "other--x.json" in told.err, len(made.run_ids())) == (4, True, 3)
    assert palinode("rm", "demo", "--yes").code == 4


def test_rm_of_one_run_says_whose_verdict_loses_it(palinode, made):
    run_id = made.entry("demo").runs[0].run_id
    told = palinode("rm", run_id[:6], "--yes")
    assert told.code == 0
    assert "the verdict of demo--laptop then lacks" in told.out
    assert run_id not in made.run_ids()
    assert palinode("rm", "zz", "--yes").err.startswith("NAME: no run 'zz' in runs")


def test_rm_that_is_killed_leaves_whole_runs_and_goes_on(palinode, made, monkeypatch):
    run_ids = made.run_ids()
    monkeypatch.setenv(CRASH_POINT_VARIABLE, f"{made.entry('demo').runs[1].run_id}.moved_away")

    def killed(label, act=None):
        if label == os.environ.get(CRASH_POINT_VARIABLE):
            raise KeyboardInterrupt

    monkeypatch.setattr(fsio, "crash_point", killed)
    assert palinode("rm", "demo", "--yes").code == 130
    assert len(made.run_ids()) == len(run_ids) - 2
    monkeypatch.delenv(CRASH_POINT_VARIABLE)
    assert palinode("ls", "--verify").code == 0
    assert palinode("rm", "demo", "--yes").code == 0
    assert (made.run_ids(), made.experiments()) == ([], [])
    assert palinode("gc", "--yes").code == 0
    assert not list(made.root.rglob(".palinode-removed-*"))
