"""rtl / ltr over context lengths: whose ltr loss is below the line, by hand."""

import pytest

from palinode.analysis.ratios import direction_ratios
from palinode.results.record import CONTEXT_LENGTHS_EVENT
from synthetic_store import Synthetic, SyntheticArm, make_store

LENGTHS = {16: 3.0, 64: 2.5}  # the ltr loss of seed 1
ARMS = (SyntheticArm("ltr"), SyntheticArm("both", rtl="honest", p=0.5))


@pytest.fixture
def store(tmp_path):
    """Every run scored at two lengths: seed s has ltr + .1 s, and rtl a share of it more that grows with the length."""
    store = make_store(tmp_path, Synthetic(arms=ARMS))
    (entry,) = store.experiments()
    for run in entry.runs:
        scores = {
            str(length): {
                "ltr": {"nats_per_token": nats + 0.1 * run.seed},
                "rtl": {"nats_per_token": (nats + 0.1 * run.seed) * (1 + length / 1000 + run.seed / 10_000)},
            }
            for length, nats in LENGTHS.items()
        }
        row = {"event": CONTEXT_LENGTHS_EVENT, "split": "validation", "final": True, "scores": scores}
        last = store.record(run.run_id).metrics[-1]
        store.append_metrics(run.run_id, {**row, "attempt": 1, "step": last["step"]})
    return store


def test_an_arm_that_trains_both_ways_is_set_against_itself(store):
    (entry,) = store.experiments()
    ratios = direction_ratios(store.experiment(entry.name), "validation")
    assert ratios["arm"].unique().to_list() == ["both"], "an arm that never trained on rtl has no ratio"
    assert ratios["against"].unique().to_list() == ["both"]
    seeds = len(entry.seeds)
    for row in ratios.iter_rows(named=True):
        expected = [1 + row["context_tokens"] / 1000 + seed / 10_000 for seed in entry.seeds]
        assert row["ratio_then_mean"] == pytest.approx(sum(expected) / seeds)
        assert row["interval_low"] < row["ratio_then_mean"] < row["interval_high"]
        assert row["seeds"] == seeds
    assert sorted(ratios["context_tokens"]) == sorted(LENGTHS)


def test_without_such_rows_there_is_nothing(tmp_path):
    store = make_store(tmp_path, Synthetic(arms=ARMS))
    (entry,) = store.experiments()
    assert direction_ratios(store.experiment(entry.name), "validation").is_empty()
