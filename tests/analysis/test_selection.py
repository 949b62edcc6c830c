"""The measure `selection`: what a choice on the reported split adds, against a count by hand and against the law of the maximum."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from palinode import Claim
from palinode.analysis import claim_measures
from palinode.analysis.claim_measures import Evidence, Measured, selection
from palinode.analysis.claims import judge
from palinode.analysis.intervals import Interval
from palinode.base.decision import Decision
from palinode.base.errors import BadInput
from palinode.base.seeds import derive

RATES = ("0.1", "0.2", "0.3")
CLAIM = Claim(name="S", sentence="s", measure="selection", arm="x at {}", groups=RATES, expect="above")


def measured(monkeypatch, own, test, better="higher", run=RATES):
    """The row for scores given as setting -> one score for each seed."""
    metric = "validation.own.accuracy" if better == "higher" else "validation.own.nats_per_token"
    table = {metric: own, metric.replace("validation", "test"): test}

    def scores_of(record, arm, scale, asked):
        return dict(enumerate(table[asked][arm.removeprefix("x at ")]))

    monkeypatch.setattr(claim_measures, "scores_of", scores_of)
    monkeypatch.setattr(claim_measures, "unreliable", lambda record, arms, scales: ())  # test_claims.py has audits
    entry = SimpleNamespace(scales=("base",), arms=[SimpleNamespace(name=f"x at {rate}") for rate in run])
    rule = Decision(baseline="x at 0.1", metric=metric, better=better, smallest_effect=0.02)
    [row] = selection(CLAIM, Evidence(SimpleNamespace(entry=entry), rule, None, lambda name: None))
    return row


def test_each_seed_gives_the_best_test_score_less_that_of_the_choice_by_the_other_split(monkeypatch):
    own = {"0.1": [0.9, 0.2], "0.2": [0.5, 0.3], "0.3": [0.1, 0.1]}
    test = {"0.1": [0.6, 0.2], "0.2": [0.7, 0.4], "0.3": [0.2, 0.1]}
    row = measured(monkeypatch, own, test)
    assert (row.effect, row.count) == (pytest.approx((0.7 - 0.6 + 0.0) / 2), 2)
    assert (row.scale, row.arm, row.reasons) == ("base", "x at SETTING", ())


def test_a_lower_loss_is_better(monkeypatch):
    own = {"0.1": [1.0, 1.0], "0.2": [2.0, 2.0], "0.3": [3.0, 3.0]}
    test = {"0.1": [1.5, 1.0], "0.2": [1.2, 2.0], "0.3": [3.0, 3.0]}
    assert measured(monkeypatch, own, test, better="lower").effect == pytest.approx((1.2 - 1.5) / 2)


def test_settings_that_were_not_run_are_left_out_and_a_seed_needs_all_others(monkeypatch):
    own = {"0.1": [0.9, 0.2, 0.5], "0.2": [0.5, 0.3]}
    test = {"0.1": [0.6, 0.2, 0.5], "0.2": [0.7, 0.4]}
    assert measured(monkeypatch, own, test, run=RATES[:2]).count == 2


def test_equal_settings_gain_the_expected_maximum_of_their_noise(monkeypatch):
    """The best of k scores of equal settings lies above one of them by the mean of the largest of k normal values."""
    seeds, noise = 20_000, 0.03
    draws = np.random.default_rng(derive(0, "selection")).normal(0.5, noise, (2, len(RATES), seeds))
    own, test = ({rate: list(row) for rate, row in zip(RATES, split, strict=True)} for split in draws)
    largest = stats.norm.expect(lambda x: len(RATES) * x * stats.norm.cdf(x) ** (len(RATES) - 1))
    row = measured(monkeypatch, own, test)
    assert row.effect == pytest.approx(noise * largest, abs=4 * noise / seeds**0.5)


def test_it_reads_groups_alone():
    with pytest.raises(BadInput, match="does not read this"):
        Claim(**{**CLAIM.model_dump(), "against": ("y",)})


@pytest.mark.parametrize("wrong", [{"groups": ()}, {"groups": ("0.1",)}, {"arm": "x at 0.1"}])
def test_a_choice_needs_two_settings(wrong):
    with pytest.raises(BadInput, match="two or more settings"):
        Claim(**{**CLAIM.model_dump(), **wrong})


def test_runs_without_test_scores_say_what_to_set(monkeypatch):
    row = measured(monkeypatch, {rate: [0.5] for rate in RATES}, {rate: [] for rate in RATES})
    assert (row.effect, row.reasons) == (None, (claim_measures.NO_TEST,))


@pytest.mark.parametrize(
    ("low", "high", "judgement"),
    [
        (-0.001, 0.003, "does not hold"),  # smaller than the .02 that matter
        (0.0, 0.0, "does not hold"),  # one setting was best by both splits in every seed
        (0.001, 0.003, "holds"),
        (-0.001, 0.03, "cannot tell"),
        (-0.03, 0.003, "cannot tell"),
        (-0.03, -0.001, "does not hold"),
    ],
)
def test_what_is_smaller_than_matters_does_not_hold(low, high, judgement):
    rule = Decision(baseline="x at 0.1", metric="validation.own.accuracy", better="higher", smallest_effect=0.02)
    row = Measured("base", "x at SETTING", "", (low + high) / 2, Interval(low, high), 8)
    assert judge(CLAIM, row, rule) == judgement
