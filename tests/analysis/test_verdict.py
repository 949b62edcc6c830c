"""Runs become claims by the rule of the experiment, and by nothing else."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palinode.analysis.compare import Comparison, Pair, compare, costs, parity
from palinode.analysis.intervals import Interval
from palinode.analysis.reliability import pair_reasons
from palinode.analysis.sources import text_and_seeds
from palinode.analysis.verdict import beyond, decide, over_scales_of, plan_seeds, verdict, verdicts
from palinode.base import fsio
from palinode.base.decision import Decision
from palinode.base.errors import BadInput
from palinode.base.finding import AuditReport, Finding
from palinode.base.measures import MEASURES, Metric
from palinode.report.words import more_seeds
from palinode.results.documents import DOCUMENTS_FILE, DocumentNats, documents_content, documents_seal
from synthetic_store import DEMO_ARMS, Synthetic, SyntheticArm, make_store
from synthetic_tasks import SyntheticTask, TaskArm, make_task_store

LTR, BOTH, MASK = DEMO_ARMS


def experiment(tmp_path, **changes):
    return make_store(tmp_path / "runs", Synthetic(**changes)).experiment("demo")


def only(record, arm="both", scale="base"):
    return verdict(record, arm, scale, record.entry.rule)


def rule(better, smallest_effect=0.0):
    measure = next(name for name, measure in MEASURES.items() if measure.better == better)
    metric = str(Metric("validation", "ltr", measure))
    return Decision(baseline="a", metric=metric, better=better, smallest_effect=smallest_effect)


@pytest.mark.parametrize(
    ("low", "high", "better", "least", "outcome"),
    [
        (-0.3, -0.1, "lower", 0.0, "better"),
        (0.1, 0.3, "lower", 0.0, "worse"),
        (0.1, 0.3, "higher", 0.0, "better"),
        (-0.1, 0.3, "higher", 0.0, "cannot tell"),  # without a smallest effect, nothing is too small to matter
        (-0.1, 0.3, "higher", 0.2, "cannot tell"),
        (-0.1, 0.15, "higher", 0.2, "smaller than matters"),
        (0.01, 0.15, "higher", 0.2, "smaller than matters"),  # real, but smaller than what matters
        (0.01, 0.25, "higher", 0.2, "better"),
        (-0.25, -0.01, "higher", 0.2, "worse"),
        (0.0, 0.0, "lower", 0.0, "cannot tell"),
    ],
)
def test_the_rule(low, high, better, least, outcome):
    assert decide(Interval(low, high), rule(better, least)) == outcome


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 0.5))
def test_turning_the_metric_round_turns_the_verdict_round(centre, half, least):
    interval, mirrored = Interval(centre - half, centre + half), Interval(-centre - half, -centre + half)
    lower, higher = rule("lower", least), rule("higher", least)
    assert decide(interval, lower) == decide(mirrored, higher)
    opposite = {"better": "worse", "worse": "better"}
    assert decide(mirrored, lower) == opposite.get(decide(interval, lower), decide(interval, lower))


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.01, 0.3, "better"),
        (0.01, 0.1, "better"),  # small, but above 0: "not worse" and more
        (-0.1, 0.1, "not worse"),
        (-0.2, 0.1, "cannot tell"),
        (-0.3, 0.3, "cannot tell"),
        (-0.3, -0.1, "cannot tell"),
        (-0.3, -0.2, "cannot tell"),
        (-0.3, -0.21, "worse"),
    ],
)
def test_the_rule_of_an_arm_that_is_only_not_worse(low, high, outcome):
    assert decide(Interval(low, high), rule("higher", 0.2).with_(claim="not worse")) == outcome
    assert decide(Interval(-high, -low), rule("lower", 0.2).with_(claim="not worse")) == outcome


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0.01, 0.5))
def test_an_arm_is_better_by_more_than_matters_only_where_it_is_better(centre, half, least):
    interval, higher = Interval(centre - half, centre + half), rule("higher", least)
    if beyond(interval, higher):
        assert decide(interval, higher) == ("better" if centre > 0 else "worse")
        assert abs(centre) - half >= least * (1 - 1e-9)


def test_no_interval_no_claim():
    assert decide(None, rule("lower")) == "cannot tell"


def test_pairs_are_formed_by_seed_whatever_the_order(tmp_path):
    record = experiment(tmp_path, seeds=(5, 1, 9))
    comparison = compare(record, "both", "ltr", "base", "validation.ltr.nats_per_token", 0.95)
    assert [pair.seed for pair in comparison.pairs] == [5, 1, 9]
    for pair in comparison.pairs:
        [ours] = [r for r in record.runs_of("both", "base") if r.entry.seed == pair.seed]
        [theirs] = [r for r in record.runs_of("ltr", "base") if r.entry.seed == pair.seed]
        expected = ours.result.score("validation.ltr.nats_per_token") - theirs.result.score(
            "validation.ltr.nats_per_token"
        )
        assert pair.difference == expected


def test_a_worse_arm_is_called_worse_and_a_better_one_better(tmp_path):
    better = SyntheticArm("better", effect_nats=-0.2, p=0.0)
    record = experiment(tmp_path, arms=(LTR, SyntheticArm("worse", effect_nats=0.2), better))
    assert [(item.arm, item.outcome) for item in verdicts(record)] == [("worse", "worse"), ("better", "better")]


def test_arms_that_differ_by_noise_only_are_not_told_apart(tmp_path):
    record = experiment(tmp_path, arms=(LTR, SyntheticArm("same")), smallest_effect=0.0, seeds=tuple(range(8)))
    result = only(record, "same")
    assert result.outcome == "cannot tell"
    assert result.seeds_needed.planned_for == "observed effect"


def test_too_few_seeds_for_the_smallest_effect_cannot_tell_and_says_how_many(tmp_path):
    record = experiment(tmp_path, arms=(LTR, SyntheticArm("same")), smallest_effect=0.002, noise_nats=0.01)
    result = only(record, "same")
    assert result.outcome == "cannot tell"
    assert result.reasons == ()
    assert result.seeds_needed.planned_for == "smallest effect"
    assert result.seeds_needed.seeds > 3


def test_one_seed_cannot_tell(tmp_path):
    result = only(experiment(tmp_path, seeds=(0,)))
    assert result.outcome == "cannot tell"
    assert "at least 2 pairs" in result.reasons[0]
    assert (result.comparison.interval, result.seeds_needed) == (None, None)
    assert result.comparison.mean is not None


@pytest.mark.parametrize("outcome", ["failed", "stopped", "oom", "missing", "unfinished"])
@pytest.mark.parametrize("arm", ["ltr", "both"])
def test_a_run_that_is_not_done_is_said_and_blocks_the_claim(tmp_path, outcome, arm):
    result = only(experiment(tmp_path, outcomes={(arm, "base", 1): outcome}))
    assert result.outcome == "cannot tell"
    assert f"1 of 3 pairs cannot be compared (seed 1: {arm}: {outcome})" in result.reasons
    assert len(result.comparison.pairs) == 2
    assert result.comparison.interval is not None


def diverging(tmp_path, arm, count, seeds=6, **changes):
    outcomes = {(arm, "base", seed): "diverged" for seed in range(count)}
    return only(experiment(tmp_path, outcomes=outcomes, seeds=tuple(range(seeds)), **changes))


BETTER = (LTR, SyntheticArm("both", effect_nats=-0.2))


def test_an_arm_that_diverges_more_often_is_better_only_where_it_ends(tmp_path):
    result = diverging(tmp_path, "both", 2, arms=BETTER)
    assert result.outcome == "better where it ends"
    assert result.reasons == ()
    assert (result.divergence.arm, result.divergence.baseline, result.divergence.planned) == (2, 0, 6)
    assert result.divergence.words == "no difference shown"
    assert result.divergence.outcome_if_ended == "better", "the worst observed difference is still far above 0"


def test_a_baseline_that_diverges_more_often_takes_nothing_from_the_arm(tmp_path):
    assert diverging(tmp_path, "ltr", 2, arms=BETTER).outcome == "better"


def test_an_arm_that_diverges_is_not_called_as_good(tmp_path):
    same = (LTR, SyntheticArm("both"))
    settled = {"arms": same, "smallest_effect": 0.05}
    assert diverging(tmp_path / "a", "ltr", 0, **settled).outcome == "smaller than matters"
    assert diverging(tmp_path / "b", "ltr", 2, **settled).outcome == "smaller than matters"
    assert diverging(tmp_path / "c", "both", 2, **settled).outcome == "cannot tell"


def test_an_arm_that_diverges_with_all_seeds_but_few_is_not_judged_and_its_stability_is(tmp_path):
    result = diverging(tmp_path, "both", 4, arms=BETTER)
    assert result.outcome == "cannot tell"
    assert "only 2 of 6 pairs ended" in result.reasons[0]
    assert result.divergence.words == "diverges more often"
    assert result.divergence.p < 0.05


def test_half_of_the_pairs_must_end(tmp_path):
    assert diverging(tmp_path / "a", "both", 3, seeds=6, arms=BETTER).outcome == "better where it ends"
    assert "half of all" in diverging(tmp_path / "b", "both", 4, seeds=7, arms=BETTER).reasons[0]
    assert diverging(tmp_path / "c", "both", 1, seeds=3, arms=BETTER).outcome == "cannot tell", "two pairs are too few"


@pytest.mark.parametrize(
    ("effect", "words"),
    [(0.2, "confirmed"), (0.7, "real but smaller"), (0.05, "real but larger")],
)
def test_a_published_effect_is_judged_by_agreement(tmp_path, effect, words):
    store = make_store(tmp_path / "runs", Synthetic(arms=BETTER))
    entry = store.entry("demo")
    told = {"effect": effect, "source": "a paper"}
    store.write_experiment(entry.with_(decision={**entry.decision, "published": told}))
    result = only(store.experiment("demo"))
    assert result.published == words
    store.write_experiment(entry.with_(decision={**entry.decision, "published": {**told, "arm": "another"}}))
    assert only(store.experiment("demo")).published is None


def test_the_intervals_of_a_grid_are_one_family_and_a_meant_leak_is_no_member(tmp_path):
    record = experiment(tmp_path, scales=("small", "large"), arms=(*DEMO_ARMS, SyntheticArm("third")))
    results = {(item.arm, item.scale): item for item in verdicts(record)}
    assert {item.deciding.comparisons for item in results.values() if item.leak == "none"} == {4}
    assert results["both-published-mask", "small"].deciding.comparisons == 1
    for item in results.values():
        if item.leak == "none":
            assert item.interval.low < item.single_interval.low < item.single_interval.high < item.interval.high
    alone = verdict(record, "both", "small", record.entry.rule.with_(family="none"))
    assert alone.deciding.comparisons == 1
    assert alone.interval == alone.single_interval
    assert verdict(record, "both", "small", record.entry.rule) == results["both", "small"]


def with_documents(store, arm, of_document):
    """Give the runs of an arm the nats of 30 documents of equal length: those of the result, moved by document."""
    for run in store.experiment("demo").runs_of(arm, "base"):
        row = run.result.scores["validation"]["ltr"]
        tokens, hits = row["tokens_scored"] // 30, np.zeros(30, np.int32)
        assert 30 * tokens == row["tokens_scored"]
        hits[0] = row["hits"]
        moved = np.array([of_document(unit) for unit in range(30)])
        nats = row["nats_sum"] / 30 + tokens * (moved - moved.mean())
        units = DocumentNats(tokens=np.full(30, tokens, np.int32), nats=nats, hits=hits, kind="documents")
        content = documents_content({("validation", "ltr"): units})
        fsio.write_bytes(store.run_directory(run.entry.run_id) / DOCUMENTS_FILE, content)
        store.write_result(run.result.with_(documents=documents_seal(content)))


def test_an_effect_that_comes_from_a_few_documents_does_not_hold_for_new_text(tmp_path):
    store = make_store(tmp_path / "runs", Synthetic(arms=(LTR, SyntheticArm("both", effect_nats=-0.03))))
    with_documents(store, "ltr", lambda unit: 0.0)
    with_documents(store, "both", lambda unit: -0.5 if unit % 15 == 0 else 0.5 / 14)
    entry, seeds = store.entry("demo"), only(store.experiment("demo"))
    assert (seeds.outcome, seeds.deciding.over) == ("better", "seeds")
    assert seeds.deciding.text.documents == 30
    store.write_experiment(entry.with_(decision={**entry.decision, "over": "seeds and text"}))
    both = only(store.experiment("demo"))
    assert both.outcome == "cannot tell"
    assert both.deciding.allows_for == "new text"
    assert both.interval == seeds.deciding.text.interval
    assert both.deciding.text.shares["text"] > 0.5


def test_runs_without_scores_of_documents_are_judged_over_seeds_and_say_so(tmp_path):
    store = make_store(tmp_path / "runs", Synthetic(arms=BETTER))
    entry = store.entry("demo")
    store.write_experiment(entry.with_(decision={**entry.decision, "over": "seeds and text"}))
    result = only(store.experiment("demo"))
    assert (result.outcome, result.deciding.over) == ("better", "seeds")
    assert "text: not measured" in result.cautions


def test_an_arm_over_scales_is_told_from_its_reliable_verdicts(tmp_path):
    names = ("2x32", "2x64", "2x128", "2x256")
    models = {name: (2, int(name[2:])) for name in names}
    arms = (LTR, SyntheticArm("both", effect_nats=-0.2))
    record = experiment(tmp_path, scales=names, models=models, arms=arms, noise_nats=0.002)
    of_arm = [item for item in verdicts(record) if item.arm == "both"]
    over = over_scales_of(record, of_arm)
    assert over.scales == 4
    assert over.interval.low < over.mean < over.interval.high
    assert min(item.improvement for item in of_arm) < over.mean < max(item.improvement for item in of_arm)
    assert over.slope_interval.high < 0, "the effect falls with the width"
    assert over_scales_of(record, of_arm[:1]) is None


def test_looks_until_decided_widen_every_interval(tmp_path):
    store = make_store(tmp_path / "runs", Synthetic(arms=BETTER))
    entry, fixed = store.entry("demo"), only(store.experiment("demo"))
    store.write_experiment(entry.with_(seeds_planned="until decided"))
    looking = only(store.experiment("demo"))
    assert looking.deciding.allows_for == "looks until decided"
    assert looking.interval.low < fixed.interval.low
    assert looking.interval.high > fixed.interval.high


def test_seeds_that_were_added_after_a_look_need_more_evidence(tmp_path):
    store = make_store(tmp_path / "runs", Synthetic(arms=BETTER, seeds=tuple(range(5))))
    entry, fixed = store.entry("demo"), only(store.experiment("demo"))
    store.write_experiment(entry.with_(looks_taken=1, first_seeds=3))
    added = only(store.experiment("demo"))
    assert added.deciding.allows_for == "seeds added after a look"
    assert added.interval.low < fixed.interval.low
    assert any("3 seeds were judged and there are 5 now" in caution for caution in added.cautions)


def about(store, arm, **changes):
    """Write what the loss of an arm's runs is about."""
    scored = {
        "kind": "likelihood",
        "tokens": 128.0,
        "given": 0.0,
        "windows": 480,
        "windows_sha256": "w",
        "tokens_sha256": "t",
    }
    for run in store.experiment("demo").runs_of(arm, "base"):
        store.write_result(run.result.with_(scored={"validation": {"ltr": {**scored, **changes}}}))


