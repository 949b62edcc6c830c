"""A task is the data of a run like any other: streamed by the seed, scored on its answers, on the split that was asked for."""

import pytest
import torch

from palinode import AdamW, EvaluationConfig, Gpt2AdamW, LtrObjective, RunSpec, Speedrun, Store, gpt2
from palinode.audit import audit_arm
from palinode.base.config import decode, encode
from palinode.base.errors import BadInput
from palinode.data.source import prepare
from palinode.data.task_store import TaskData
from palinode.data.tasks import AssociativeRecall, Copy, MadRecall
from palinode.objectives import MaskedInputObjective, MaskedObjective, RtlObjective
from palinode.run import measure
from palinode.run import one as run
from palinode.run.one import run_one
from palinode.run.scoring import evaluate_split
from palinode.spec.run_spec import RunSettings
from palinode.train.growth import LengthGrowth


def settings(**changes) -> RunSettings:
    fields = {
        "data": TaskData(
            task=AssociativeRecall(vocabulary=10, length=12),
            validation_sequences=200,
            test_sequences=100,
            tuning_sequences=150,
        ),
        "model": gpt2(layers=1, width=16, heads=2),
        "objective": LtrObjective(),
        "recipe": Gpt2AdamW(steps=120, batch_windows=4, optimizer=AdamW(learning_rate=1e-3)),
        "evaluation": EvaluationConfig(directions=("ltr",), labels="answer"),
    }
    return RunSettings(**{**fields, **changes})


def test_answers_alone_are_scored_on_every_sequence_of_the_split(tmp_path):
    spec = RunSpec.of(settings(evaluation=EvaluationConfig(directions=("ltr",), labels="answer", test=True)), 1)
    result = run_one(spec, Store(tmp_path))
    assert result.outcome == "done"
    assert {split: scores["ltr"]["tokens_scored"] for split, scores in result.scores.items()} == {
        "validation": 200,
        "test": 100,
    }
    assert result.scores["validation"]["ltr"]["bits_per_byte"] is None
    assert result.counters["tokens_scored_ltr"] == 120 * 4 * 15  # twelve of pairs, =>, query, answer
    answer = run_one(RunSpec.of(settings(labels="answer"), 1), Store(tmp_path))
    assert answer.counters["tokens_scored_ltr"] == 120 * 4
    assert answer.counters["tokens_read"] == result.counters["tokens_read"]


def test_a_masked_run_is_scored_in_its_own_pass(tmp_path):
    result = run_one(RunSpec.of(settings(objective=MaskedObjective(rate=0.2)), 1), Store(tmp_path))
    assert set(result.scores["validation"]) == {"masked"}
    assert result.scores["validation"]["masked"]["tokens_scored"] == 200
    assert result.score("validation.own.accuracy") == result.scores["validation"]["masked"]["accuracy"]
    assert result.score("validation.ltr.accuracy") is None


def test_a_trial_scores_the_tuning_sequences(tmp_path):
    chosen = settings(evaluation=EvaluationConfig(directions=("ltr",), labels="answer", split="tuning"))
    result = run_one(RunSpec.of(chosen, 0), Store(tmp_path))
    assert set(result.scores) == {"tuning"}
    assert result.scores["tuning"]["ltr"]["tokens_scored"] == 150


def test_runs_share_what_they_score_and_not_what_they_train_on():
    data = prepare(settings().data)
    for split, count in (("validation", 200), ("tuning", 150), ("test", 100)):
        batches = list(data.evaluation(split, 15, batch_windows=64, max_tokens=None))
        assert sum(len(batch) for batch in batches) == count == data.scored_tokens(split, None) // 15
        again = list(prepare(settings().data).evaluation(split, 15, batch_windows=64, max_tokens=None))
        assert all(torch.equal(one.tokens, other.tokens) for one, other in zip(batches, again, strict=True))
    few = list(data.evaluation("validation", 15, batch_windows=64, max_tokens=80))
    assert [len(batch) for batch in few] == [5]
    streams = [data.training(15, seed).read(0, 50).tokens for seed in (1, 1, 2)]
    assert torch.equal(streams[0], streams[1])
    assert not torch.equal(streams[0], streams[2])


