"""The norms and cosines of the trained token and position vectors (metrics rows `embeddings`), per run and as means over seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from palinode.analysis import intervals
from palinode.analysis.frames import CELL, RUN_AND_ID, Row, columns, run_frame
from palinode.results.record import ExperimentRecord, FinishedRun

TOKEN_NORM, POSITION_NORM = "token_norm", "position_norm"
ABSOLUTE_COSINE, SHARE = "token_position_absolute_cosine", "position_share"
# The cosine of the vectors of two positions; the column `distance` holds their distance.
POSITION_COSINE = "position_cosine"
ABOUT_MEAN, COSINE = "position_norm_about_mean", "token_position_cosine"
NUMBERS = (TOKEN_NORM, POSITION_NORM, ABOUT_MEAN, COSINE, ABSOLUTE_COSINE, SHARE)
CHANCE = {
    ABSOLUTE_COSINE: "chance_absolute_cosine",
    SHARE: "chance_share",
    POSITION_COSINE: "chance_position_cosine",  # older runs do not have this number
}
_WHAT = columns((pl.String, "number"), (pl.Int64, "distance"))
EMBEDDING_SCHEMA = RUN_AND_ID | _WHAT | columns((pl.Float64, "value chance"))
EMBEDDING_MEANS_SCHEMA = (
    CELL | _WHAT | columns((pl.Float64, "mean interval_low interval_high"), (pl.Int64, "seeds"), (pl.Float64, "chance"))
)


def embedding_numbers(record: ExperimentRecord) -> pl.DataFrame:
    """The numbers of embeddings: one row per finished run and number (EMBEDDING_SCHEMA).

    The cosine of two positions has one row per distance. A model without position vectors has only the norm of its token vectors.
    The column `chance` holds the number for vectors of random directions, or null where the run did not record this number.
    """
    return run_frame(record.finished(), _numbers, EMBEDDING_SCHEMA)


def embedding_means(record: ExperimentRecord, numbers: pl.DataFrame) -> pl.DataFrame:
    """The means over seeds with their intervals: one row per arm, scale and number (EMBEDDING_MEANS_SCHEMA).

    Args:
        numbers: the frame of `embedding_numbers` for this record.
    """
    rows = []
    by = ("arm", "scale", *_WHAT)
    for key, found in numbers.group_by(*by, maintain_order=True):
        values = found["value"].to_list()
        ends = intervals.ends(intervals.t_interval(values, record.entry.rule.confidence))
        rows.append((*key, intervals.mean(values), *ends, len(values), found["chance"][0]))
    return pl.DataFrame(rows, schema=EMBEDDING_MEANS_SCHEMA, orient="row")


def _numbers(run: FinishedRun) -> Iterator[Row]:
    geometry = run.record.embeddings

    def row(number: str, distance: int | None, value: Any) -> Row:
        chance = geometry.get(CHANCE.get(number, ""))
        return {"number": number, "distance": distance, "value": float(value), "chance": chance}

    for name in NUMBERS:
        if geometry.get(name) is not None:
            yield row(name, None, geometry[name])
    for distance, cosine in geometry.get("position_cosine_by_distance", {}).items():
        yield row(POSITION_COSINE, int(distance), cosine)