def test_losses_about_other_tokens_are_not_compared(tmp_path):
    store = make_store(tmp_path / "runs", Synthetic(arms=BETTER))
    about(store, "both", tokens=38.0, given=90.0)
    assert only(store.experiment("demo")).reasons == (), "results of an earlier version say nothing and are not judged"
    about(store, "ltr")
    result = only(store.experiment("demo"))
    assert result.outcome == "cannot tell"
    [reason] = result.reasons
    assert reason == "not comparable: ltr scores 38 tokens given 90, ltr 128 given none"
    about(store, "both")
    assert only(store.experiment("demo")).outcome == "better"


def test_a_leak_that_was_expected_is_compared_and_stamped(tmp_path):
    result = only(experiment(tmp_path), "both-published-mask")
    assert result.leak == "expected"
    assert result.outcome == "worse"


def test_a_leak_that_was_not_expected_is_not_compared(tmp_path):
    surprise = SyntheticArm("surprise", effect_nats=-0.5, rtl="leak", p=0.5)
    record = experiment(tmp_path, arms=(LTR, surprise, BOTH))
    result = only(record, "surprise")
    assert (result.leak, result.outcome) == ("unexpected", "cannot tell")
    assert "sees its own answer" in result.reasons[0]
    assert only(record, "both").leak == "none"


