"""The result of a run has the machine's product rate and the share of it; measuring them changes nothing else."""

import pytest
from tiny_run import tiny_spec

from palinode import Store
from palinode.base.config import decode
from palinode.base.measures import COST_AXES
from palinode.cli.ls import _run_text
from palinode.results.record import Result
from palinode.run.one import run_one
from palinode.train import product_rate

SHARE = COST_AXES["product_share"]


def test_a_run_has_its_share_unless_it_is_too_short(corpus, tmp_path, monkeypatch):
    spec = tiny_spec(corpus, steps=10, evaluate_every=None)
    without = run_one(spec, Store(tmp_path / "short"))
    assert without.rates == {}
    assert without.cost(SHARE) is None
    monkeypatch.setattr(product_rate, "SHARE_OF_RUN", 100.0)  # as if the run had so many more steps
    store = Store(tmp_path / "long")
    measured = run_one(spec, store)
    flops, seconds = measured.counters["train_flops"] + measured.counters["optimizer_flops"], measured.seconds["train"]
    assert measured.cost(SHARE) == pytest.approx(flops / seconds / measured.rates["product_flops_per_second"])
    for name in ("weights_sha256", "scores", "counters", "parameters"):
        assert getattr(measured, name) == getattr(without, name)
    record = store.record(spec.run_id)
    assert record.result == measured
    assert "  product_share: " in _run_text(record)


def test_a_result_of_an_older_version_has_no_share():
    old = decode(Result, {"run_id": "a", "outcome": "done", "seconds": {"train": 3.0}})
    assert old.rates == {}
    assert old.cost(SHARE) is None
