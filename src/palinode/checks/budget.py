"""C5: did every arm get the same budget, and is it the budget of the spec?

C5 compares the numbers that runs recorded. The cost that the experiment declares equal must match to 0.1 %. The numbers of
parameters must match to 1 %, unless the experiment changes the model on purpose. C5 lists every other difference above 1 % without
judging it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from palinode.base.finding import Finding
from palinode.base.measures import COST_AXES, EQUAL_WITHIN, REMARKED_ABOVE, ParityAxis
from palinode.checks.laws import finding, outcome_of

COMPARED_COUNTERS = [name for name, axis in COST_AXES.items() if axis.compared]
DEVIATIONS_ALLOWED = 6.0  # standard deviations of a random counter: probability 2e-9, two-sided
# A finding names the values of so many arms at most; of more, the least and the most.
MOST_LISTED = 6
# The name of a quantity in findings -> its key in a record.
PARAMETERS = {"parameters": "total", "parameters_non_embedding": "non_embedding"}


@dataclass(frozen=True)
class Expected:
    """The expected value of a counter: exactly `mean` when `deviation` is 0, else within 6 standard deviations of `mean`."""

    mean: float
    deviation: float = 0.0

    def allows(self, value: float) -> bool:
        # A relative error of 1e-9 is allowed, because the number of passes is a sum of fractions.
        return abs(value - self.mean) <= DEVIATIONS_ALLOWED * self.deviation + 1e-9 * max(1.0, abs(self.mean))

    def times(self, factor: float) -> Expected:
        """The expected value of this counter multiplied by a factor."""
        return Expected(self.mean * factor, self.deviation * factor)

    def __str__(self) -> str:
        return f"{self.mean:.12g}" + (f" +- {self.deviation:.4g}" if self.deviation else "")


@dataclass(frozen=True)
class RunBudget:
    """The costs that one run recorded.

    Attributes:
        outcome: how the run ended: `done`, or another outcome such as `failed`.
        counters: the counters window_tokens, tokens_read, tokens_scored, tokens_scored_ltr, tokens_scored_rtl, passes, train_flops,
            optimizer_steps, evaluations, by name.
        parameters: the numbers of parameters `total` and `non_embedding`.
        expected: the counters that the spec implies, computed by `expected_counters`.
        seconds: the seconds of training, which C5 lists but does not judge.
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
    def name(self) -> str:
        """The name of the run: arm, scale and seed in one word."""
        return f"{self.arm}/{self.scale}/{self.seed}"

    @property
    def values(self) -> dict[str, float]:
        """The quantities of the run that C5 compares between arms, by name."""
        values = {name: float(self.parameters[key]) for name, key in PARAMETERS.items() if key in self.parameters}
        values |= {name: float(value) for name in COMPARED_COUNTERS if (value := self.counters.get(name)) is not None}
        return values | ({"seconds": self.seconds} if self.seconds is not None else {})


