"""The scores of a model with only its first blocks: with the head as trained and, where it was measured, with a refitted head."""

from __future__ import annotations

from typing import Any

import polars as pl

from palinode.analysis.curves import trained_directions
from palinode.base.measures import MEASURES
from palinode.results.layer_cut import LAYER_CUT_EVENT
from palinode.results.record import ExperimentRecord, Record

# Part of a stored row -> which final norm and head turn the remaining blocks into predictions.
HEADS = {"scores": "trained", "refitted": "refitted"}
LAYER_CUT_SCHEMA: dict[str, Any] = (
    {"arm": pl.String, "scale": pl.String, "seed": pl.Int64, "run_id": pl.String, "split": pl.String}
    | {"direction": pl.String, "trained": pl.Boolean, "head": pl.String, "blocks": pl.Int64, "of_blocks": pl.Int64}
    | dict.fromkeys(MEASURES, pl.Float64)
)


def layer_cuts(record: ExperimentRecord, split: str) -> pl.DataFrame:
    """One row per finished run, direction, head and number of remaining blocks (LAYER_CUT_SCHEMA)."""
    rows = []
    for run in record.runs:
        if run.outcome != "done" or run.record is None:
            continue
        cut, trained = _last_cut(run.record, split), trained_directions(run)
        who = {"arm": run.entry.arm, "scale": run.entry.scale, "seed": run.entry.seed, "run_id": run.entry.run_id}
        for part, head in HEADS.items():
            for direction, scores in (cut.get(part) or {}).items():
                deepest = max((item["blocks"] for item in scores), default=0)
                what = {"split": split, "direction": direction, "trained": direction in trained, "head": head}
                rows += [
                    who
                    | what
                    | {"blocks": item["blocks"], "of_blocks": deepest}
                    | {name: item.get(name) for name in MEASURES}
                    for item in scores
                ]
    return pl.DataFrame(rows, schema=LAYER_CUT_SCHEMA, strict=False)


def _last_cut(record: Record, split: str) -> dict[str, Any]:
    """The layer cut of the latest step. Imported rows lack fields that `Record.layer_cut` requires, so the row itself is read."""
    rows = [row for row in record.metrics if row["event"] == LAYER_CUT_EVENT and row.get("split") == split]
    return rows[-1] if rows else {}
