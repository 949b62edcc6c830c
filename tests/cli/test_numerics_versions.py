"""A store of numerics version 1, read by a program of version 2: it opens, samples and reports, and nothing in it is trained on."""

from pathlib import Path

import pytest
import quick_audit
from tiny_experiment import TOML

from palinode.base import fsio, numerics
from palinode.base.finding import AuditReport
from palinode.base.seeds import derive
from palinode.experiment import audits, cells, plan
from palinode.experiment import run as run_experiment
from palinode.experiment.cells import pinned
from palinode.results.store import Store
from palinode.run import one
from palinode.run.one import run_one
from palinode.spec import run_spec
from palinode.spec.load import load, load_run
from palinode.sweep.local import SweepEnd


def in_this_process(jobs, store, **options):
    """The sweep without worker processes, which would have the numerics version of the installed program."""
    results = [run_one(load_run(job.directory), store) for job in jobs]
    return SweepEnd({result.run_id: result.outcome for result in results}, frozenset(), None)


@pytest.fixture
def set_version(monkeypatch):
    def set_(version: int) -> None:
        for module in (run_spec, cells):
            monkeypatch.setattr(module, "NUMERICS_VERSION", version)

    return set_


@pytest.fixture
def old_store(palinode, monkeypatch, set_version):
    """The store that version 1 wrote, as its first specs were: they name no numerics version."""
    monkeypatch.setattr(audits, "audit_arm", quick_audit.quick_audit_arm)
    monkeypatch.setattr(audits, "audit_ahead", quick_audit.no_audit_ahead)
    monkeypatch.setattr(plan, "calibrate", quick_audit.quick_calibrate)
    monkeypatch.setattr(run_experiment, "sweep", in_this_process)
    monkeypatch.setattr(one, "audit_trained", lambda trained, rows, store: AuditReport(subject="run", findings=()))
    set_version(1)
    Path("x.toml").write_text(TOML.replace("seeds = [1, 2]", "seeds = [1]"))
    output = palinode("run", "x.toml", "--quiet")
    assert output.code == 0, output.err
    store = Store("runs")
    for run_id in store.run_ids():
        path = store.run_directory(run_id) / "spec.json"
        spec = fsio.read_table(path)
        assert spec.pop("numerics_version") == 1
        fsio.write_table(path, spec)
    set_version(2)
    return store


def test_a_store_of_version_1_opens_samples_and_reports(palinode, old_store):
    run_ids = old_store.run_ids()
    entry = "runs/experiments/tiny--default.json"
    for command in (
        ("ls", "--verify"),
        ("sample", run_ids[0], "--text", "the ", "--tokens", "2"),
        ("report", "tiny"),
        ("run", entry, "--quiet"),
    ):
        output = palinode(*command)
        assert output.code == 0, (command, output.err)
    assert old_store.run_ids() == run_ids

    new = [run.spec for run in pinned(load(Path("x.toml")).resolve()).runs]
    old = [load_run(old_store.run_directory(run_id)) for run_id in run_ids]
    assert {spec.numerics_version for spec in new} == {2}
    assert {spec.numerics_version for spec in old} == {1}
    assert not {spec.run_id for spec in new} & set(run_ids)
    assert {spec.with_(numerics_version=1).run_id for spec in new} == set(run_ids)
    assert {spec.settings for spec in new} == {spec.settings for spec in old}

    (old_store.run_directory(run_ids[0]) / "result.json").unlink()  # a run that was interrupted
    for command in ("run", "plan"):
        output = palinode(command, entry)
        assert output.code == 2
        assert output.err.splitlines()[-1].startswith(f"{entry}: numerics_version: run {run_ids[0]} was begun with")


def test_a_spec_of_a_newer_version_is_refused():
    with pytest.raises(ValueError, match="numerics version 3 is newer than this program's"):
        run_spec.known_numerics(3)
    with pytest.raises(ValueError, match="start at 1"):
        run_spec.known_numerics(0)


@pytest.mark.parametrize("version", [1, 2])
def test_no_random_number_depends_on_the_version(version, monkeypatch):
    monkeypatch.setattr(numerics, "NUMERICS_VERSION", version)
    assert derive(7, "objective", 731, 2) == 4849406395164816060