def test_a_leaking_baseline_blocks_every_claim(tmp_path):
    record = experiment(tmp_path, arms=(SyntheticArm("bad", rtl="leak", p=0.5), LTR))
    assert [item.outcome for item in verdicts(record)] == ["cannot tell"]


def test_an_expected_leak_that_is_not_there_is_said(tmp_path):
    record = experiment(tmp_path, arms=(LTR, SyntheticArm("both", rtl="honest", expect_leak=True)))
    assert "marked expect_leak, but no check found a leak" in " ".join(only(record).cautions)


def test_an_arm_that_was_not_audited_is_not_believed(tmp_path):
    result = only(experiment(tmp_path, audited=False))
    assert result.outcome == "cannot tell"
    assert "both was not audited" in result.reasons
    assert "ltr was not audited" in result.reasons


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_text("{}")])
def test_an_audit_that_was_lost_is_named(tmp_path, harm):
    store = make_store(tmp_path / "runs")
    path = store.root / "audits" / f"{store.entry('demo').audits['both']['base']}.json"
    harm(path)
    result = only(store.experiment("demo"))
    assert result.outcome == "cannot tell"
    [reason] = [reason for reason in result.reasons if "audit" in reason]
    assert reason.startswith(f"the audit of both cannot be read: {path}: ")


