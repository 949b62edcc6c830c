"""The choice that trials make: for each arm at each scale the value with the best score on the tuning split."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from palinode.base.errors import BadInput
from palinode.results.record import ChoiceEntry, Result
from palinode.results.store import Store
from palinode.spec.experiment import ResolvedExperiment
from palinode.spec.run_spec import RunSpec
from palinode.spec.tuning import trials_of, tuning_metric, with_chosen

Tried = Sequence[tuple[float, Sequence[RunSpec]]]


def tuned(resolved: ResolvedExperiment, store: Store) -> tuple[ResolvedExperiment, tuple[ChoiceEntry, ...]] | None:
    """The experiment at the chosen values, and how they were chosen; None while a trial is left to do.

    Raises:
        BadInput: no trial of an arm came to a score.
    """
    cells = [(arm.name, scale) for scale in resolved.scales for arm in resolved.arms]
    tried = {cell: trials_of(resolved, *cell) for cell in cells}
    if not all(store.ended(spec.run_id) for values in tried.values() for _, specs in values for spec in specs):
        return None
    choices = tuple(_choice(resolved, arm, scale, tried[arm, scale], store) for arm, scale in cells)
    return with_chosen(resolved, {(choice.arm, choice.scale): choice.chosen for choice in choices}), choices


def _choice(resolved: ResolvedExperiment, arm: str, scale: str, tried: Tried, store: Store) -> ChoiceEntry:
    tuning, decision = resolved.tuning, resolved.decision
    assert tuning is not None
    results = {spec.run_id: store.record(spec.run_id).result for _, specs in tried for spec in specs}
    metric = tuning_metric(decision)
    scores = {value: _mean_score([results[spec.run_id] for spec in specs], metric) for value, specs in tried}
    scored = {value: score for value, score in scores.items() if score is not None}
    if not scored:
        message = f"no trial of arm {arm!r} at scale {scale} came to a score"
        raise BadInput(message, field="tuning.values", hint="`palinode show` on the trials says why")
    sign = 1 if decision.better == "lower" else -1
    return ChoiceEntry(
        arm=arm,
        scale=scale,
        field=tuning.field,
        values=tuple(scores),
        scores=tuple(scores.values()),
        chosen=min(scored, key=lambda value: (sign * scored[value], value)),
        runs=tuple(results),
        tokens_read=sum(float(result.counters.get("tokens_read") or 0) for result in results.values() if result),
    )


def _mean_score(results: Sequence[Result | None], metric: str) -> float | None:
    """Over the seeds; None when one of them diverged: a value at which runs diverge is not chosen."""
    scores = [result.score(metric) if result is not None and result.outcome == "done" else None for result in results]
    finished = [score for score in scores if score is not None]
    return fmean(finished) if len(finished) == len(scores) else None
