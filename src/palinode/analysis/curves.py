"""Learning curves: the points that were measured, over five x-axes. Nothing is interpolated.

Means are taken at an evaluation step that every run of an arm reached: the mean of the scores and, separately, the mean of
each x-axis (arms that draw directions at random read slightly different numbers of tokens per seed).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from palinode.base.affinity import affinity
from palinode.base.measures import CURVE_AXES, DIRECTIONS, MEASURES
from palinode.results.record import ExperimentRecord, ExperimentRun

_WHO: dict[str, Any] = {"arm": pl.String, "scale": pl.String, "seed": pl.Int64, "run_id": pl.String}
_WHERE: dict[str, Any] = {"step": pl.Int64, "window_tokens": pl.Float64, "epochs": pl.Float64} | {
    axis: pl.Float64 for axis in CURVE_AXES if axis != "step"
}
EVALUATION_SCHEMA = (
    _WHO
    | {"split": pl.String, "direction": pl.String, "trained": pl.Boolean}
    | _WHERE
    | dict.fromkeys(MEASURES, pl.Float64)
)
MEASURED = ("value", "shuffled", "gain", "least_gain", "variance")  # of an auxiliary term
AFFINITY = "affinity"
AUXILIARY_SCHEMA = _WHO | {"term": pl.String} | _WHERE | dict.fromkeys((*MEASURED, AFFINITY), pl.Float64)
TRAINING_SCHEMA = (
    _WHO
    | {"group": pl.String}
    | _WHERE
    | dict.fromkeys(("nats_per_token", "p", "learning_rate", "gradient_norm"), pl.Float64)
)


def evaluation_curves(record: ExperimentRecord) -> pl.DataFrame:
    """One row per run, evaluation, split and direction, unfinished and diverged runs included (EVALUATION_SCHEMA).

    `trained` says whether the run trained in this direction at all: an ltr-only model has an rtl loss, but no rtl curve.
    """
    rows = []
    for run in record.runs:
        trained = trained_directions(run)
        for row in _rows(run, "eval"):
            for direction, scores in row.get("scores", {}).items():
                who = _who(run) | {"split": row.get("split"), "direction": direction, "trained": direction in trained}
                rows.append(who | _where(row) | {score: _number(scores.get(score)) for score in MEASURES})
    return pl.DataFrame(rows, schema=EVALUATION_SCHEMA).sort("arm", "scale", "seed", "split", "direction", "step")


def training_curves(record: ExperimentRecord) -> pl.DataFrame:
    """One row per run, logged training step and group of targets (TRAINING_SCHEMA)."""
    rows = []
    for run in record.runs:
        for row in _rows(run, "train"):
            rest = {name: _number(row.get(name)) for name in ("p", "learning_rate", "gradient_norm")}
            for group, nats in row.get("nats_by_group", {}).items():
                rows.append(_who(run) | {"group": group} | _where(row) | {"nats_per_token": _number(nats)} | rest)
    return pl.DataFrame(rows, schema=TRAINING_SCHEMA).sort("arm", "scale", "seed", "group", "step")


def auxiliary_curves(record: ExperimentRecord) -> pl.DataFrame:
    """One row per run, logged training step and auxiliary term: what was measured of it, and its affinity (AUXILIARY_SCHEMA)."""
    rows = []
    for run in record.runs:
        for row in _rows(run, "train"):
            for term, found in row.get("auxiliary", {}).items():
                measured = {name: _number(found.get(name)) for name in MEASURED}
                value, shuffled = measured["value"], measured["shuffled"]
                known = None if value is None or shuffled is None else affinity(value, shuffled)
                rows.append(_who(run) | {"term": term} | _where(row) | measured | {AFFINITY: known})
    return pl.DataFrame(rows, schema=AUXILIARY_SCHEMA).sort("arm", "scale", "seed", "term", "step")


def mean_curves(
    curves: pl.DataFrame, score: str, by: Sequence[str] = ("arm", "scale", "split", "direction")
) -> pl.DataFrame:
    """The mean over seeds at each step that every run of one line reached with a score.

    Args:
        by: the columns that tell the lines apart.

    Returns:
        The columns of `by`, step, the other x-axes, `score`, and `seeds`: how many runs each mean is over.
    """
    line = list(by)
    scored = curves.drop_nulls(score)
    lines = scored.group_by(line).agg(pl.col("seed").n_unique().alias("planned"))
    axes = [axis for axis in CURVE_AXES if axis != "step"]
    means = scored.group_by([*line, "step"]).agg(
        *(pl.col(axis).mean() for axis in axes),
        pl.col(score).mean(),
        pl.col("seed").n_unique().alias("seeds"),
    )
    complete = means.join(lines, on=line).filter(pl.col("seeds") == pl.col("planned")).drop("planned")
    return complete.sort(*line, "step")


def trained_directions(run: ExperimentRun) -> frozenset[str]:
    """The passes that this run trained on, by the names they are evaluated under.

    ltr and rtl: from its counters, or from its training rows while it is unfinished; an imported run names them in its spec.
    Every other pass that is evaluated is made by the run's own objective, so the run trains on it, whatever the objective
    calls that pass in training (`evaluate.losses.evaluation_passes`).
    """
    own = {name for row in _rows(run, "eval") for name in row.get("scores", {}) if name not in DIRECTIONS}
    return _trained_ways(run) | own


def _trained_ways(run: ExperimentRun) -> frozenset[str]:
    if run.result is not None and run.result.provenance == "imported" and run.record is not None:
        objective = run.record.spec.get("objective", {})
        return frozenset(objective.get("directions", ()) if isinstance(objective, dict) else ())
    if run.result is not None:
        prefix = "tokens_scored_"
        counted = {
            name.removeprefix(prefix)
            for name, value in run.result.counters.items()
            if name.startswith(prefix) and value
        }
        if counted:
            return frozenset(counted)
    return frozenset(group for row in _rows(run, "train") for group in row.get("nats_by_group", {}))


def _rows(run: ExperimentRun, event: str) -> list[dict[str, Any]]:
    return [row for row in run.record.metrics if row.get("event") == event] if run.record is not None else []


def _who(run: ExperimentRun) -> dict[str, Any]:
    return {"arm": run.entry.arm, "scale": run.entry.scale, "seed": run.entry.seed, "run_id": run.entry.run_id}


def _where(row: dict[str, Any]) -> dict[str, Any]:
    others = ("window_tokens", "epochs", *(axis for axis in CURVE_AXES if axis != "step"))
    return {"step": row.get("step")} | {axis: _number(row.get(axis)) for axis in others}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
