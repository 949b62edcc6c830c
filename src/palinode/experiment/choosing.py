"""The value that the trials of an arm choose at a scale."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from palinode.base.errors import BadInput
from palinode.base.measures import Metric
from palinode.results.record import ChoiceEntry, Result
from palinode.results.store import Store
from palinode.spec.experiment import ResolvedExperiment
from palinode.spec.run_spec import RunSpec

Tried = Sequence[tuple[float, Sequence[RunSpec]]]


def choose(resolved: ResolvedExperiment, arm: str, scale: str, tried: Tried, store: Store) -> ChoiceEntry:
    """The value with the best score. Of two values with the same score, the smaller one is chosen.

    Where `stop_at_accuracy` ends a trial, the value that reached this accuracy in the fewest steps is chosen. How far the last
    score of such a trial lies above the accuracy at which it ends is chance, and says nothing of how well the value teaches.

    Raises:
        BadInput: no trial of this arm gave a score.
    """
    tuning, decision = resolved.tuning, resolved.decision
    assert tuning is not None
    metric = tuning.metric(decision)
    results = {value: [store.record(spec.run_id).result for spec in specs] for value, specs in tried}
    scores = {value: _mean_score(of_value, metric) for value, of_value in results.items()}
    steps = {value: _steps_to_goal(results[value], metric, _goal(specs, metric)) for value, specs in tried}
    scored = {value: score for value, score in scores.items() if score is not None}
    if not scored:
        message = f"no trial of arm {arm!r} at scale {scale} came to a score"
        raise BadInput(message, field="tuning.values", hint="`palinode show` on the trials says why")
    sign = 1 if decision.better == "lower" else -1
    soonest = {value: count for value, count in steps.items() if count is not None}
    return ChoiceEntry(
        arm=arm,
        scale=scale,
        field=tuning.field,
        values=tuple(scores),
        scores=tuple(scores.values()),
        steps=tuple(steps.values()) if soonest else (),
        chosen=min(soonest or scored, key=lambda value: (soonest[value] if soonest else sign * scored[value], value)),
        runs=tuple(spec.run_id for _, specs in tried for spec in specs),
        tokens_read=sum(_counted(result, "tokens_read") for of_value in results.values() for result in of_value),
    )


def _mean_score(results: Sequence[Result | None], metric: str) -> float | None:
    """The mean score over the seeds; None if a run diverged, because a value at which runs diverge is not chosen."""
    scores = [result.score(metric) if result is not None and result.outcome == "done" else None for result in results]
    finished = [score for score in scores if score is not None]
    return fmean(finished) if len(finished) == len(scores) else None


def _goal(specs: Sequence[RunSpec], metric: str) -> float | None:
    """The accuracy at which these trials end, if they are chosen by their accuracy."""
    return specs[0].recipe.stop_at_accuracy if Metric.parse(metric).measure == "accuracy" else None


def _steps_to_goal(results: Sequence[Result | None], metric: str, goal: float | None) -> float | None:
    """The mean number of steps after which the trials of a value ended with the goal; None if one of them never reached it."""
    if goal is None or _mean_score(results, metric) is None:
        return None
    reached = [result for result in results if result is not None and (result.score(metric) or 0.0) >= goal]
    return fmean(_counted(result, "optimizer_steps") for result in reached) if len(reached) == len(results) else None


def _counted(result: Result | None, counter: str) -> float:
    return float(result.counters.get(counter) or 0) if result is not None else 0.0