def test_fixed_sequences_come_again_in_another_order():
    data = prepare(settings(data=TaskData(task=Copy(length=8), train_sequences=20)).data)
    length = data.config.window_tokens
    epochs = [data.training(length, 1).read(20 * epoch, 20).tokens for epoch in range(2)]
    assert not torch.equal(*epochs)
    assert {tuple(row) for row in epochs[0].tolist()} == {tuple(row) for row in epochs[1].tolist()}


@pytest.mark.nightly
def test_the_audit_of_a_task_checks_its_prompts(tmp_path):
    report = audit_arm(settings(), name="ltr", store=Store(tmp_path)).report
    assert report.outcome != "fail", report.findings
    [prompts] = [finding for finding in report.findings if finding.check.startswith("C4")]
    assert (prompts.check, prompts.outcome) == ("C4.prompt_splits", "pass")


def test_a_spec_of_a_task_survives_json():
    spec = RunSpec.of(settings(objective=MaskedObjective()), 3)
    again = decode(RunSpec, encode(spec))
    assert again == spec
    assert again.run_id == spec.run_id


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"task": {"kind": "associative-recal"}}, "data.task"),
        ({"task": {"kind": "associative-recall", "vocab": 3}}, "data.task.vocab"),
        ({"task": {"kind": "associative-recall"}, "test": 3}, "data.test"),
        ({"task": {"kind": "associative-recall"}, "train_sequences": 0}, "data.train_sequences"),
        ({"corpus": "x", "windows": 3}, "data.windows"),
    ],
)
def test_mistakes_in_either_kind_of_data_name_their_field(data, field):
    with pytest.raises(BadInput) as refused:
        decode(RunSettings, {**encode(settings()), "data": data})
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"evaluation": EvaluationConfig(context_lengths=(8,))}, "evaluation.context_lengths"),
        ({"data": {"corpus": "python-docs"}, "labels": "answer"}, "labels"),
        ({"data": {"corpus": "python-docs"}, "objective": MaskedObjective(rate=0.1)}, "objective.hide_answers"),
        (
            {"data": {"corpus": "python-docs"}, "objective": MaskedInputObjective(hide_answers=True)},
            "objective.hide_answers",
        ),
    ],
)
def test_what_a_task_or_a_text_cannot_do_is_refused(changes, field):
    if "data" in changes and "evaluation" not in changes:
        changes = {**changes, "evaluation": EvaluationConfig()}
    with pytest.raises(BadInput) as refused:
        settings(**changes)
    assert field in str(refused.value)


def test_sequences_are_not_grown():
    recipe = settings().recipe.with_(growth=LengthGrowth(start_tokens=4, double_every_steps=1))
    with pytest.raises(BadInput, match=r"recipe\.growth"):
        settings(recipe=recipe)
    with pytest.raises(BadInput, match="not cut"):
        prepare(settings().data).training(8, 1)


def test_an_accuracy_stands_beside_chance_slices_and_longer_sequences(tmp_path):
    chosen = EvaluationConfig(directions=("ltr",), labels="answer", length_factors=(2, 4))
    rotary = gpt2(layers=1, width=16, heads=2).with_(position="rotary")
    store = Store(tmp_path)
    spec = RunSpec.of(settings(evaluation=chosen, model=rotary), 1)
    result = run_one(spec, store)
    table = store.record(spec.run_id).task["validation"]
    assert table["levels"]["chance"] == 0.25
    scores = result.scores["validation"]["ltr"]
    for rows in table["by_pass"]["ltr"]["slices"].values():
        assert sum(row["tokens_scored"] for row in rows) == scores["tokens_scored"] == 200
        assert sum(row["hits"] for row in rows) == scores["hits"]
    assert table["by_pass"]["ltr"]["exact_match"] == scores["accuracy"]
    assert {factor: row["ltr"]["tokens_scored"] for factor, row in table["lengths"].items()} == {"2": 200, "4": 200}


