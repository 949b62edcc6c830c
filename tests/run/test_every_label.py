"""Every objective with every label on text and on a task: it trains, or it is refused where settings are checked."""

import itertools

import pytest
import torch
from tiny_run import tiny_spec

from palinode import AdamW, EvaluationConfig, Gpt2AdamW, LtrObjective, RunSpec, Store, gpt2
from palinode.audit.trainer_bench import TrainerBench
from palinode.base.errors import BadInput
from palinode.checks.aggregation import check_training_loss
from palinode.data.source import prepare
from palinode.data.task_store import TaskData
from palinode.data.tasks import AssociativeRecall, Compression, MultiQueryRecall, Reversed
from palinode.objectives import (
    OBJECTIVES,
    BothObjective,
    BottleneckObjective,
    ChooseObjective,
    MaskedInputObjective,
    MaskedObjective,
    RtlObjective,
)
from palinode.objectives.probability import Constant
from palinode.run.one import Attempt, run_one
from palinode.train.checkpoint import weights_sha256
from palinode.train.loop import take_step
from palinode.train.stacked import train_together

RECALL = AssociativeRecall(vocabulary=10, length=12)
BARE = (
    LtrObjective(direction_token=False),
    RtlObjective(direction_token=False),
    BothObjective(p=Constant(p=1.0), direction_token=False),
    ChooseObjective(p=Constant(p=0.5), direction_token=False),
    ChooseObjective(p=Constant(p=1.0), direction_token=False),
    MaskedInputObjective(direction_token=False),
)
WITH_TOKENS = (
    LtrObjective(),
    RtlObjective(),
    BothObjective(p=Constant(p=1.0)),
    ChooseObjective(p=Constant(p=0.5)),
    MaskedInputObjective(),
    MaskedObjective(hide_answers=False, rate=0.15),
    MaskedObjective(),
    MaskedObjective(rate=0.15),
    BottleneckObjective(),
)
NEEDS_A_TASK = (MaskedObjective(), MaskedObjective(rate=0.15), BottleneckObjective())
RIGHT_TO_LEFT_ALONE = (BARE[1], BARE[4])  # never score the last token, which is the only label left


def spec_of(objective, labels, corpus, task=None, steps=1, **evaluation) -> RunSpec:
    """On this task, or else on text."""
    data = tiny_spec(corpus).data if task is None else TaskData(task=task, validation_sequences=100)
    return RunSpec(
        data=data,
        model=gpt2(layers=1, width=16, heads=2),
        objective=objective,
        recipe=Gpt2AdamW(steps=steps, batch_windows=4, optimizer=AdamW(learning_rate=1e-2), schedule=NO_WARM_UP),
        evaluation=EvaluationConfig(max_tokens=500, **evaluation),
        labels=labels,
        seed=1,
    )


NO_WARM_UP = Gpt2AdamW().schedule.with_(warmup_steps=0)


def test_every_kind_is_here():
    assert {objective.kind for objective in (*BARE, *WITH_TOKENS)} == set(OBJECTIVES)


@pytest.mark.parametrize("on", ["text", "task"])
@pytest.mark.parametrize("labels", ["all", "answer", "last"])
@pytest.mark.parametrize("objective", [*BARE, *WITH_TOKENS], ids=repr)
def test_a_step_is_taken_or_the_settings_are_refused(objective, labels, on, corpus, tmp_path):
    task = None if on == "text" else Compression(length=6) if objective.kind == "bottleneck" else RECALL
    nothing_left = objective in RIGHT_TO_LEFT_ALONE and labels != "all"
    if on == "text" and (labels == "answer" or objective in NEEDS_A_TASK):
        nothing_left = True
    if nothing_left:
        with pytest.raises(BadInput):
            spec_of(objective, labels, corpus, task)
        return
    training = Attempt.begin(spec_of(objective, labels, corpus, task), Store(tmp_path), lambda event: None).training
    before = weights_sha256(training.model)
    report = take_step(training)
    scored = training.counters.tokens_scored
    assert training.counters.optimizer_steps == 1
    assert training.counters.empty_steps == (scored == 0)
    assert (weights_sha256(training.model) != before) == (scored > 0)
    assert all(nats > 0 for nats in report.nats_by_group.values())
    assert bool(report.nats_by_group) == (scored > 0)


