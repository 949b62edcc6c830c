"""The same model scored in windows of several lengths: recorded, and the full length agrees with the usual evaluation."""

import pytest
from tiny_run import tiny_spec

from palinode import EvaluationConfig, Store
from palinode.base.errors import BadInput
from palinode.run.one import run_one
from palinode.spec.run_spec import RunSettings

STEPS = 60


@pytest.fixture
def record(corpus, tmp_path):
    window = tiny_spec(corpus).data.window_tokens
    evaluation = EvaluationConfig(max_tokens=1000, context_lengths=(2, window // 2, window))
    spec, store = tiny_spec(corpus, STEPS, evaluation=evaluation), Store(tmp_path / "lengths")
    run_one(spec, store)
    return store.record(spec.run_id)


def test_the_full_length_is_the_usual_evaluation(record):
    lengths = record.context_lengths["validation"]
    full = lengths[max(lengths)]
    for direction in ("ltr", "rtl"):
        usual = record.result.scores["validation"][direction]
        assert {name: usual[name] for name in full[direction]} == full[direction]


def test_more_context_helps_a_trained_model(record):
    lengths = record.context_lengths["validation"]
    losses = [lengths[length]["ltr"]["nats_per_token"] for length in sorted(lengths)]
    assert losses[0] > losses[-1]


def test_a_length_beyond_the_window_is_refused(corpus):
    settings = tiny_spec(corpus).settings
    with pytest.raises(BadInput, match=r"9999 is more than data\.window_tokens"):
        RunSettings(**{**dict(settings), "evaluation": EvaluationConfig(context_lengths=(9999,))})
