"""Accuracy on tasks: its levels, which arms are compared with each other, slices and lengths, by hand."""

import random
from dataclasses import replace
from functools import cache

import pytest
from scipy import special

from palinode.analysis.intervals import share_interval, t_interval
from palinode.analysis.tables import all_tables
from palinode.analysis.tasks import (
    any_above_trivial,
    difficulty,
    levels_at,
    levels_of,
    slice_means,
    task_accuracy,
    task_effects,
    task_lengths,
    task_means,
)
from palinode.base import fsio
from palinode.base.errors import Damaged
from palinode.results.record import TASK_EVENT
from palinode.results.rows import METRICS_FILE
from synthetic_store import Synthetic, make_store
from synthetic_tasks import LENGTHS, LEVELS, SyntheticTask, TaskArm, final_accuracy, make_task_store

NAME = "recall--laptop"
SPLIT = "validation"


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return make_task_store(tmp_path_factory.mktemp("task") / "runs").experiment(NAME)


def made(tmp_path, **changes):
    return make_task_store(tmp_path / "runs", SyntheticTask(**changes)).experiment(NAME)


def test_wilsons_interval_solves_its_equation():
    for hits, count in ((0, 10), (3, 10), (10, 10), (505, 1000)):
        interval, z = share_interval(hits, count, 0.95), float(special.ndtri(0.975))
        for end in (interval.low, interval.high):
            if 0 < end < 1:
                assert (hits / count - end) ** 2 == pytest.approx(z * z * end * (1 - end) / count)
        assert interval.low <= hits / count <= interval.high
    assert share_interval(0, 0, 0.95) is None


def test_every_run_stands_beside_its_levels(record):
    accuracies = task_accuracy(record, SPLIT)
    assert accuracies.height == 4 * 3 * 3
    row = accuracies.filter(arm="classifier", scale="v10", seed=2).row(0, named=True)
    assert row["direction"] == "masked", "its own pass"
    assert row["accuracy"] == pytest.approx(final_accuracy(TaskArm("classifier", objective="masked"), 10, 2), abs=5e-4)
    assert (row["chance"], row["best_possible"]) == (0.25, 1.0)
    assert (row["best_trivial_name"], row["best_trivial"]) == ("in_context_mode", 0.505), "a lookup is no level to beat"
    assert row["above_trivial"]


def test_means_say_how_many_seeds_learned(record):
    means = task_means(record, task_accuracy(record, SPLIT))
    answer = means.filter(arm="answer", scale="v30").row(0, named=True)
    assert (answer["seeds"], answer["seeds_above_trivial"]) == (3, 1)
    values = task_accuracy(record, SPLIT).filter(arm="answer", scale="v30")["accuracy"].to_list()
    interval = t_interval(values, 0.95)
    assert answer["accuracy"] == pytest.approx(sum(values) / 3)
    assert (answer["interval_low"], answer["interval_high"]) == pytest.approx((interval.low, interval.high))
    assert means.filter(arm="all", scale="v30")["seeds_above_trivial"].item() == 3


COMPARISONS = 200


@pytest.mark.nightly
def test_runs_that_guess_are_seldom_taken_for_one_that_learned(record):
    """Of comparisons of ten runs at the trivial level, no more than 1 in 40 may say that one is above, as of one run alone."""
    runs = record.runs_of("answer", "v30") * 4
    levels = levels_of(runs[0], SPLIT)
    draws = random.Random(0)

    @cache  # a run reads its levels from its file
    def with_hits(hits):
        scores = {SPLIT: {runs[0].result.own_pass(SPLIT): {"hits": hits, "tokens_scored": 500}}}
        return replace(runs[0], record=replace(runs[0].record, result=runs[0].result.with_(scores=scores)))

    def guessing():
        return with_hits(sum(draws.random() < levels.to_beat for _ in range(500)))

    verdicts = [any_above_trivial([guessing() for _ in range(10)], SPLIT, 0.95) for _ in range(COMPARISONS)]
    assert sum(verdicts) / COMPARISONS < 0.025 + 2 * (0.025 * 0.975 / COMPARISONS) ** 0.5
    assert any_above_trivial(runs, SPLIT, 0.95), "one seed learned it"
    assert any_above_trivial([], SPLIT, 0.95) is None


