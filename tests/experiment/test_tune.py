"""What the trials chose is read from the store, once every trial is finished."""

import pytest

from palinode import (
    Arm,
    DataConfig,
    Decision,
    Experiment,
    LtrObjective,
    RunSettings,
    Store,
    TaskData,
    Tuning,
    modern,
)
from palinode.base.config import encode
from palinode.data.tasks import AssociativeRecall
from palinode.experiment.choosing import choose
from palinode.experiment.run import tuned
from palinode.results.record import Result
from palinode.spec.tuning import trials, trials_of
from palinode.train.recipe import Gpt2AdamW

VALUES = (0.001, 0.01)


def test_a_trial_whose_result_is_damaged_is_still_to_do(tmp_path):
    base = RunSettings(
        data=DataConfig(window_tokens=16, tuning_fraction=0.1),
        model=modern(layers=1, width=16, heads=2),
        objective=LtrObjective(),
        recipe=Gpt2AdamW(),
    )
    resolved = Experiment(
        name="x",
        question="?",
        base=base,
        arms=(Arm(name="ltr"),),
        decision=Decision(baseline="ltr"),
        tuning=Tuning(values=VALUES),
    ).resolve()
    store = Store(tmp_path)
    assert tuned(resolved, store) is None
    for run, nats in zip(trials(resolved).runs, (3.0, 2.0), strict=True):
        store.write_spec(run.spec.run_id, encode(run.spec))
        scores = {"tuning": {"ltr": {"nats_per_token": nats}}}
        store.write_result(Result(run_id=run.spec.run_id, outcome="done", scores=scores))
    _, choices = tuned(resolved, store)
    assert [choice.chosen for choice in choices] == [VALUES[1]]
    (store.run_directory(run.spec.run_id) / "result.json").write_text("{")
    assert tuned(resolved, store) is None


@pytest.mark.parametrize(
    ("goal", "ended", "chosen", "steps"),
    [
        # Without a goal the best accuracy is chosen, however many steps it took.
        (None, {0.001: (0.9, 400), 0.01: (0.999, 400), 0.1: (0.992, 400)}, 0.01, ()),
        # With one, how far a trial lies above it is chance: the fewest steps are chosen, and of equal steps the smallest value.
        (0.99, {0.001: (0.9, 400), 0.01: (0.999, 300), 0.1: (0.992, 200)}, 0.1, (None, 300, 200)),
        (0.99, {0.001: (0.992, 200), 0.01: (0.999, 200), 0.1: (0.99, 400)}, 0.001, (200, 200, 400)),
        (0.99, {0.001: (0.7, 400), 0.01: (0.9, 400), 0.1: (0.8, 400)}, 0.01, ()),
    ],
)
def test_of_trials_that_end_at_an_accuracy_the_soonest_is_chosen(tmp_path, goal, ended, chosen, steps):
    task = TaskData(task=AssociativeRecall(vocabulary=10, length=20), tuning_sequences=100)
    recipe = Gpt2AdamW(steps=400, evaluate_every_steps=100, stop_at_accuracy=goal)
    resolved = Experiment(
        name="x",
        question="?",
        base=RunSettings(data=task, model=modern(layers=1, width=16, heads=2), objective=LtrObjective(), recipe=recipe),
        arms=(Arm(name="ltr"),),
        decision=Decision(baseline="ltr", metric="validation.ltr.accuracy", better="higher"),
        tuning=Tuning(values=tuple(ended)),
    ).resolve()
    store = Store(tmp_path)
    for run, (accuracy, last_step) in zip(trials(resolved).runs, ended.values(), strict=True):
        store.write_spec(run.spec.run_id, encode(run.spec))
        scores, counters = {"tuning": {"ltr": {"accuracy": accuracy}}}, {"optimizer_steps": last_step}
        store.write_result(Result(run_id=run.spec.run_id, outcome="done", scores=scores, counters=counters))
    choice = choose(resolved, "ltr", "base", trials_of(resolved, "ltr", "base"), store)
    assert (choice.chosen, choice.steps) == (chosen, steps)
