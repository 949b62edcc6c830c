"""C5: arithmetic on records. Equal arms pass; a rounded width, a rare rtl pass, extra trials and missing runs are named."""

from dataclasses import replace

import numpy as np
import pytest

from palinode.checks.budget import (
    Expected,
    RunBudget,
    Tuning,
    check_budget,
    check_counters,
    check_declared_axis,
    check_parameters,
    check_runs_complete,
    check_selection,
    expected_counters,
    list_differences,
)

STEPS, BATCH, WINDOW = 3000, 12, 64
LTR_COUNTERS = {
    "optimizer_steps": STEPS,
    "window_tokens": STEPS * BATCH * WINDOW,
    "tokens_read": STEPS * BATCH * WINDOW,
    "tokens_scored": STEPS * BATCH * WINDOW,
    "tokens_scored_ltr": STEPS * BATCH * WINDOW,
    "tokens_scored_rtl": 0,
    "passes": float(STEPS),
    "train_flops": 1e12,
    "evaluations": 4,
}
SIZES = {"total": 1_000_000, "non_embedding": 800_000}


def spec_counters(p, steps=STEPS):
    shares = {"ltr": [1.0] * steps, "rtl": [p] * steps}
    return expected_counters(
        steps=steps, batch_windows=BATCH, window_tokens=WINDOW, slots=WINDOW, scored=WINDOW, passes_per_window=shares
    )


def with_rtl_batches(count, steps=STEPS):
    """What a run of both(p) counts when `count` of its batches were also read rtl."""
    rtl = count * BATCH * WINDOW
    counters = {name: value * steps / STEPS for name, value in LTR_COUNTERS.items()} | {"evaluations": 4}
    return counters | {
        "tokens_read": counters["tokens_read"] + rtl,
        "tokens_scored": counters["tokens_scored"] + rtl,
        "tokens_scored_rtl": rtl,
        "passes": steps + count,
    }


def run(arm, seed=0, scale="base", **changes):
    made = RunBudget(arm, scale, seed, counters=LTR_COUNTERS, parameters=SIZES, expected=spec_counters(0.0))
    return replace(made, **changes)


def arms(**changes_of_b):
    return [run("a", seed) for seed in range(3)] + [run("b", seed, **changes_of_b) for seed in range(3)]


def outcome_of(findings):
    return {finding.check.removeprefix("C5."): finding.outcome for finding in findings}


def test_equal_arms_pass_everything():
    findings = check_budget(arms(), equal="tokens_read")
    assert outcome_of(findings) == dict.fromkeys(
        ("runs", "counters", "declared_axis", "parameters", "selection", "differences"), "pass"
    )


def test_m34_p_zero_that_draws_rtl_once_in_a_thousand():
    """The published `randint(0, 1000) / 1000 <= p` fires at p = 0: 3 passes in 3000 batches, and even 1 is wrong."""
    draws = np.random.default_rng(0).integers(0, 1001, STEPS) / 1000
    for fired in (int((draws <= 0).sum()) or 3, 1):
        finding = check_counters([run("p0", counters=with_rtl_batches(fired))])
        assert finding.outcome == "fail"
        assert "p0/base/0" in finding.message
        assert finding.numbers["counters_wrong"] == 4  # read, scored, scored rtl, passes
    assert check_counters([run("p0", counters=with_rtl_batches(0))]).outcome == "pass"


@pytest.mark.parametrize("p", [0.05, 0.5, 1.0])
def test_random_p_is_allowed_its_spread_and_no_more(p):
    expected = spec_counters(p)
    spread = (STEPS * p * (1 - p)) ** 0.5
    for count, outcome in (
        (round(STEPS * p), "pass"),
        (round(STEPS * p - 5 * spread), "pass"),
        (round(STEPS * p - 7 * spread) - 1, "fail"),
    ):
        finding = check_counters([run("both", counters=with_rtl_batches(count), expected=expected)])
        assert (count, finding.outcome) == (count, outcome)


def test_choose_reads_exactly_one_pass():
    shares = {"ltr": [0.7] * 10, "rtl": [0.3] * 10}
    expected = expected_counters(
        steps=10, batch_windows=4, window_tokens=8, slots=8, scored=8, passes_per_window=shares
    )
    assert expected["tokens_read"].mean == pytest.approx(320)
    assert expected["tokens_read"].deviation < 1e-3
    assert expected["tokens_scored_rtl"].mean == pytest.approx(96)
    assert expected["tokens_scored_rtl"].deviation == pytest.approx((10 * 16 * 0.21) ** 0.5 * 8)
    assert expected["passes"] == Expected(pytest.approx(10), pytest.approx(0, abs=1e-3))


def test_rtl_passes_count_on_the_declared_axis():
    """At equal steps both(.05) reads 5 % more tokens: not equal, and its ltr tokens are."""
    both = arms(counters=with_rtl_batches(150))
    finding = check_declared_axis(both, "tokens_read")
    assert finding.outcome == "fail"
    assert finding.numbers["relative_difference"] == pytest.approx(0.05 / 1.05)
    assert check_declared_axis(both, "tokens_scored_ltr").outcome == "pass"


