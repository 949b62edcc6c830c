"""What an interval allows to say of a claim, and what keeps a claim from being judged."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from palinode import Claim
from palinode.analysis.claim_measures import (
    ALL_SCALES,
    AT_THE_CEILING,
    MEASURES,
    NOTHING_LEARNED,
    NOTHING_TAUGHT,
    ONE_GROUP,
    UNEQUAL_COUNTS,
    Evidence,
    Measured,
    over_seeds,
    width_less_depth,
)
from palinode.analysis.claims import (
    COUNTS_UNDECIDED,
    NOT_SHOWN,
    OTHER_BOUND,
    UNDECIDED,
    JudgedClaim,
    Needed,
    _of_all,
    judge,
    judged_claims,
)
from palinode.analysis.compare import compare
from palinode.analysis.intervals import LEAST_PAIRS, Interval, rank_correlation_p, t_interval
from palinode.analysis.reliability import NO_SPREAD, goal_cautions
from palinode.analysis.runs_needed import of_counts, of_p
from palinode.analysis.sizes import ScaleSize
from palinode.analysis.two_valued import boschloo_p
from palinode.analysis.verdict import verdicts
from palinode.base.decision import CLAIM_MEASURES, Decision
from palinode.base.errors import BadInput
from palinode.report.findings import findings, page_text
from palinode.results.record import ChoiceEntry
from palinode.spec.load import load
from synthetic_store import Synthetic, SyntheticArm, add_terms, make_store
from synthetic_tasks import SyntheticTask, TaskArm, make_task_store

RULE = Decision(baseline="ltr", smallest_effect=0.02)
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot tell"


def claim(**fields):
    return Claim(**{"name": "C", "sentence": "s", "measure": "context", "arm": "rtl", "expect": "above", **fields})


def row(low, high, **fields):
    interval = None if low is None else Interval(low, high)
    return Measured("512", "rtl", "ltr", 0.0, interval, 3, **fields)


def test_every_measure_is_in_both_tables_and_on_the_page():
    assert MEASURES.keys() == CLAIM_MEASURES.keys()
    page = (Path(__file__).parents[2] / "docs" / "experiment.md").read_text()
    assert [name for name in MEASURES if f"| `{name}` | " not in page] == []


@pytest.mark.parametrize(
    ("expect", "bound", "low", "high", "judgement"),
    [
        ("above", 0.0, 0.004, 0.012, HOLDS),
        ("above", 0.0, -0.004, 0.012, OPEN),
        ("above", 0.0, -0.04, -0.01, FAILS),
        ("above", 0.0, None, None, OPEN),
        ("below", 1.0, 0.4, 0.9, HOLDS),
        ("below", 1.0, 1.1, 2.0, FAILS),
        ("below", 1.0, 0.9, 1.1, OPEN),
        ("within", 0.05, -0.001, 0.002, HOLDS),
        ("within", 0.05, 0.06, 0.09, FAILS),
        ("within", 0.05, 0.01, 0.09, OPEN),
        ("within", 0.05, -0.9, -0.7, FAILS),
    ],
)
def test_a_bound_judges_the_whole_interval(expect, bound, low, high, judgement):
    assert judge(claim(expect=expect, bound=bound), row(low, high), RULE) == judgement
    against = row(low, high, reasons=("ltr failed its audit: C1.flow",))
    assert judge(claim(expect=expect, bound=bound), against, RULE) == OPEN


@pytest.mark.parametrize(
    ("expect", "outcome", "judgement"),
    [
        ("better", "better", HOLDS),
        ("better", "smaller than matters", FAILS),
        ("better", "worse", FAILS),
        ("better", "cannot tell", OPEN),
        ("not worse", "better", HOLDS),
        ("not worse", "smaller than matters", HOLDS),
        ("not worse", "not worse", HOLDS),
        ("not worse", "worse", FAILS),
        ("not worse", "cannot tell", OPEN),
    ],
)
def test_the_decision_rule_judges_differences(expect, outcome, judgement):
    compared = claim(measure="difference", against=("ltr",), expect=expect)
    assert judge(compared, row(-1, 1, outcome=outcome), RULE) == judgement


def test_a_claim_on_all_rows_holds_where_every_row_does():
    def of_all(*judgements):
        rows = [JudgedClaim(claim(), row(0.0, 1.0), judgement, None, "") for judgement in judgements]
        return _of_all(claim(), rows).judgement

    assert [of_all(HOLDS, HOLDS), of_all(HOLDS, OPEN), of_all(OPEN, FAILS)] == [HOLDS, OPEN, FAILS]


def test_a_published_accuracy_agrees_where_it_differs_by_at_most_the_half_width():
    rule = Decision(baseline="b", metric="validation.own.accuracy", better="higher", smallest_effect=0.02)
    theirs = claim(measure="score", expect="published", published={"512": 0.9})

    def judged_as(low, high, claimed=theirs):
        return judge(claimed, replace(row(low, high), effect=(low + high) / 2), rule)

    assert judged_as(0.89, 0.95) == HOLDS
    assert judged_as(0.91, 0.95) == FAILS, "the smallest effect that matters widens no interval"
    assert judged_as(-0.5, 1.5) == OPEN, "an interval that holds everything"
    assert judged_as(0.85, 1.5) == HOLDS, "no accuracy is above 1"
    assert judged_as(0.95, 0.97, claim(measure="score", expect="shown", published=0.9)) == "not judged"


@pytest.mark.parametrize(
    ("expect", "bound", "effect", "p", "judgement"),
    [
        ("above", 0.0, 0.8, 0.02, HOLDS),
        ("above", 0.0, -0.8, 0.02, FAILS),
        ("above", 0.0, 0.8, 0.06, OPEN),
        ("above", 0.0, 0.8, 0.05, HOLDS),
        ("below", 0.0, -0.8, 0.02, HOLDS),
        ("above", 0.5, 0.8, 0.02, OPEN),
        ("within", 0.0, 0.8, 0.02, OPEN),
    ],
)
def test_a_p_value_judges_a_claim_on_no_effect_alone(expect, bound, effect, p, judgement):
    measured = Measured(ALL_SCALES, "rtl", "ltr", effect, None, 9, p=p)
    asked = claim(expect=expect, bound=bound)
    assert judge(asked, measured, RULE) == judgement
    [reason] = JudgedClaim(asked, measured, judgement, None, "").reasons or [""]
    assert reason == ("" if judgement != OPEN else NOT_SHOWN if bound == 0 and expect == "above" else OTHER_BOUND)


@pytest.mark.parametrize(
    ("expect", "bound", "no_effect", "limits"),
    [
        ("above", 0.0, 0.0, []),
        ("below", -0.13, 0.0, [-0.13]),
        ("within", 0.02, 0.0, [-0.02, 0.02]),
        ("below", 1.0, 1.0, []),
        ("shown", 0.5, 0.0, []),
    ],
)
def test_the_figure_shows_a_bound_that_is_not_no_effect(expect, bound, no_effect, limits):
    asked = claim(measure="ratio", expect=expect, bound=bound, arm="other", against=("ltr",))
    measured = row(-0.3, -0.2, no_effect=no_effect)
    assert JudgedClaim(asked, measured, "holds", None, "", None).row()["limits"] == limits


def test_the_ratio_of_steps_is_judged_against_one():
    measured = Measured("v10", "all", "answer", 0.5, None, 5, p=0.03, no_effect=1.0)
    assert judge(claim(expect="below", bound=1.0), measured, RULE) == HOLDS
    assert judge(claim(expect="above", bound=1.0), measured, RULE) == FAILS
    assert judge(claim(expect="below", bound=0.0), measured, RULE) == OPEN


SOONER = claim(measure="steps_to_learn", arm="all", against=("answer",), expect="below", bound=1.0)


def test_steps_to_learn_count_runs_that_never_learned(tmp_path):
    """At vocabulary 30, arm `all` learns at every seed and arm `answer` at seed 2 alone; at 10 both learn at the same steps."""
    arms = (TaskArm("all"), TaskArm("answer", "answer"))
    store = make_task_store(tmp_path, SyntheticTask(arms=arms, vocabularies=(10, 30), seeds=(1, 2, 3, 4, 5)))
    easy, hard = judged(store, "recall", SOONER)
    assert (easy.judgement, easy.measured.bound) == (OPEN, "")
    assert easy.measured.effect == pytest.approx(1)
    assert (hard.judgement, hard.measured.bound, hard.measured.count) == (HOLDS, "<=", 5)
    assert hard.measured.p <= 0.05
    assert hard.measured.cautions == ("answer never came half-way in 4 of 5 seeds at v30",)


def test_steps_of_groups_allow_for_each_other_and_all_together_are_tested_in_strata(tmp_path):
    arms = tuple(TaskArm(f"{group}-causal-{labels}", labels) for group in ("h3", "gss") for labels in ("all", "answer"))
    store = make_task_store(tmp_path, SyntheticTask(arms=arms, vocabularies=(30,), seeds=(1, 2, 3, 4, 5)))
    asked = ALL_AGAINST_ANSWER.with_(measure="steps_to_learn", expect="below", bound=1.0, needs_learning=False)
    *groups, all_together = judged(store, "recall", asked)
    assert [row.measured.alpha for row in (*groups, all_together)] == pytest.approx([0.025, 0.025, 0.05])
    assert all_together.measured.group == "mean of h3, gss"
    ratios = [row.measured.effect for row in groups]
    assert all_together.measured.effect == pytest.approx(math.sqrt(ratios[0] * ratios[1]))
    assert all_together.measured.p < min(row.measured.p for row in groups) == pytest.approx(0.0476, abs=0.001)
    assert [row.judgement for row in (*groups, all_together)] == [OPEN, OPEN, HOLDS]
    needed = [row.needed.seeds for row in groups]
    assert needed == [of_p(row.measured.p, 5, 0.025) for row in groups]
    for row, seeds in zip(groups, needed, strict=True):
        assert row.reasons[0] == NOT_SHOWN
        assert row.reasons[1].startswith(f"at most about {seeds} seeds, ")
    assert "p = 0.0476 (shows an effect up to 0.025)" in page_text(findings(store, store.experiment("recall")))


def test_three_seeds_cannot_tell_who_learned_sooner(tmp_path):
    arms = (TaskArm("all"), TaskArm("answer", "answer"))
    store = make_task_store(tmp_path, SyntheticTask(arms=arms, vocabularies=(30,)))
    [one] = judged(store, "recall", SOONER)
    assert one.judgement == OPEN
    assert "the log-rank test needs 4 seeds" in one.reasons[0]


def test_a_mean_accuracy_of_runs_of_which_some_learned_is_not_judged(tmp_path):
    arms = (TaskArm("h3-causal-all"), TaskArm("h3-causal-answer", "answer"))
    store = make_task_store(tmp_path, SyntheticTask(arms=arms, vocabularies=(30,)))
    one, of_groups, score = judged(
        store,
        "recall",
        ALL_AGAINST_ANSWER,
        claim(measure="score", arm="h3-causal-answer", expect="published", published=0.5),
    )
    assert one.measured.p == boschloo_p(3, 1, 3)
    needed = of_counts(1.0, 1 / 3, 0.05)
    shown = "would show such an effect four times in five"
    assert one.reasons == [COUNTS_UNDECIDED, f"about {needed} seeds, 0.0 hours, {shown}"]
    assert "1 of 3 of h3-causal-answer" in one.measured.cautions[-1]
    for row_of_mean in (of_groups, score):
        assert "some runs learned the task and others did not" in row_of_mean.reasons[-1]
        assert row_of_mean.judgement == OPEN


def test_a_difference_says_what_became_of_the_published_one():
    compared = claim(measure="difference", against=("ltr",), expect="better", published=-0.07)
    ours = replace(row(-0.02, -0.004, outcome="better"), effect=-0.012)
    assert JudgedClaim(compared, ours, HOLDS, -0.07, "").row()["published_words"] == "real but smaller"
    open_row = replace(ours, reasons=("ltr failed its audit",))
    assert JudgedClaim(compared, open_row, OPEN, -0.07, "").published_words is None
    assert JudgedClaim(compared, ours, HOLDS, None, "").published_words is None
    assert JudgedClaim(compared.with_(expect="shown"), ours, "not judged", -0.07, "").published_words is None


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"measure": "contexts"}, "measure"),
        ({"head": "trained"}, "head"),
        ({"measure": "ratio"}, "against"),
        ({"expect": "better"}, "expect"),
        ({"measure": "difference", "against": ("rtl",), "expect": "better"}, "against"),
    ],
)
def test_a_claim_that_cannot_be_measured_is_refused(fields, field):
    with pytest.raises(Exception, match=field):
        claim(**fields)


def judged(store, name, *claims):
    entry = store.entry(name).with_(claims=claims)
    store.write_experiment(entry)
    return judged_claims(store, store.experiment(entry.full_name))


TASK_ARMS = tuple(TaskArm(f"h3-causal-{labels}", labels, "ltr", 0.0) for labels in ("all", "answer"))
ALL_AGAINST_ANSWER = Claim(
    name="R1",
    sentence="s",
    measure="difference",
    arm="{}-causal-all",
    against=("{}-causal-answer",),
    groups=("h3", "gss"),
    needs_learning=True,
)


def test_arms_that_both_know_everything_allow_no_claim_on_which_is_better(tmp_path):
    store = make_task_store(tmp_path, SyntheticTask(arms=TASK_ARMS, vocabularies=(10,)))
    decision = {**store.entry("recall").decision, "smallest_effect": 0.1}
    store.write_experiment(store.entry("recall").with_(decision=decision))
    one, of_groups = judged(store, "recall", ALL_AGAINST_ANSWER)
    assert (one.measured.group, of_groups.measured.group) == ("h3", "mean of no group"), "groups not run are left out"
    assert AT_THE_CEILING in one.measured.reasons
    assert of_groups.row()["reasons"] == one.row()["reasons"]
    assert one.judgement == of_groups.judgement == OPEN
    [as_good, _] = judged(store, "recall", ALL_AGAINST_ANSWER.with_(expect="not worse"))
    assert AT_THE_CEILING not in as_good.measured.reasons


def test_a_mean_over_groups_counts_those_whose_arms_are_equal(tmp_path):
    """Of h3, both arms differ by exactly .003 at each seed, which leaves no spread. A mean without it would be too large."""
    arms = (*TASK_ARMS, TaskArm("gss-causal-all"), TaskArm("gss-causal-answer", "answer", rate=1.0))
    store = make_task_store(tmp_path, SyntheticTask(arms=arms, vocabularies=(10,)))
    equal, other, of_groups = judged(store, "recall", ALL_AGAINST_ANSWER)
    assert NO_SPREAD in equal.measured.reasons
    assert not other.measured.reasons
    assert of_groups.measured.group == "mean of h3, gss"
    assert of_groups.measured.effect == pytest.approx((equal.measured.effect + other.measured.effect) / 2)


@pytest.mark.parametrize(("best", "judgement"), [(0.99, HOLDS), (0.13, OPEN)])
def test_a_rate_that_taught_nothing_is_no_bracket(tmp_path, best, judgement):
    """At vocabulary 30 the best guesser is right in 12 % of 1000 answers: a trial with 13 % says nothing of its rate."""
    arms = (TaskArm("all"), TaskArm("answer", "answer"))
    store = make_task_store(tmp_path, SyntheticTask(arms=arms, vocabularies=(30,), seeds=(1, 2, 3, 4, 5)))
    values = {"values": (1.0, 2.0, 4.0), "scores": (0.1, best, 0.1), "chosen": 2.0, "runs": ()}
    choice = ChoiceEntry(arm="answer", scale="v30", field="recipe.steps", **values)
    store.write_experiment(store.entry("recall").with_(choices=(choice,)))
    [one] = judged(store, "recall", SOONER.with_(needs_bracket=True))
    assert one.judgement == judgement
    assert one.reasons == ([] if judgement == HOLDS else [NOTHING_TAUGHT.format("answer", "recipe.steps", 2.0)])


def test_a_claim_that_an_arm_is_not_worse_is_judged_by_that_rule(tmp_path):
    """An interval within a loss that does not matter holds, one beyond it fails, and one that contains it cannot tell."""
    store = make_store(
        tmp_path, Synthetic(arms=(SyntheticArm("ltr"), SyntheticArm("both", effect_nats=0.05)), seeds=(1, 2, 3, 4))
    )
    asked = claim(measure="difference", arm="both", against=("ltr",), expect="not worse")
    [row] = judged(store, "demo", asked)
    low, high = row.measured.deciding
    assert 0 < low < high
    for smallest, judgement in ((low / 2, FAILS), ((low + high) / 2, OPEN), (2 * high, HOLDS)):
        decision = {**store.entry("demo").decision, "smallest_effect": smallest}
        store.write_experiment(store.entry("demo").with_(decision=decision))
        assert judged(store, "demo", asked)[0].judgement == judgement


def test_costs_that_differ_because_runs_end_at_an_accuracy_are_told_once(tmp_path):
    arms = (TaskArm("all"), TaskArm("answer", "answer"))
    for goal, told in ((0.95, "runs end at an accuracy of 0.95"), (None, None)):
        store = make_task_store(tmp_path / str(goal), SyntheticTask(arms=arms, vocabularies=(10,), goal=goal))
        record = store.experiment("recall")
        [verdict] = verdicts(record)
        unequal = replace(verdict.parity, holds=False)
        told_of = goal_cautions(record, verdict.comparison, unequal)
        assert [told in caution for caution in told_of] == ([] if told is None else [True])
        assert goal_cautions(record, verdict.comparison, replace(unequal, holds=True)) == []


def test_arms_that_learned_nothing_allow_no_claim(tmp_path):
    arms = tuple(TaskArm(arm.name, "answer") for arm in TASK_ARMS)  # of vocabulary 30 only seed 2 learns from answers
    store = make_task_store(tmp_path, SyntheticTask(arms=arms, vocabularies=(30,), seeds=(1, 3)))
    one, _ = judged(store, "recall", ALL_AGAINST_ANSWER)
    assert one.judgement == OPEN
    assert NOTHING_LEARNED in one.measured.reasons


def test_a_rank_correlation_without_its_other_experiment_says_so(tmp_path):
    store = make_task_store(tmp_path, SyntheticTask(arms=TASK_ARMS, vocabularies=(10,)))
    fields = {"measure": "rank_correlation", "arm": "{}-causal-all", "against": ("{}",), "groups": ("h3",)}
    [one] = judged(store, "recall", claim(**fields, experiment="recall_text"))
    assert (one.judgement, one.measured.count) == (OPEN, 0)
    assert "no experiment recall_text" in one.row()["reasons"][0]


def test_a_missing_run_and_a_missing_arm_give_their_reason(tmp_path):
    arms = (SyntheticArm("ltr"), SyntheticArm("other", effect_nats=0.2))
    made = Synthetic(arms=arms, scales=("base",), outcomes={("other", "base", 1): "missing"}, smallest_effect=0.01)
    store = make_store(tmp_path, made)
    better = claim(measure="difference", arm="other", against=("ltr",), expect="better")
    missing, absent = judged(store, made.name, better, better.with_(arm="third"))
    assert missing.judgement == absent.judgement == OPEN
    assert "cannot be compared" in missing.row()["reasons"][0]
    assert absent.row()["reasons"] == ["third is not run at this size"]


def test_a_loss_above_that_of_token_frequencies_is_not_judged_where_learning_is_needed(tmp_path):
    store = make_store(tmp_path, Synthetic(arms=(SyntheticArm("ltr"), SyntheticArm("other", effect_nats=-0.2))))
    better = claim(measure="difference", arm="other", against=("ltr",), expect="better")
    name = store.experiments()[0].full_name
    plain, needing = judged(store, name, better, better.with_(needs_learning=True))
    assert plain.judgement == HOLDS
    assert needing.judgement == OPEN
    assert "no audit in the store" in needing.row()["reasons"][0]
    assert store.entry(name).rule.baseline == "ltr"


def test_an_open_claim_says_why_and_how_many_seeds_and_hours_would_tell(tmp_path):
    arms = (SyntheticArm("ltr"), SyntheticArm("other", effect_nats=0.2))
    store = make_store(tmp_path, Synthetic(arms=arms, seeds=(1, 2, 3, 4), smallest_effect=0.0))
    name = store.experiments()[0].full_name
    shown = claim(measure="ratio", arm="other", against=("ltr",), expect="shown")
    [known] = judged(store, name, shown)
    effect, half = known.measured.effect, known.half_width
    near = shown.with_(expect="below", bound=effect + half / 4)
    [one, decided] = judged(store, name, near, near.with_(bound=effect + 2 * half))
    assert (one.judgement, decided.judgement, decided.needed) == (OPEN, HOLDS, None)
    runs = [run for run in store.experiment(name).finished() if run.entry.arm in ("ltr", "other")]
    hours_of_a_seed = sum(run.result.seconds["total"] for run in runs) / 4 / 3600
    deviation = half / stats.t.ppf(0.975, 3) * math.sqrt(4)
    wanted = math.ceil(TTestPower().solve_power(half / 4 / deviation, alpha=0.05 / 2, power=0.8))
    assert abs(one.needed.seeds - wanted) <= 1
    assert one.needed.hours == pytest.approx(one.needed.seeds * hours_of_a_seed)
    assert one.row()["reasons"][0] == UNDECIDED
    assert f"about {one.needed.seeds:,} seeds, " in one.row()["reasons"][1]
    [published] = judged(store, name, near.with_(published=effect - half / 4))
    assert published.needed.effect == pytest.approx(half / 2), (
        "seeds are planned for a published effect in the interval"
    )
    [outside] = judged(store, name, near.with_(published=effect + 10 * half))
    [nothing_published] = judged(store, name, near)
    assert outside.needed == nothing_published.needed, "a published effect that is excluded is not planned for"
    [hopeless] = judged(store, name, near.with_(bound=effect + half * 1e-6))
    assert "no number of seeds would show" in hopeless.row()["reasons"][1]


def mean_loss(store, name, arm):
    """The mean of the validation ltr losses of the finished runs of one arm."""
    runs = [run for run in store.experiment(name).finished() if run.entry.arm == arm]
    return sum(run.result.score("validation.ltr.nats_per_token") for run in runs) / len(runs)


def test_an_open_claim_is_planned_for_the_smallest_effect_that_matters_unless_it_is_excluded(tmp_path):
    arms = (SyntheticArm("ltr"), SyntheticArm("other", effect_nats=0.2))
    wide = make_store(tmp_path, Synthetic(arms=arms, seeds=(1, 2, 3, 4), smallest_effect=1.0))
    name = wide.experiments()[0].full_name
    shown = claim(measure="ratio", arm="other", against=("ltr",), expect="shown")
    [known] = judged(wide, name, shown)
    near = shown.with_(expect="below", bound=known.measured.effect + known.half_width / 4)
    [small] = judged(wide, name, near)
    matters = 1.0 / mean_loss(wide, name, "ltr")
    assert small.needed.excluded == pytest.approx(matters), "of a ratio, as a share of the score of the baseline"
    assert f"an effect of {matters:.2g}, the smallest that matters, is excluded" in small.row()["reasons"]
    assert small.needed.effect == pytest.approx(known.half_width / 4)
    least = 1.1 * known.half_width / matters  # the interval reaches 1.25 half-widths below the bound
    fine = make_store(tmp_path / "fine", Synthetic(arms=arms, seeds=(1, 2, 3, 4), smallest_effect=least))
    [one] = judged(fine, name, near)
    assert (one.needed.excluded, one.needed.effect) == (None, pytest.approx(1.1 * known.half_width))
    assert one.needed.seeds <= one.measured.count or "would show" in one.row()["reasons"][1]


def test_seeds_do_not_help_where_the_same_text_leaves_a_wider_interval():
    floor = Measured("base", "a", "b", -0.0029, Interval(-0.02, 0.015), 3, floor=0.0078)
    needed = Needed(None, 0.0029, None, 0.02, floor.floor)
    told = JudgedClaim(
        claim(measure="difference", against=("b",), expect="better"), floor, OPEN, None, "", needed
    ).reasons
    assert told[1:] == [
        "an effect of 0.02, the smallest that matters, is excluded",
        "no number of seeds would show 0.0029: the same text leaves about 0.0078 to each side",
    ]


def test_a_published_difference_of_losses_is_compared_as_a_share_of_the_published_loss(tmp_path):
    arms = (SyntheticArm("ltr"), SyntheticArm("other", effect_nats=0.2))
    store = make_store(tmp_path, Synthetic(arms=arms, seeds=(1, 2, 3, 4)))
    name = store.experiments()[0].full_name
    asked = claim(measure="difference", arm="other", against=("ltr",), expect="better", published=-0.05)
    [plain, share] = judged(store, name, asked, asked.with_(published_of=5.0))
    loss = mean_loss(store, name, "ltr")
    assert (plain.published, share.published) == (-0.05, pytest.approx(-0.01 * loss))
    assert (share.row()["published_as"], share.row()["published_of"]) == (-0.05, 5.0)
    assert share.row()["published_words"] == "the opposite"
    with pytest.raises(BadInput, match="only a published difference"):
        asked.with_(published=None, published_of=5.0)


def test_equal_values_of_all_seeds_have_no_interval_to_judge_by():
    evidence = Evidence(None, RULE, None, lambda name: None)
    equal = over_seeds(evidence, "base", "a", "", [0.0, 0.0, 0.0])
    assert "the values of all 3 seeds are equal" in equal.reasons[0]
    assert (equal.effect, equal.interval, equal.family) == (0.0, None, None)
    assert judge(claim(measure="selection", arm="{}", groups=("a", "b"), expect="above"), equal, RULE) == OPEN
    assert over_seeds(evidence, "base", "a", "", [0.0, 0.0, 0.1]).reasons == ()


def test_the_rows_of_one_claim_allow_for_each_other(tmp_path):
    arms = (SyntheticArm("ltr"), SyntheticArm("near", effect_nats=0.2), SyntheticArm("far", effect_nats=0.3))
    store = make_store(tmp_path, Synthetic(arms=arms, seeds=(1, 2, 3, 4)))
    name = store.experiments()[0].full_name
    [alone] = judged(store, name, claim(measure="ratio", arm="near", against=("ltr",), expect="above"))
    assert alone.measured.deciding == alone.measured.interval
    own_half = alone.half_width
    wide_half = own_half * stats.t.ppf(1 - 0.025 / 2, 3) / stats.t.ppf(0.975, 3)
    bound = alone.measured.effect - (own_half + wide_half) / 2  # a bound that only the wide interval reaches
    asked = claim(measure="ratio", arm="near", against=("ltr",), expect="above", bound=bound)
    [one] = judged(store, name, asked)
    assert one.judgement == HOLDS
    rows = judged(store, name, asked, asked.with_(arm="far", bound=0.0))
    assert [row.judgement for row in rows] == [OPEN, HOLDS]
    assert rows[0].half_width == pytest.approx(own_half), "the plan promises the width of the row's own interval"
    low, high = rows[0].measured.deciding
    assert (high - low) / 2 == pytest.approx(wide_half)
    others = [asked.with_(name="D", arm="far"), asked.with_(arm="far", expect="shown")]
    assert judged(store, name, asked, *others)[0].judgement == HOLDS, "other claims, and rows that are only shown"


def test_a_comparison_by_the_rule_has_the_interval_of_all_its_arms(tmp_path):
    arms = (SyntheticArm("ltr"), SyntheticArm("near", effect_nats=0.2), SyntheticArm("far", effect_nats=0.3))
    store = make_store(tmp_path, Synthetic(arms=arms, seeds=(1, 2, 3, 4)))
    record = store.experiment(store.experiments()[0].full_name)
    by_rule = {one.arm: one.deciding.interval for one in verdicts(record)}
    baseline = record.entry.rule.baseline
    asked = claim(measure="difference", arm="near", against=(baseline,), expect="better")
    rows = judged(store, record.entry.full_name, asked, asked.with_(arm="far"))
    assert [row.measured.deciding for row in rows] == [by_rule["near"], by_rule["far"]]
    own = [pair.difference for pair in compare(record, "near", baseline, "base", record.entry.rule.metric, 0.95).pairs]
    assert rows[0].measured.interval == pytest.approx(t_interval(own, 0.95))
    [reverse] = judged(store, record.entry.full_name, asked.with_(arm=baseline, against=("near",), expect="above"))
    low, high = by_rule["near"]
    assert reverse.measured.deciding == pytest.approx((-high, -low)), "the baseline less an arm is the same comparison"
    assert reverse.measured.effect == pytest.approx(-rows[0].measured.effect)
    others = [asked.with_(against=("far",)), asked.with_(arm="far", against=("near",))]
    one, other = judged(store, record.entry.full_name, *others)
    assert one.measured.effect == pytest.approx(-other.measured.effect)
    wide, narrow = (one.measured.deciding.high - one.measured.deciding.low), 2 * one.half_width
    assert wide / narrow == pytest.approx(stats.t.ppf(1 - 0.025 / 2, 3) / stats.t.ppf(0.975, 3))


@pytest.mark.parametrize("baseline_first", [False, True])
def test_the_seeds_that_would_tell_are_planned_at_the_confidence_that_judges(tmp_path, baseline_first):
    arms = (SyntheticArm("ltr"), *(SyntheticArm(f"other{number}", effect_nats=0.001) for number in range(6)))
    store = make_store(tmp_path, Synthetic(arms=arms, seeds=(1, 2, 3, 4), smallest_effect=0.0))
    sides = ("ltr", "other0") if baseline_first else ("other0", "ltr")
    asked = claim(measure="difference", arm=sides[0], against=(sides[1],), expect="above")
    [one] = judged(store, store.experiments()[0].full_name, asked)
    assert one.judgement == OPEN
    deviation = one.half_width / stats.t.ppf(0.975, 3) * math.sqrt(4)
    effect = abs(one.measured.effect)
    wanted = TTestPower().solve_power(effect / deviation, alpha=0.05 / 2 / 6, power=0.8, alternative="larger")
    assert abs(one.needed.seeds - math.ceil(wanted)) <= 1


def test_a_claim_is_open_where_the_one_that_it_needs_does_not_hold(tmp_path):
    arms = (SyntheticArm("ltr"), SyntheticArm("other", effect_nats=0.2))
    store = make_store(tmp_path, Synthetic(arms=arms, seeds=(1, 2, 3, 4)))
    name = store.experiments()[0].full_name
    first = claim(measure="ratio", arm="other", against=("ltr",), expect="above")
    second = first.with_(name="D", needs_claim="C")
    assert [row.judgement for row in judged(store, name, first, second)] == [HOLDS, HOLDS]
    fails, of_it = judged(store, name, first.with_(expect="below"), second)
    assert (fails.judgement, of_it.judgement) == (FAILS, OPEN)
    assert of_it.reasons == ["C does not hold, and this claim needs it"]
    opened, of_it = judged(store, name, first.with_(bound=fails.measured.effect), second)
    assert (opened.judgement, of_it.judgement, of_it.reasons[0]) == (
        OPEN,
        OPEN,
        "C cannot be told, and this claim needs it",
    )
    mask = load(Path(__file__).parents[2] / "experiments" / "mask.py").experiment
    with pytest.raises(BadInput, match="no claim is named 'M9'"):
        mask.with_(claims=(mask.claims[0], mask.claims[1].with_(needs_claim="M9")))


def test_groups_allow_for_each_other_and_their_mean_stands_apart(tmp_path):
    arms = tuple(SyntheticArm(f"{group}-{way}", effect_nats=0.1) for group in "abc" for way in ("old", "new"))
    store = make_store(tmp_path, Synthetic(arms=arms, seeds=(1, 2, 3, 4)))
    asked = claim(measure="difference", arm="{}-new", against=("{}-old",), groups=("b", "c"), expect="better")
    *of_groups, of_all = judged(store, store.experiments()[0].full_name, asked)
    assert [row.of_one_group for row in (*of_groups, of_all)] == [True, True, False]
    assert of_all.measured.deciding == of_all.measured.interval
    for row in of_groups:
        low, high = row.measured.deciding
        ratio = stats.t.ppf(1 - 0.025 / 2, 3) / stats.t.ppf(0.975, 3)
        assert (high - low) / 2 / row.half_width == pytest.approx(ratio)


def test_a_claim_on_an_arm_that_no_experiment_has_is_refused():
    mask = load(Path(__file__).parents[2] / "experiments" / "mask.py").experiment
    with pytest.raises(BadInput, match="no arm is named 'both-5'"):
        mask.with_(claims=(mask.claims[1].with_(against=("both-5",)),))


def test_what_was_predicted_and_promised_stands_beside_what_came(tmp_path):
    store = make_store(tmp_path, Synthetic(arms=(SyntheticArm("ltr"), SyntheticArm("other", effect_nats=0.2))))
    name = store.experiments()[0].full_name
    asked = claim(measure="ratio", arm="other", against=("ltr",), published=0.5)
    plain, kept, missed = judged(
        store, name, asked, asked.with_(half_width=1.0, predicted=0.5), asked.with_(half_width=1e-9)
    )
    assert plain.row()["half_width_promised"] is plain.prediction_is_inside is None
    assert kept.row()["half_width"] == missed.half_width > 1e-9
    assert kept.prediction_is_inside is False
    assert asked.with_(predicted=kept.measured.effect).predicted is not None
    assert kept.published_words == "real but smaller", "a ratio is an effect too"
    content = findings(store, store.experiment(name))
    assert [row["kept"] for row in content["promised"]] == [True, False]
    page = page_text(content)
    assert "## Predicted and promised" in page
    store.write_experiment(store.entry(name).with_(claims=(asked,)))
    assert "promised" not in page_text(findings(store, store.experiment(name)))


def test_a_claim_that_needs_a_bracket_is_not_made_at_the_edge_of_the_trials(tmp_path):
    store = make_store(tmp_path, Synthetic(arms=(SyntheticArm("ltr"), SyntheticArm("other", effect_nats=-0.2))))
    name = store.experiments()[0].full_name
    better = claim(measure="difference", arm="other", against=("ltr",), expect="better", needs_bracket=True)
    for chosen, judgement in ((2.0, HOLDS), (4.0, OPEN)):
        values = {"values": (1.0, 2.0, 4.0), "scores": (3.0, 2.0, 2.0), "chosen": chosen, "runs": ()}
        choice = ChoiceEntry(arm="other", scale="base", field="recipe.steps", **values)
        store.write_experiment(store.entry(name).with_(choices=(choice,)))
        [one] = judged(store, name, better)
        assert one.judgement == judgement
        assert [reason for reason in one.reasons if "the edge of what was tried" in reason] == one.reasons


def test_a_mean_over_groups_leaves_out_a_group_that_was_tuned_to_an_edge(tmp_path):
    arms = tuple(SyntheticArm(f"{group}-{way}", effect_nats=0.1) for group in "abc" for way in ("old", "new"))
    store = make_store(tmp_path, Synthetic(arms=arms, seeds=(1, 2, 3, 4)))
    name = store.experiments()[0].full_name
    values = {"values": (1.0, 2.0, 4.0), "scores": (3.0, 2.0, 1.0), "chosen": 4.0, "runs": ()}
    choice = ChoiceEntry(arm="b-old", scale="base", field="recipe.steps", **values)
    store.write_experiment(store.entry(name).with_(choices=(choice,)))
    asked = claim(measure="difference", arm="{}-new", against=("{}-old",), groups=("a", "b", "c"), expect="better")
    groups = {
        edge: [row.measured.group for row in judged(store, name, asked.with_(needs_bracket=edge))]
        for edge in (False, True)
    }
    assert groups[False][-1] == "mean of a, b, c"
    assert groups[True] == ["a", "b", "c", "mean of a, c"]
    assert [row.judgement for row in judged(store, name, asked.with_(needs_bracket=True))][1] == OPEN
    alone = asked.with_(needs_bracket=True, groups=("a", "b"))
    mean = judged(store, name, alone)[-1]
    assert (mean.measured.group, mean.judgement, mean.reasons) == ("mean of a", OPEN, [ONE_GROUP])
    store.write_experiment(store.entry(name).with_(claims=(asked.with_(needs_bracket=True),)))
    arms_by_rule = {row["arm"]: row["reasons"] for row in findings(store, store.experiment(name))["arms"]}
    assert arms_by_rule["b-old"][-1] == "b-old was tuned to recipe.steps = 4, the edge of what was tried"
    assert not any("tuned to" in reason for reason in arms_by_rule["c-old"])


@pytest.mark.parametrize("at_the_edge", ["b-new", "b-old"])
def test_a_rank_correlation_leaves_out_a_group_that_was_tuned_to_an_edge(tmp_path, at_the_edge):
    effects = {"a": 0.1, "b": 0.9, "c": 0.2, "d": 0.3, "e": 0.4}
    arms = tuple(
        SyntheticArm(f"{group}-{way}", effect_nats=effects[group]) for group in effects for way in ("old", "new")
    )
    store = make_store(tmp_path, Synthetic(arms=arms, seeds=(1, 2)))
    name = store.experiments()[0].full_name
    values = {"values": (1.0, 2.0, 4.0), "scores": (3.0, 2.0, 1.0), "chosen": 4.0, "runs": ()}
    choice = ChoiceEntry(arm=at_the_edge, scale="base", field="recipe.steps", **values)
    store.write_experiment(store.entry(name).with_(choices=(choice,)))
    fields = {"measure": "rank_correlation", "arm": "{}-new", "against": ("{}-old",), "groups": tuple(effects)}
    asked = claim(**fields, experiment=name.partition("--")[0])
    [all_of_them] = judged(store, name, asked)
    [bracketed] = judged(store, name, asked.with_(needs_bracket=True))
    assert (all_of_them.measured.count, bracketed.measured.count) == (5, 4)
    assert bracketed.measured.cautions == ("left out, tuned to the edge of what was tried: b",)


def test_three_shapes_of_which_two_share_a_depth_and_two_a_width_compare_both():
    def shape(depth, width):
        return ScaleSize(f"{depth}x{width}", depth, width, 1)

    sizes = {one.scale: one for one in (shape(2, 64), shape(2, 128), shape(6, 64))}
    ratios = {"2x64": 1.0, "2x128": 0.9, "6x64": 1.03}
    assert width_less_depth(ratios, sizes) == pytest.approx(0.1 - 0.03)
    assert width_less_depth({**ratios, "4x32": 1.0}, {**sizes, "4x32": shape(4, 32)}) is None
    assert width_less_depth(ratios, {name: sizes[name] for name in ("2x128", "6x64")}) is None


def test_a_ratio_changes_with_the_tokens_read_right_to_left(tmp_path):
    """Slopes over three shares of rtl tokens: the loss of each arm is made to rise by .1 for ten times as many."""
    shares = {"one": 0.04, "two": 0.2, "three": 1.0}
    arms = tuple(
        SyntheticArm(f"both-{name}", effect_nats=0.1 * math.log10(p / 0.04), rtl="honest", p=p)
        for name, p in shares.items()
    )
    store = make_store(tmp_path, Synthetic(arms=(SyntheticArm("ltr"), *arms), noise_nats=1e-6))
    name = store.experiments()[0].full_name
    asked = claim(measure="ratio_by_tokens", arm="both-{}", against=("ltr",), groups=tuple(shares))
    [slope] = judged(store, name, asked)
    runs = store.experiment(name).finished("ltr", "base")
    loss = sum(run.result.score("validation.ltr.nats_per_token") for run in runs) / len(runs)
    assert slope.measured.effect == pytest.approx(0.1 / loss, rel=0.02)
    assert (slope.judgement, slope.measured.count) == (HOLDS, 3)
    [few] = judged(store, name, asked.with_(groups=("one", "two")))
    assert (few.judgement, few.measured.count) == (OPEN, 0)


@pytest.mark.parametrize(
    "asked",
    [
        {"measure": "score", "expect": "published", "published": 1.9},
        {"measure": "selection", "arm": "{}", "groups": ("both", "ltr")},
        {"measure": "term"},
    ],
    ids=lambda fields: fields["measure"],
)
@pytest.mark.parametrize("fault", ["leak", "no audit", "lost run"])
def test_no_measure_believes_an_arm_that_is_not_reliable(tmp_path, asked, fault):
    arms = (SyntheticArm("ltr"), SyntheticArm("both", rtl="leak" if fault == "leak" else None))
    outcomes = {("both", "base", 1): "missing"} if fault == "lost run" else {}
    store = make_store(tmp_path, Synthetic(arms=arms, outcomes=outcomes, audited=fault != "no audit"))
    name = store.experiments()[0].full_name
    if asked["measure"] == "term":
        add_terms(store, name, {"both": "honest"})
    [row] = judged(store, name, claim(**{"arm": "both", **asked}))
    words = {"leak": "both sees its own answer", "no audit": "was not audited", "lost run": "have not ended"}[fault]
    if asked["measure"] == "selection":
        assert row.judgement == OPEN  # and it has no scores of the test split
    else:
        assert words in " ".join(row.reasons)
        assert row.judgement == OPEN


def test_steps_to_learn_and_rank_correlations_need_audits(tmp_path):
    store = make_task_store(tmp_path, SyntheticTask(seeds=(1, 2, 3, 4)))
    entry = store.entry("recall")
    store.write_experiment(entry.with_(audits={}))
    steps = claim(measure="steps_to_learn", arm="answer", against=("all",), expect="above", bound=1.0)
    assert all("answer was not audited" in row.reasons for row in judged(store, "recall", steps))
    ranks = claim(measure="rank_correlation", arm="{}", against=("{}",), groups=("all", "answer"), experiment="recall")
    assert "all was not audited" in judged(store, "recall", ranks)[0].reasons


TIED = "4 of 9 groups have the same score in this experiment and share a rank"


def test_a_rank_correlation_takes_runs_that_ended_at_their_goal_as_equal(tmp_path):
    """Accuracies fall with `rate`: those of the first four arms lie above the goal and have one rank, the others have their own."""
    arms = tuple(TaskArm(name, rate=0.1 * place if place < 4 else place / 2) for place, name in enumerate("abcdefghi"))
    groups = tuple(arm.name for arm in arms)
    asked = claim(measure="rank_correlation", arm="{}", against=("{}",), groups=groups, experiment="recall")
    for goal, ranks in ((None, [*range(9)]), (0.95, [0, 0, 0, 0, *range(4, 9)])):
        store = make_task_store(tmp_path / str(goal), SyntheticTask(arms=arms, vocabularies=(10,), goal=goal))
        [row] = judged(store, "recall", asked)
        p = rank_correlation_p([(rank, rank) for rank in ranks])
        assert (row.measured.effect, row.measured.p) == pytest.approx((1, p))
        assert [text for text in row.measured.cautions if "share a rank" in text] == [TIED] * (goal is not None)


def test_a_claim_without_numbers_is_open_and_so_is_one_that_needs_it(tmp_path):
    store = make_store(tmp_path)
    term = claim(name="T", measure="term", arm="both", expect="below", bound=0.1)
    needing = claim(name="Z", measure="difference", arm="both", against=("ltr",), expect="better", needs_claim="T")
    first, second = judged(store, "demo", term, needing)
    assert (first.judgement, first.reasons) == (OPEN, ["no finished run has the numbers that this claim is about"])
    assert second.reasons[-1] == "T cannot be told, and this claim needs it"


def test_a_claim_over_groups_of_which_none_is_run_is_left_out(tmp_path):
    store = make_store(tmp_path)
    groups = claim(measure="difference", arm="{}", against=("{}-other",), groups=("ltr", "both"), expect="better")
    [row] = judged(store, "demo", groups)
    assert row.is_left_out
    assert "an arm of every group is not run at this size" in row.reasons


@pytest.mark.parametrize(
    ("measure", "fields", "why"),
    [
        ("ratio_slope", {"against": ("ltr",)}, "models of several shapes, is"),
        ("ratio_width_less_depth", {"against": ("ltr",)}, "models of several shapes, is"),
        ("layer_cut", {"against": ("ltr",), "blocks_left": 1, "head": "trained"}, "a model of at least 4 blocks is"),
    ],
)
def test_a_claim_about_shapes_that_are_not_run_is_left_out(tmp_path, measure, fields, why):
    store = make_store(tmp_path, Synthetic(seeds=(1, 2, 3)))
    [row] = judged(store, "demo", claim(measure=measure, arm="both", expect="above", **fields))
    assert row.is_left_out
    assert why in row.reasons[-1]


def test_a_rank_correlation_is_left_out_where_too_few_of_its_groups_are_run(tmp_path):
    store = make_task_store(tmp_path, SyntheticTask(arms=(TaskArm("h3"), TaskArm("hyena"))))
    groups = ("h3", "hyena", *map(str, range(LEAST_PAIRS - 2)))
    fields = {"measure": "rank_correlation", "arm": "{}", "against": ("{}",), "experiment": "text"}
    [row] = judged(store, "recall", claim(groups=groups, **fields))
    assert row.is_left_out
    [row] = judged(store, "recall", claim(groups=groups[:2], **fields))
    assert not row.is_left_out, "the claim itself has too few groups"


def test_the_numbers_of_a_page_have_ten_digits(tmp_path):
    store = make_store(tmp_path, Synthetic(seeds=(1, 2, 3), noise_nats=0.01))
    asked = claim(measure="difference", arm="both", against=("ltr",), expect="better")
    store.write_experiment(store.entry("demo").with_(claims=(asked,)))
    [exact] = judged(store, "demo", asked)
    [row] = findings(store, store.experiment("demo"))["claims"]
    assert row["effect"] == float(f"{exact.measured.effect:.10g}") != exact.measured.effect


def test_scores_of_a_task_stay_shares_and_the_page_says_what_guessing_gives(tmp_path):
    arms = (TaskArm("all", rate=5.0), TaskArm("answer", "answer"))
    store = make_task_store(tmp_path, SyntheticTask(arms=arms, vocabularies=(30,)))
    asked = claim(measure="score", arm="all", expect="published", published=1.0)
    [row] = judged(store, "recall", asked)
    assert row.measured.interval.high > 1, "Student's interval of these accuracies"
    store.write_experiment(store.entry("recall").with_(claims=(asked,)))
    content = findings(store, store.experiment("recall"))
    [level] = content["levels"]
    assert level["learned_from"] == pytest.approx((level["without_learning"] + 1) / 2)
    assert " to 1.0000 |" in page_text(content)
    assert f"Without learning, {level['without_learning']:.3f} of the answers are right;" in page_text(content)


def test_counts_of_different_numbers_of_runs_are_not_judged_and_plan_nothing(tmp_path):
    arms = (TaskArm("all"), TaskArm("answer", "answer"))
    store = make_task_store(tmp_path, SyntheticTask(arms=arms, vocabularies=(30,), seeds=(1, 2, 3, 4)))
    record = store.experiment("recall")
    last = record.runs_of("answer", "v30")[-1]
    shutil.rmtree(store.run_directory(last.entry.run_id))
    [row] = judged(store, "recall", claim(measure="difference", arm="answer", against=("all",), expect="better"))
    assert UNEQUAL_COUNTS in row.reasons
    assert row.needed is None


def test_a_damaged_audit_of_another_experiment_stops_no_claim(tmp_path):
    store = make_store(tmp_path)
    (store.root / "audits" / f"{'0' * 64}.json").write_text("x")
    [row] = judged(store, "demo", claim(measure="difference", arm="both", against=("ltr",), expect="better"))
    assert row.measured.effect is not None


def test_what_would_tell_is_measured_from_the_nearest_bound(tmp_path):
    arms = (SyntheticArm("ltr"), SyntheticArm("both", effect_nats=0.0))
    store = make_store(tmp_path, Synthetic(arms=arms, seeds=(1, 2, 3), smallest_effect=0.008, noise_nats=0.01))
    shown = claim(measure="ratio", arm="both", against=("ltr",), expect="shown")
    [known] = judged(store, "demo", shown)
    effect, half = known.measured.effect, known.half_width
    [within] = judged(store, "demo", shown.with_(expect="within", bound=abs(effect) + half / 4))
    assert within.needed.effect == pytest.approx(half / 4)
    [not_worse] = judged(store, "demo", claim(measure="difference", arm="both", against=("ltr",), expect="not worse"))
    assert not_worse.judgement == OPEN
    assert not_worse.needed.effect == pytest.approx(abs(not_worse.measured.effect - 0.008))
