"""The table of measurements: which runs each entry applies to, and the rows that a run with all of them leaves."""

import pytest
from tiny_run import tiny_spec

from palinode import EvaluationConfig, LtrObjective, Store, gpt2
from palinode.data.task_store import TaskData
from palinode.data.tasks import Copy
from palinode.results.rows import read_rows
from palinode.run.measure import MEASUREMENTS
from palinode.run.one import run_one

STEPS = 10
EVERYTHING = EvaluationConfig(max_tokens=200, test=True, context_lengths=(8,), layer_cut=True, embeddings=True)


def applying(spec):
    return [measurement.event for measurement in MEASUREMENTS if measurement.applies(spec)]


@pytest.mark.parametrize(
    ("asked", "events"),
    [
        ({}, ["eval"]),
        ({"context_lengths": (8,)}, ["eval", "context_lengths"]),
        ({"layer_cut": True}, ["eval", "layer_cut"]),
        ({"embeddings": True}, ["eval", "embeddings"]),
    ],
)
def test_a_run_on_text_is_measured_as_its_evaluation_asks(corpus, asked, events):
    assert applying(tiny_spec(corpus, evaluation=EvaluationConfig(**asked))) == events


def test_a_task_is_compared_with_its_baselines_except_in_a_trial(corpus):
    task = {"data": TaskData(task=Copy(length=4)), "objective": LtrObjective()}
    assert applying(tiny_spec(corpus, **task)) == ["eval", "task"]
    assert applying(tiny_spec(corpus, **task, evaluation=EvaluationConfig(split="tuning"))) == ["eval"]


def test_rows_come_in_the_order_of_the_table_and_hold_the_columns_of_every_row(corpus, tmp_path):
    data = tiny_spec(corpus).data.with_(test_fraction=0.1)
    model = gpt2(layers=2, width=16, heads=2)
    spec = tiny_spec(corpus, STEPS, evaluate_every=5, data=data, model=model, evaluation=EVERYTHING)
    store, events = Store(tmp_path / "store"), []
    result = run_one(spec, store, on_event=events.append)
    rows, _ = read_rows(store.run_directory(spec.run_id))
    assert rows == [event for event in events if event["event"] != "note"]
    final = [row for row in rows if row.get("final")]
    assert [(row["event"], row["split"]) for row in final] == [
        ("eval", "validation"),
        ("eval", "test"),
        ("context_lengths", "validation"),
        ("context_lengths", "test"),
        ("layer_cut", "validation"),
        ("layer_cut", "test"),
        ("embeddings", ""),
    ]
    counters = set(result.counters) - {"optimizer_steps", "evaluations"}
    assert all({"attempt", "step", "seconds", *counters} <= set(row) for row in rows)
    assert {row["step"] for row in final} == {STEPS}
    assert result.counters["evaluations"] == 2, "one in the middle and one at the end; the test split is not counted"
    assert {row["split"]: row["scores"] for row in final if row["event"] == "eval"} == result.scores