@dataclass(frozen=True)
class Tuning:
    """The tuning of an arm's settings: the number of trials, and the number of tokens that all trials read together."""

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
    """Run all checks of C5 on the runs of one experiment.

    Args:
        runs: all records of the experiment, also those of failed runs.
        equal: the name of the cost that the experiment declares equal.
        planned: the (arm, scale, seed) of every run that the spec asks for; default: every arm with every pair of scale and seed
            that some run has.
        tuning: the tuning of each arm by the arm's name; an arm without an entry had one trial.
        model_differs_on_purpose: whether some arm changes the model on purpose. C5 then lists the numbers of parameters, but does
            not judge them.
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
    """C5.runs: every planned run left a record, and every arm has the same seeds.

    The message also names runs that did not end as `done`.
    """
    grid = {(arm, run.scale, run.seed) for arm in {run.arm for run in runs} for run in runs}
    planned_runs = grid if planned is None else set(planned)
    missing = sorted(planned_runs - {(run.arm, run.scale, run.seed) for run in runs})
    unfinished = [f"{run.name} {run.outcome}" for run in runs if run.outcome != "done"]
    message = f"{len(planned_runs) - len(missing)} of {len(planned_runs)} planned runs left a record"
    if missing:
        message += "; missing " + ", ".join("/".join(map(str, run)) for run in missing[:5])
    if unfinished:
        message += "; not finished: " + ", ".join(unfinished[:5])
    return finding(
        "C5.runs",
        outcome_of(wrong=missing, can_tell=planned_runs and not unfinished),
        message,
        {"missing_runs": len(missing), "planned_runs": len(planned_runs), "unfinished_runs": len(unfinished)},
        0.0,
    )


def check_counters(runs: Sequence[RunBudget]) -> Finding:
    """C5.counters: the recorded counters equal the counters that the spec implies.

    For example, a run whose rtl pass has probability 0 scores no rtl token, and no run scores more tokens than it reads.
    """
    done = [run for run in runs if run.outcome == "done"]
    compared = [(run, name) for run in done for name in run.expected if name in run.counters]
    wrong = [problem for run in done for problem in _unbalanced(run)]
    wrong += [
        f"{run.name} {name} is {run.counters[name]:.12g}, expected {run.expected[name]}"
        for run, name in compared
        if not run.expected[name].allows(run.counters[name])
    ]
    return finding(
        "C5.counters",
        outcome_of(wrong=wrong, can_tell=compared),
        "; ".join(wrong[:3]) or f"{len(compared)} counters of {len(done)} runs are those their specs imply",
        {"counters_wrong": len(wrong), "counters_compared": len(compared)},
        0.0,
    )


def _unbalanced(run: RunBudget) -> list[str]:
    """The counters of one run that contradict each other: a scored token must have been read, and its pass must be counted."""
    counters = run.counters
    by_pass = [counters.get(f"tokens_scored_{name}", 0.0) for name in ("ltr", "rtl")]
    scored, read = counters.get("tokens_scored"), counters.get("tokens_read")
    wrong = []
    if scored is not None and read is not None and scored > read:
        wrong.append(
            f"{run.name} scored {scored:.12g} tokens and read only {read:.12g}: some pass is read and not counted"
        )
    if scored is not None and sum(by_pass) > scored:
        wrong.append(f"{run.name} scored {sum(by_pass):.12g} tokens ltr and rtl, and {scored:.12g} in all")
    return wrong


def check_declared_axis(runs: Sequence[RunBudget], equal: ParityAxis) -> Finding:
    """C5.declared_axis: the cost that the spec declares equal matches between arms to 0.1 % at every scale."""
    return _compared(runs, (equal,), EQUAL_WITHIN, "C5.declared_axis")


def check_parameters(runs: Sequence[RunBudget], *, judged: bool = True) -> Finding:
    """C5.parameters: total and non-embedding parameters match to 1 %.

    If `judged` is False, the check names a difference but passes.
    """
    result = _compared(runs, tuple(PARAMETERS), REMARKED_ABOVE, "C5.parameters")
    if judged or result.outcome != "fail":
        return result
    return result.with_(outcome="pass", message=f"{result.message} (the arms change the model on purpose)")


def check_selection(runs: Sequence[RunBudget], tuning: Mapping[str, Tuning]) -> Finding:
    """C5.selection: all arms had the same number of tuning trials, of tuning tokens and of evaluations."""
    arms = sorted({run.arm for run in runs} | set(tuning))
    trials = {arm: tuning.get(arm, Tuning()).trials for arm in arms}
    tokens = {arm: tuning.get(arm, Tuning()).tokens_read for arm in arms}
    unequal = []
    if len(set(trials.values())) > 1:
        unequal.append("tuning trials " + _listed(trials))
    if _spread(tokens.values()) > REMARKED_ABOVE:
        unequal.append("tokens read in tuning " + _from_to(tokens))
    unequal += _unequal_evaluations(runs)
    equal = f"{len(arms)} arms had {max(trials.values(), default=0)} trials each and equal evaluations"
    return finding(
        "C5.selection",
        outcome_of(wrong=unequal, can_tell=len(arms) > 1),
        "; ".join(unequal) or equal,
        {"unequal": len(unequal), "arms": len(arms)} | {f"trials_{arm}": count for arm, count in trials.items()},
        0.0,
    )


def _unequal_evaluations(runs: Sequence[RunBudget]) -> list[str]:
    """Texts with the number of evaluations of each arm, if arms differ in it. Scales with the same numbers share one text."""
    by_line: dict[str, list[str]] = {}
    scales = list(dict.fromkeys(run.scale for run in runs))
    for scale in scales:
        counts: dict[str, set[float]] = {}
        for run in runs:
            if run.scale == scale and run.outcome == "done" and run.counters.get("evaluations") is not None:
                counts.setdefault(run.arm, set()).add(run.counters["evaluations"])
        if len(set().union(*counts.values())) > 1:
            arms = [f"{arm} {' or '.join(f'{count:g}' for count in sorted(some))}" for arm, some in counts.items()]
            by_line.setdefault(", ".join(arms), []).append(scale)
    return [
        f"evaluations {line}" + (f" at {', '.join(at)}" if len(at) < len(scales) else "")
        for line, at in by_line.items()
    ]


def list_differences(runs: Sequence[RunBudget], equal: ParityAxis) -> Finding:
    """C5.differences: list every other quantity that differs by more than 1 %. This check judges nothing and always passes."""
    listed: dict[str, float] = {}
    ends = []
    for scale, means in _means(runs).items():
        for name in dict.fromkeys(name for values in means.values() for name in values if name != equal):
            values = {arm: quantities[name] for arm, quantities in means.items() if name in quantities}
            if (spread := _spread(values.values())) > REMARKED_ABOVE:
                listed[f"{name}_{scale}_relative"] = spread
                least, most = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
                ends.append(f"{name} at {scale}: {values[least]:.5g} ({least}) to {values[most]:.5g} ({most})")
    differences = "; ".join(ends)
    return finding(
        "C5.differences",
        "pass",
        f"the arms also differ in {differences}" if differences else "nothing else differs by more than 1 %",
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
) -> dict[str, Expected]:
    """The counters that the spec of a run implies.

    Args:
        steps: the number of optimizer steps.
        batch_windows: the number of windows in each step.
        window_tokens: the number of tokens of a window.
        slots: the number of slots of one pass over a window.
        scored: the number of scored targets of one pass over a window.
        passes_per_window: the probability of each pass at every step, by the pass's name (for the objective `both`: ltr 1, rtl p;
            for `choose`: ltr 1 - p, rtl p). With probabilities of 0 and 1 the counters are exact. With any other probability, the
            deviation is computed for one random choice per batch: more choices give a smaller deviation.
    """
    windows = steps * batch_windows
    totals = [sum(step) for step in zip(*passes_per_window.values(), strict=True)]
    together = _windows_read(totals, batch_windows)
    scored_by_pass = {
        f"tokens_scored_{name}": _windows_read(shares, batch_windows).times(scored)
        for name, shares in passes_per_window.items()
    }
    return {
        "optimizer_steps": Expected(steps),
        "window_tokens": Expected(windows * window_tokens),
        "tokens_read": together.times(slots),
        "tokens_scored": together.times(scored),
        "passes": Expected(together.mean / batch_windows, together.deviation / batch_windows),
        "tokens_scored_ltr": Expected(0),
        "tokens_scored_rtl": Expected(0),
        **scored_by_pass,
    }


def added_up(phases: Sequence[Mapping[str, Expected]]) -> dict[str, Expected]:
    """The counters of a run, from the counters of its phases. Phases are independent: means are added, and so are variances."""
    return {
        name: Expected(
            sum(phase[name].mean for phase in phases), math.hypot(*(phase[name].deviation for phase in phases))
        )
        for name in phases[0]
    }


def _windows_read(shares: Sequence[float], batch_windows: int) -> Expected:
    """The number of windows read.

    A share of 1.25 means one certain pass, and one pass that each step makes with probability 0.25.
    """
    variance = sum(batch_windows**2 * (share % 1) * (1 - share % 1) for share in shares)
    return Expected(sum(shares) * batch_windows, math.sqrt(variance))


def _compared(runs: Sequence[RunBudget], names: Sequence[str], tolerance: float, check: str) -> Finding:
    """Compare arms on some quantities at every scale. A single arm, or an arm without the number, cannot be compared."""
    worst, place, compared, lacking = 0.0, "", 0, []
    for scale, means in _means(runs).items():
        for name in names:
            values = {arm: quantities[name] for arm, quantities in means.items() if name in quantities}
            lacking += [f"{arm} at {scale} has no {name}" for arm in means if arm not in values]
            if len(values) < 2 or max(values.values()) <= 0:
                continue  # a single arm cannot be compared
            compared += 1
            if (spread := _spread(values.values())) >= worst:
                worst, place = spread, f"{name} at scale {scale}: {_listed(values)}"
    message = f"largest difference in {place}" if compared else "fewer than two arms to compare"
    message = f"{message}; {'; '.join(lacking[:3])}" if lacking else message
    outcome = outcome_of(wrong=worst > tolerance, can_tell=compared and not lacking)
    return finding(check, outcome, message, {"relative_difference": worst}, tolerance)


def _means(runs: Sequence[RunBudget]) -> dict[str, dict[str, dict[str, float]]]:
    """scale -> arm -> quantity -> mean over finished runs. (Passes are drawn at random, so single seeds may differ even if the arms
    do not.)
    """
    grouped: dict[str, dict[str, list[dict[str, float]]]] = {}
    for run in runs:
        if run.outcome == "done":
            grouped.setdefault(run.scale, {}).setdefault(run.arm, []).append(run.values)
    return {scale: {arm: _mean_of_each(rows) for arm, rows in arms.items()} for scale, arms in grouped.items()}


def _mean_of_each(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every quantity that all rows contain."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if all(name in row for row in rows)}


def _spread(values: Iterable[float]) -> float:
    """(largest - smallest) / largest of the values; 0 when no two values can be compared."""
    numbers = list(values)
    largest = max(numbers, default=0.0)
    return (largest - min(numbers)) / largest if largest > 0 else 0.0


def _from_to(values: Mapping[str, float]) -> str:
    """The values of a few arms, or the arm with the least and the arm with the largest value of many."""
    if len(values) <= MOST_LISTED:
        return _listed(values)
    least, most = (end(values, key=lambda arm: values[arm]) for end in (min, max))
    return f"from {values[least]:,.12g} ({least}) to {values[most]:,.12g} ({most})"


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.12g}" for name, value in values.items())
