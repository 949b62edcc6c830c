"""Curves hold measured points only; tables hold every run, whatever became of it."""

import polars as pl
import pytest

from palinode.analysis.curves import evaluation_curves, mean_curves, training_curves
from palinode.analysis.tables import all_tables
from palinode.base.errors import Damaged
from palinode.base.measures import CURVE_AXES
from synthetic_store import Synthetic, make_store


def experiment(tmp_path, **changes):
    return make_store(tmp_path / "runs", Synthetic(**changes)).experiment("demo")


def test_every_point_of_a_curve_was_measured(tmp_path):
    record = experiment(tmp_path, outcomes={("both", "base", 0): "diverged", ("ltr", "base", 2): "unfinished"})
    curves = evaluation_curves(record)
    by_run = {run.entry.run_id: run.record.metrics for run in record.runs if run.record}
    for row in curves.iter_rows(named=True):
        matches = [m for m in by_run[row["run_id"]] if m["event"] == "eval" and m["step"] == row["step"]]
        assert [m["scores"][row["direction"]]["nats_per_token"] for m in matches] == [row["nats_per_token"]]
        assert all(matches[0][axis] == row[axis] for axis in CURVE_AXES)
    steps = dict(curves.group_by("run_id").agg(pl.col("step").n_unique()).iter_rows())
    assert sorted(set(steps.values())) == [6, 12]
    assert set(steps) == {run.entry.run_id for run in record.runs}


def test_untrained_directions_are_marked(tmp_path):
    curves = evaluation_curves(experiment(tmp_path, outcomes={("ltr", "base", 1): "unfinished"}))
    trained = {(r["arm"], r["direction"]): r["trained"] for r in curves.iter_rows(named=True)}
    assert trained == {
        ("ltr", "ltr"): True,
        ("ltr", "rtl"): False,
        ("both", "ltr"): True,
        ("both", "rtl"): True,
        ("both-published-mask", "ltr"): True,
        ("both-published-mask", "rtl"): True,
    }


def test_means_stop_where_the_first_seed_stops(tmp_path):
    curves = evaluation_curves(experiment(tmp_path, outcomes={("both", "base", 0): "diverged"}))
    means = mean_curves(curves, "nats_per_token")
    assert means.filter(arm="both")["step"].max() == 300
    assert means.filter(arm="ltr")["step"].max() == 600
    assert set(means["seeds"]) == {3}
    at = {"arm": "both", "direction": "ltr", "step": 200}
    expected = curves.filter(**at)
    assert means.filter(**at)["nats_per_token"].item() == pytest.approx(expected["nats_per_token"].mean())
    assert means.filter(**at)["tokens_read"].item() == pytest.approx(expected["tokens_read"].mean())


def test_training_rows_are_kept_with_their_groups(tmp_path):
    rows = training_curves(experiment(tmp_path))
    assert set(rows.filter(arm="both")["group"]) == {"ltr", "rtl"}
    assert set(rows.filter(arm="ltr")["group"]) == {"ltr"}
    assert rows["gradient_norm"].null_count() == 0


def test_tables_show_every_run_and_every_reason(tmp_path):
    outcomes = {("both", "base", 0): "diverged", ("ltr", "base", 2): "missing", ("both", "base", 1): "unfinished"}
    tables = all_tables(experiment(tmp_path, outcomes=outcomes))
    runs = tables["runs"]
    assert sorted(runs["outcome"]) == sorted(["done"] * 6 + ["diverged", "missing", "unfinished"])
    assert "not finite" in runs.filter(outcome="diverged")["reason"].item()
    assert tables["differences"]["left_out_because"].drop_nulls().len() == 4
    assert set(tables["verdicts"]["outcome"]) == {"cannot tell"}
    assert tables["arms"].filter(arm="both", path="objective.kind")["after"].item() == '"both"'
    assert tables["audits"].filter(outcome="fail")["check"].unique().sort().to_list() == [
        "C1.perturbation",
        "C2.canary",
        "C8.loss_floor",
    ]


def test_an_experiment_without_any_run_has_tables_of_the_same_shape(tmp_path):
    full = all_tables(experiment(tmp_path / "full"))
    missing = {(arm, "base", seed): "missing" for arm in ("ltr", "both", "both-published-mask") for seed in range(3)}
    empty = all_tables(experiment(tmp_path / "empty", outcomes=missing, audited=False))
    assert {name: frame.schema for name, frame in full.items()} == {name: frame.schema for name, frame in empty.items()}
    assert empty["evaluation_curves"].is_empty()


@pytest.mark.parametrize(
    "row", [{"event": "eval", "step": "x"}, {"event": "eval", "step": 1, "scores": [1]}, {"step": 1}]
)
def test_rows_that_are_no_metrics_are_damage_that_names_the_file(tmp_path, row):
    store = make_store(tmp_path / "runs")
    store.append_metrics(store.experiment("demo").runs[0].entry.run_id, row)
    with pytest.raises(Damaged, match=r"metrics\.jsonl"):
        evaluation_curves(store.experiment("demo"))
