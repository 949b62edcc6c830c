"""The layer cut as part of a run: recorded, the same after any interruption, and without a trace in the training."""

import shutil
from pathlib import Path

import pytest
import torch
from tiny_run import tiny_spec

from palinode import EvaluationConfig, Store, modern
from palinode.base.errors import BadInput, Damaged
from palinode.models.decoder import Decoder, DecoderConfig
from palinode.results.layer_cut import LAYER_CUT_EVENT
from palinode.results.rows import read_rows
from palinode.run import measure
from palinode.run.one import Attempt, run_one
from palinode.run.scoring import cut_split
from palinode.run.trained import load_trained

CUT = EvaluationConfig(max_tokens=500, layer_cut=True, layer_cut_refit_steps=3)
MODEL = modern(layers=3, width=16, heads=2, dropout=0.1)
STEPS = 16
UNSTABLE = ("attempt", "seconds")


def steady_rows(store, spec, *, without_cuts=False):
    rows = [row for row in store.record(spec.run_id).metrics if not (without_cuts and row["event"] == LAYER_CUT_EVENT)]
    return [{key: value for key, value in row.items() if key not in UNSTABLE} for row in rows]


@pytest.fixture(scope="module")
def cut_run(corpus, tmp_path_factory):
    spec, store = tiny_spec(corpus, STEPS, model=MODEL, evaluation=CUT), Store(tmp_path_factory.mktemp("cut"))
    return spec, store, run_one(spec, store)


def test_a_cut_whose_loss_is_not_finite_ends_the_run_for_good(corpus, tmp_path, monkeypatch):
    """Tried again it would end the same way: `failed` would be trained anew at every call."""

    def overflowing(*_):
        raise FloatingPointError("inf")

    monkeypatch.setattr(measure, "cut_split", overflowing)
    result = run_one(tiny_spec(corpus, STEPS, model=MODEL, evaluation=CUT), Store(tmp_path))
    assert (result.outcome, result.reason) == ("diverged", f"the loss with fewer blocks is not finite at step {STEPS}")


def test_the_cut_is_recorded_and_typed(cut_run):
    spec, store, result = cut_run
    record = store.record(spec.run_id)
    [row] = [row for row in record.metrics if row["event"] == LAYER_CUT_EVENT]
    assert (row["split"], row["final"], row["step"]) == ("validation", True, STEPS)
    assert set(row["scores"]) == set(row["refitted"]) == {"ltr", "rtl"}
    cut = record.layer_cut["validation"]
    assert cut.depths == 3
    for name, curve in cut.scores.items():
        assert [item.blocks for item in curve] == [item.blocks for item in cut.refitted[name]] == [1, 2, 3]
        assert curve[-1].nats_per_token == result.score(f"validation.{name}.nats_per_token")
        assert curve[0].nats_per_token != curve[-1].nats_per_token
    assert cut.refitted != cut.scores


def test_it_leaves_no_trace_in_training_or_in_other_rows(cut_run, corpus, tmp_path):
    spec, store, result = cut_run
    plain_spec, plain_store = tiny_spec(corpus, STEPS, model=MODEL), Store(tmp_path / "plain")
    before = torch.random.get_rng_state()
    plain = run_one(plain_spec, plain_store)
    torch.random.set_rng_state(before)
    assert plain_store.record(plain_spec.run_id).layer_cut == {}
    assert plain.weights_sha256 == result.weights_sha256
    assert plain.scores == result.scores
    assert plain.counters == result.counters
    assert steady_rows(plain_store, plain_spec) == steady_rows(store, spec, without_cuts=True)


def test_what_was_recorded_is_what_the_loaded_weights_give(cut_run):
    spec, store, _ = cut_run
    again = cut_split(load_trained(spec, store), "validation")
    assert again.scores == store.record(spec.run_id).layer_cut["validation"].scores


class KilledError(Exception):
    """Stands for the death of the process."""


@pytest.mark.parametrize(("place", "moment"), [(measure, "cut_split"), (Attempt, "record")])
def test_killed_around_the_cut_it_ends_with_the_same_rows(cut_run, tmp_path, monkeypatch, place, moment):
    spec, reference, expected = cut_run
    store = Store(tmp_path / "killed")

    def killed(*_, **__):
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(place, moment, killed)
        with pytest.raises(KilledError):
            run_one(spec, store)
    again = run_one(spec, store)
    assert again.weights_sha256 == expected.weights_sha256
    assert steady_rows(store, spec) == steady_rows(reference, spec)
    rows, damaged = read_rows(store.run_directory(spec.run_id))
    assert damaged is None
    assert sum(row["event"] == LAYER_CUT_EVENT for row in rows) == 1


def test_both_splits_are_cut_when_both_are_scored(corpus, tmp_path):
    spec = tiny_spec(corpus, STEPS, model=MODEL, evaluation=EvaluationConfig(max_tokens=200, layer_cut=True, test=True))
    spec = spec.with_(data=spec.data.with_(test_fraction=0.1))
    store = Store(tmp_path / "both")
    run_one(spec, store)
    assert set(store.record(spec.run_id).layer_cut) == {"validation", "test"}


class Backwards(Decoder):
    """A user's model that replaces the reading: what its blocks hold is not what `hidden` tells."""

    def hidden(self, tokens, sees):
        return super().hidden(tokens, sees) * 0.5


class BackwardsConfig(DecoderConfig):
    """Its config."""

    def build(self, vocab_size, max_length, seed):
        made = super().build(vocab_size, max_length, seed)
        made.__class__ = Backwards
        return made


def test_a_model_that_cannot_be_cut_is_refused_before_anything_is_written(corpus, tmp_path):
    spec, store = (
        tiny_spec(corpus, STEPS, model=BackwardsConfig(layers=1, width=16, heads=2), evaluation=CUT),
        tmp_path / "no",
    )
    with pytest.raises(BadInput, match=r"evaluation\.layer_cut: a Backwards cannot be cut"):
        run_one(spec, Store(store))
    assert not Path(store).exists()
    assert run_one(spec.with_(evaluation=EvaluationConfig(max_tokens=200)), Store(store)).outcome == "done"


def test_refit_steps_without_a_cut_are_refused():
    with pytest.raises(ValueError, match="nothing is refitted without layer_cut"):
        EvaluationConfig(layer_cut_refit_steps=5)


@pytest.mark.parametrize(
    "scores", [3, {"ltr": 3}, {"ltr": [3]}, {"ltr": [{"blocks": "one"}]}, {"ltr": [{"blocks": 1}]}]
)
def test_rows_of_another_shape_are_damage(cut_run, tmp_path, scores):
    spec, reference, _ = cut_run
    store = Store(tmp_path / "changed")
    shutil.copytree(reference.run_directory(spec.run_id), store.run_directory(spec.run_id))
    row = {"event": LAYER_CUT_EVENT, "attempt": 9, "step": STEPS, "split": "validation", "scores": scores}
    store.append_metrics(spec.run_id, row, attempt=1)
    with pytest.raises(Damaged, match=r"metrics-1\.jsonl: has \d+ rows of the run, and \d+ were written"):
        _ = store.record(spec.run_id).layer_cut
    store.write_result(store.record(spec.run_id).result.with_(rows={}))  # a result from before it counted its rows
    with pytest.raises(Damaged, match="scores"):
        _ = store.record(spec.run_id).layer_cut
