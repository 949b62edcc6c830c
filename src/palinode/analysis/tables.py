"""All numbers of an experiment as polars frames. The report shows them and saves them as CSV and parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple
from typing import Any

import polars as pl

from palinode.analysis import queries, ratios, tasks
from palinode.analysis.audits import arm_audit
from palinode.analysis.compare import costs
from palinode.analysis.curves import auxiliary_curves, evaluation_curves, layer_cuts, training_curves
from palinode.analysis.embeddings import embedding_means, embedding_numbers
from palinode.analysis.frames import RUN, RUN_AND_ID, Row, columns, run_frame
from palinode.analysis.verdict import Verdict, over_scales_of, verdicts
from palinode.base.config import canonical_json
from palinode.base.measures import COST_AXES
from palinode.results.files import number
from palinode.results.record import ExperimentRecord, ExperimentRun


def all_tables(
    record: ExperimentRecord, found: Sequence[Verdict] | None = None, curves: pl.DataFrame | None = None
) -> dict[str, pl.DataFrame]:
    """All tables of an experiment, as a mapping: name -> frame. A frame has a fixed schema, even if it has no rows.

    Args:
        found, curves: the verdicts and the evaluation curves of this record, if the caller has them; None: they are made here.

    Raises:
        BadInput: the decision rule cannot be applied.
    """
    found = verdicts(record) if found is None else found
    curves = evaluation_curves(record) if curves is None else curves
    split, score = record.entry.rule.score.split, record.entry.rule.curve_measure
    cuts, geometry, accuracy = layer_cuts(record, split), embedding_numbers(record), tasks.task_accuracy(record, split)
    pooled_axis = "epochs" if curves["epochs"].count() else "step"
    pooled = ratios.as_published(record, split, score, pooled_axis, curves)
    return {
        "verdicts": verdict_table(found),
        "over_scales": over_scales_table(record, found),
        "differences": difference_table(found),
        "runs": run_table(record),
        "scores": score_table(record),
        "costs": cost_table(record),
        "arms": arm_table(record),
        "audits": audit_table(record),
        "fingerprints": fingerprint_table(record),
        "evaluation_curves": curves,
        "training_curves": training_curves(record),
        "ratios": ratios.ratio_table(record, split),
        "ratio_curves": ratios.ratio_curves(record, split, score, curves),
        "ratios_as_published": ratios.published_summary(pooled),
        "layer_cuts": cuts,
        "layer_cut_ratios": ratios.layer_cut_ratios(record, score, cuts),
        "direction_by_context": ratios.direction_ratios(record, split),
        "embeddings": geometry,
        "embedding_means": embedding_means(record, geometry),
        "auxiliary_terms": auxiliary_curves(record),
        "retrieval": queries.retrieval_table(record),
        "retrieval_by_type": queries.type_table(record),
        "retrieval_shown": queries.shown_table(record),
        # The tables about accuracy on synthetic tasks have no rows if no run of the experiment trains on a task.
        "task_accuracy": accuracy,
        "task_means": tasks.task_means(record, accuracy),
        "task_levels": tasks.task_levels(record, split),
        "task_slices": tasks.task_slices(record, split),
        "task_slice_means": tasks.slice_means(record, split),
        "task_lengths": tasks.task_lengths(record, split),
        "task_effects": tasks.effect_table(tasks.task_effects(record, split)),
    }


def verdict_table(found: Sequence[Verdict]) -> pl.DataFrame:
    """The verdicts: one row for each arm and scale, with the outcome and the numbers that the outcome depends on."""
    schema = columns(
        (pl.String, "arm baseline scale metric outcome leak collapse"),
        (pl.Float64, "mean_difference interval_low interval_high confidence sign_flip_p spread"),
        (pl.Boolean, "by_more_than_matters"),
        (pl.Float64, "single_interval_low single_interval_high text_interval_low text_interval_high"),
        (pl.Int64, "comparisons"),
        (pl.String, "allows_for"),
        (pl.Int64, "pairs left_out diverged diverged_baseline"),
        (pl.String, "stability"),
        (pl.Float64, "stability_p"),
        (pl.String, "outcome_if_all_had_ended published"),
        (pl.Int64, "learned learned_baseline"),
        (pl.Float64, "learned_p"),
        (pl.Float64, "smallest_effect"),
        (pl.Int64, "seeds_needed"),
        (pl.Float64, "seeds_needed_for"),
        (pl.String, "equal"),
        (pl.Float64, "equal_deviation"),
        (pl.String, "reasons cautions"),
    )
    texts = ("reasons", "cautions")
    rows = [item.row() | {name: "; ".join(getattr(item, name)) for name in texts} for item in found]
    return pl.DataFrame(rows, schema=schema)


def over_scales_table(record: ExperimentRecord, found: Sequence[Verdict]) -> pl.DataFrame:
    """The improvement of every arm over the scales: one row for each arm with at least two reliable verdicts."""
    schema = columns(
        (pl.String, "arm"),
        (pl.Int64, "scales"),
        (pl.Float64, "mean interval_low interval_high tau share_between slope slope_low slope_high"),
    )
    rows: list[Row] = []
    for arm in dict.fromkeys(one.arm for one in found):
        over = over_scales_of(record, [one for one in found if one.arm == arm])
        if over is not None:
            (low, high), (slope_low, slope_high) = over.interval, over.slope_interval or (None, None)
            numbers = {"mean": over.mean, "interval_low": low, "interval_high": high, "tau": over.tau}
            line = {"slope": over.slope, "slope_low": slope_low, "slope_high": slope_high}
            rows.append({"arm": arm, "scales": over.scales, "share_between": over.share_between} | numbers | line)
    return pl.DataFrame(rows, schema=schema)


def difference_table(found: Sequence[Verdict]) -> pl.DataFrame:
    """The differences: one row for each pair of runs of each verdict, and one row for each seed that was left out."""
    schema = columns(
        (pl.String, "arm baseline scale metric"),
        (pl.Int64, "seed"),
        (pl.Float64, "arm_value baseline_value difference"),
        (pl.String, "left_out_because"),
    )
    rows: list[Row] = []
    for comparison in (item.comparison for item in found):
        who = {name: getattr(comparison, name) for name in ("arm", "baseline", "scale", "metric")}
        rows += [who | asdict(pair) | {"difference": pair.difference} for pair in comparison.pairs]
        rows += [who | {"seed": missing.seed, "left_out_because": missing.reason} for missing in comparison.left_out]
    return pl.DataFrame(rows, schema=schema)


def run_table(record: ExperimentRecord) -> pl.DataFrame:
    """The runs: one row for each planned run, whatever its outcome, with the costs of the run."""
    metric = record.entry.rule.metric
    schema = RUN_AND_ID | columns(
        (pl.String, "outcome reason metric"),
        (pl.Float64, "value"),
        (pl.Int64, "attempts"),
        (pl.String, "weights_sha256"),
        (pl.Float64, " ".join(COST_AXES)),
    )

    def row(run: ExperimentRun) -> Iterator[Row]:
        reason = run.record.reason if run.record is not None else None
        numbers: Row = {}
        if (result := run.result) is not None:
            numbers = {"value": result.score(metric), "attempts": result.attempts}
            numbers |= {name: result.cost(axis) for name, axis in COST_AXES.items()}
            numbers["weights_sha256"] = result.weights_sha256
        yield {"outcome": run.outcome, "reason": reason, "metric": metric} | numbers

    return run_frame(record.runs, row, schema)


def score_table(record: ExperimentRecord) -> pl.DataFrame:
    """The final scores: one row for each run with a result, each split, direction and score name."""

    def rows_of(run: ExperimentRun) -> Iterator[Row]:
        for split, by_direction in run.result.scores.items() if run.result is not None else ():
            for direction, scores in by_direction.items():
                for score, value in scores.items():
                    yield {"split": split, "direction": direction, "score": score, "value": number(value)}

    return run_frame(record.runs, rows_of, RUN | columns((pl.String, "split direction score"), (pl.Float64, "value")))


def cost_table(record: ExperimentRecord) -> pl.DataFrame:
    """The costs: one row for each arm, scale and cost axis: the mean over finished runs, and its ratio to the baseline's mean."""
    schema = columns((pl.String, "arm scale axis"), (pl.Float64, "mean ratio_to_baseline"), (pl.Int64, "runs"))
    rows = [astuple(cost) for cost in costs(record, record.entry.rule.baseline)]
    return pl.DataFrame(rows, schema=schema, orient="row")