def test_a_little_above_the_trivial_level_is_not_above_it(tmp_path):
    arms = (TaskArm("all"), TaskArm("answer", "answer"))
    record = made(tmp_path, arms=arms, vocabularies=(30,), seeds=(1,))
    hits = task_accuracy(record, SPLIT).filter(arm="answer")["hits"].item()
    low = share_interval(hits, 1000, 0.95).low
    assert low < LEVELS[30][1]
    assert task_accuracy(record, SPLIT).filter(arm="answer")["above_trivial"].item() is False


def test_scales_that_differ_in_one_number_are_placed_by_it_whatever_was_tuned(record, tmp_path):
    assert difficulty(record) == ("data.task.vocabulary", {"v10": 10.0, "v20": 20.0, "v30": 30.0})
    store = make_task_store(tmp_path / "two")
    for run in store.experiment(NAME).runs:
        spec = dict(run.record.spec)
        spec["data"] = {
            **spec["data"],
            "task": {**spec["data"]["task"], "length": 2 * spec["data"]["task"]["vocabulary"]},
        }
        (store.run_directory(run.entry.run_id) / "spec.json").unlink()
        store.write_spec(run.entry.run_id, spec)
    assert difficulty(store.experiment(NAME)) == (None, {"v10": 0.0, "v20": 1.0, "v30": 2.0})


def test_arms_that_differ_in_one_thing_are_set_against_each_other_at_every_scale(record):
    effects = task_effects(record, SPLIT)
    assert {
        (effect.what, effect.contrast, effect.comparison.arm, effect.comparison.baseline) for effect in effects
    } == {
        ("labels", "all - answer", "all", "answer"),
        ("labels", "all - answer", "masked", "classifier"),  # without a direction, labels are what is hidden
        ("objective", "non-causal - causal", "classifier", "answer"),  # it trains on answers, whatever its labels say
        ("objective", "non-causal - causal", "masked", "all"),
    }
    assert [effect.comparison.scale for effect in effects] == ["v10"] * 4 + ["v20"] * 4 + ["v30"] * 4
    at_30 = next(effect for effect in effects if effect.what == "labels" and effect.comparison.scale == "v30")
    rows = task_accuracy(record, SPLIT).filter(scale="v30").sort("seed")
    expected = [
        a - b for a, b in zip(*(rows.filter(arm=arm)["accuracy"].to_list() for arm in ("all", "answer")), strict=True)
    ]
    assert at_30.comparison.differences == pytest.approx(expected)
    interval = t_interval(expected, 0.95)
    assert (at_30.comparison.interval.low, at_30.comparison.interval.high) == pytest.approx(
        (interval.low, interval.high)
    )
    assert at_30.above_trivial


def test_the_order_of_the_arms_does_not_turn_an_effect_around(tmp_path):
    arms = (TaskArm("answer", "answer"), TaskArm("last", "last"), TaskArm("all"))
    effects = task_effects(made(tmp_path, arms=arms, vocabularies=(10,)), SPLIT)
    assert [effect.contrast for effect in effects] == ["answer - last", "all - answer", "all - last"]
    assert [effect.comparison.arm for effect in effects] == ["answer", "all", "all"]


@pytest.mark.parametrize("listed", [False, True])
def test_weights_for_the_other_side_go_with_the_objective(tmp_path, listed):
    """A mixer has them where it reads without a direction; alone they make no pair, and no other option may differ."""
    arms = (TaskArm("answer", "answer"), TaskArm("classifier", "answer", "masked"), TaskArm("longer", "answer"))
    store = make_task_store(tmp_path, SyntheticTask(arms=arms, vocabularies=(10,), seeds=(1, 2)))
    for run in store.experiment(NAME).runs:
        mixer = {"kind": "hyena", "two_sided": run.entry.arm == "classifier", "order": 2 + (run.entry.arm == "longer")}
        model = {**run.record.spec["model"], **({"mixers": [{"kind": "s4d"}, mixer]} if listed else {"mixer": mixer})}
        (store.run_directory(run.entry.run_id) / "spec.json").unlink()
        store.write_spec(run.entry.run_id, {**run.record.spec, "model": model})
    [effect] = task_effects(store.experiment(NAME), SPLIT)
    assert (effect.what, effect.comparison.arm, effect.comparison.baseline) == ("objective", "classifier", "answer")


