"""The cache of a large experiment says what the runs' directories say, and is left out where it may not."""

import os

import pytest

from palinode.base import fsio
from palinode.base.errors import EnvironmentProblem
from palinode.results import run_cache
from palinode.results import store as store_module
from palinode.results.record import Record
from synthetic_store import Synthetic, make_store

CACHE = "experiments/demo--laptop.runs-1.parquet"
OUTCOMES = {("both", "base", 0): "diverged", ("ltr", "base", 1): "unfinished", ("ltr", "base", 2): "missing"}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "LEAST_RUNS", 1)
    return make_store(tmp_path / "runs", Synthetic(outcomes=OUTCOMES, layer_cuts=True))


def said(experiment):
    """All that an experiment says about its runs."""
    return [
        (run.entry, run.outcome, run.result, run.record and (run.record.spec, run.record.metrics, run.record.layer_cut))
        for run in experiment.runs
    ]


def test_a_cached_experiment_says_what_its_files_say(store, monkeypatch):
    first = store.experiment("demo")
    assert (store.root / CACHE).is_file()
    cached = store.experiment("demo")
    monkeypatch.setattr(store_module, "LEAST_RUNS", 1000)
    plain = store.experiment("demo")
    assert said(cached) == said(first) == said(plain)
    for one, other in zip(cached.runs, plain.runs, strict=True):
        if one.record is not None:
            assert one.record.rows_of("eval") == other.record.rows_of("eval")


def test_a_cached_run_that_has_ended_is_not_read_again(store, monkeypatch):
    before = said(store.experiment("demo"))
    read = []
    original = Record.with_metrics
    monkeypatch.setattr(Record, "with_metrics", lambda record: (read.append(record.outcome), original(record))[1])
    assert said(store.experiment("demo")) == before
    assert read == ["unfinished"]


@pytest.mark.parametrize("name", ["spec.json", "result.json", "metrics.jsonl"])
def test_a_run_whose_file_was_changed_is_read_again(store, name):
    run = store.experiment("demo").finished()[0]
    path = store.run_directory(run.entry.run_id) / name
    os.truncate(path, path.stat().st_size // 2)
    assert {one.entry.run_id: one.outcome for one in store.experiment("demo").runs}[run.entry.run_id] == "damaged"


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", None])
def test_a_damaged_cache_is_left_out(store, content):
    before = said(store.experiment("demo"))
    path = store.root / CACHE
    sound = path.read_bytes()
    half = len(sound) // 2
    path.write_bytes(sound[:half] + bytes([sound[half] ^ 1]) + sound[half + 1 :] if content is None else content)
    assert said(store.experiment("demo")) == before


def test_a_cache_that_is_removed_while_its_rows_are_needed_is_no_error(store):
    before = said(store.experiment("demo"))
    again = store.experiment("demo")
    (store.root / CACHE).unlink()
    assert said(again) == before


def test_a_store_that_cannot_be_written_has_no_cache(store, monkeypatch):
    def refuse(path, content):
        raise EnvironmentProblem("cannot write: read-only file system", file=str(path))

    monkeypatch.setattr(fsio, "write_bytes", refuse)
    assert len(store.experiment("demo").finished()) == 6
    assert not (store.root / CACHE).exists()


def test_a_long_run_keeps_evenly_spaced_rows_and_its_last_ones(store, monkeypatch):
    rows = store.experiment("demo").finished()[0].record.rows_of("eval")
    (store.root / CACHE).unlink()
    monkeypatch.setattr(run_cache, "MOST_ROWS", 4)
    kept = store.experiment("demo").finished()[0].record
    assert kept.rows_of("eval") == rows[2::3]
    assert kept.metrics[-1]["step"] == rows[-1]["step"]
    assert kept.layer_cut