def test_an_audit_of_the_finished_runs_that_was_lost_is_named(tmp_path):
    store = make_store(tmp_path / "runs")
    entry = store.entry("demo")
    store.write_experiment(entry.with_(comparison="0" * 64))
    before, after = only(make_store(tmp_path / "whole").experiment("demo")), only(store.experiment("demo"))
    assert after.outcome == before.outcome
    [caution] = set(after.cautions) - set(before.cautions)
    assert caution.startswith(f"the audit of the finished runs cannot be read: {store.root}/audits/000")


def test_a_failed_check_of_one_run_is_not_believed_and_names_the_check(tmp_path):
    store = make_store(tmp_path / "runs")
    run_id = store.experiment("demo").runs_of("both", "base")[2].entry.run_id
    finding = Finding(check="C8.loss_floor", outcome="fail", law="l", message="m")
    store.write_run_audit(run_id, AuditReport(subject="both", findings=(finding,)))
    result = only(store.experiment("demo"))
    assert result.outcome == "cannot tell"
    assert result.reasons == ("both failed its audit: C8.loss_floor",)


def test_a_damaged_run_audit_is_not_believed(tmp_path):
    store = make_store(tmp_path / "runs")
    run_id = store.experiment("demo").runs_of("both", "base")[0].entry.run_id
    (store.run_directory(run_id) / "audit.json").write_text("{}")
    result = only(store.experiment("demo"))
    assert result.outcome == "cannot tell"
    assert "audit.json" in result.reasons[0]


