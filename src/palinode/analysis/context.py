"""How much higher the loss is right to left than left to right, by window length (metrics rows `context_lengths`)."""

from __future__ import annotations

from typing import Any

import polars as pl

from palinode.analysis.curves import trained_directions
from palinode.analysis.ratios import ESTIMATE_SCHEMA, estimate
from palinode.results.record import ExperimentRecord

CONTEXT_SCHEMA: dict[str, Any] = {
    "arm": pl.String,
    "against": pl.String,
    "scale": pl.String,
    "context_tokens": pl.Int64,
} | ESTIMATE_SCHEMA
# (arm, scale, direction, window length in tokens) -> seed -> nats per token.
Losses = dict[tuple[str, str, str, int], dict[int, float]]


def direction_ratios(record: ExperimentRecord, split: str) -> pl.DataFrame:
    """rtl loss / ltr loss: one row per arm that trained on rtl, scale and window length (CONTEXT_SCHEMA).

    The ltr loss is that of the same arm if it trained on ltr too, otherwise that of the baseline with the same seed.
    """
    rule, losses = record.entry.rule, _losses(record, split)
    rows = []
    for arm, scale, direction, length in losses:
        if direction != "rtl":
            continue
        against = arm if (arm, scale, "ltr", length) in losses else rule.baseline
        below = losses.get((against, scale, "ltr", length), {})
        found = estimate(losses[arm, scale, "rtl", length], below, rule.confidence)
        if found.seeds:
            rows.append({"arm": arm, "against": against, "scale": scale, "context_tokens": length, **found.row()})
    return pl.DataFrame(rows, schema=CONTEXT_SCHEMA).sort("arm", "scale", "context_tokens")


def _losses(record: ExperimentRecord, split: str) -> Losses:
    """The losses of finished runs, in the directions in which each run was trained."""
    losses: Losses = {}
    for run in record.runs:
        if run.outcome != "done" or run.record is None:
            continue
        for length, scores in run.record.context_lengths.get(split, {}).items():
            for direction in trained_directions(run) & set(scores):
                value = scores[direction].get("nats_per_token")
                if value is not None:
                    key = (run.entry.arm, run.entry.scale, direction, length)
                    losses.setdefault(key, {})[run.entry.seed] = float(value)
    return losses