def test_two_arms_that_learned_nothing_are_marked(tmp_path):
    arms = (TaskArm("answer", "answer"), TaskArm("classifier", "answer", "masked"))
    [effect] = task_effects(made(tmp_path, arms=arms, vocabularies=(30,), seeds=(1, 3)), SPLIT)
    assert effect.above_trivial is False


def test_slices_add_up_and_their_interval_counts_the_answers_of_one_seed(record):
    row = slice_means(record, SPLIT).filter(arm="all", scale="v10", slice="gap", value=3).row(0, named=True)
    hits = [round(250 * final_accuracy(TaskArm("all"), 10, seed)) + 2 for seed in (1, 2, 3)]
    assert (row["hits"], row["tokens_scored"], row["seeds"]) == (sum(hits), 750, 3)
    interval = share_interval(round(sum(hits) / 3), 250, 0.95)
    assert (row["interval_low"], row["interval_high"]) == (interval.low, interval.high)


def test_lengths_begin_at_the_one_that_was_trained(record, tmp_path):
    result = task_lengths(record, SPLIT).filter(arm="all", scale="v10", seed=1)
    assert result["length_factor"].to_list() == [1, *LENGTHS]
    assert result["accuracy"][0] == pytest.approx(final_accuracy(TaskArm("all"), 10, 1), abs=5e-4)
    assert result["accuracy"][1] == pytest.approx(0.25 + 0.7 * (result["accuracy"][0] - 0.25), abs=1e-3)
    assert task_lengths(made(tmp_path, lengths=False), SPLIT).is_empty()


def with_levels(root, changes, **wanted):
    """A record whose stored levels are changed: a number by its name, or a name left out (None)."""
    store = make_task_store(root / "runs", SyntheticTask(vocabularies=(10,), seeds=(1,), **wanted))
    for run in store.experiment(NAME).runs:
        path = store.run_directory(run.entry.run_id) / METRICS_FILE
        rows = fsio.read_rows(path).rows
        for row in (row for row in rows if row["event"] == TASK_EVENT):
            levels = {**row["levels"], **{name: value for name, value in changes.items() if name != "trivial"}}
            levels["trivial"] = {**levels["trivial"], **changes.get("trivial", {})}
            row["levels"] = {name: value for name, value in levels.items() if value is not None}
        fsio.rewrite_lines(path, rows)
    return store.experiment(NAME)


COPY = {"trivial": {"position_only": 1.0, "in_context_mode": 0.14, "cache_1": 0.39}}


@pytest.mark.parametrize("declared", [True, False])
def test_what_solves_a_task_is_no_level_to_beat(tmp_path, declared):
    """Copying from a fixed place solves a copy: a model that does has learned it. Old records do not say so, but are perfect."""
    changes = COPY | {"solved_by": ["position_only", "cache_1", "cache_2", "cache_3"] if declared else None}
    record = with_levels(tmp_path, changes, arms=(TaskArm("all"),))
    levels, _ = levels_at(record, SPLIT, "v10")
    assert levels.best_trivial == ("most_recent_value", pytest.approx(0.75 * 0.505))
    assert levels.asked_for == ("position_only", 1.0)
    assert task_accuracy(record, SPLIT)["above_trivial"].to_list() == [True]


def test_a_look_up_that_does_not_solve_a_task_counts(tmp_path):
    """Fuzzy recall: two tokens looked up are right in .63 of the answers, and no model has learned the task that is."""
    fuzzy = {"trivial": {"cache_1": 0.34, "cache_2": 0.628}, "solved_by": [], "best": None}
    levels, _ = levels_at(with_levels(tmp_path, fuzzy, arms=(TaskArm("all"),)), SPLIT, "v10")
    assert levels.best_trivial == ("cache_2", 0.628)
    assert levels.asked_for is None


def test_records_of_before_levels_were_declared_keep_theirs(tmp_path, record):
    old = made(tmp_path, declared=False)
    for scale, (chance, in_context) in zip(("v10", "v20", "v30"), LEVELS.values(), strict=True):
        result, _ = levels_at(old, SPLIT, scale)
        assert (result.chance, result.best_trivial, result.reading) == (chance, ("in_context_mode", in_context), None)
        assert result.best_trivial == levels_at(record, SPLIT, scale)[0].best_trivial
    assert set(task_lengths(old, SPLIT)["chance"].unique()) == {None, *(chance for chance, _ in LEVELS.values())}