def arm_table(record: ExperimentRecord) -> pl.DataFrame:
    """The arms: one row for each changed field of each arm. An arm without changes has one row without a path."""
    schema = columns((pl.String, "arm"), (pl.Boolean, "expect_leak"), (pl.String, "note path before after"))
    rows: list[tuple[Any, ...]] = []
    for arm in record.entry.arms:
        changes: list[tuple[str | None, ...]] = [
            (path, canonical_json(before), canonical_json(after)) for path, before, after in arm.diff
        ]
        rows += [(arm.name, arm.expect_leak, arm.note, *change) for change in changes or [(None, None, None)]]
    return pl.DataFrame(rows, schema=schema, orient="row")


def audit_table(record: ExperimentRecord) -> pl.DataFrame:
    """The findings of the audits: one row for each finding about each arm, without the influence pictures."""
    schema = RUN | columns(
        (pl.String, "check outcome"),
        (pl.Boolean, "expect_leak"),
        (pl.String, "message law"),
        (pl.Float64, "threshold"),
        (pl.String, "numbers reproduce"),
    )
    rows = [
        {"arm": arm.name, "scale": item.scale, "seed": item.seed, "expect_leak": arm.expect_leak}
        | item.finding.model_dump(include={"check", "outcome", "message", "law", "threshold"})
        | {name: canonical_json(dict(getattr(item.finding, name))) for name in ("numbers", "reproduce")}
        for arm in record.entry.arms
        for item in arm_audit(record, arm.name).findings
    ]
    return pl.DataFrame(rows, schema=schema)


def fingerprint_table(record: ExperimentRecord) -> pl.DataFrame:
    """The execution fingerprints: one row for each run with a result and each item of this run's fingerprint."""

    def rows_of(run: ExperimentRun) -> Iterator[Row]:
        for item, value in sorted(run.result.fingerprint.items()) if run.result is not None else ():
            yield {"item": item, "value": str(value)}

    return run_frame(record.runs, rows_of, RUN | columns((pl.String, "item value")))
