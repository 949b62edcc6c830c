"""The interval over queries covers what it says, and the wider of two intervals decides."""

from types import SimpleNamespace

import numpy as np
import pytest

from palinode.analysis import queries
from palinode.analysis.queries import over_queries
from palinode.base.decision import Decision


def folds(rng, count=300, seeds=3, mean=0.0, sd=0.18):
    return [{f"q{seed}-{i}": mean + sd * rng.standard_normal() for i in range(count // seeds)} for seed in range(seeds)]


def test_the_mean_is_that_of_the_seeds_and_an_improvement_is_positive():
    seeds = [{"a": 0.1, "b": 0.3}, {"c": 0.4}]
    assert over_queries(seeds, 0.95).mean == pytest.approx(0.3)
    assert over_queries(seeds, 0.95, "lower").mean == pytest.approx(-0.3)


def test_the_bootstrap_has_the_width_of_the_standard_error():
    [one] = folds(np.random.default_rng(0), 300, 1)
    found = over_queries([one], 0.95)
    error = np.std(list(one.values())) / np.sqrt(300)
    assert found.over_seeds is None
    assert (found.interval.high - found.interval.low) / 2 == pytest.approx(1.96 * error, rel=0.05)
    assert (found.documents, found.seeds, found.unit) == (300, 1, "queries")


def test_a_query_that_two_seeds_tested_is_drawn_once_with_both_differences():
    rng = np.random.default_rng(0)
    values = {f"q{i}": float(rng.standard_normal()) for i in range(200)}
    alone, twice = over_queries([values], 0.95), over_queries([values, values], 0.95)
    assert tuple(alone.interval) == tuple(twice.interval), "the second seed says nothing new about the queries"


def test_seeds_that_differ_move_the_interval_over_seeds_alone():
    """Each seed keeps its number of queries in every draw, so a shift of a whole seed is no difference between queries."""
    quiet = folds(np.random.default_rng(0))
    moved = [
        {query: value + shift for query, value in one.items()} for one, shift in zip(quiet, (-1, 0, 1), strict=True)
    ]
    before, after = over_queries(quiet, 0.95), over_queries(moved, 0.95)
    assert tuple(after.interval) == pytest.approx(tuple(before.interval))
    assert after.over_seeds.high - after.over_seeds.low > 4 > before.over_seeds.high - before.over_seeds.low


@pytest.mark.nightly
def test_it_covers_the_true_difference():
    rng = np.random.default_rng(0)
    hits = sum(low <= 0.0 <= high for low, high in (over_queries(folds(rng), 0.95).interval for _ in range(300)))
    assert hits >= 0.93 * 300


def test_few_queries_are_a_caution_and_none_is_an_error():
    assert over_queries([{"a": 0.1, "b": 0.2}], 0.95).caution == "only 2 queries: the interval may be too short"
    with pytest.raises(ValueError, match="every seed needs a query"):
        over_queries([{}], 0.95)


def test_differences_by_type_are_paired_by_seed(monkeypatch):
    """Seed 2 of the arm is missing: the seeds that both have are still compared, and never with another seed."""

    def tested(seed, score):
        scores = {"ndcg_at_10": [score, score + 0.1]}
        row = SimpleNamespace(
            queries=[f"q{seed}a", f"q{seed}b"],
            by_query={"retrieval_full": scores, queries.BM25: scores},
            types={"way": ["x", "x"]},
        )
        return SimpleNamespace(retrieval=row)

    cells = [
        ("ltr", "base", {seed: tested(seed, 0.5) for seed in (1, 2, 3)}),
        ("both", "base", {seed: tested(seed, 0.6) for seed in (1, 3)}),
    ]
    monkeypatch.setattr(queries, "_cells", lambda record: cells)
    rule = Decision(baseline="ltr", metric="validation.retrieval_full.ndcg_at_10", better="higher")
    table = queries.type_table(SimpleNamespace(entry=SimpleNamespace(rule=rule))).filter(arm="both")
    assert table["difference"].to_list() == pytest.approx([0.1])
    assert table["queries"].to_list() == [4]
