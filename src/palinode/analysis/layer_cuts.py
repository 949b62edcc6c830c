"""The scores of a model with only its first blocks: with the head as trained and, where it was measured, with a refitted head."""

from __future__ import annotations

from typing import Any

import polars as pl

from palinode.analysis.curves import trained_directions
from palinode.analysis.ratios import ESTIMATE_SCHEMA, RATIOS, arms_with, estimate, sides
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
CUT_RATIO_SCHEMA: dict[str, Any] = (
    {"ratio": pl.String, "arm": pl.String, "scale": pl.String, "score": pl.String, "head": pl.String}
    | {"blocks": pl.Int64, "of_blocks": pl.Int64}
    | ESTIMATE_SCHEMA
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


def layer_cut_ratios(
    record: ExperimentRecord, split: str, score: str, cuts: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Both ratios for every number of remaining blocks, head and scale, paired by seed (CUT_RATIO_SCHEMA)."""
    rule = record.entry.rule
    frame = (layer_cuts(record, split) if cuts is None else cuts).drop_nulls(score)
    known: dict[tuple[Any, ...], dict[int, float]] = {}
    for row in frame.iter_rows(named=True):
        place = (row["arm"], row["direction"], row["scale"], row["head"], row["blocks"], row["of_blocks"])
        known.setdefault(place, {})[row["seed"]] = row[score]
    places = dict.fromkeys(
        place[2:] for place in sorted(known, key=lambda p: (record.entry.scales.index(p[2]), *p[3:]))
    )
    rows = []
    for ratio in RATIOS:
        for arm in arms_with(record, ratio):
            for scale, head, blocks, of_blocks in places:
                above, below = (
                    known.get((*side, scale, head, blocks, of_blocks), {}) for side in sides(ratio, arm, rule)
                )
                over_seeds = estimate(above, below, rule.confidence)
                if over_seeds.seeds:
                    who = {"ratio": ratio, "arm": arm, "scale": scale, "score": score, "head": head}
                    rows.append(who | {"blocks": blocks, "of_blocks": of_blocks} | over_seeds.row())
    return pl.DataFrame(rows, schema=CUT_RATIO_SCHEMA)


def _last_cut(record: Record, split: str) -> dict[str, Any]:
    """The layer cut of the latest step. Imported rows lack fields that `Record.layer_cut` requires, so the row itself is read."""
    rows = [row for row in record.metrics if row["event"] == LAYER_CUT_EVENT and row.get("split") == split]
    return rows[-1] if rows else {}