def test_parity_on_the_declared_axis_is_flagged_when_it_does_not_hold(tmp_path):
    equal = only(experiment(tmp_path / "equal"))
    assert equal.parity.holds is True
    assert equal.parity.deviation == 0
    assert set(equal.parity.others) == {"tokens_read", "train_flops"}
    unequal = only(experiment(tmp_path / "unequal", equal="tokens_read"))
    assert unequal.parity.holds is False
    assert any(caution.startswith("not at equal tokens_read: it differs by +5") for caution in unequal.cautions)
    store = make_store(tmp_path / "unknown" / "runs", Synthetic(equal="tokens_read"))
    result = store.experiment("demo").runs_of("both", "base")[0].result
    store.write_result(result.with_(counters={**result.counters, "tokens_read": None}))
    unknown = only(store.experiment("demo"))
    assert unknown.parity.holds is None
    assert any("was not counted" in caution for caution in unknown.cautions)


@pytest.mark.parametrize(
    ("arm", "baseline", "caution"),
    [
        (100, 0, "not at equal tokens_read: ltr has none"),
        (0, 100, "not at equal tokens_read: it differs by -100.0%"),
        (0, 0, None),
    ],
)
def test_an_arm_that_reads_nothing_is_at_equal_cost_with_its_like_alone(tmp_path, arm, baseline, caution):
    store = make_store(tmp_path / "runs", Synthetic(equal="tokens_read"))
    for run in store.experiment("demo").finished():
        tokens = arm if run.entry.arm == "both" else baseline
        store.write_result(run.result.with_(counters={**run.result.counters, "tokens_read": tokens}))
    result = only(store.experiment("demo"))
    assert result.parity.holds is (caution is None)
    about_cost = [line for line in result.cautions if line.startswith("not at equal") or "was not counted" in line]
    assert about_cost == ([] if caution is None else [caution])
    json.dumps(result.row(), allow_nan=False)