def test_declared_axis_matches_to_a_thousandth():
    near = {**LTR_COUNTERS, "tokens_read": LTR_COUNTERS["tokens_read"] * 1.0009}
    far = {**LTR_COUNTERS, "tokens_read": LTR_COUNTERS["tokens_read"] * 1.0012}
    assert check_declared_axis(arms(counters=near), "tokens_read").outcome == "pass"
    assert check_declared_axis(arms(counters=far), "tokens_read").outcome == "fail"


def test_a_scale_is_compared_with_itself_only():
    large = {name: 4 * value for name, value in LTR_COUNTERS.items()}
    runs = [run(arm, scale=scale, counters=c) for arm in "ab" for scale, c in (("s", LTR_COUNTERS), ("l", large))]
    assert check_declared_axis(runs, "tokens_read").outcome == "pass"
    runs[-1] = replace(runs[-1], counters=LTR_COUNTERS)
    finding = check_declared_axis(runs, "tokens_read")
    assert (finding.outcome, "scale l" in finding.message) == ("fail", True)


@pytest.mark.parametrize("axis", ["tokens_read", "nonsense"])
def test_nothing_to_compare_cannot_tell(axis):
    only = [run("a")] if axis == "tokens_read" else arms()
    assert check_declared_axis(only, axis).outcome == "could_not_tell"
    lacking = arms(counters={"window_tokens": 1.0})
    assert check_declared_axis(lacking, "tokens_read").outcome == "could_not_tell"


def test_m46_an_arm_five_percent_wider():
    wider = {"total": 1_050_000, "non_embedding": 845_000}
    finding = check_parameters(arms(parameters=wider))
    assert finding.outcome == "fail"
    assert "b 845000" in finding.message
    assert check_parameters(arms(parameters={"total": 1_005_000, "non_embedding": 804_000})).outcome == "pass"
    assert outcome_of(check_budget(arms(parameters=wider), equal="tokens_read"))["parameters"] == "fail"


def test_a_change_of_model_on_purpose_is_listed():
    wider = arms(parameters={"total": 1_050_000, "non_embedding": 845_000})
    findings = check_budget(wider, equal="tokens_read", model_differs_on_purpose=True)
    assert outcome_of(findings)["parameters"] == "pass"
    differences = next(finding for finding in findings if finding.check == "C5.differences")
    assert differences.numbers["parameters_base_relative"] == pytest.approx(0.05 / 1.05)
    again = check_budget(wider, equal="parameters", model_differs_on_purpose=True)
    assert outcome_of(again)["parameters"] == outcome_of(again)["declared_axis"] == "fail"


def test_m47_five_learning_rates_against_one():
    finding = check_selection(arms(), {"a": Tuning(5, 5e9), "b": Tuning(1, 1e9)})
    assert finding.outcome == "fail"
    assert "a 5, b 1" in finding.message
    assert check_selection(arms(), {"a": Tuning(5, 5e9), "b": Tuning(5, 5e9)}).outcome == "pass"
    assert check_selection(arms(), {"a": Tuning(5, 5e9), "b": Tuning(5, 9e9)}).outcome == "fail"  # same trials, longer
    assert check_selection(arms(), {"a": Tuning(5)}).outcome == "fail"  # b was never tuned


def test_more_looks_at_the_validation_split_fail():
    finding = check_selection(arms(counters={**LTR_COUNTERS, "evaluations": 9}), {})
    assert finding.outcome == "fail"
    counts = {count for run in arms() for count in [run.counters.get("evaluations")] if count is not None}
    assert len(counts) == 1
    assert finding.message == f"evaluations a {counts.pop():g}, b 9"


def test_unequal_looks_at_several_scales_are_told_once():
    runs = [
        replace(one, scale=scale)
        for scale in ("small", "large")
        for one in arms(counters={**LTR_COUNTERS, "evaluations": 9})
    ]
    assert check_selection(runs, {}).message.count("evaluations") == 1


def test_m48_a_diverged_run_that_left_no_record():
    planned = [(arm, "base", seed) for arm in "ab" for seed in range(3)]
    kept = [budget for budget in arms() if (budget.arm, budget.seed) != ("b", 1)]
    for plan in (planned, None):  # the plan, or the seeds of the other arms
        finding = check_runs_complete(kept, plan)
        assert finding.outcome == "fail"
        assert "b/base/1" in finding.message
    assert check_runs_complete(arms(), planned).outcome == "pass"


def test_a_whole_arm_may_be_missing():
    assert check_runs_complete([run("a")], [("a", "base", 0), ("b", "base", 0)]).outcome == "fail"


def test_a_recorded_divergence_is_told_but_not_hidden():
    runs = arms()
    runs[1] = replace(runs[1], outcome="diverged", counters={"tokens_read": 1.0})
    finding = check_runs_complete(runs)
    assert (finding.outcome, "a/base/1 diverged" in finding.message) == ("could_not_tell", True)
    assert check_declared_axis(runs, "tokens_read").outcome == "pass"  # its half budget is not compared


def test_every_other_difference_above_a_percent_is_listed():
    counters = {**LTR_COUNTERS, "train_flops": 1.3e12, "tokens_scored": LTR_COUNTERS["tokens_scored"] * 1.005}
    finding = list_differences(arms(counters=counters, seconds=5.0), "tokens_read")
    assert list(finding.numbers) == ["train_flops_base_relative"]
    assert "train_flops at base: 1e+12 (a) to 1.3e+12 (b)" in finding.message
