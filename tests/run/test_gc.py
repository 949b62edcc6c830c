"""`palinode gc`: what is needed stays, also when the command is killed; all that is left still works."""

import json
import os
import shutil
import time
from dataclasses import dataclass

import pytest
from tiny_run import tiny_spec

from palinode.base import fsio
from palinode.base.config import encode
from palinode.base.decision import Decision
from palinode.cli.main import entry
from palinode.data.cache import cache_directory
from palinode.data.store import resolve
from palinode.results.record import ArmEntry, ExperimentEntry, RunEntry
from palinode.results.store import Store
from palinode.run.cleaning import UNREAD_DAYS, delete, leftovers
from palinode.run.one import Attempt, run_one


def spec_of(corpus, seed):
    """A run of 12 steps whose learning rate falls after step 6."""
    spec = tiny_spec(corpus, 12, None, seed=seed)
    return spec.with_(data=resolve(spec.data), recipe=spec.recipe.with_(checkpoint_every_steps=4))


@pytest.fixture(autouse=True)
def no_audit(monkeypatch):
    monkeypatch.setattr(Attempt, "audit", lambda self: None)


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """An experiment of two runs. The tests change copies."""
    store = Store(tmp_path_factory.mktemp("trained") / "runs")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Attempt, "audit", lambda self: None)
        runs = tuple(
            RunEntry(arm="both", scale="base", seed=seed, run_id=run_one(spec_of(corpus, seed), store).run_id)
            for seed in (1, 2)
        )
    store.write_experiment(
        ExperimentEntry(
            name="birds",
            size="default",
            arms=(ArmEntry(name="both"),),
            seeds=(1, 2),
            runs=runs,
            decision=encode(Decision(baseline="both")),
        )
    )
    return store.root


@pytest.fixture
def store(trained, tmp_path, monkeypatch) -> Store:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "runs")
    return Store("runs")


@dataclass
class Told:
    code: int
    out: str
    err: str


@pytest.fixture
def palinode(capsys):
    def call(*arguments: str) -> Told:
        capsys.readouterr()
        code = entry(arguments)
        output = capsys.readouterr()
        return Told(code, output.out, output.err)

    return call


def everything_in(root):
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def checkpoints(store: Store, run_id: str) -> dict[str, list[str]]:
    root = store.run_directory(run_id) / "ckpt"
    return {path.name: sorted(file.name for file in path.iterdir()) for path in sorted(root.iterdir())}


WHOLE = ["manifest.json", "model.safetensors", "optimizer.safetensors"]
LEFT = {"step-6": WHOLE, "step-12": WHOLE[:2]}


def test_gc_lists_and_deletes_what_nothing_needs(palinode, store):
    first, second = (run.run_id for run in store.entry("birds").runs)
    (store.run_directory(second) / "result.json").unlink()  # an unfinished run keeps everything
    before = everything_in(store.root)
    assert checkpoints(store, first) == {"step-6": WHOLE, "step-8": WHOLE, "step-12": WHOLE}
    listed = json.loads(palinode("gc", "--json").out)
    assert {(one["kind"], one["run"]) for one in listed} == {("checkpoint", first), ("optimizer state", first)}
    assert everything_in(store.root) == before
    told = palinode("gc", "--yes")
    assert (told.code, told.err) == (0, "")
    assert checkpoints(store, first) == LEFT
    unfinished = str(store.run_directory(second))
    after = everything_in(store.root)
    assert {path: content for path, content in before.items() if path.startswith(unfinished)}.items() <= after.items()
    assert palinode("ls", "--verify").code == 0
    found = [one.kind for one in leftovers(store)]
    assert found == []


@pytest.mark.nightly
def test_after_gc_a_model_samples_a_report_is_built_and_an_unfinished_run_goes_on(palinode, corpus, store):
    first, second = (run.run_id for run in store.entry("birds").runs)
    (store.run_directory(second) / "result.json").unlink()
    assert palinode("gc", "--yes").code == 0
    assert palinode("sample", first, "--text", "the ", "--tokens", "3").code == 0
    again = run_one(spec_of(corpus, 2), store)
    assert (again.outcome, again.attempts) == ("done", 2)
    assert palinode("report", "birds").code == 0
    assert {(one.kind, one.run_id) for one in leftovers(store)} == {("checkpoint", second), ("optimizer state", second)}


def test_gc_that_is_killed_loses_nothing(palinode, store, monkeypatch):
    run_id = store.entry("birds").runs[0].run_id
    mine = [one for one in leftovers(store) if one.run_id == run_id]

    def killed(label, act=None):
        if label in ("gc.manifest_written", "step-8.moved_away"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fsio, "crash_point", killed)
        for one in mine:
            with pytest.raises(KeyboardInterrupt):
                delete(one)
    assert palinode("ls", "--verify").code == 0
    assert palinode("sample", run_id, "--tokens", "3").code == 0
    assert palinode("gc", "--yes").code == 0
    assert checkpoints(store, run_id)["step-6"] == WHOLE
    assert "step-8" not in checkpoints(store, run_id)
    assert not list(store.root.rglob(".palinode-removed-*"))


def test_gc_keeps_a_checkpoint_that_another_run_starts_from_and_runs_whose_last_weights_are_damaged(store):
    first, second = (run.run_id for run in store.entry("birds").runs)
    source = store.record(first).spec
    store.write_spec("child", {**source, "start_from": {"run": first, "step": 8}})
    model = store.run_directory(second) / "ckpt" / "step-12" / "model.safetensors"
    model.write_bytes(b"damaged")
    assert {(one.kind, one.run_id) for one in leftovers(store)} == {("optimizer state", first)}


def test_gc_deletes_token_caches_that_nobody_reads(corpus, store):
    cache = cache_directory()
    other = cache / "tokens" / "other"
    shutil.rmtree(other, ignore_errors=True)
    ours = {path for path in (cache / "tokens").iterdir() if path.name != "other"}
    other.mkdir()
    (other / "manifest.json").write_text(json.dumps({"corpus_sha256": "1", "tokenizer": {"sha256": "2"}}))
    (other / "train.bin").write_bytes(b"1")
    assert all(one.path != other for one in leftovers(store))
    old = time.time() - (UNREAD_DAYS + 1) * 86_400
    for folder in (*ours, other):
        for file in folder.iterdir():
            os.utime(file, (old, old))
    named = [
        path
        for path in ours
        if store.record(store.run_ids()[0]).spec["data"]["corpus_sha256"] in (path / "manifest.json").read_text()
    ]
    found = [one.path for one in leftovers(store) if one.kind == "token cache"]
    assert named
    assert other in found
    store.write_spec("unpinned", tiny_spec(corpus).model_dump(mode="json"))
    assert not [one for one in leftovers(store) if one.kind == "token cache"]
    assert not set(named) & set(found)