def test_old_levels_of_a_run_that_reads_rtl_are_those_that_see_nothing(tmp_path):
    """They were measured on what ltr reads before an answer."""
    arms = (TaskArm("rtl", objective="rtl"),)
    old, _ = levels_at(with_levels(tmp_path / "old", {}, arms=arms, declared=False), SPLIT, "v10")
    assert set(old.trivial) == {"uniform", "unigram"}
    assert old.best is None
    new, _ = levels_at(with_levels(tmp_path / "new", {"reading": "rtl"}, arms=arms), SPLIT, "v10")
    assert (new.best, new.best_trivial[0]) == (1.0, "in_context_mode")


def test_a_length_has_its_own_chance(tmp_path):
    chances = {"chance_by_length": {"2": 0.2, "4": 0.1, "8": 0.05}}
    result = task_lengths(with_levels(tmp_path, chances, arms=(TaskArm("all"),)), SPLIT)
    assert result.select("length_factor", "chance").rows() == [(1, 0.25), (2, 0.2), (4, 0.1), (8, 0.05)]


@pytest.mark.parametrize(
    "stranger", [{"solved_by": "cache_1"}, {"solved_by": [3]}, {"chance_by_length": [1]}, {"reading": 7}]
)
def test_levels_of_a_stranger_do_no_harm(tmp_path, stranger):
    levels, _ = levels_at(with_levels(tmp_path, stranger, arms=(TaskArm("all"),)), SPLIT, "v10")
    assert levels.chance == 0.25
    assert levels.reading in ("ltr", None)


@pytest.mark.parametrize(("scored", "chance"), [("answer", 0.25), ("last", 0.25), ("all", None)])
def test_levels_of_answers_stand_beside_scores_of_answers_alone(tmp_path, scored, chance):
    record = made(tmp_path, scored=scored, arms=(TaskArm("all"), TaskArm("answer", "answer")))
    levels, others = levels_at(record, SPLIT, "v10")
    assert (None if levels is None else levels.chance) == chance
    assert others == ()
    if scored == "last":
        assert levels.best_trivial is None, "measured over all answer tokens"


@pytest.mark.parametrize("objective", ["masked", "bottleneck"])
def test_what_has_answers_alone_for_targets_scores_answers_alone(tmp_path, objective):
    record = made(tmp_path, scored="all", arms=(TaskArm("all", objective=objective), TaskArm("ltr")))
    levels_by_arm = {run.entry.arm: levels_of(run, SPLIT) for run in record.runs}
    assert levels_by_arm["all"].chance > 0
    assert levels_by_arm["ltr"] is None


def test_a_text_has_none_of_this_and_the_tables_keep_their_shape(record, tmp_path):
    plain = all_tables(make_store(tmp_path, Synthetic(seeds=(1,), steps=100)).experiment("demo"))
    full = all_tables(record)
    for name in (name for name in full if name.startswith("task_")):
        assert plain[name].is_empty()
        assert not full[name].is_empty(), name
        assert plain[name].schema == full[name].schema


@pytest.mark.parametrize(
    "broken",
    [
        {"levels": {"trivial": {"unigram": "high"}}},
        {"levels": {"trivial": [0.1]}},
        {"by_pass": {"ltr": {"slices": {"gap": [{"value": 1}]}}}},
        {"by_pass": {"ltr": {"slices": [1]}}},
        {"lengths": {"twice": {}}},
        {"lengths": {"2": {"ltr": 0.5}}},
    ],
)
def test_a_row_of_another_shape_is_damage(tmp_path, broken):
    store = make_task_store(tmp_path / "runs", SyntheticTask(vocabularies=(10,), seeds=(1,)))
    row = {"event": TASK_EVENT, "attempt": 2, "step": 600, "split": SPLIT, "levels": {}, "by_pass": {}, "lengths": {}}
    store.append_metrics(store.experiment(NAME).runs[0].entry.run_id, row | broken)
    with pytest.raises(Damaged, match=r"metrics\.jsonl"):
        task_accuracy(store.experiment(NAME), SPLIT)
