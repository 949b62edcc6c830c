"""`palinode.read`: every number that runs recorded, a row each."""

import subprocess
import sys

import polars as pl
import pytest

import palinode
from palinode.base.errors import BadInput, Damaged
from palinode.results.rows import metrics_paths
from synthetic_store import Synthetic, make_store

PLACE = {"event", "split", "final", "step", "seconds", "tokens_read", "train_flops"}


def count_numbers(value) -> int:
    """The numbers in a value, counted without the code under test."""
    if isinstance(value, dict):
        return sum(map(count_numbers, value.values()))
    if isinstance(value, list):
        return sum(map(count_numbers, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    outcomes = {("both", "base", 2): "missing", ("ltr", "base", 1): "unfinished"}
    return make_store(
        tmp_path_factory.mktemp("read") / "runs", Synthetic(seeds=(1, 2), layer_cuts=True, outcomes=outcomes)
    )


def test_every_number_of_every_run_has_one_row(store):
    entry = store.entry("demo")
    frame = palinode.read("demo", store)
    assert frame.columns == [
        *("run", "arm", "scale", "seed", "event", "split", "final", "step", "seconds"),
        *("tokens_read", "train_flops", "name", "value"),
    ]
    for run in entry.runs:
        of_run = frame.filter(pl.col("run") == run.run_id)
        if (run.arm, run.seed) == ("both", 2):
            assert of_run.is_empty()
            continue
        assert of_run.select("arm", "scale", "seed").unique().row(0) == (run.arm, run.scale, run.seed)
        rows = store.record(run.run_id).metrics
        expected = sum(count_numbers({k: v for k, v in row.items() if k not in PLACE}) for row in rows)
        assert len(of_run.filter(pl.col("event") != "result")) == expected > 0
    assert frame["value"].null_count() == 0


def test_a_number_is_found_under_its_path(store):
    run = next(run for run in store.entry("demo").runs if (run.arm, run.seed) == ("both", 1))
    record = store.record(run.run_id)
    frame = palinode.read(run.run_id[:8], str(store.root))
    assert frame["arm"].unique().to_list() == [run.arm]
    last = frame.filter(final=True, event="eval", split="validation", name="scores.ltr.nats_per_token")
    assert last["value"].to_list() == [record.result.score("validation.ltr.nats_per_token")]
    total = frame.filter(event="result", name="parameters.total")
    assert total["value"].to_list() == [record.result.parameters["total"]]
    assert any(name.startswith("scores.ltr.0.") for name in frame.filter(event="layer_cut")["name"])


def test_a_run_of_no_experiment_has_no_arm(store, tmp_path):
    alone = make_store(tmp_path / "runs", Synthetic(seeds=(1,)))
    run = alone.entry("demo").runs[0]
    (alone.root / "experiments" / "demo--laptop.json").unlink()
    frame = palinode.read(run.run_id, alone)
    assert frame.select("arm", "scale", "seed").unique().row(0) == (None, None, run.seed)


def test_a_damaged_run_is_refused_alone_and_left_out_of_its_experiment_with_a_warning(tmp_path, caplog):
    broken = make_store(tmp_path / "runs", Synthetic(seeds=(1,)))
    run = broken.entry("demo").runs[0]
    metrics_paths(broken.run_directory(run.run_id))[0].write_text("{}\n{}\n")
    with pytest.raises(Damaged):
        palinode.read(run.run_id, broken)
    assert run.run_id not in palinode.read("demo", broken)["run"].to_list()
    assert "left out" in caplog.text
    assert run.run_id in caplog.text


def test_a_wrong_name_is_refused(store, tmp_path):
    with pytest.raises(BadInput, match="neither an experiment nor a run.*did you mean 'demo'"):
        palinode.read("dmo", store)
    with pytest.raises(BadInput, match="no results store"):
        palinode.read("demo", tmp_path / "nowhere")


def test_reading_loads_no_torch(store):
    program = f"import sys, palinode; palinode.read('demo', {str(store.root)!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
