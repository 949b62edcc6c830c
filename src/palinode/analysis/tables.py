"""Every number of an experiment as polars frames: what the report shows, and what is saved as CSV and parquet."""

from __future__ import annotations

from typing import Any

import polars as pl

from palinode.analysis.audits import arm_audit
from palinode.analysis.context import direction_ratios
from palinode.analysis.curves import auxiliary_curves, evaluation_curves, training_curves
from palinode.analysis.embeddings import embedding_means, embedding_numbers
from palinode.analysis.layer_cuts import layer_cut_ratios, layer_cuts
from palinode.analysis.parity import costs
from palinode.analysis.ratio_curves import as_published, published_summary, ratio_curves
from palinode.analysis.ratios import ratio_table
from palinode.analysis.task_effects import effect_table, task_effects
from palinode.analysis.tasks import slice_means, task_accuracy, task_lengths, task_levels, task_means, task_slices
from palinode.analysis.verdict import Verdict, rule_of, verdicts
from palinode.base.config import canonical_json
from palinode.base.measures import COST_AXES
from palinode.results.record import ExperimentRecord

Row = dict[str, Any]


def all_tables(record: ExperimentRecord) -> dict[str, pl.DataFrame]:
    """Name -> frame, each with a fixed schema, also when it has no rows.

    Raises:
        BadInput: the decision rule cannot be applied.
    """
    found, rule, curves = verdicts(record), rule_of(record.entry), evaluation_curves(record)
    split, _, score = rule.score
    cuts, geometry = layer_cuts(record, split), embedding_numbers(record)
    pooled_axis = "epochs" if curves["epochs"].count() else "step"
    pooled = as_published(record, split, score, pooled_axis, curves=curves)
    return {
        "verdicts": verdict_table(found),
        "differences": difference_table(found),
        "runs": run_table(record),
        "scores": score_table(record),
        "costs": cost_table(record),
        "arms": arm_table(record),
        "audits": audit_table(record),
        "fingerprints": fingerprint_table(record),
        "evaluation_curves": curves,
        "training_curves": training_curves(record),
        "ratios": ratio_table(record, split),
        "ratio_curves": ratio_curves(record, split, score, curves=curves),
        "ratios_as_published": published_summary(pooled),
        "layer_cuts": cuts,
        "layer_cut_ratios": layer_cut_ratios(record, split, score, cuts),
        "direction_by_context": direction_ratios(record, split),
        "embeddings": geometry,
        "embedding_means": embedding_means(record, geometry),
        "auxiliary_terms": auxiliary_curves(record),
    } | task_tables(record, split)


def task_tables(record: ExperimentRecord, split: str) -> dict[str, pl.DataFrame]:
    """What is known of accuracy on synthetic tasks; without rows where no run is on one."""
    accuracy = task_accuracy(record, split)
    return {
        "task_accuracy": accuracy,
        "task_means": task_means(record, split, accuracy),
        "task_levels": task_levels(record, split),
        "task_slices": task_slices(record, split),
        "task_slice_means": slice_means(record, split),
        "task_lengths": task_lengths(record, split),
        "task_effects": effect_table(task_effects(record, split)),
    }


def verdict_table(found: tuple[Verdict, ...]) -> pl.DataFrame:
    """One row per arm and scale: the outcome with everything it rests on."""
    schema = {
        "arm": pl.String,
        "baseline": pl.String,
        "scale": pl.String,
        "metric": pl.String,
        "outcome": pl.String,
        "leak": pl.String,
        "collapse": pl.String,
        "mean_difference": pl.Float64,
        "interval_low": pl.Float64,
        "interval_high": pl.Float64,
        "confidence": pl.Float64,
        "sign_flip_p": pl.Float64,
        "spread": pl.Float64,
        "pairs": pl.Int64,
        "left_out": pl.Int64,
        "smallest_effect": pl.Float64,
        "seeds_needed": pl.Int64,
        "seeds_needed_for": pl.Float64,
        "equal": pl.String,
        "equal_deviation": pl.Float64,
        "reasons": pl.String,
        "cautions": pl.String,
    }
    return pl.DataFrame([_verdict_row(item) for item in found], schema=schema)


def difference_table(found: tuple[Verdict, ...]) -> pl.DataFrame:
    """One row per pair of runs: what each verdict's interval is made of."""
    schema = {
        "arm": pl.String,
        "baseline": pl.String,
        "scale": pl.String,
        "metric": pl.String,
        "seed": pl.Int64,
        "arm_value": pl.Float64,
        "baseline_value": pl.Float64,
        "difference": pl.Float64,
        "left_out_because": pl.String,
    }
    rows: list[Row] = []
    for item in found:
        comparison = item.comparison
        who = {"arm": item.arm, "baseline": comparison.baseline, "scale": item.scale, "metric": comparison.metric}
        for pair in comparison.pairs:
            values = {"arm_value": pair.arm_value, "baseline_value": pair.baseline_value, "difference": pair.difference}
            rows.append(who | {"seed": pair.seed} | values)
        rows += [who | {"seed": missing.seed, "left_out_because": missing.reason} for missing in comparison.left_out]
    return pl.DataFrame(rows, schema=schema)


