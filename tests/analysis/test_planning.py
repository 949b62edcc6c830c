"""The noise that plans use, the effects that seeds show, and the deviations from a sealed plan."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from palinode.analysis.deviations import deviations, rule_was_fixed
from palinode.analysis.family import Estimate
from palinode.analysis.intervals import power, seeds_needed
from palinode.analysis.planning import (
    Likeness,
    data_key,
    family_confidence,
    noise_in,
    planning_factor,
    pooled,
    smallest_effect_seen,
)
from palinode.results.seals import Look, LookOutcome, Seal
from synthetic_store import Synthetic, SyntheticArm, make_store

METRIC = "validation.ltr.nats_per_token"


@pytest.mark.parametrize(("seeds", "effect"), [(2, 11.6), (3, 3.26), (5, 1.68), (10, 1.00)])
def test_the_smallest_effect_is_the_one_of_the_noncentral_t(seeds, effect):
    seen = smallest_effect_seen(seeds, 0.95)
    assert seen == pytest.approx(effect, rel=0.01)
    bound = stats.t.ppf(0.975, seeds - 1)
    assert stats.nct.sf(bound, seeds - 1, seen * math.sqrt(seeds)) == pytest.approx(0.8, abs=1e-4)
    assert seeds_needed(seen * 1.001, 1.0, 0.95) == seeds
    assert seeds_needed(seen * 0.99, 1.0, 0.95) == seeds + 1


@pytest.mark.parametrize("comparisons", [1, 2, 3, 6, 12, 24, 100, 1000])
def test_the_smallest_effect_has_the_power_with_every_number_of_seeds_and_comparisons(comparisons):
    """Once 8 seeds showed 0.334 where two comparisons of 8 seeds showed 0.0257: one probability on the way was nan."""
    confidence = family_confidence(0.95, comparisons)
    seen = [smallest_effect_seen(seeds, confidence) for seeds in range(2, 61)]
    for seeds, effect in enumerate(seen, 2):
        bound = stats.t.ppf((1 + confidence) / 2, seeds - 1)
        assert stats.nct.sf(bound, seeds - 1, effect * math.sqrt(seeds)) == pytest.approx(0.8, abs=1e-5)
    assert all(more < fewer for fewer, more in pairwise(seen))


@settings(max_examples=300, deadline=None)
@given(st.integers(2, 3000), st.floats(-4, -0.5), st.floats(-1, 3))
def test_power_is_a_probability_for_every_effect(count, exponent, exponent_of_effect):
    confidence, effect = 1 - 10**exponent, 10**exponent_of_effect
    bound = stats.t.ppf((1 + confidence) / 2, count - 1)
    expected = stats.nct.sf(bound, count - 1, effect * math.sqrt(count))
    assert power(effect, count, confidence) == pytest.approx(expected, abs=1e-6)


def test_one_seed_shows_nothing_and_a_family_shows_less():
    assert smallest_effect_seen(1, 0.95) is None
    assert family_confidence(0.95, 24) == pytest.approx(1 - 0.05 / 24)
    assert smallest_effect_seen(5, family_confidence(0.95, 24)) > 2 * smallest_effect_seen(5, 0.95)


@pytest.mark.parametrize(("degrees", "factor"), [(2, 2.12), (4, 1.56), (8, 1.32), (16, 1.20), (48, 1.10)])
def test_the_planned_deviation_is_the_upper_end_of_its_interval(degrees, factor):
    assert planning_factor(degrees) == pytest.approx(factor, abs=0.005)
    assert planning_factor(degrees) == pytest.approx(math.sqrt(degrees / stats.chi2.ppf(0.2, degrees)))


def test_plans_with_the_observed_deviation_promise_too_much_power():
    """Plans for an effect of 1 sd from a pilot of 3 seeds: the share that has less than 80 % of power."""
    drawn = np.random.default_rng(1).standard_normal((4000, 3)).std(axis=1, ddof=1)
    needed = seeds_needed(1.0, 1.0, 0.95)
    short = {
        factor: np.mean([(seeds_needed(1.0, float(one) * factor, 0.95) or math.inf) < needed for one in drawn])
        for factor in (1.0, planning_factor(2))
    }
    plain, planned = short.values()
    assert plain == pytest.approx(0.59, abs=0.04)
    assert planned == pytest.approx(0.17, abs=0.04)


def test_variances_are_pooled_by_their_degrees_of_freedom():
    assert pooled([]) is None
    assert pooled([Estimate(1.0, 2.0), Estimate(4.0, 6.0)]) == Estimate(pytest.approx(3.25), 8.0)


def test_the_noise_is_that_of_the_paired_differences_and_no_run_counts_twice(tmp_path):
    store = make_store(tmp_path, Synthetic(seeds=tuple(range(8))))
    record = store.experiment("demo")
    noise = noise_in([record, record], Likeness(METRIC))
    scores = {
        arm: [run.result.score(METRIC) for run in record.finished(arm, "base")] for arm in ("ltr", "both")
    }  # the third arm is meant to leak
    differences = np.array(scores["both"]) - np.array(scores["ltr"])
    assert noise.deviation == pytest.approx(differences.std(ddof=1))
    assert noise.degrees == 7
    assert noise.source == ("demo--laptop",)
    assert noise.planned == pytest.approx(noise.deviation * planning_factor(7))


def test_only_runs_that_are_like_the_planned_ones_count(tmp_path):
    record = make_store(tmp_path, Synthetic()).experiment("demo")
    first = record.finished()[0]
    spec, parameters = first.record.spec, first.result.parameters["total"]
    like = Likeness(METRIC, data_key(spec["data"]), spec["recipe"].get("kind"), float(parameters))
    assert noise_in([record], like) is not None
    assert noise_in([record], like._replace(parameters=3.9 * parameters)) is not None
    for other in (
        {"parameters": 4.1 * parameters},
        {"recipe": "muon"},
        {"data": "other"},
        {"metric": "test.ltr.accuracy"},
    ):
        assert noise_in([record], like._replace(**other)) is None


def test_arms_that_were_never_trained_on_the_metric_say_nothing_about_its_noise(tmp_path):
    both = (SyntheticArm("ltr"), SyntheticArm("both"))
    store = make_store(tmp_path / "three", Synthetic(arms=(*both, SyntheticArm("wild", rtl="honest"))))
    for run in store.entry("demo").runs:
        if run.arm == "wild":
            result = store.record(run.run_id).result
            store.write_result(result.with_(counters={**result.counters, "tokens_scored_ltr": 0}))
    two = make_store(tmp_path / "two", Synthetic(arms=both))
    noise = [noise_in([one.experiment("demo")], Likeness(METRIC)) for one in (store, two)]
    assert noise[0] == noise[1]


def seal(record, **changes) -> Seal:
    settings = {arm.name: dict.fromkeys(record.entry.scales, "a") for arm in record.entry.arms}
    fields = {"number": 1, "created": "", "decision": dict(record.entry.decision), "seeds": record.entry.seeds}
    return Seal(**(fields | {"settings": settings} | changes))


def test_every_deviation_from_the_first_seal_is_a_line(tmp_path):
    record = make_store(tmp_path, Synthetic(seeds=(1, 2, 3, 4))).experiment("demo")
    run_ids = tuple(run.run_id for run in record.entry.runs)
    look = Look(
        seeds=(1, 2, 3), outcomes=(LookOutcome(arm="both", scale="base", outcome="cannot tell"),), runs=run_ids[:3]
    )
    assert deviations(record, [], [look]) == ()
    assert deviations(record, [seal(record)], []) == ()
    grown = seal(record, seeds=(1, 2, 3))
    assert deviations(record, [grown], [look]) == ("seed 4 was added after 1 look",)
    assert deviations(record, [grown], []) == ("seed 4 was added before any recorded look",)
    others = look.with_(runs=("another",))  # a look at other settings under the same name
    assert deviations(record, [grown], [others]) == ("seed 4 was added before any recorded look",)
    dropped = seal(record, seeds=(1, 2, 3, 4, 5, 6), settings={"gone": {"base": "a", "large": "a"}})
    assert deviations(record, [dropped], []) == (
        "seeds 5, 6 of the sealed plan were dropped",
        "arm gone of the sealed plan was dropped",
        "scale large of the sealed plan was dropped",
    )
    first = seal(record, decision={**record.entry.decision, "smallest_effect": 0.5}, runs_ended=2)
    second = seal(record, number=2, settings={"both": {"base": "b"}}, code={"user:X": "b"})
    assert deviations(record, [first, second], []) == (
        "2 runs had ended before the plan was sealed",
        "decision.smallest_effect was 0.5 in the sealed plan, and is now 0.01",
        "the settings of both at base were changed in seal 2, when no run had ended",
        "the code was changed in seal 2, when no run had ended",
    )
    assert [rule_was_fixed(record, seals) for seals in ([first], [], [seal(record)])] == [False, False, True]


def test_a_change_of_every_arm_and_of_a_published_number_is_told_as_such(tmp_path):
    record = make_store(tmp_path, Synthetic(seeds=(1, 2))).experiment("demo")
    planned = {"name": "A", "bound": 0.0, "published": 0.1}
    other = {"name": "B", "bound": 0.0}
    every = {arm.name: {"base": "b"} for arm in record.entry.arms}
    first = seal(record, claims=(planned, other))
    second = seal(
        record,
        number=2,
        runs_ended=3,
        settings=every,
        claims=({**planned, "published": 0.2, "published_of": 3.0}, {**other, "bound": 0.5}, {"name": "C"}),
    )
    assert deviations(record, [first, second], []) == (
        "the settings of every arm were changed in seal 2, when 3 runs had ended",
        "the claims A (the published number alone), B, C were changed in seal 2, when 3 runs had ended",
    )