def test_the_worst_pair_decides_parity(tmp_path):
    record = experiment(tmp_path)
    ratios = []
    for ours, theirs in zip(record.runs_of("both", "base"), record.runs_of("ltr", "base"), strict=True):
        ratios.append(ours.result.counters["tokens_read"] / theirs.result.counters["tokens_read"] - 1)
    assert parity(record, "both", "ltr", "base", "tokens_read").deviation == max(ratios, key=abs)


def test_costs_are_means_beside_the_baseline(tmp_path):
    result = {(item.arm, item.axis): item for item in costs(experiment(tmp_path), "ltr")}
    assert result["ltr", "tokens_read"].ratio == 1.0
    assert result["both", "tokens_read"].ratio == pytest.approx(1.5, rel=0.02)
    assert result["ltr", "tokens_scored_rtl"].mean == 0
    assert result["both", "tokens_scored_rtl"].ratio is None
    assert result["both", "parameters"].runs == 3


def test_what_the_audit_of_the_finished_runs_found_is_said(tmp_path):
    store = make_store(tmp_path / "runs")
    findings = (
        Finding(check="C5.selection", outcome="fail", law="l", message="both had 5 trials, ltr 1"),
        Finding(check="C5.counters", outcome="pass", law="l", message="fine"),
    )
    store.write_audit("c5", AuditReport(subject="demo", findings=findings))
    store.write_experiment(store.entry("demo").with_(comparison="c5"))
    assert "C5.selection: both had 5 trials, ltr 1" in only(store.experiment("demo")).cautions
    assert not any("C5" in caution for caution in only(experiment(tmp_path / "other")).cautions)


