"""Every arm gets the same number of trials, scored on text that no run trains on and no verdict uses."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from palinode import (
    Arm,
    DataConfig,
    Decision,
    EvaluationConfig,
    Experiment,
    LtrObjective,
    RunSettings,
    Scale,
    Size,
    modern,
)
from palinode.base.config import decode, encode, identity
from palinode.base.errors import BadInput
from palinode.data.store import prepare
from palinode.results.record import ChoiceEntry, Result
from palinode.spec.tuning import Tuning, trials, trials_of, with_chosen
from palinode.train.optim import AdamW
from palinode.train.recipe import Gpt2AdamW


def experiment(tuning=None, tuning_fraction=0.1, **changes) -> Experiment:
    fields = {
        "name": "x",
        "question": "?",
        "base": RunSettings(
            data=DataConfig(window_tokens=16, tuning_fraction=tuning_fraction),
            model=modern(layers=1, width=16, heads=2),
            objective=LtrObjective(),
            recipe=Gpt2AdamW(steps=400, optimizer=AdamW(learning_rate=0.01)),
            evaluation=EvaluationConfig(test=True, layer_cut=True, context_lengths=(8,)),
        ),
        "arms": (
            Arm(name="ltr"),
            Arm(name="slow", change={"recipe.optimizer.learning_rate": 0.001, "model.dropout": 0.1}),
        ),
        "scales": (Scale(name="one"), Scale(name="two", change={"model.width": 32})),
        "seeds": (1, 2),
        "decision": Decision(baseline="ltr", metric="test.own.nats_per_token"),
        "tuning": tuning,
    }
    return Experiment(**{**fields, **changes})


def rate(settings) -> float:
    return settings.recipe.optimizer.learning_rate


def test_every_arm_is_tried_as_often_and_only_where_nothing_else_looks():
    tuning = Tuning(factors=(0.5, 1.0, 2.0), seeds=(0, 7), change={"recipe.steps": 200})
    resolved = experiment(tuning).resolve()
    trial_experiment = trials(resolved)
    assert len(trial_experiment.runs) == 2 * 2 * 3 * 2
    assert {run.seed for run in trial_experiment.runs} == {0, 7}
    for run in trial_experiment.runs:
        evaluation = run.spec.evaluation
        assert evaluation == EvaluationConfig(split="tuning")
        assert run.spec.recipe.steps == 200
    for scale in resolved.scales:
        for arm, own in (("ltr", 0.01), ("slow", 0.001)):
            tried = trials_of(resolved, arm, scale)
            assert [value for value, _ in tried] == [own * 0.5, own, own * 2]
            assert all(rate(spec) == value for value, specs in tried for spec in specs)
            ids = {spec.run_id for _, specs in tried for spec in specs}
            assert len(ids) == 6
            assert ids <= {run.spec.run_id for run in trial_experiment.runs}
    assert trial_experiment.decision.metric == "tuning.own.nats_per_token"
    assert len(resolved.runs) == 8


def test_what_was_chosen_is_all_that_changes():
    resolved = experiment(Tuning(values=(0.1, 0.2))).resolve()
    chosen = {(arm, scale): 0.1 if arm == "ltr" else 0.2 for arm in ("ltr", "slow") for scale in ("one", "two")}
    done = with_chosen(resolved, chosen)
    assert done.tuning is None
    for before, after in zip(resolved.runs, done.runs, strict=True):
        assert rate(after.spec) == chosen[after.arm, after.scale]
        assert after.spec.with_(recipe=before.spec.recipe) == before.spec
        assert after.spec.recipe.with_(optimizer=before.spec.recipe.optimizer) == before.spec.recipe


def test_a_size_has_trials_of_its_own():
    sizes = {"smoke": Size(tuning=Tuning(values=(0.5, 0.6))), "laptop": Size()}
    made = experiment(Tuning(factors=(1, 2, 3)), sizes=sizes)
    assert made.resolve("smoke").tuning == sizes["smoke"].tuning
    assert made.resolve("laptop").tuning == made.tuning


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "two or more different values"),
        ({"values": (1.0,)}, "two or more different values"),
        ({"values": (1.0, 1.0)}, "two or more different values"),
        ({"values": (0.01, 0.0100000001)}, "named by six digits"),
        ({"values": (1.0, 2.0), "factors": (1.0, 2.0)}, "not both"),
        ({"factors": (1.0, 2.0), "seeds": ()}, "at least one seed"),
    ],
)
def test_lists_that_choose_nothing_are_refused(fields, message):
    with pytest.raises((BadInput, ValidationError), match=message):
        Tuning(**fields)


def test_what_is_tested_on_is_not_tuned():
    for field in ("data.validation_fraction", "evaluation.max_tokens"):
        with pytest.raises(BadInput, match="the same for every arm"):
            Tuning(field=field, values=(0.1, 0.2))
    looking = Tuning(values=(0.1, 0.2), change={"evaluation": {"split": "validation", "test": True}})
    assert {run.spec.evaluation.split for run in trials(experiment(looking).resolve()).runs} == {"tuning"}


def test_arms_that_differ_only_in_what_is_tuned_are_refused():
    """The same trials would choose the same value for both: an arm would be compared with itself."""
    arms = (Arm(name="ltr"), Arm(name="slow", change={"recipe.optimizer.learning_rate": 0.001}))
    with pytest.raises(BadInput, match="differ only in recipe.optimizer.learning_rate") as refused:
        experiment(Tuning(values=(0.01, 0.02)), arms=arms).resolve()
    assert refused.value.field == "tuning.field"
    assert experiment(Tuning(factors=(0.5, 2.0)), arms=arms).resolve().tuning is not None


def test_a_number_that_is_counted_is_tried_at_whole_numbers():
    for tuning in (Tuning(field="recipe.steps", values=(120, 200)), Tuning(field="recipe.steps", factors=(0.3, 0.5))):
        trial_experiment = trials(experiment(tuning).resolve())
        assert {type(run.spec.recipe.steps) for run in trial_experiment.runs} == {int}
        assert {run.spec.recipe.steps for run in trial_experiment.runs} == {120, 200}


def test_a_counted_number_comes_back_from_a_record_as_one():
    resolved = experiment(Tuning(field="recipe.steps", values=(120, 200))).resolve()
    entry = ChoiceEntry(
        arm="ltr", scale="base", field="recipe.steps", values=(120, 200), scores=(1, 2), chosen=120, runs=()
    )
    chosen = decode(ChoiceEntry, json.loads(json.dumps(encode(entry)))).chosen
    result = with_chosen(resolved, dict.fromkeys(((run.arm, run.scale) for run in resolved.runs), chosen))
    assert {run.spec.recipe.steps for run in result.runs} == {120}
    assert {type(run.spec.recipe.steps) for run in result.runs} == {int}


@pytest.mark.parametrize(
    ("tuning", "fraction", "field"),
    [
        (Tuning(factors=(1.0, 2.0)), 0.0, "data.tuning_fraction"),
        (Tuning(values=(1.0, 2.0), field="recipe.optimizer.learning_rat"), 0.1, "tuning.field"),
        (Tuning(factors=(1.0, 2.0), field="recipe.optimizer"), 0.1, "tuning.field"),
        (Tuning(factors=(1.0, 2.0), field="recipe.nothing"), 0.1, "tuning.field"),
        (Tuning(values=(-1.0, 2.0)), 0.1, "learning_rate"),
        (Tuning(values=(1.0, 2.0), change={"recipe.step": 3}), 0.1, "recipe.step"),
        (Tuning(field="model.dropout", factors=(1.0, 2.0)), 0.1, "tuning.factors"),
        (Tuning(field="recipe.steps", factors=(0.3, 0.33333)), 0.1, "recipe.steps"),
    ],
)
def test_trials_that_cannot_be_are_refused_before_anything_runs(tuning, fraction, field):
    with pytest.raises(BadInput) as refused:
        experiment(tuning, fraction).resolve()
    assert field in refused.value.field


def test_a_metric_of_a_split_that_is_not_scored_is_refused():
    with pytest.raises(BadInput, match="not measured"):
        experiment(decision=Decision(baseline="ltr", metric="tuning.ltr.nats_per_token")).resolve()


@pytest.mark.parametrize("limit", [None, 100])
def test_no_token_of_the_tuning_split_is_trained_on(tmp_path, monkeypatch, limit):
    monkeypatch.setenv("PALINODE_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {n * n}\n" for n in range(400)))
    plain = DataConfig(corpus=str(text), split="contiguous", window_tokens=16)
    whole = np.asarray(prepare(plain).tokens("train"))
    kept = prepare(plain.with_(tuning_fraction=0.25, max_train_tokens=limit))
    held_back = np.asarray(kept.tokens("tuning"))
    assert len(held_back) == len(whole) // 4
    np.testing.assert_array_equal(held_back, whole[len(whole) - len(held_back) :])
    np.testing.assert_array_equal(kept.tokens("train"), whole[: len(whole) - len(held_back)][:limit])
    np.testing.assert_array_equal(kept.tokens("validation"), prepare(plain).tokens("validation"))
    assert len(prepare(plain).tokens("tuning")) == 0
    with pytest.raises(BadInput, match="tuning split holds"):
        prepare(plain.with_(tuning_fraction=1e-9))


def test_a_trial_takes_a_share_of_the_steps_of_its_arm():
    arms = (Arm(name="ltr"), Arm(name="short", change={"recipe.steps": 240}))
    shorter = experiment(Tuning(values=(0.01, 0.02), share_of_steps=0.5), arms=arms).resolve()
    steps = {run.arm.partition(" at ")[0]: run.spec.settings.recipe.steps for run in trials(shorter).runs}
    assert steps == {"ltr": 200, "short": 120}
    plain = Tuning(values=(0.01, 0.02))
    assert "share_of_steps" not in identity(plain), "the seals of older plans keep their hashes of settings"
    later = ("share_of_steps", "by_own_pass")
    assert identity(plain) == {name: value for name, value in encode(plain).items() if name not in later}


def test_an_arm_may_be_tuned_by_the_pass_that_it_is_trained_on():
    """An arm that reads right to left only got the rate with the lowest ltr loss: the one that taught it least."""
    resolved = experiment(Tuning(values=(0.01, 0.02))).resolve()
    resolved = resolved.with_(decision=resolved.decision.with_(metric="validation.ltr.nats_per_token"))
    assert trials(resolved).decision.metric == "tuning.ltr.nats_per_token"
    by_own = resolved.with_(tuning=resolved.tuning.with_(by_own_pass=True))
    assert trials(by_own).decision.metric == "tuning.own.nats_per_token"
    result = Result(
        run_id="r",
        outcome="done",
        scores={"tuning": {"ltr": {"nats_per_token": 4.5}, "rtl": {"nats_per_token": 1.8}}},
        counters={"tokens_scored_rtl": 100},
    )
    assert result.score(trials(by_own).decision.metric) == 1.8
