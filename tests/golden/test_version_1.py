"""A store that a program of numerics version 1 wrote: this program opens it, samples from it and reports on it.

`store_of_version_1.zip` was made at the last commit before version 2, by `palinode run idea.toml`; idea and text are in it.
"""

import shutil
import zipfile
from pathlib import Path

import pytest

from palinode.base.numerics import NUMERICS_VERSION
from palinode.cli.main import entry
from palinode.experiment.cells import pinned
from palinode.results.store import Store
from palinode.spec.load import load, load_run

# What `palinode compare tiny` said when the store was written.
COMPARED = "both from ltr: +8.63 × 10⁻⁵ nats per token (−0.000497 to +0.000669"


@pytest.fixture
def old_store(tmp_path, monkeypatch):
    with zipfile.ZipFile(Path(__file__).with_name("store_of_version_1.zip")) as packed:
        packed.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PALINODE_CACHE", str(tmp_path / "cache"))
    return Store("runs")


def test_what_a_program_of_version_1_wrote_is_read(old_store, capsys):
    run_ids = old_store.run_ids()
    old = [load_run(old_store.run_directory(run_id)) for run_id in run_ids]
    assert {spec.numerics_version for spec in old} == {1} != {NUMERICS_VERSION}
    assert [spec.run_id for spec in old] == run_ids, "the id is checked with the version of the spec"
    for command in (
        ("ls", "--verify"),
        ("compare", "tiny"),
        ("report", "tiny"),
        ("sample", run_ids[0], "--text", "line 7", "--tokens", "8"),
    ):
        code = entry(list(command))
        output = capsys.readouterr()
        assert code == 0, (command, output.err)
        if command[0] == "compare":
            assert COMPARED in output.out
    assert old_store.run_ids() == run_ids
    new = {run.spec.run_id for run in pinned(load(Path("idea.toml")).resolve()).runs}
    assert len(new) == len(run_ids)
    assert not new & set(run_ids)


def test_a_run_of_version_1_that_has_not_ended_is_refused(old_store, capsys):
    shutil.rmtree(old_store.run_directory(old_store.run_ids()[0]) / "ckpt")
    (old_store.run_directory(old_store.run_ids()[0]) / "result.json").unlink()
    assert entry(["run", "runs/experiments/tiny--default.json", "--quiet"]) == 2
    assert "numerics version 1" in capsys.readouterr().err
