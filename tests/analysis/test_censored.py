"""The exact log-rank test of steps to a criterion, some of which are censored."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import CensoredData, logrank

from palinode.analysis.censored import DRAWS, Time, compare_steps, log_rank, log_rank_p, stratified


def times(*steps, last=10_000):
    """Times of runs; a run whose steps exceed `last` is censored there."""
    return [Time(min(step, last), step <= last) for step in steps]


ONE, OTHER = times(100, 150, 200, 900, last=500), times(250, 300, 900, 900, last=500)


def by_definition(ours, theirs):
    """Observed minus expected, and the hypergeometric variance, step by step."""
    observed = variance = 0.0
    for step in sorted({time.steps for time in (*ours, *theirs) if time.reached}):
        at_risk = [sum(time.steps >= step for time in group) for group in (ours, theirs)]
        reached = [sum(time.reached and time.steps == step for time in group) for group in (ours, theirs)]
        total, events = sum(at_risk), sum(reached)
        share = at_risk[0] / total
        observed += reached[0] - events * share
        variance += events * share * (1 - share) * (total - events) / max(1, total - 1)
    return observed, variance


def censored_data(group):
    return CensoredData(
        uncensored=[time.steps for time in group if time.reached], right=[t.steps for t in group if not t.reached]
    )


@pytest.mark.parametrize(
    ("ours", "theirs"), [(ONE, OTHER), (times(1, 1, 2, 2), times(2, 3, 3, 9, last=5)), (times(5, 6), times(1, 7))]
)
def test_the_statistic_is_observed_less_expected_and_that_of_scipy(ours, theirs):
    observed, variance = by_definition(ours, theirs)
    assert log_rank(ours, theirs) == pytest.approx(observed)
    statistic = logrank(censored_data(ours), censored_data(theirs)).statistic
    assert abs(observed) / math.sqrt(variance) == pytest.approx(abs(statistic))


def test_p_is_the_share_of_all_labellings_by_enumeration():
    both = [*ONE, *OTHER]
    least = abs(by_definition(ONE, OTHER)[0])
    hits = drawn = 0
    for chosen in itertools.combinations(range(8), 4):
        ours = [both[place] for place in chosen]
        theirs = [both[place] for place in range(8) if place not in chosen]
        hits += abs(by_definition(ours, theirs)[0]) >= least - 1e-9
        drawn += 1
    assert drawn == math.comb(8, 4)
    assert log_rank_p(ONE, OTHER) == pytest.approx(hits / drawn)


def test_pairs_of_arms_are_summed_and_each_is_labelled_by_itself():
    """Against an enumeration of all labellings of two pairs: 70 times 70."""
    pairs = [(ONE, OTHER), (times(1, 1, 2, 2), times(2, 3, 3, 9, last=5))]
    sums = []
    for ours, theirs in pairs:
        both = [*ours, *theirs]
        labellings = itertools.combinations(range(8), 4)
        sums.append(
            [
                by_definition([both[i] for i in one], [both[i] for i in range(8) if i not in one])[0]
                for one in labellings
            ]
        )
    observed = sum(by_definition(*pair)[0] for pair in pairs)
    exact = np.mean(np.abs(np.add.outer(*sums)) >= abs(observed) - 1e-9)
    p, sooner = stratified(pairs)
    assert p == pytest.approx(exact, abs=0.004)  # four times the standard error of 100,000 draws at .1
    assert sooner == math.copysign(1, observed)
    assert stratified([pair[::-1] for pair in pairs]) == (pytest.approx(p, abs=0.004), -sooner)
    assert stratified([pairs[0]])[0] == pytest.approx(log_rank_p(*pairs[0]), abs=0.006)
    assert stratified([(ONE, ONE)]) == (1.0, 0)


def test_many_runs_of_a_pair_are_labelled_by_draws():
    ours, theirs = times(*range(100, 1200, 100)), times(*range(150, 1250, 100))
    assert stratified([(ours, theirs)])[0] == pytest.approx(log_rank_p(ours, theirs), abs=0.01)


def test_four_runs_can_decide_and_three_cannot():
    assert log_rank_p(times(1, 2, 3, 4), times(5, 6, 7, 8)) == pytest.approx(2 / 70)
    assert log_rank_p(times(1, 2, 3), times(5, 6, 7)) is None
    assert log_rank_p(times(1, 2, 3, 4, 5), times(6, 7, 8, 9)) is None


def test_exchanging_the_arms_changes_the_sign_alone():
    one, other = compare_steps(ONE, OTHER), compare_steps(OTHER, ONE)
    assert one.p == pytest.approx(other.p)
    assert one.ratio * other.ratio == pytest.approx(1)
    assert (one.sooner, other.sooner) == (1, -1)


def test_runs_that_never_learned_in_one_arm_alone_count_as_slower():
    never = times(9, 9, 9, 9, last=5)
    compared = compare_steps(never, times(1, 2, 2, 3))
    assert (compared.bound, compared.sooner) == (">=", -1)
    assert compared.p == pytest.approx(2 / 70)
    assert compared.ratio == pytest.approx((5**4 / 12) ** 0.25)


@pytest.mark.parametrize(
    ("ours", "theirs", "bound"),
    [
        (times(1, 2, 3, 4), times(2, 3, 4, 5), ""),
        (times(1, 2, 3, 9, last=5), times(2, 3, 4, 5), ">="),
        (times(1, 2, 3, 4), times(2, 3, 4, 9, last=5), "<="),
        (ONE, OTHER, "~"),
    ],
)
def test_a_ratio_with_censored_runs_is_a_bound(ours, theirs, bound):
    assert compare_steps(ours, theirs).bound == bound


def test_without_a_run_that_learned_there_is_no_ratio():
    never = times(9, 9, 9, 9, last=5)
    assert compare_steps(never, never).ratio is None
    assert compare_steps([], never).ratio is None
    assert compare_steps(times(5, 5, 5, 5), times(5, 5, 5, 5)) == compare_steps(times(7, 7, 7, 7), times(7, 7, 7, 7))


@pytest.mark.nightly
def test_many_runs_draw_labellings():
    """Eleven runs: the least p value of all labellings is 2/705,432, and the drawn one is at least 1/(draws + 1)."""
    one, other = times(*range(1, 12)), times(*range(20, 31))
    assert log_rank_p(one, other) == pytest.approx(1 / (1 + DRAWS), rel=3)
    mixed = log_rank_p(times(*range(1, 23, 2)), times(*range(2, 24, 2)))
    assert mixed == log_rank_p(times(*range(1, 23, 2)), times(*range(2, 24, 2)))
    assert mixed > 0.05


@pytest.mark.nightly
@pytest.mark.parametrize(("runs", "power"), [(5, 0.65), (8, 0.89)])
def test_the_power_at_a_ratio_of_four_and_the_error_at_one(runs, power):
    """Steps are lognormal with sd .77 of their logarithm; runs are censored at 8 times the faster arm's median."""
    drawn = np.random.default_rng(17)

    def rejected(ratio, draws):
        hits = 0
        for _ in range(draws):
            arms = (np.exp(drawn.normal(math.log(centre), 0.77, runs)) * 1000 for centre in (1, ratio))
            hits += log_rank_p(*(times(*map(round, steps), last=8000) for steps in arms)) <= 0.05
        return hits / draws

    assert rejected(4, 1500) == pytest.approx(power, abs=0.045)
    assert rejected(1, 1500) <= 0.065
