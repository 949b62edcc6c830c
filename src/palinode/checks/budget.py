"""C5: did every arm get the same budget, and the one the spec says?

Pure arithmetic on what runs recorded. One axis is declared equal and must match to .1 %; parameters match to 1 % unless the
experiment changes the model on purpose; every other difference above 1 % is listed, to be printed beside the figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from palinode.base.finding import Finding
from palinode.base.measures import COST_AXES, EQUAL_WITHIN, REMARKED_ABOVE, CheckOutcome, ParityAxis

COMPARED_COUNTERS = [name for name, axis in COST_AXES.items() if axis.compared]
DEVIATIONS_ALLOWED = 6.0  # of a random counter from its expectation: 2e-9 two-sided
PARAMETERS = {
    "parameters": "total",
    "parameters_non_embedding": "non_embedding",
}  # as findings name them -> in a record


@dataclass(frozen=True)
class Expected:
    """What a counter should be: exactly `mean` when `deviation` is 0, else within 6 standard deviations."""

    mean: float
    deviation: float = 0.0

    def allows(self, value: float) -> bool:
        # 1e-9 relative: passes are a sum of fractions
        return abs(value - self.mean) <= DEVIATIONS_ALLOWED * self.deviation + 1e-9 * max(1.0, abs(self.mean))


@dataclass(frozen=True)
class RunBudget:
    """What one run recorded.

    Attributes:
        outcome: `done`, or how it ended otherwise.
        counters: window_tokens, tokens_read, tokens_scored, tokens_scored_ltr, tokens_scored_rtl, passes, train_flops,
            optimizer_steps, evaluations.
        parameters: `total` and `non_embedding`.
        expected: counters recomputed from the spec, see `expected_counters`.
        seconds: of training; listed, never judged.
    """

    arm: str
    scale: str
    seed: int
    outcome: str = "done"
    counters: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)
    expected: Mapping[str, Expected] = field(default_factory=dict)
    seconds: float | None = None

    @property
    def values(self) -> dict[str, float]:
        """Everything that is compared between arms, by name."""
        found = {name: float(self.parameters[key]) for name, key in PARAMETERS.items() if key in self.parameters}
        found |= {name: float(value) for name in COMPARED_COUNTERS if (value := self.counters.get(name)) is not None}
        return found | ({"seconds": self.seconds} if self.seconds is not None else {})


@dataclass(frozen=True)
class Tuning:
    """How an arm's settings were chosen: trials, and the tokens all of them read together."""

    trials: int = 1
    tokens_read: float = 0.0


def check_budget(
    runs: Sequence[RunBudget],
    *,
    equal: ParityAxis,
    planned: Iterable[tuple[str, str, int]] | None = None,
    tuning: Mapping[str, Tuning] | None = None,
    model_differs_on_purpose: bool = False,
) -> tuple[Finding, ...]:
    """All of C5 on the runs of one experiment.

    Args:
        runs: every record there is, failed ones included.
        equal: the declared axis.
        planned: (arm, scale, seed) of every run the spec asks for; default: all arms x the union of seeds at each scale.
        tuning: per arm; an arm that is not named had one trial.
        model_differs_on_purpose: an arm's diff changes the model: parameters are listed then, not judged.
    """
    return (
        check_runs_complete(runs, planned),
        check_counters(runs),
        check_declared_axis(runs, equal),
        check_parameters(runs, judged=not model_differs_on_purpose or equal in PARAMETERS),
        check_selection(runs, tuning or {}),
        list_differences(runs, equal),
    )


def check_runs_complete(runs: Sequence[RunBudget], planned: Iterable[tuple[str, str, int]] | None = None) -> Finding:
    """Every planned run left a record, and every arm has the same seeds. Runs that did not end well are named."""
    wanted = set(planned) if planned is not None else _full_grid(runs)
    recorded = {(run.arm, run.scale, run.seed) for run in runs}
    missing = sorted(wanted - recorded)
    ended = [f"{run.arm}/{run.scale}/{run.seed} {run.outcome}" for run in runs if run.outcome != "done"]
    outcome: CheckOutcome = "fail" if missing else "could_not_tell" if ended or not wanted else "pass"
    message = f"{len(wanted) - len(missing)} of {len(wanted)} planned runs left a record"
    if missing:
        message += "; missing " + ", ".join("/".join(map(str, run)) for run in missing[:5])
    if ended:
        message += "; not finished: " + ", ".join(ended[:5])
    return _finding(
        "runs",
        "no arm has dropped or missing runs",
        outcome,
        message,
        {"missing_runs": len(missing), "planned_runs": len(wanted), "unfinished_runs": len(ended)},
        0.0,
    )


