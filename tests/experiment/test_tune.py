"""What the trials chose is read from the store, once every trial is finished."""

from palinode import (
    Arm,
    DataConfig,
    Decision,
    Experiment,
    LtrObjective,
    RunSettings,
    Store,
    Tuning,
    modern,
)
from palinode.base.config import encode
from palinode.experiment.run import tuned
from palinode.results.record import Result
from palinode.spec.tuning import trials
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