def run_table(record: ExperimentRecord) -> pl.DataFrame:
    """One row per planned run, whatever became of it, with its costs."""
    metric = rule_of(record.entry).metric
    schema: dict[str, Any] = {
        "arm": pl.String,
        "scale": pl.String,
        "seed": pl.Int64,
        "run_id": pl.String,
        "outcome": pl.String,
        "reason": pl.String,
        "metric": pl.String,
        "value": pl.Float64,
        "attempts": pl.Int64,
        "weights_sha256": pl.String,
    } | dict.fromkeys(COST_AXES, pl.Float64)
    rows = []
    for run in record.runs:
        result = run.result
        row: Row = run.entry.model_dump() | {"outcome": run.outcome, "metric": metric}
        row["reason"] = run.record.reason if run.record is not None else None
        if result is not None:
            row |= {"value": result.score(metric), "attempts": result.attempts, "weights_sha256": result.weights_sha256}
            row |= {name: result.cost(axis) for name, axis in COST_AXES.items()}
        rows.append(row)
    return pl.DataFrame(rows, schema=schema)


def score_table(record: ExperimentRecord) -> pl.DataFrame:
    """One row per finished run, split, direction and score."""
    schema = {
        "arm": pl.String,
        "scale": pl.String,
        "seed": pl.Int64,
        "split": pl.String,
        "direction": pl.String,
        "score": pl.String,
        "value": pl.Float64,
    }
    rows = [
        {
            "arm": run.entry.arm,
            "scale": run.entry.scale,
            "seed": run.entry.seed,
            "split": split,
            "direction": direction,
            "score": score,
            "value": None if value is None else float(value),
        }
        for run in record.runs
        if run.result is not None
        for split, by_direction in run.result.scores.items()
        for direction, scores in by_direction.items()
        for score, value in scores.items()
    ]
    return pl.DataFrame(rows, schema=schema)


def cost_table(record: ExperimentRecord) -> pl.DataFrame:
    """One row per arm, scale and cost axis: the mean over finished runs and its ratio to the baseline's."""
    schema = {
        "arm": pl.String,
        "scale": pl.String,
        "axis": pl.String,
        "mean": pl.Float64,
        "ratio_to_baseline": pl.Float64,
        "runs": pl.Int64,
    }
    rows = [
        {"arm": c.arm, "scale": c.scale, "axis": c.axis, "mean": c.mean, "ratio_to_baseline": c.ratio, "runs": c.runs}
        for c in costs(record, rule_of(record.entry).baseline)
    ]
    return pl.DataFrame(rows, schema=schema)


def arm_table(record: ExperimentRecord) -> pl.DataFrame:
    """One row per changed leaf of each arm (an arm without changes has one row without a path)."""
    schema = {
        "arm": pl.String,
        "expect_leak": pl.Boolean,
        "note": pl.String,
        "path": pl.String,
        "before": pl.String,
        "after": pl.String,
    }
    rows: list[Row] = []
    for arm in record.entry.arms:
        who = {"arm": arm.name, "expect_leak": arm.expect_leak, "note": arm.note}
        changes = [
            {"path": path, "before": canonical_json(before), "after": canonical_json(after)}
            for path, before, after in arm.diff
        ]
        rows += [who | change for change in changes or [{}]]
    return pl.DataFrame(rows, schema=schema)


def audit_table(record: ExperimentRecord) -> pl.DataFrame:
    """One row per finding on each arm; pictures are left to the report."""
    schema = {
        "arm": pl.String,
        "scale": pl.String,
        "seed": pl.Int64,
        "check": pl.String,
        "outcome": pl.String,
        "expect_leak": pl.Boolean,
        "message": pl.String,
        "law": pl.String,
        "threshold": pl.Float64,
        "numbers": pl.String,
        "reproduce": pl.String,
    }
    rows = []
    for arm in record.entry.arms:
        for item in arm_audit(record, arm.name).findings:
            finding = item.finding
            rows.append(
                {
                    "arm": arm.name,
                    "scale": item.scale,
                    "seed": item.seed,
                    "check": finding.check,
                    "outcome": finding.outcome,
                    "expect_leak": arm.expect_leak,
                    "message": finding.message,
                    "law": finding.law,
                    "threshold": finding.threshold,
                    "numbers": canonical_json(dict(finding.numbers)),
                    "reproduce": canonical_json(dict(finding.reproduce)),
                }
            )
    return pl.DataFrame(rows, schema=schema)


def fingerprint_table(record: ExperimentRecord) -> pl.DataFrame:
    """One row per run and item of its execution fingerprint."""
    schema = {"arm": pl.String, "scale": pl.String, "seed": pl.Int64, "item": pl.String, "value": pl.String}
    rows = [
        {"arm": run.entry.arm, "scale": run.entry.scale, "seed": run.entry.seed, "item": item, "value": str(value)}
        for run in record.runs
        if run.result is not None
        for item, value in sorted(run.result.fingerprint.items())
    ]
    return pl.DataFrame(rows, schema=schema)


def _verdict_row(item: Verdict) -> Row:
    comparison, needed = item.comparison, item.seeds_needed
    interval = comparison.interval
    return {
        "arm": item.arm,
        "baseline": comparison.baseline,
        "scale": item.scale,
        "metric": comparison.metric,
        "outcome": item.outcome,
        "leak": item.leak,
        "collapse": item.collapse,
        "mean_difference": comparison.mean,
        "interval_low": interval.low if interval else None,
        "interval_high": interval.high if interval else None,
        "confidence": comparison.confidence,
        "sign_flip_p": comparison.sign_flip_p,
        "spread": comparison.spread,
        "pairs": len(comparison.pairs),
        "left_out": len(comparison.left_out),
        "smallest_effect": item.rule.smallest_effect,
        "seeds_needed": needed.seeds if needed else None,
        "seeds_needed_for": needed.effect if needed else None,
        "equal": item.rule.equal,
        "equal_deviation": item.parity.deviation,
        "reasons": "; ".join(item.reasons),
        "cautions": "; ".join(item.cautions),
    }
