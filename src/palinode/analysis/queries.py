"""The interval of a difference over the queries of a retriever: would it hold with other queries?

Every seed tests one fold of the queries, so most queries are seen by one seed alone, and seeds and queries are not crossed as in
`sources.py`. The bootstrap draws queries. A query that several seeds tested is drawn with all its differences, and queries are drawn
among those that the same seeds tested, so that each seed keeps its number of queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from palinode.analysis.intervals import Interval, t_interval
from palinode.analysis.sources import TextInterval
from palinode.base.derived_seed import derive
from palinode.base.measures import Better
from palinode.results.record import Record

DRAWS = 4_000
FEW_QUERIES = 20
STREAM = "queries"


def query_scores(record: Record, retriever: str, measure: str) -> dict[str, float]:
    """Query id -> the score of a retriever, for the queries that the run tested; empty where they were not measured."""
    row = record.retrieval
    values = row.by_query.get(retriever, {}).get(measure, []) if row is not None else []
    return dict(zip(row.queries, values, strict=True)) if row is not None and values else {}


def query_differences(
    arm: Sequence[Record], baseline: Sequence[Record], retriever: str, measure: str
) -> list[dict[str, float]] | None:
    """Query id -> score of the arm minus that of the baseline, for each seed; None where the two sides tested other queries."""
    differences = []
    for ours, theirs in zip(arm, baseline, strict=True):
        one, other = (query_scores(record, retriever, measure) for record in (ours, theirs))
        if not one or one.keys() != other.keys():
            return None
        differences.append({query: one[query] - other[query] for query in one})
    return differences


def over_queries(
    differences: Sequence[Mapping[str, float]], confidence: float, better: Better = "higher"
) -> TextInterval:
    """The interval of the mean difference over queries: the wider of the bootstrap's and of the t interval over seeds.

    Args:
        differences: for each seed, query id -> difference; an improvement is positive where `better` is "higher".

    Raises:
        ValueError: there is no seed, or a seed has no query.
    """
    if not differences or not all(differences):
        raise ValueError("every seed needs a query")
    sign = 1.0 if better == "higher" else -1.0
    of_seeds = [sign * float(np.mean(list(one.values()))) for one in differences]
    over_seeds, mean = t_interval(of_seeds, confidence), float(np.mean(of_seeds))
    shares: dict[str, float] = {}
    tested_by: dict[str, tuple[int, ...]] = {}
    for seed, one in enumerate(differences):
        for query, value in one.items():
            shares[query] = shares.get(query, 0.0) + sign * value / (len(one) * len(differences))
            tested_by[query] = (*tested_by.get(query, ()), seed)
    means = np.zeros(DRAWS)
    for number, seeds in enumerate(sorted(set(tested_by.values()))):
        values = np.array([shares[query] for query in sorted(shares) if tested_by[query] == seeds])
        rng = np.random.default_rng(derive(0, STREAM, number, len(values)))
        means += values[rng.integers(len(values), size=(DRAWS, len(values)))].sum(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    of_queries = Interval(float(low), float(high))
    both = (of_queries, over_seeds) if over_seeds is not None else (of_queries,)
    few = f"only {len(shares)} queries: the interval may be too short" if len(shares) < FEW_QUERIES else ""
    return TextInterval(
        mean=mean,
        interval=max(both, key=lambda one: one.high - one.low),
        over_seeds=over_seeds,
        degrees=None,
        shares={},
        design_effect=None,
        floor=0.0,
        documents=len(shares),
        seeds=len(differences),
        caution=few,
        unit="queries",
    )
