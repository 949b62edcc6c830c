"""Norms and cosines of the trained token and position vectors (metrics rows `embeddings`), by run and over seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from palinode.analysis import intervals
from palinode.results.record import ExperimentRecord

TOKEN_NORM, POSITION_NORM = "token_norm", "position_norm"
ABSOLUTE_COSINE, SHARE = "token_position_absolute_cosine", "position_share"
POSITION_COSINE = "position_cosine"  # of two positions; `distance` says how far apart they are
NUMBERS = (
    TOKEN_NORM,
    POSITION_NORM,
    "position_norm_about_mean",
    "token_position_cosine",
    ABSOLUTE_COSINE,
    SHARE,
)
CHANCE = {
    ABSOLUTE_COSINE: "chance_absolute_cosine",
    SHARE: "chance_share",
    POSITION_COSINE: "chance_position_cosine",  # absent from older runs
}
_WHAT: dict[str, Any] = {"number": pl.String, "distance": pl.Int64}
EMBEDDING_SCHEMA: dict[str, Any] = (
    {"arm": pl.String, "scale": pl.String, "seed": pl.Int64, "run_id": pl.String}
    | _WHAT
    | {"value": pl.Float64, "chance": pl.Float64}
)
EMBEDDING_MEANS_SCHEMA: dict[str, Any] = (
    {"arm": pl.String, "scale": pl.String}
    | _WHAT
    | dict.fromkeys(("mean", "interval_low", "interval_high"), pl.Float64)
    | {"seeds": pl.Int64, "chance": pl.Float64}
)


def embedding_numbers(record: ExperimentRecord) -> pl.DataFrame:
    """One row per finished run and number; the cosine of two positions has one row per distance (EMBEDDING_SCHEMA).

    A model without position vectors has the norm of its tokens only. `chance` is the number for vectors of random directions, null
    where it was not recorded.
    """
    rows = []
    for run in record.runs:
        if run.outcome == "done" and run.record is not None:
            who = {"arm": run.entry.arm, "scale": run.entry.scale, "seed": run.entry.seed, "run_id": run.entry.run_id}
            rows += [who | what for what in _numbers(run.record.embeddings)]
    return pl.DataFrame(rows, schema=EMBEDDING_SCHEMA)


def embedding_means(record: ExperimentRecord, numbers: pl.DataFrame | None = None) -> pl.DataFrame:
    """One row per arm, scale and number: the mean over seeds with its interval (EMBEDDING_MEANS_SCHEMA).

    Args:
        numbers: the frame of `embedding_numbers` for this record; None computes it.
    """
    confidence = record.entry.rule.confidence
    frame = embedding_numbers(record) if numbers is None else numbers
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in frame.iter_rows(named=True):
        groups.setdefault((row["arm"], row["scale"], row["number"], row["distance"]), []).append(row)
    rows = []
    for (arm, scale, number, distance), found in groups.items():
        values = [row["value"] for row in found]
        interval = intervals.t_interval(values, confidence)
        rows.append(
            {
                "arm": arm,
                "scale": scale,
                "number": number,
                "distance": distance,
                "mean": intervals.mean(values),
                "interval_low": interval.low if interval else None,
                "interval_high": interval.high if interval else None,
                "seeds": len(values),
                "chance": found[0]["chance"],
            }
        )
    return pl.DataFrame(rows, schema=EMBEDDING_MEANS_SCHEMA)


def _numbers(geometry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in NUMBERS:
        if geometry.get(name) is not None:
            chance = geometry.get(CHANCE.get(name, ""))
            yield {"number": name, "distance": None, "value": float(geometry[name]), "chance": chance}
    for distance, cosine in geometry.get("position_cosine_by_distance", {}).items():
        chance = geometry.get(CHANCE[POSITION_COSINE])
        yield {"number": POSITION_COSINE, "distance": int(distance), "value": float(cosine), "chance": chance}