def check_counters(runs: Sequence[RunBudget]) -> Finding:
    """The recorded counters are those the spec implies: p = 0 draws no rtl, every pass counts."""
    done = [run for run in runs if run.outcome == "done"]
    wrong = [
        f"{run.arm}/{run.scale}/{run.seed} {name} is {run.counters[name]:.12g}, expected {_text(expected)}"
        for run in done
        for name, expected in run.expected.items()
        if name in run.counters and not expected.allows(run.counters[name])
    ]
    compared = sum(name in run.counters for run in done for name in run.expected)
    outcome: CheckOutcome = "fail" if wrong else "pass" if compared else "could_not_tell"
    message = "; ".join(wrong[:3]) or f"{compared} counters of {len(done)} runs are what their specs imply"
    return _finding(
        "counters",
        "what a run counted is what its spec implies",
        outcome,
        message,
        {"counters_wrong": len(wrong), "counters_compared": compared},
        0.0,
    )


def check_declared_axis(runs: Sequence[RunBudget], equal: ParityAxis) -> Finding:
    """The axis of equality that the spec declares matches between arms to .1 %, at every scale."""
    return _judge(runs, (equal,), EQUAL_WITHIN, "declared_axis", f"every arm has the same {equal} to .1 %")


def check_parameters(runs: Sequence[RunBudget], *, judged: bool = True) -> Finding:
    """Parameters, total and without embeddings, match to 1 %; `judged` False lists what differs and passes."""
    finding = _judge(runs, tuple(PARAMETERS), REMARKED_ABOVE, "parameters", "every arm has the same parameters to 1 %")
    if judged or finding.outcome != "fail":
        return finding
    return finding.with_(outcome="pass", message=f"{finding.message} (the arms change the model on purpose)")


def check_selection(runs: Sequence[RunBudget], tuning: Mapping[str, Tuning]) -> Finding:
    """Every arm was tuned over as many trials with as many tokens, and looked at the validation split as often."""
    arms = sorted({run.arm for run in runs} | set(tuning))
    trials = {arm: tuning.get(arm, Tuning()).trials for arm in arms}
    budgets = {arm: tuning.get(arm, Tuning()).tokens_read for arm in arms}
    unequal = []
    if len(set(trials.values())) > 1:
        unequal.append("tuning trials " + _listed(trials))
    if budgets and _spread(budgets.values()) > REMARKED_ABOVE:
        unequal.append("tokens read in tuning " + _listed(budgets))
    unequal += _unequal_looks(runs)
    outcome: CheckOutcome = "fail" if unequal else "pass" if len(arms) > 1 else "could_not_tell"
    message = (
        "; ".join(unequal)
        or f"{len(arms)} arms had {max(trials.values(), default=0)} trials each and equal evaluations"
    )
    return _finding(
        "selection",
        "every arm had the same number of tuning trials, tuning tokens and evaluations",
        outcome,
        message,
        {"unequal": len(unequal), "arms": len(arms)} | {f"trials_{arm}": count for arm, count in trials.items()},
        0.0,
    )


def _unequal_looks(runs: Sequence[RunBudget]) -> list[str]:
    """How often each arm looked at the validation split, where arms differ: a line for all scales at which it is the same."""
    by_line: dict[str, list[str]] = {}
    scales = list(dict.fromkeys(run.scale for run in runs))
    for scale in scales:
        looks: dict[str, set[float]] = {}
        for run in runs:
            if run.scale == scale and run.outcome == "done" and run.counters.get("evaluations") is not None:
                looks.setdefault(run.arm, set()).add(run.counters["evaluations"])
        if len(set().union(*looks.values())) > 1:
            told = [f"{arm} {' or '.join(f'{count:g}' for count in sorted(counts))}" for arm, counts in looks.items()]
            by_line.setdefault(", ".join(told), []).append(scale)
    return [
        f"evaluations {line}" + (f" at {', '.join(at)}" if len(at) < len(scales) else "")
        for line, at in by_line.items()
    ]


def list_differences(runs: Sequence[RunBudget], equal: ParityAxis) -> Finding:
    """Every other quantity that differs by more than 1 %: nothing is judged, all of it belongs beside the figures."""
    listed: dict[str, float] = {}
    for scale, means in _means(runs).items():
        names = dict.fromkeys(name for values in means.values() for name in values if name != equal)
        for name in names:
            spread = _spread(values[name] for values in means.values() if name in values)
            if spread > REMARKED_ABOVE:
                listed[f"{name}_{scale}_relative"] = spread
    told = ", ".join(f"{name.removesuffix('_relative')} {spread:.1%}" for name, spread in listed.items())
    return _finding(
        "differences",
        "every other difference above 1 % is printed",
        "pass",
        f"the arms also differ in {told}" if told else "nothing else differs by more than 1 %",
        listed,
        REMARKED_ABOVE,
    )


