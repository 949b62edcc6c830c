"""Numbers of the embedding tables and of auxiliary terms: by run as they were written, over seeds by hand."""

import pytest

from palinode.analysis.curves import auxiliary_curves, mean_curves
from palinode.analysis.embeddings import NUMBERS, embedding_means, embedding_numbers
from palinode.analysis.intervals import t_interval
from palinode.analysis.tables import all_tables
from palinode.base.errors import Damaged
from palinode.base.measures import LEAST_SHUFFLED, affinity
from palinode.results.record import EMBEDDINGS_EVENT
from synthetic_store import Synthetic, add_geometry, add_terms, make_store


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path, Synthetic(outcomes={("both", "base", 2): "diverged"}))


def test_every_finished_run_has_its_numbers_and_means_are_over_seeds(store):
    add_geometry(store, "demo", without_positions=("ltr",))
    record = store.experiment("demo")
    numbers = embedding_numbers(record)
    assert set(numbers.filter(arm="ltr")["number"]) == {"token_norm"}, "no positions, so nothing of positions"
    assert set(numbers.filter(arm="both")["number"]) == {*NUMBERS, "position_cosine"}
    assert sorted(set(numbers.filter(arm="both")["seed"])) == [0, 1], "a run that diverged was not measured"
    means = embedding_means(record, embedding_numbers(record))
    share = means.filter(arm="both", number="position_share").row(0, named=True)
    values = [0.3 + 0.1, 0.3 + 0.11]
    interval = t_interval(values, 0.95)
    assert share["mean"] == pytest.approx(sum(values) / 2)
    assert (share["interval_low"], share["interval_high"]) == pytest.approx((interval.low, interval.high))
    assert (share["seeds"], share["chance"]) == (2, 0.25)
    apart = means.filter(arm="both", number="position_cosine").sort("distance")
    assert apart["distance"].to_list() == [1, 2, 4, 8, 16, 32]
    assert apart["mean"][2] == pytest.approx(0.9 / 4 - 0.105)
    assert apart["chance"].null_count() == 6


def test_one_seed_has_a_mean_and_no_interval(tmp_path):
    store = make_store(tmp_path, Synthetic(seeds=(3,)))
    add_geometry(store, "demo")
    record = store.experiment("demo")
    row = embedding_means(record, embedding_numbers(record)).filter(arm="ltr", number="token_norm").row(0, named=True)
    assert (row["mean"], row["interval_low"], row["seeds"]) == (pytest.approx(1.03), None, 1)


@pytest.mark.parametrize(
    "geometry",
    [
        {"token_norm": "long"},
        {"token_norm": 1.0, "position_cosine_by_distance": {"far": 0.1}},
        {"token_norm": 1.0, "position_cosine_by_distance": {"1": None}},
        {"token_norm": 1.0, "position_cosine_by_distance": [0.1]},
    ],
)
def test_a_row_that_holds_no_numbers_is_damage(store, geometry):
    run_id = store.experiment("demo").runs[0].entry.run_id
    store.append_metrics(run_id, {"event": EMBEDDINGS_EVENT, "attempt": 1, "step": 600, "geometry": geometry})
    with pytest.raises(Damaged, match=r"metrics\.jsonl"):
        embedding_numbers(store.experiment("demo"))


def test_auxiliary_terms_that_are_no_table_are_damage(store):
    run_id = store.experiment("demo").runs[0].entry.run_id
    store.append_metrics(run_id, {"event": "train", "attempt": 1, "step": 600, "auxiliary": {"embedding_loss": 0.1}})
    with pytest.raises(Damaged, match=r"metrics\.jsonl"):
        auxiliary_curves(store.experiment("demo"))


def test_affinity_is_what_the_pairs_have_over_strangers_and_nothing_where_both_vanished():
    assert affinity(0.5, 2.0) == 0.75
    assert affinity(2.0, 2.0) == 0
    assert affinity(3.0, 2.0) < 0
    assert affinity(0.0, LEAST_SHUFFLED) == 1
    assert affinity(1e-9, 0.9 * LEAST_SHUFFLED) is None


def test_terms_are_curves_of_their_own_with_the_affinity_beside_the_value(store):
    add_terms(store, "demo", {"both": "honest", "both-published-mask": "collapse"})
    curves = auxiliary_curves(store.experiment("demo"))
    assert set(curves["arm"]) == {"both", "both-published-mask"}, "an arm without a term has no row"
    honest = curves.filter(arm="both", seed=1, step=600).row(0, named=True)
    assert honest["affinity"] == pytest.approx(1 - honest["value"] / 1.5)
    gone = curves.filter(arm="both-published-mask", seed=1).sort("step")
    assert gone["affinity"][0] is not None
    assert gone["affinity"][-1] is None, "4e-11 of shuffled pairs: a ratio says nothing"
    means = mean_curves(curves, "value", ("arm", "scale", "term")).filter(arm="both", step=100)
    mine = curves.filter(arm="both", step=100)["value"]
    assert means["value"].item() == pytest.approx(mine.mean())
    assert means["seeds"].item() == 3
    late = mean_curves(curves, "value", ("arm", "scale", "term")).filter(arm="both")
    assert late["step"].max() == 300, "the seed that diverged ends the mean"


def test_the_tables_hold_them_with_one_shape_everywhere(tmp_path, store):
    empty = all_tables(store.experiment("demo"))
    add_geometry(store, "demo")
    add_terms(store, "demo", {"both": "honest"})
    full = all_tables(store.experiment("demo"))
    for name in ("embeddings", "embedding_means", "auxiliary_terms"):
        assert empty[name].is_empty()
        assert not full[name].is_empty()
        assert empty[name].schema == full[name].schema
