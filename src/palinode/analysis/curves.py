"""Learning curves: scores over five x-axes. Every point of a curve was measured; no point is interpolated.

A mean over seeds is taken at the steps at which every run of an arm has a score. A point of a mean curve holds the mean score and
the mean value on every x-axis, because runs of one arm may have read different numbers of tokens at the same step.

A layer cut is a curve over the number of blocks: the scores of a model of which only the first blocks are kept. The kept blocks
are scored with the trained head and, where this was measured, with a refitted head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import polars as pl

from palinode.analysis.frames import RUN, RUN_AND_ID, Row, Schema, columns, run_frame
from palinode.base.measures import CURVE_AXES, DIRECTIONS, PASS_MEASURES, affinity
from palinode.results.files import number
from palinode.results.layer_cut import LAYER_CUT_EVENT
from palinode.results.record import ExperimentRecord, ExperimentRun, FinishedRun

_NUMBERS = ("window_tokens", "epochs", *(axis for axis in CURVE_AXES if axis != "step"))
_WHERE = columns((pl.Int64, "step")) | dict.fromkeys(_NUMBERS, pl.Float64)
MEASURE_COLUMNS = dict.fromkeys(PASS_MEASURES, pl.Float64)
EVALUATION_SCHEMA = (
    RUN_AND_ID | columns((pl.String, "split direction"), (pl.Boolean, "trained")) | _WHERE | MEASURE_COLUMNS
)
MEASURED = ("value", "shuffled", "gain", "least_gain", "variance")  # the logged numbers of an auxiliary term
AFFINITY = "affinity"
AUXILIARY_SCHEMA = RUN_AND_ID | columns((pl.String, "term")) | _WHERE | dict.fromkeys((*MEASURED, AFFINITY), pl.Float64)
LAYER_CUT_SCHEMA = (
    RUN_AND_ID
    | columns((pl.String, "split direction"), (pl.Boolean, "trained"), (pl.String, "head"))
    | columns((pl.Int64, "blocks of_blocks"))
    | MEASURE_COLUMNS
)
# Part of a stored layer cut -> name of the final norm and head that turn the output of the remaining blocks into predictions.
HEADS = {"scores": "trained", "refitted": "refitted"}
LOGGED = ("p", "learning_rate", "gradient_norm")
TRAINING_SCHEMA = (
    RUN_AND_ID | columns((pl.String, "group")) | _WHERE | dict.fromkeys(("nats_per_token", *LOGGED), pl.Float64)
)


def evaluation_curves(record: ExperimentRecord) -> pl.DataFrame:
    """The evaluations: a row for each run, evaluation, split and direction (EVALUATION_SCHEMA).

    Unfinished and diverged runs are included. The column `trained` says whether the run trained in this direction: a model that
    trained only on ltr has an rtl loss, but no rtl curve.
    """

    def points(run: ExperimentRun, row: Row) -> Iterator[Row]:
        trained = trained_directions(run)
        for direction, scores in row.get("scores", {}).items():
            point = {"split": row.get("split"), "direction": direction, "trained": direction in trained}
            yield point | {score: number(scores.get(score)) for score in PASS_MEASURES}

    return _frame(record, "eval", points, EVALUATION_SCHEMA).sort(*RUN, "split", "direction", "step")


def training_curves(record: ExperimentRecord) -> pl.DataFrame:
    """The training losses: one row for each run, logged training step and group of targets (TRAINING_SCHEMA)."""

    def points(_: ExperimentRun, row: Row) -> Iterator[Row]:
        others = {name: number(row.get(name)) for name in LOGGED}
        for group, nats in row.get("nats_by_group", {}).items():
            yield {"group": group, "nats_per_token": number(nats)} | others

    return _frame(record, "train", points, TRAINING_SCHEMA).sort(*RUN, "group", "step")


def auxiliary_curves(record: ExperimentRecord) -> pl.DataFrame:
    """The numbers and the affinity of auxiliary terms: a row for each run, logged training step and term (AUXILIARY_SCHEMA)."""

    def points(_: ExperimentRun, row: Row) -> Iterator[Row]:
        for term, logged in row.get("auxiliary", {}).items():
            numbers = {name: number(logged.get(name)) for name in MEASURED}
            value, shuffled = numbers["value"], numbers["shuffled"]
            known = None if value is None or shuffled is None else affinity(value, shuffled)
            yield {"term": term} | numbers | {AFFINITY: known}

    return _frame(record, "train", points, AUXILIARY_SCHEMA).sort(*RUN, "term", "step")


def layer_cuts(record: ExperimentRecord, split: str) -> pl.DataFrame:
    """The scores of layer cuts: one row per finished run, direction, head and number of remaining blocks (LAYER_CUT_SCHEMA)."""

    def rows_of(run: FinishedRun) -> Iterator[Row]:
        # The rows of imported runs lack fields that `Record.layer_cut` requires. So the last stored row is read directly.
        cuts = [row for row in metrics_rows(run, LAYER_CUT_EVENT) if row.get("split") == split]
        trained = trained_directions(run)
        for part, head in HEADS.items() if cuts else ():
            for direction, scores in (cuts[-1].get(part) or {}).items():
                what = {"split": split, "direction": direction, "trained": direction in trained, "head": head}
                what["of_blocks"] = max((item["blocks"] for item in scores), default=0)
                for item in scores:
                    yield what | {"blocks": item["blocks"]} | {name: number(item.get(name)) for name in PASS_MEASURES}

    return run_frame(record.finished(), rows_of, LAYER_CUT_SCHEMA)


def mean_curves(
    curves: pl.DataFrame, score: str, by: Sequence[str] = ("arm", "scale", "split", "direction")
) -> pl.DataFrame:
    """The mean curves. A line has a mean over seeds at each step at which every run of the line has a score.

    Args:
        by: the names of the columns whose values identify a line.

    Returns:
        A frame with the columns of `by`, the step, the other x-axes, `score`, and `seeds` (the number of runs in each mean).
    """
    means = (
        curves.drop_nulls(score)
        .with_columns(planned=pl.col("seed").n_unique().over(by))
        .group_by([*by, "step"])
        .agg(
            *(pl.col(axis).mean() for axis in (*CURVE_AXES, score) if axis != "step"),
            pl.col("seed").n_unique().alias("seeds"),
            pl.col("planned").first(),
        )
    )
    return means.filter(pl.col("seeds") == pl.col("planned")).drop("planned").sort(*by, "step")


def trained_directions(run: ExperimentRun) -> frozenset[str]:
    """The names of the evaluated passes (such as `ltr`) on which this run was trained.

    A run was trained on ltr or rtl if its counters have scored tokens of this direction. For an unfinished run the directions are
    read from the training rows, for an imported run from the spec. An evaluated pass other than ltr and rtl belongs to the run's
    own objective, so the run was trained on this pass, whatever its name is (`evaluate.losses.evaluation_passes`).
    """
    own = {name for row in metrics_rows(run, "eval") for name in row.get("scores", {}) if name not in DIRECTIONS}
    return _trained_ways(run) | own


def metrics_rows(run: ExperimentRun, event: str) -> list[Row]:
    """The metrics rows of a run that have the event `event`, such as `eval` or `train`."""
    return run.record.rows_of(event) if run.record is not None else []


def _trained_ways(run: ExperimentRun) -> frozenset[str]:
    if run.result is not None and run.result.provenance == "imported" and run.record is not None:
        objective = run.record.spec.get("objective", {})
        return frozenset(objective.get("directions", ()) if isinstance(objective, dict) else ())
    counters = run.result.counters if run.result is not None else {}
    prefix = "tokens_scored_"
    scored = [name.removeprefix(prefix) for name, value in counters.items() if name.startswith(prefix) and value]
    return frozenset(scored or (group for row in metrics_rows(run, "train") for group in row.get("nats_by_group", {})))


def _frame(
    record: ExperimentRecord, event: str, points: Callable[[ExperimentRun, Row], Iterator[Row]], schema: Schema
) -> pl.DataFrame:
    """A frame with the points of all metrics rows of one event. Each point also gets its run and its values on the x-axes."""

    def rows_of(run: ExperimentRun) -> Iterator[Row]:
        for row in metrics_rows(run, event):
            where = {"step": row.get("step")} | {name: number(row.get(name)) for name in _NUMBERS}
            yield from (where | point for point in points(run, row))

    return run_frame(record.runs, rows_of, schema)