def test_more_looks_at_the_validation_split_are_said_of_the_pair_that_has_them(tmp_path):
    store = make_store(tmp_path / "runs")
    for run in store.entry("demo").runs:
        result = store.record(run.run_id).result
        looks = {"evaluations": 5 if run.arm == "both" else 4}
        store.write_result(result.with_(counters={**result.counters, **looks}))
    findings = (Finding(check="C5.selection", outcome="fail", law="l", message="evaluations ltr 4, both 5"),)
    store.write_audit("c5", AuditReport(subject="demo", findings=findings))
    store.write_experiment(store.entry("demo").with_(comparison="c5"))
    values = {one.arm: one.cautions for one in verdicts(store.experiment("demo"))}
    assert "its runs were evaluated 5 times, those of ltr 4 times" in values["both"]
    others = [caution for arm, cautions in values.items() if arm != "both" for caution in cautions]
    assert not any("evaluat" in caution for caution in others)


def test_mixed_machines_are_said(tmp_path):
    store = make_store(tmp_path / "runs")
    result = store.experiment("demo").runs_of("both", "base")[0].result
    how = {"memory_kept": True, "started_by": "nursery"}
    store.write_result(result.with_(fingerprint={**result.fingerprint, **how}))
    assert "machine" not in " ".join(only(store.experiment("demo")).cautions), "how a worker ran changes no bit"
    store.write_result(result.with_(fingerprint={**result.fingerprint, "logical_cores": 64, "environment": "0" * 16}))
    assert "machine" not in " ".join(only(store.experiment("demo")).cautions), "the other run has no such item"
    store.write_result(result.with_(fingerprint={**result.fingerprint, "threads": 2}))
    says = "1 of 3 pairs was trained on two kinds of machine (seed 0; they differ in threads)"
    assert says in only(store.experiment("demo")).cautions


def test_pairs_on_two_kinds_of_machine_are_left_out_where_one_kind_is_asked(tmp_path):
    seeds = tuple(range(6))
    store = make_store(tmp_path / "runs", Synthetic(seeds=seeds))
    both = store.experiment("demo").runs_of("both", "base")
    for run in both[:2]:
        store.write_result(run.result.with_(fingerprint={**run.result.fingerprint, "torch": "2.14.0"}))
    record = store.experiment("demo")
    assert [run.result.kind for run in both[2:]] == [record.runs_of("ltr", "base")[0].result.kind] * 4
    assert (
        "2 of 6 pairs were trained on two kinds of machine (seeds 0, 1; they differ in torch)" in only(record).cautions
    )
    asked = only(replace(record, one_kind=True))
    assert [pair.seed for pair in asked.comparison.pairs] == [2, 3, 4, 5]
    assert not asked.reasons
    told = [caution for caution in asked.cautions if "machine" in caution]
    assert told == ["2 of 6 pairs are left out, as asked: trained on two kinds of machine (seeds 0, 1)"]
    assert asked.by_more_than_matters in (True, False)
    assert type(asked.by_more_than_matters) is bool, "JSON has no other kind of truth value"
    ended_elsewhere = dict.fromkeys([("both", "base", 0), ("both", "base", 1)], "diverged")
    dropped = make_store(tmp_path / "fewer", Synthetic(seeds=seeds, outcomes=ended_elsewhere))
    assert asked.interval == only(dropped.experiment("demo")).interval


def test_scales_have_their_own_verdicts(tmp_path):
    record = experiment(tmp_path, scales=("small", "large"), outcomes={("both", "large", 0): "diverged"})
    result = {(item.arm, item.scale): item.outcome for item in verdicts(record)}
    assert result["both", "small"] == "worse"
    assert result["both", "large"] == "cannot tell"


