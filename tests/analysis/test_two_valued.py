"""Boschloo's exact test, the counts of runs that learned a task, and the counts of runs that diverged."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, boschloo_exact, fisher_exact

from palinode.analysis.two_valued import LearnedCounts, boschloo_p, learned_counts, stability, two_valued_applies
from palinode.base.decision import Decision
from synthetic_tasks import SyntheticTask, TaskArm, make_task_store


@pytest.mark.parametrize("runs", [1, 3, 5])
def test_boschloo_is_the_largest_chance_of_a_table_with_at_most_fishers_p(runs):
    """Every table, by enumeration, with Fisher's p value of scipy."""
    counts = list(itertools.product(range(runs + 1), repeat=2))
    fisher = {(a, b): fisher_exact([[a, b], [runs - a, runs - b]])[1] for a, b in counts}

    def chance(extreme, rate):
        one = [math.comb(runs, hits) * rate**hits * (1 - rate) ** (runs - hits) for hits in range(runs + 1)]
        return math.fsum(one[a] * one[b] for a, b in extreme)

    for table in counts[:: max(1, runs - 2)]:
        extreme = [pair for pair in counts if fisher[pair] <= fisher[table] * (1 + 1e-9)]
        expected = max(chance(extreme, place / 400) for place in range(1, 401))
        assert boschloo_p(*table, runs) == pytest.approx(min(expected, 1.0), rel=1e-9)


@pytest.mark.parametrize(("hits", "other", "runs"), [(3, 0, 3), (4, 0, 5), (6, 1, 6), (7, 2, 10)])
def test_boschloo_is_that_of_scipy(hits, other, runs):
    expected = boschloo_exact([[hits, other], [runs - hits, runs - other]]).pvalue
    assert boschloo_p(hits, other, runs) == pytest.approx(expected, rel=2e-3)


def test_four_of_five_against_none_has_the_p_value_of_scipy():
    assert boschloo_p(4, 0, 5) == pytest.approx(0.021484, abs=1e-6)


def test_three_of_three_against_none_counts_and_less_does_not():
    assert boschloo_p(3, 0, 3) == pytest.approx(2 / 64)
    assert boschloo_p(2, 0, 3) > 0.05
    assert boschloo_p(2, 0, 2) > 0.05


def test_boschloo_does_not_depend_on_the_order_of_the_arms_nor_on_which_outcome_is_counted():
    for a, b in itertools.product(range(7), repeat=2):
        assert boschloo_p(a, b, 6) == pytest.approx(boschloo_p(b, a, 6))
        assert boschloo_p(a, b, 6) == pytest.approx(boschloo_p(6 - a, 6 - b, 6))


def test_equal_counts_show_nothing():
    assert [boschloo_p(hits, hits, 4) for hits in range(5)] == [1.0] * 5


@pytest.mark.parametrize("counts", [(4, 0, 3), (-1, 0, 3), (0, 0, 0)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="are no counts"):
        boschloo_p(*counts)


@pytest.mark.parametrize("runs", [2, 3, 6, 10])
@pytest.mark.parametrize("rate", [0.1, 0.333, 0.5, 0.8])
def test_equal_rates_are_told_apart_in_at_most_five_percent(runs, rate):
    chances = binom.pmf(np.arange(runs + 1), runs, rate)
    wrong = sum(
        chances[a] * chances[b]
        for a, b in itertools.product(range(runs + 1), repeat=2)
        if boschloo_p(a, b, runs) <= 0.05
    )
    assert wrong <= 0.05 + 1e-4


@pytest.mark.parametrize(("runs", "boschloo", "fisher"), [(6, 0.56, 0.27), (10, 0.81, 0.64)])
def test_the_power_at_rates_of_a_fifth_and_four_fifths(runs, boschloo, fisher):
    """The power, by enumeration, of this test and of Fisher's."""
    one, other = (binom.pmf(np.arange(runs + 1), runs, rate) for rate in (0.2, 0.8))

    def power(test):
        return sum(
            one[a] * other[b] for a, b in itertools.product(range(runs + 1), repeat=2) if test(a, b, runs) <= 0.05
        )

    assert power(boschloo_p) == pytest.approx(boschloo, abs=0.006)
    assert power(lambda a, b, n: fisher_exact([[a, b], [n - a, n - b]])[1]) == pytest.approx(fisher, abs=0.006)


@pytest.mark.parametrize(
    ("diverged", "baseline_diverged", "word"),
    [(3, 0, "diverges more often"), (0, 3, "diverges less often"), (2, 0, "no difference shown")],
)
def test_the_word_for_diverged_runs(diverged, baseline_diverged, word):
    compared = stability(diverged, 3, baseline_diverged, 3, 0.05)
    assert compared.word == word
    assert compared.p == boschloo_p(diverged, baseline_diverged, 3)


@pytest.mark.parametrize("planned", [(3, 4), (0, 0)])
def test_unequal_numbers_of_planned_runs_are_not_tested(planned):
    compared = stability(0, planned[0], 0, planned[1], 0.05)
    assert (compared.p, compared.word) == (None, "no difference shown")


def counts(learned, runs, baseline_learned, baseline_runs):
    p = boschloo_p(learned, baseline_learned, runs) if runs == baseline_runs else None
    return LearnedCounts("a", "b", 0.55, learned, runs, baseline_learned, baseline_runs, p)


@pytest.mark.parametrize(
    ("of", "applies", "outcome"),
    [
        ((3, 3, 0, 3), True, "better"),
        ((0, 3, 3, 3), True, "worse"),
        ((3, 3, 1, 3), True, "cannot tell"),
        ((3, 3, 3, 3), False, "cannot tell"),
        ((0, 3, 0, 3), False, "cannot tell"),
        ((5, 5, 0, 4), True, "cannot tell"),
    ],
)
def test_counts_are_judged_where_runs_lie_on_both_sides(of, applies, outcome):
    compared = counts(*of)
    assert two_valued_applies(compared) == applies
    assert compared.outcome(0.05) == outcome
    assert not two_valued_applies(None)


def test_the_counts_of_a_task_and_its_sentence(tmp_path):
    """Arm `all` learns vocabulary 30 at every seed; arm `answer` learns it at seed 2 alone."""
    arms = (TaskArm("all", "all"), TaskArm("answer", "answer"))
    store = make_task_store(tmp_path, SyntheticTask(arms=arms, vocabularies=(30,), seeds=(1, 2, 3)))
    record = store.experiment(store.experiments()[0].full_name)
    rule = record.entry.rule.with_(baseline="answer", metric="validation.own.accuracy", better="higher")
    found = learned_counts(record, "all", record.entry.scales[0], rule)
    assert (found.learned, found.runs, found.baseline_learned, found.baseline_runs) == (3, 3, 1, 3)
    assert two_valued_applies(found)
    assert found.sentence.startswith("3 of 3 runs of all learned the task, 1 of 3 of answer (accuracy from ")
    loss = Decision(baseline="answer", metric="validation.own.nats_per_token")
    assert learned_counts(record, "all", record.entry.scales[0], loss) is None