@pytest.mark.parametrize(
    ("objective", "way", "reading"),
    [
        (LtrObjective(), "ltr", "ltr"),
        (RtlObjective(), "rtl", "rtl"),
        (MaskedInputObjective(rate=0.0, hide_answers=True), "ltr", "ltr_prompt"),
        (MaskedObjective(), "masked", "prompt"),
        (MaskedObjective(hide_answers=False, rate=0.5), "masked", "others"),
    ],
    ids=repr,
)
def test_levels_and_slices_are_those_of_the_pass_a_run_is_judged_by(objective, way, reading, tmp_path, monkeypatch):
    """Answers of one sequence are seen over different gaps: each is counted at its own."""
    monkeypatch.setattr(run.Attempt, "audit", lambda self: None)
    recall = TaskData(task=MadRecall(vocabulary=6, length=12), train_sequences=50, validation_sequences=100)
    chosen = EvaluationConfig(directions=("ltr", "rtl"), labels="answer")
    recipe = Gpt2AdamW(steps=2, batch_windows=4, schedule=Gpt2AdamW().schedule.with_(warmup_steps=0))
    spec = RunSpec.of(settings(data=recall, objective=objective, evaluation=chosen, recipe=recipe), 1)
    store = Store(tmp_path)
    scores = run_one(spec, store).scores["validation"]
    table = store.record(spec.run_id).task["validation"]
    assert table["levels"]["reading"] == reading
    assert table["levels"]["solved_by"] == ["cache_1", "cache_2", "cache_3"]
    assert (table["levels"]["trivial"]["cache_1"] == 1.0) == (reading != "rtl")
    gaps = table["by_pass"][way]["slices"]["gap"]
    assert len(gaps) > 3
    assert sum(row["tokens_scored"] for row in gaps) == scores[way]["tokens_scored"] > 100
    assert sum(row["hits"] for row in gaps) == scores[way]["hits"]


def test_a_loss_that_is_not_finite_beyond_the_trained_length_is_a_note_and_no_score(tmp_path, monkeypatch):
    chosen = EvaluationConfig(directions=("ltr",), labels="answer", length_factors=(2, 4))
    rotary = gpt2(layers=1, width=16, heads=2).with_(position="rotary")
    spec, events = RunSpec.of(settings(evaluation=chosen, model=rotary), 1), []

    def overflowing(trained, split, score=None):
        if trained.spec.data == spec.data.longer(4):
            raise FloatingPointError("inf")
        return evaluate_split(trained, split, score)

    monkeypatch.setattr(measure, "evaluate_split", overflowing)
    store = Store(tmp_path)
    assert run_one(spec, store, on_event=events.append).outcome == "done"
    assert list(store.record(spec.run_id).task["validation"]["lengths"]) == ["2"]
    (note,) = [event["message"] for event in events if event["event"] == "note"]
    assert note.startswith("at 4 times the trained length the validation loss is not finite")


def test_a_model_with_a_table_of_positions_is_not_scored_on_longer_sequences(tmp_path):
    chosen = EvaluationConfig(directions=("ltr",), labels="answer", length_factors=(2,))
    with pytest.raises(BadInput, match=r"evaluation\.length_factors.*longer than the table"):
        run_one(RunSpec.of(settings(evaluation=chosen), 1), Store(tmp_path))
    with pytest.raises(BadInput, match="only the sequences of a task"):
        settings(data={"corpus": "python-docs"}, evaluation=EvaluationConfig(length_factors=(2,)))


def test_a_run_ends_at_the_accuracy_that_ends_it_also_when_it_was_stopped_before(tmp_path):
    recipe = Speedrun(steps=60, batch_windows=4, evaluate_every_steps=10)
    whole = run_one(RunSpec.of(settings(recipe=recipe), 1), Store(tmp_path))
    assert whole.counters["optimizer_steps"] == 60
    rows = Store(tmp_path).record(whole.run_id).metrics
    accuracies = [row["scores"]["ltr"]["accuracy"] for row in rows if row["event"] == "eval" and not row["final"]]
    goal, at = accuracies[1], next(at for at, one in enumerate(accuracies) if one >= accuracies[1])
    spec = RunSpec.of(settings(recipe=recipe.with_(stop_at_accuracy=goal)), 1)
    assert spec.run_id != whole.run_id
    ended = run_one(spec, Store(tmp_path))
    assert ended.counters["optimizer_steps"] == 10 * (at + 1)
    assert ended.score("validation.ltr.accuracy") == accuracies[at]
    calls = iter(range(100))
    assert run_one(spec, Store(tmp_path / "again"), should_stop=lambda: next(calls) == 7).outcome == "stopped"
    again = run_one(spec, Store(tmp_path / "again"))
    assert (again.weights_sha256, again.counters) == (ended.weights_sha256, ended.counters)
    with pytest.raises(ValueError, match="stop_at_accuracy: nothing is evaluated"):
        recipe.with_(stop_at_accuracy=0.9, evaluate_every_steps=None)