@pytest.mark.parametrize(
    ("objective", "labels", "task", "field", "said"),
    [
        (BARE[1], "answer", RECALL, "labels", "rtl never scores token 14 of 15, and 'answer' keeps no other"),
        (BARE[1], "last", None, "labels", "rtl never scores token 31 of 32, and 'last' keeps no other"),
        (BARE[0], "answer", Reversed(of=RECALL), "labels", "ltr never scores token 0 of 15"),
        (BARE[5], "last", Reversed(of=RECALL), "labels", "masked-input never scores token 0"),
        (MaskedObjective(hide_answers=False, rate=0.01), "all", RECALL, "objective", "hides none of 15 tokens"),
        (MaskedObjective(hide_answers=False, rate=0.01), "all", None, "objective", "hides none of 32 tokens"),
    ],
)
def test_labels_that_an_objective_never_scores_are_refused_by_name(objective, labels, task, field, said, corpus):
    with pytest.raises(BadInput) as refused:
        spec_of(objective, labels, corpus, task)
    assert refused.value.field == field
    assert said in refused.value.message
    assert refused.value.exit_code == 2


def test_a_pass_that_could_never_be_scored_is_refused_before_training(corpus):
    with pytest.raises(BadInput) as refused:
        spec_of(BARE[1], "all", corpus, RECALL).with_(evaluation=EvaluationConfig(labels="answer"))
    assert refused.value.field == "evaluation.labels"


@pytest.mark.parametrize("labels", ["answer", "last"])
def test_answers_at_many_places_leave_a_bare_objective_something(labels, corpus):
    """Of some windows the last answer stands elsewhere."""
    task = MultiQueryRecall(vocabulary=20, length=32, pairs=2)
    assert spec_of(BARE[1], labels, corpus, task).labels == labels


def masked_spec(corpus, steps=40):
    """Three of fifteen tokens are hidden: four windows in ten batches hide no answer at all."""
    return spec_of(MaskedObjective(hide_answers=False, rate=0.2), "last", corpus, RECALL, steps=steps)


def test_a_batch_with_nothing_to_score_changes_nothing_and_is_counted(corpus, tmp_path):
    training = Attempt.begin(masked_spec(corpus), Store(tmp_path), lambda event: None).training
    seen = []
    while not training.finished:
        before, scored = weights_sha256(training.model), training.counters.tokens_scored
        empty = training.counters.empty_steps
        report = take_step(training)
        nothing = training.counters.tokens_scored == scored
        assert training.counters.empty_steps == empty + nothing
        assert (weights_sha256(training.model) == before) == nothing
        assert (report.gradient_norm == 0.0) == nothing == (report.nats_by_group == {})
        seen.append(nothing)
    assert 5 < sum(seen) < 35
    assert training.counters.tokens_read == 40 * 4 * 15


def test_a_run_with_empty_steps_ends_the_same_when_it_was_interrupted(corpus, tmp_path):
    spec = masked_spec(corpus, steps=20)
    whole = run_one(spec, Store(tmp_path / "whole"))
    store, steps = Store(tmp_path / "parts"), itertools.count()
    assert run_one(spec, store, should_stop=lambda: next(steps) == 7).outcome == "stopped"
    again = run_one(spec, store)
    assert again.weights_sha256 == whole.weights_sha256
    assert again.counters["empty_steps"] == whole.counters["empty_steps"] > 0


def test_runs_together_pass_over_the_same_batches(corpus, tmp_path):
    def trainings(place):
        for seed in range(2):
            spec = masked_spec(corpus).with_(seed=seed)
            attempt = Attempt.begin(spec, Store(place), lambda event: None)
            attempt.hold.release()
            yield attempt.training

    together, alone = list(trainings(tmp_path / "together")), list(trainings(tmp_path / "alone"))
    assert train_together(together, after_step=lambda index, report: None) == [True, True]
    for one, other in zip(together, alone, strict=True):
        while not other.finished:
            take_step(other)
        assert one.counters == other.counters
        for mine, its in zip(one.model.parameters(), other.model.parameters(), strict=True):
            torch.testing.assert_close(mine, its, atol=1e-3, rtol=1e-2)


def test_the_audit_of_a_masked_model_looks_at_a_batch_that_scores_something(corpus):
    """Of two windows a batch three in five have nothing to score: 0 / 0 by hand would fail an honest arm."""
    settings = masked_spec(corpus).settings
    example, logits, reported = TrainerBench(settings, prepare(settings.data)).training_loss()
    assert check_training_loss(example, logits, reported).outcome == "pass"
    assert reported > 0
