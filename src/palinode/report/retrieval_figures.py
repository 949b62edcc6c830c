"""The figures and tables of retrievers: nDCG@10 of every arm beside BM25, by the type of a query, and what each arm ranks first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from palinode.analysis.queries import query_scores, retrieval_table, shown_table, type_table
from palinode.base.measures import BM25, MEASURES, RETRIEVAL_MEASURES, RETRIEVERS
from palinode.report import charts
from palinode.report.charts import GREY, Axis
from palinode.report.study import Figure, Rows, Study, rounded
from palinode.report.words import interval_words, number, signed
from palinode.results.record import ExperimentRecord

MEASURE = RETRIEVAL_MEASURES[0]
TITLES = {"retrieval": "Late interaction", "mean": "Mean of the vectors"}
READING_WORDS = {"ltr": "read ltr", "full": "read without a mask", "both": "read both ways"}
NOTE = (
    "Each seed tests one fold of the queries (dots). The bar is the interval over queries. BM25 "
    "ranks the same documents for the same queries."
)
SHOWN_QUERIES = 10


def retriever_words(retriever: str) -> str:
    """The words for a retriever, such as `Late interaction, read without a mask`."""
    kind, _, reading = retriever.partition("_")
    return "BM25" if retriever == BM25 else f"{TITLES[kind]}, {READING_WORDS[reading]}"


def retrieval_figures(study: Study) -> Iterator[Figure]:
    """A figure for each retriever and scale; none where no retriever was scored."""
    levels = retrieval_table(study.record).filter(measure=MEASURE)
    for scale in study.scales:
        for retriever in RETRIEVERS:
            found = levels.filter(scale=scale, retriever=retriever)
            if retriever != BM25 and not found.is_empty():
                yield _figure(
                    study, pl.concat([found, levels.filter(scale=scale, retriever=BM25)[:1]]), retriever, scale
                )


def _figure(study: Study, levels: pl.DataFrame, retriever: str, scale: str) -> Figure:
    rows: Rows = []
    colours: dict[str, str] = {}
    for level in levels.iter_rows(named=True):
        is_bm25 = level["retriever"] == BM25
        label = "BM25" if is_bm25 else study.look.labels[level["arm"]]
        colours[label] = GREY if is_bm25 else study.look.colours[level["arm"]]
        low, high = level["interval_low"], level["interval_high"]
        text = f"{number(level['mean'])}; {interval_words(low, high, study.rule.confidence, 4)}"
        centre: dict[str, Any] = {"kind": "mean", "arm": label, "value": rounded(level["mean"]), "text": text}
        rows.append(centre | {"low": rounded(low), "high": rounded(high)})
        for run in study.record.finished(level["arm"], scale):
            if scores := query_scores(run.record, level["retriever"], MEASURE):
                mean = sum(scores.values()) / len(scores)
                rows.append({"kind": "seed", "arm": label, "seed": run.entry.seed, "value": rounded(mean)})
    chart = charts.final_scores(Axis("value", MEASURES[MEASURE].unit, ".3f"), colours, tick_count=6)
    title = retriever_words(retriever)
    return study.at(scale).figure(f"{retriever}-ndcg", title, rows, {"": chart}, half=True, notes=(NOTE,))


def retrieval_content(record: ExperimentRecord) -> dict[str, Any] | None:
    """What a page prints about retrievers: the scores of each, those by the type of a query, and what each arm ranks first."""
    by_type, shown = type_table(record), shown_table(record)
    if by_type.is_empty():
        return None
    asked = by_type["retriever"][0]
    first = record.entry.scales[0]
    return {
        "retriever": retriever_words(asked).lower(),
        "baseline": record.entry.rule.baseline,
        "arms": by_type["arm"].unique(maintain_order=True).to_list(),
        "levels": _level_rows(retrieval_table(record)),
        "types": [_type_row(cell) for _, cell in by_type.group_by("scale", "way", "type", maintain_order=True)],
        "shown": _shown_rows(shown.filter(scale=first), asked),
    }


def _level_rows(levels: pl.DataFrame) -> list[dict[str, Any]]:
    """A row for each arm and retriever, and one for BM25, with both measures; the interval is that of nDCG@10 over queries."""
    rows: list[dict[str, Any]] = []
    for (scale, retriever, arm), cell in levels.group_by("scale", "retriever", "arm", maintain_order=True):
        if retriever == BM25 and any(row["retriever"] == "BM25" and row["scale"] == scale for row in rows):
            continue
        of_measure = {row["measure"]: row for row in cell.iter_rows(named=True)}
        first = of_measure[MEASURE]
        rows.append(
            {
                "arm": "every arm" if retriever == BM25 else arm,
                "scale": scale,
                "retriever": retriever_words(str(retriever)),
                "low": first["interval_low"],
                "high": first["interval_high"],
                "queries": first["queries"],
                **{measure: row["mean"] for measure, row in of_measure.items()},
            }
        )
    return sorted(rows, key=lambda row: (row["scale"], -row[MEASURE]))


def _type_row(cell: pl.DataFrame) -> dict[str, Any]:
    """One type of query: its scores by arm, with the difference to the baseline and its interval."""
    rows = {row["arm"]: row for row in cell.iter_rows(named=True)}
    one = next(iter(rows.values()))
    cells = {
        arm: (number(row["value"], 3), "" if row["difference"] is None else _difference(row))
        for arm, row in rows.items()
    }
    where = f"{one['way']}: {one['type']}"
    return {"where": where, "queries": one["queries"], "bm25": number(one[BM25], 3), "cells": cells}


def _difference(row: dict[str, Any]) -> str:
    return f"{signed(row['difference'], 2)} ({signed(row['interval_low'], 2)} to {signed(row['interval_high'], 2)})"


def _shown_rows(shown: pl.DataFrame, asked: str) -> list[dict[str, Any]]:
    """The queries that are shown, each with the first title and the rank of every arm and of BM25."""
    rows = []
    for _, cell in shown.group_by("query", maintain_order=True):
        of_arms = cell.filter(retriever=asked)
        bm25 = cell.filter(retriever=BM25)[:1].with_columns(arm=pl.lit("BM25"))
        firsts = [
            {"arm": row["arm"], "first": row["first"], "rank": row["rank"]}
            for row in pl.concat([of_arms, bm25]).iter_rows(named=True)
        ]
        rows.append({"text": cell["text"][0], "relevant": cell["relevant"][0], "firsts": firsts})
    return rows[:SHOWN_QUERIES]
