"""Audits after training: C1, C6, C7 and C8 on a run's trained weights and losses, C5 on the costs of an experiment's arms."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

import torch

from palinode.audit.palinode_models import subject_of_model
from palinode.audit.text_floor import floor_of
from palinode.audit.trainer_bench import AUDIT_SEED
from palinode.base.config import content_hash, encode
from palinode.base.example import SpecialTokens
from palinode.base.finding import AuditReport, Finding
from palinode.base.measures import ParityAxis
from palinode.base.numerics import NUMERICS_VERSION
from palinode.base.seeds import generator
from palinode.checks.budget import Expected, RunBudget, Tuning, added_up, check_budget, expected_counters
from palinode.checks.collapse import check_collapse
from palinode.checks.flow import check_trained_flow
from palinode.checks.influence import scored_targets
from palinode.checks.laws import finding
from palinode.checks.loss_floor import check_directions, check_falls, check_text_floor
from palinode.checks.stepwise import StepwiseSettings, check_stepwise
from palinode.data.config import VALIDATION
from palinode.data.source import WithTokenizer
from palinode.data.store import TokenStore
from palinode.objectives import Objective, Progress
from palinode.results.record import Record
from palinode.results.store import Store
from palinode.spec.run_spec import RunSpec
from palinode.spec.trained import Trained
from palinode.train.growth import Reads
from palinode.train.loop import draws_of_step

# The largest number of micro-batches whose decisions are drawn again, which takes a second. Above it counters are judged by their
# deviation.
MOST_REPLAYED = 4096
Counted = dict[str, Mapping[str, Expected]]  # hash of what decisions depend on -> the counters that they imply

# The audit before training read texts step by step with random weights. This audit does so with the trained weights.
TRAINED_STEPWISE = StepwiseSettings(random_weights=False)

TOO_LARGE = "the whole weights do not fit the memory of one process, so the trained model was not measured"


def audit_trained(
    trained: Trained, rows: Sequence[Mapping[str, Any]], store: Store | None = None, *, fits: bool = True
) -> AuditReport:
    """C1 and C6 on the trained weights, C7 on the auxiliary terms of the run, and C8 on the losses it reached.

    Args:
        trained: the trained run.
        rows: the metrics rows of the run, evaluations included.
        store: the store of the references that all runs on one text share; without a store the references are measured.
        fits: whether the model has its whole weights. Without them, C1 and C6 cannot tell.
    """
    began = time.perf_counter()
    findings = (
        *(_weight_findings(trained) if fits else _cannot_tell()),
        *check_collapse(rows),
        *_loss_findings(trained, rows, store),
    )
    return AuditReport(subject=trained.spec.run_id, findings=findings, seconds=time.perf_counter() - began)


def _cannot_tell() -> Sequence[Finding]:
    return [finding(check, "could_not_tell", TOO_LARGE, {}) for check in ("C1.perturbation", "C6.nats")]


def _weight_findings(trained: Trained) -> Sequence[Finding]:
    spec = trained.spec
    window_tokens = spec.data.window_tokens
    subject = subject_of_model(
        trained.model, spec.objective, trained.specials, window_tokens, name=spec.run_id, seed=AUDIT_SEED
    )
    return (*check_trained_flow(subject), *check_stepwise(subject, TRAINED_STEPWISE))


def audit_comparison(
    runs: Sequence[tuple[str, str, RunSpec, Record | None]],
    *,
    equal: ParityAxis,
    models_differ: bool,
    tuning: Mapping[str, Tuning] | None = None,
) -> AuditReport:
    """C5 on the runs of an experiment.

    Args:
        runs: the (arm, scale, spec, record or None) of each run.
        equal: the name of the cost that must match between arms.
        models_differ: whether some arm changes the model on purpose.
        tuning: the tuning of each arm, by the arm's name.
    """
    began = time.perf_counter()
    counted: Counted = {}
    budgets = [_budget(arm, scale, spec, record, counted) for arm, scale, spec, record in runs if record is not None]
    planned = [(arm, scale, spec.seed) for arm, scale, spec, _ in runs]
    findings = check_budget(
        budgets, equal=equal, planned=planned, tuning=tuning, model_differs_on_purpose=models_differ
    )
    return AuditReport(subject="comparison", findings=findings, seconds=time.perf_counter() - began)


def _loss_findings(trained: Trained, rows: Sequence[Mapping[str, Any]], store: Store | None) -> list[Finding]:
    """C8 on text: compare the directions with each other, and the loss with that of n-grams; look for sudden falls.

    C8 does not hold for a task: the answers of a task may cost 0 nats, its directions may differ, and a model that learns to recall
    has a sudden fall of the loss.
    """
    spec, data = trained.spec, trained.data
    if not isinstance(data, TokenStore | WithTokenizer):
        return []
    evaluations = [row for row in rows if row["event"] == "eval" and row["split"] == VALIDATION]
    if not evaluations:
        return []
    scores: Mapping[str, Mapping[str, float]] = evaluations[-1]["scores"]
    findings = []
    if {"ltr", "rtl"} <= set(scores) and {"ltr", "rtl"} <= set(spec.objective.groups()):
        trained_tokens = {name: float(evaluations[-1][f"tokens_scored_{name}"]) for name in ("ltr", "rtl")}
        nats = {name: scores[name]["nats_per_token"] for name in ("ltr", "rtl")}
        tokens = {name: int(scores[name]["tokens_scored"]) for name in ("ltr", "rtl")}
        findings.append(check_directions(nats, tokens, trained_tokens))
    judged = [name for name in scores if name in spec.objective.groups()]
    if judged:
        floor = floor_of(spec, data, store)
        for name in judged:
            findings.append(check_text_floor(scores[name]["nats_per_token"], scores[name]["bits_per_byte"], floor))
            curve = [(int(row["step"]), float(row["scores"][name]["nats_per_token"])) for row in evaluations]
            findings.append(check_falls(curve))
    return findings


def _budget(arm: str, scale: str, spec: RunSpec, record: Record, counted: Counted) -> RunBudget:
    result = record.result
    counters = {name: float(value) for name, value in (result.counters if result else {}).items() if value is not None}
    return RunBudget(
        arm=arm,
        scale=scale,
        seed=spec.seed,
        outcome=record.outcome,
        counters={"tokens_read_before": 0.0, **counters},
        parameters=dict(result.parameters) if result else {},
        expected=_expected(spec, counted) if record.outcome == "done" else {},
        seconds=float(result.seconds.get("train") or 0) if result else None,
    )


def _expected(spec: RunSpec, counted: Counted) -> Mapping[str, Expected]:
    """The counters that the spec of a finished run implies; empty when the counters depend on what happened during training."""
    recipe = spec.recipe
    limits = (recipe.max_tokens_read, recipe.max_ltr_tokens)
    by_limit = any(limit is not None for limit in (*limits, recipe.stop_at_accuracy))
    if spec.objective.state() or recipe.accumulation or by_limit:
        return {}
    if spec.labels != "all" or not spec.objective.reads_in_a_direction:  # scored tokens vary by window
        return {}
    if recipe.steps * recipe.micro_batches <= MOST_REPLAYED and spec.numerics_version == NUMERICS_VERSION:
        return _replayed(spec, counted)  # earlier versions drew the decisions for each micro-batch
    full = spec.data.window_tokens
    phases = recipe.growth.phases(recipe.steps, full) if recipe.growth else [(0, recipe.steps, full)]
    return added_up([_expected_phase(spec, *phase) for phase in phases])


def _replayed(spec: RunSpec, counted: Counted) -> Mapping[str, Expected]:
    """The exact counters of a run. Runs of several scales, models or rates draw the same decisions, which are drawn here once."""
    every = (spec.recipe.reads(step, {}, spec.seed, spec.data.window_tokens) for step in range(spec.recipe.steps))
    sizes = groupby(replace(reads, first_window=0) for reads in every)  # decisions do not depend on the windows
    steps = [(reads, len(list(equal))) for reads, equal in sizes]
    key = content_hash([encode(spec.objective), spec.seed, [(asdict(reads), count) for reads, count in steps]])
    if key not in counted:
        counted[key] = _draw_again(spec.objective, spec.seed, [reads for reads, count in steps for _ in range(count)])
    return counted[key]


def _draw_again(objective: Objective, seed: int, every: Sequence[Reads]) -> Mapping[str, Expected]:
    """The counters of a run with these steps. The decisions are drawn in the way that training draws them."""
    totals: Counter[str] = Counter(optimizer_steps=len(every), tokens_scored_ltr=0, tokens_scored_rtl=0)
    for step, reads in enumerate(every):
        [draw] = draws_of_step(objective, reads, seed, Progress(step, len(every), {}, step))
        windows = torch.zeros(reads.windows * reads.parts, reads.window_tokens, dtype=torch.long)
        example = objective.example(windows, draw, SpecialTokens(1))
        totals["window_tokens"] += windows.numel()
        totals["tokens_read"] += example.inputs.numel()
        for group, rows in example.by_group():
            scored = int(scored_targets(example)[rows].sum())
            totals["tokens_scored"] += scored
            totals[f"tokens_scored_{group.name}"] += scored
    return {name: Expected(total) for name, total in totals.items()}


def _expected_phase(spec: RunSpec, first: int, steps: int, length: int) -> Mapping[str, Expected]:
    """The counters that the spec implies for consecutive steps with rows of one length."""
    recipe, objective = spec.recipe, spec.objective
    shares = [objective.pass_probabilities(Progress(step, recipe.steps)) for step in range(first, first + steps)]
    window = torch.zeros(1, length, dtype=torch.long)
    draw = objective.draw(1, length, generator(AUDIT_SEED, "audit", "slots"), Progress())
    example = objective.example(window, draw, SpecialTokens(1))
    return expected_counters(
        steps=steps,
        batch_windows=recipe.reads(first, {}, spec.seed, spec.data.window_tokens).windows * recipe.micro_batches,
        window_tokens=length,
        slots=example.inputs.shape[1],
        scored=int((example.loss_weight[0] > 0).sum()),
        passes_per_window={name: [share.get(name, 0.0) for share in shares] for name in shares[0]},
    )
