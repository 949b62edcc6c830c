"""The scores of retrievers by query, and their interval over queries: would a difference hold with other queries?

Every seed tests one fold of the queries, so most queries are seen by one seed alone, and seeds and queries are not crossed as in
`sources.py`. The bootstrap draws queries. A query that several seeds tested is drawn with all its differences, and queries are
drawn among those that the same seeds tested, so that each seed keeps its number of queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from palinode.analysis.frames import Row, columns
from palinode.analysis.intervals import Interval, ends, t_interval
from palinode.analysis.sources import TextInterval
from palinode.base.derived_seed import derive
from palinode.base.measures import BM25, RETRIEVAL_MEASURES, RETRIEVERS, Better
from palinode.results.record import ExperimentRecord, Record

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
    if len(arm) != len(baseline):
        return None
    for ours, theirs in zip(arm, baseline, strict=True):
        one, other = (query_scores(record, retriever, measure) for record in (ours, theirs))
        if not one or one.keys() != other.keys():
            return None
        differences.append({query: one[query] - other[query] for query in one})
    return differences


def over_queries(
    differences: Sequence[Mapping[str, float]], confidence: float, better: Better = "higher"
) -> TextInterval:
    """The bootstrap interval of the mean difference over queries. The t interval over seeds stands beside it as `over_seeds`.

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
    few = f"only {len(shares)} queries: the interval may be too short" if len(shares) < FEW_QUERIES else ""
    return TextInterval(
        mean=mean,
        interval=Interval(float(low), float(high)),
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


def retrieval_table(record: ExperimentRecord) -> pl.DataFrame:
    """The mean score of every retriever over all queries, each query once a seed that tested it, with its interval over queries.

    BM25 learns nothing, so its rows are equal for all arms.
    """
    rows: list[Row] = []
    for arm, scale, tested in _cells(record):
        for retriever in RETRIEVERS:
            for measure in RETRIEVAL_MEASURES:
                scores = [query_scores(one, retriever, measure) for one in tested.values()]
                if all(scores):
                    rows.append(
                        {"arm": arm, "scale": scale, "retriever": retriever, "measure": measure}
                        | _level(scores, record.entry.rule.confidence)
                    )
    return pl.DataFrame(rows, schema=columns((pl.String, "arm scale retriever measure")) | _LEVEL)


def type_table(record: ExperimentRecord) -> pl.DataFrame:
    """nDCG@10 by the type of a query, for the retriever of the decision rule and for BM25, beside the difference to the baseline.

    Differences and their intervals are over the queries of the type. They explain a verdict and decide nothing.
    """
    rule = record.entry.rule
    measure = RETRIEVAL_MEASURES[0]
    asked = rule.score.direction if rule.score.direction in RETRIEVERS else RETRIEVERS[0]
    cells = {(arm, scale): tested for arm, scale, tested in _cells(record)}
    rows: list[Row] = []
    for (arm, scale), tested in cells.items():
        baseline = cells.get((rule.baseline, scale), {})
        paired = [(one, baseline[seed]) for seed, one in tested.items() if seed in baseline]
        differences = query_differences([one for one, _ in paired], [one for _, one in paired], asked, measure)
        for way, name in dict.fromkeys(pair for one in tested.values() for pair in _types(one)):
            row: Row = {"arm": arm, "scale": scale, "way": way, "type": name, "retriever": asked}
            for retriever, column in ((asked, "value"), (BM25, BM25)):
                scores = [_of_type(one, query_scores(one, retriever, measure), way, name) for one in tested.values()]
                kept = [one for one in scores if one]
                row |= {column: float(np.mean([np.mean(list(one.values())) for one in kept])) if kept else None}
                row["queries"] = len({query for one in scores for query in one})
            if differences is not None and arm != rule.baseline:
                pairs = zip(paired, differences, strict=True)
                kept = [found for (one, _), of_seed in pairs if (found := _of_type(one, of_seed, way, name))]
                low, high = ends(over_queries(kept, rule.confidence).interval) if kept else (None, None)
                mean = float(np.mean([np.mean(list(one.values())) for one in kept])) if kept else None
                row |= {"difference": mean, "interval_low": low, "interval_high": high}
            rows.append(row)
    numbers = columns((pl.Float64, "value bm25 difference interval_low interval_high"), (pl.Int64, "queries"))
    return pl.DataFrame(rows, schema=columns((pl.String, "arm scale way type retriever")) | numbers)


def shown_table(record: ExperimentRecord) -> pl.DataFrame:
    """Some queries, with the title that each arm's retriever ranks first and the rank of the first relevant document.

    They are queries of the first seed, with the smallest hashes: no result chose them.
    """
    rows: list[Row] = []
    for arm, scale, tested in _cells(record):
        row = next(iter(tested.values())).retrieval
        for query in row.shown if row is not None else ():
            for retriever, title in query.first.items():
                rows.append(
                    {
                        "arm": arm,
                        "scale": scale,
                        "query": query.query,
                        "text": query.text,
                        "relevant": " | ".join(query.relevant),
                        "retriever": retriever,
                        "first": title,
                        "rank": query.rank.get(retriever),
                    }
                )
    schema = columns((pl.String, "arm scale query text relevant retriever first"), (pl.Int64, "rank"))
    return pl.DataFrame(rows, schema=schema)


_LEVEL = columns((pl.Float64, "mean interval_low interval_high"), (pl.Int64, "queries seeds"))


def _level(scores: Sequence[Mapping[str, float]], confidence: float) -> Row:
    found = over_queries(scores, confidence)
    low, high = ends(found.interval)
    numbers = {"mean": found.mean, "interval_low": low, "interval_high": high}
    return {**numbers, "queries": found.documents, "seeds": found.seeds}


def _cells(record: ExperimentRecord) -> list[tuple[str, str, dict[int, Record]]]:
    """(arm, scale, seed -> the record of its finished run), for the arms whose runs scored a retriever."""
    cells = []
    for arm in record.entry.arms:
        for scale in record.entry.scales:
            runs = [run for run in record.finished(arm.name, scale) if run.record.retrieval is not None]
            tested = {run.entry.seed: run.record for run in runs}
            cells += [(arm.name, scale, tested)] if tested else []
    return cells


def _types(record: Record) -> list[tuple[str, str]]:
    """(way to sort queries, type) of every type that a run's queries have."""
    types = record.retrieval.types if record.retrieval is not None else {}
    return [(way, name) for way, names in types.items() for name in sorted(set(names))]


def _of_type(record: Record, scores: Mapping[str, float], way: str, name: str) -> dict[str, float]:
    """The scores of the queries of one type."""
    row = record.retrieval
    types = dict(zip(row.queries, row.types.get(way, []), strict=False)) if row is not None else {}
    return {query: score for query, score in scores.items() if types.get(query) == name}