def test_a_rule_that_names_no_arm_is_refused(tmp_path):
    store = make_store(tmp_path / "runs")
    entry = store.entry("demo")
    store.write_experiment(entry.with_(decision={**entry.decision, "baseline": "lrt"}))
    with pytest.raises(BadInput, match="did you mean 'ltr'"):
        verdicts(store.experiment("demo"))
    store.write_experiment(entry.with_(decision={**entry.decision, "confidence": 95}))
    with pytest.raises(BadInput, match="confidence"):
        verdicts(store.experiment("demo"))


@pytest.mark.parametrize("room", ["palinode.results.store", "palinode.analysis.tables", "palinode.report.build"])
def test_reading_a_finished_store_needs_no_torch(room):
    program = f"import sys, {room}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_an_arm_that_was_never_trained_on_the_compared_direction_is_named(tmp_path):
    arms = (SyntheticArm("ltr"), SyntheticArm("both", rtl="honest", p=0.5))
    store = make_store(tmp_path, Synthetic(arms=arms))
    record = store.experiment(store.experiments()[0].full_name)
    rule = record.entry.rule
    caution = "ltr was never trained right to left, so this score says nothing about what it learned"
    assert caution not in verdict(record, "both", "base", rule).cautions
    assert caution in verdict(record, "both", "base", rule.with_(metric="validation.rtl.nats_per_token")).cautions


@pytest.mark.parametrize(("baseline", "arm"), [((0.3, 0.3, 0.3), (1.0, 1.0, 1.0)), ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))])
def test_differences_that_are_equal_but_for_rounding_are_no_evidence(baseline, arm):
    pairs = tuple(Pair(seed, ours, theirs) for seed, (ours, theirs) in enumerate(zip(arm, baseline, strict=True)))
    equal = Comparison("x", "ltr", "base", "validation.own.accuracy", 0.95, pairs)
    assert pair_reasons(equal) == ["all differences are exactly equal, so there is no spread to measure"]
    moved = replace(equal, pairs=(*pairs[:2], replace(pairs[2], arm_value=arm[2] - 1e-6)))
    assert pair_reasons(moved) == []


def test_runs_that_are_counted_widen_no_other_interval_and_need_no_seeds(tmp_path):
    arms = (TaskArm("all"), TaskArm("masked", objective="masked", rate=0.15), TaskArm("answer", "answer"))
    store = make_task_store(tmp_path, SyntheticTask(arms=arms, seeds=(1, 2, 3, 4, 5, 6)))
    record = store.experiment("recall")
    several = {(one.arm, one.scale): one for one in verdicts(record)}
    counted = [one for one in several.values() if one.learned is not None]
    assert counted
    assert all(one.seeds_needed is None for one in counted)
    assert {one.deciding.comparisons for one in several.values()} == {len(several)}, "all stay in the family"
    widths = [one.interval.high - one.interval.low for one in several.values() if one.learned is None]
    assert widths
    assert max(widths) < 0.2, "an accuracy that jumps in some seeds made every interval of its scale 1 wide"


def test_no_seeds_are_named_where_the_same_text_leaves_more_than_matters(tmp_path):
    record = make_store(tmp_path).experiment("demo")
    one = verdicts(record)[0]
    text = text_and_seeds(np.zeros((2, 3)), np.ones((2, 3)), np.ones(3), 0.95)
    wide = replace(text, interval=Interval(-1.0, 1.0), floor=0.5)
    over_text = replace(one.deciding, text=wide, over="seeds and text", standard_error=0.1)
    needed = plan_seeds(one.comparison, one.rule, over_text)
    assert (needed.seeds, needed.floor) == (None, 0.5)
    told = more_seeds(replace(one, outcome="cannot tell", seeds_needed=needed, reasons=()))
    assert told.endswith("the same text leaves about \u00b10.5.")
    assert plan_seeds(one.comparison, one.rule, replace(over_text, over="seeds")).seeds is not None