def expected_counters(
    *,
    steps: int,
    batch_windows: int,
    window_tokens: int,
    slots: int,
    scored: int,
    passes_per_window: Mapping[str, Sequence[float]],
    micro_batches: int = 1,
) -> dict[str, Expected]:
    """The counters a run must show, from its spec alone.

    Args:
        steps, batch_windows: optimizer steps, and windows in each.
        window_tokens, slots, scored: N, and the slots and scored targets of one pass over one window.
        passes_per_window: pass name -> the probability of that pass at every step (`both`: ltr 1, rtl p; `choose`: ltr 1 - p,
            rtl p). 0 and 1 are exact; in between the spread allows for one coin per micro-batch, the coarsest there is.
        micro_batches: how many of them a step is cut into.
    """
    windows = steps * batch_windows
    counts = {
        name: Expected(*_coins(shares, batch_windows, micro_batches)) for name, shares in passes_per_window.items()
    }
    totals = [sum(step) for step in zip(*passes_per_window.values(), strict=True)]
    together = Expected(*_coins(totals, batch_windows, micro_batches))
    expected = {
        "optimizer_steps": Expected(steps),
        "window_tokens": Expected(windows * window_tokens),
        "tokens_read": Expected(together.mean * slots, together.deviation * slots),
        "tokens_scored": Expected(together.mean * scored, together.deviation * scored),
        "passes": Expected(together.mean / batch_windows, together.deviation / batch_windows),
    }
    scored_by_pass = {
        f"tokens_scored_{name}": Expected(count.mean * scored, count.deviation * scored)
        for name, count in counts.items()
    }
    return expected | {f"tokens_scored_{name}": Expected(0) for name in ("ltr", "rtl")} | scored_by_pass


def added_up(phases: Sequence[Mapping[str, Expected]]) -> dict[str, Expected]:
    """The counters of a run from those of its stretches, which are independent: means add up, and so do variances."""
    return {
        name: Expected(
            sum(phase[name].mean for phase in phases), math.sqrt(sum(phase[name].deviation ** 2 for phase in phases))
        )
        for name in phases[0]
    }


def _coins(shares: Sequence[float], batch_windows: int, micro_batches: int) -> tuple[float, float]:
    """Mean and standard deviation of the windows read, with one coin per micro-batch for the fractional part."""
    coin = batch_windows / micro_batches
    variance = sum(micro_batches * coin**2 * (share % 1) * (1 - share % 1) for share in shares)
    return sum(shares) * batch_windows, math.sqrt(variance)


def _judge(runs: Sequence[RunBudget], names: Sequence[str], tolerance: float, check: str, law: str) -> Finding:
    """Compare arms on some quantities at every scale; one arm, or an arm without the number, cannot be compared."""
    worst, told, compared, lacking = 0.0, "", 0, []
    for scale, means in _means(runs).items():
        for name in names:
            values = {arm: found[name] for arm, found in means.items() if name in found}
            lacking += [f"{arm} at {scale} has no {name}" for arm in means if arm not in values]
            if len(values) < 2 or max(values.values()) <= 0:
                continue  # nothing that could differ
            compared += 1
            if (spread := _spread(values.values())) >= worst:
                worst, told = spread, f"{name} at scale {scale}: {_listed(values)}"
    outcome: CheckOutcome = "fail" if worst > tolerance else "pass" if compared and not lacking else "could_not_tell"
    message = f"largest difference {worst:.2%}, {told}" if compared else "fewer than two arms to compare"
    message = f"{message}; {'; '.join(lacking[:3])}" if lacking else message
    return _finding(check, law, outcome, message, {"relative_difference": worst}, tolerance)


def _means(runs: Sequence[RunBudget]) -> dict[str, dict[str, dict[str, float]]]:
    """scale -> arm -> quantity -> mean over finished runs. (p is random: single seeds may differ where arms do not.)"""
    grouped: dict[str, dict[str, list[dict[str, float]]]] = {}
    for run in runs:
        if run.outcome == "done":
            grouped.setdefault(run.scale, {}).setdefault(run.arm, []).append(run.values)
    return {
        scale: {
            arm: {
                name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if all(name in row for row in rows)
            }
            for arm, rows in arms.items()
        }
        for scale, arms in grouped.items()
    }


def _full_grid(runs: Sequence[RunBudget]) -> set[tuple[str, str, int]]:
    arms = {run.arm for run in runs}
    return {(arm, run.scale, run.seed) for arm in arms for run in runs}


def _spread(values: Iterable[float]) -> float:
    """(largest - smallest) / largest; 0 when there is nothing to compare."""
    known = list(values)
    largest = max(known, default=0.0)
    return (largest - min(known)) / largest if largest > 0 else 0.0


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.12g}" for name, value in values.items())


def _text(expected: Expected) -> str:
    spread = f" +- {expected.deviation:.4g}" if expected.deviation else ""
    return f"{expected.mean:.12g}{spread}"


def _finding(
    check: str, law: str, outcome: CheckOutcome, message: str, numbers: Mapping[str, Any], threshold: float
) -> Finding:
    return Finding(
        check=f"C5.{check}", outcome=outcome, law=law, message=message, numbers=dict(numbers), threshold=threshold
    )
