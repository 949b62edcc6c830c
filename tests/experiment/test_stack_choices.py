"""The choice of `--stack auto`: when runs are stacked, which runs are together, and that a choice stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palinode import (
    Arm,
    ChooseObjective,
    Constant,
    Decision,
    EvaluationConfig,
    Experiment,
    Gpt2AdamW,
    LtrObjective,
    RunSettings,
    Store,
    TaskData,
    modern,
)
from palinode.base.config import encode
from palinode.base.errors import BadInput
from palinode.base.stack_size import MOST_RUNS, stack_size
from palinode.data.tasks import AssociativeRecall
from palinode.experiment import stacks
from palinode.experiment.cells import cells_of
from palinode.experiment.run import HowToRun
from palinode.experiment.stacks import (
    LEAST_GAIN,
    Measured,
    chosen_sizes,
    fixed_stack_of,
    groups_of,
    kept_stacks,
    measure,
    sizes_up_to,
    stacks_with_choices,
    why_alone,
)
from palinode.results.record import ExperimentEntry, StackEntry
from palinode.train.checkpoint import Saved, save_checkpoint

BASE = RunSettings(
    data=TaskData(task=AssociativeRecall(vocabulary=10, length=8), validation_sequences=4),
    model=modern(layers=1, width=16, heads=2),
    objective=LtrObjective(),
    recipe=Gpt2AdamW(steps=200, batch_windows=2),
    evaluation=EvaluationConfig(directions=("ltr",), labels="answer"),
)


def resolved(seeds: int = 4, **change):
    return Experiment(
        name="x",
        question="?",
        base=BASE.with_(**change),
        arms=(Arm(name="one"),),
        seeds=tuple(range(1, seeds + 1)),
        decision=Decision(metric="validation.ltr.nats_per_token", baseline="one", better="lower", smallest_effect=0.1),
    ).resolve()


def cells(seeds: int = 4, **change):
    return cells_of(resolved(seeds, **change))


def times(runs: int, **gains: float) -> Measured:
    """Measured times with these gains: s4=1.3 says that stacks of 4 take 1.3 times the steps a second."""
    seconds = {1: 1.0} | {int(size[1:]): 1 / gain for size, gain in gains.items()}
    return Measured(tuple(f"r{number}" for number in range(runs)), 10, (seconds,) * 3)


def fake_measurement(monkeypatch, **gains: float) -> list[int]:
    """Replace the measurement by these gains. The list gets the number of cells of every measurement."""
    measurements: list[int] = []

    def measured(some, workers, code, nursery):
        measurements.append(len(some))
        return [Measured(tuple(left), 10, times(len(left), **gains).rounds) for _, left in some]

    monkeypatch.setattr(stacks, "measured_in_processes", measured)
    return measurements


@given(st.integers(0, 40), st.integers(1, 8))
def test_groups_hold_every_run_once_and_are_even(count, size):
    runs = [str(number) for number in range(count)]
    groups = groups_of(runs, size)
    assert [run for group in groups for run in group] == runs
    assert len(groups) == -(-count // size)
    assert all(1 <= len(group) <= size for group in groups)
    assert max(map(len, groups), default=0) - min(map(len, groups), default=0) <= 1


def test_a_cell_is_stacked_from_the_least_gain_on():
    just_below, enough = LEAST_GAIN - 0.01, LEAST_GAIN
    assert chosen_sizes([times(8, s2=1.1, s4=just_below)], workers=1) == [1]
    assert chosen_sizes([times(8, s2=1.1, s4=enough)], workers=1) == [4]
    assert chosen_sizes([times(8, s2=1.25, s4=1.3, s8=1.2)], workers=1) == [4]


def test_no_stack_that_leaves_workers_without_a_run():
    assert chosen_sizes([times(2, s2=1.5)], workers=2) == [1]
    assert chosen_sizes([times(8, s2=1.2, s4=1.3, s8=1.5)], workers=2) == [4]
    assert chosen_sizes([times(8, s8=1.5), times(8, s8=1.5)], workers=2) == [8, 8]


def test_sizes_fit_the_runs():
    assert {runs: sizes_up_to(runs) for runs in (2, 3, 4, 6, 8, 20)} == {
        2: [2],
        3: [2, 3],
        4: [2, 4],
        6: [2, 4, 6],
        8: [2, 4, 8],
        20: [2, 4, 8],
    }


def test_a_choice_is_made_once_and_new_seeds_join_it(monkeypatch, tmp_path):
    measurements, store = fake_measurement(monkeypatch, s2=1.25, s4=1.1), Store(tmp_path)
    (first,) = stacks_with_choices(cells(), (), store, workers=1)
    assert (first.stack, first.sizes, first.gain) == (2, (2, 4), pytest.approx(1.25))
    assert [len(group) for group in first.groups] == [2, 2]
    assert stacks_with_choices(cells(), (first,), store, workers=1) == (first,)
    (more,) = stacks_with_choices(cells(seeds=7), (first,), store, workers=1)
    assert more.groups[:2] == first.groups
    assert [len(group) for group in more.groups[2:]] == [2, 1]
    assert measurements == [1, 0, 0]


def test_the_choice_is_kept_with_the_runs_it_is_about():
    stack = StackEntry(arm="one", scale="base", stack=2, sizes=(2,), gains=(1.3,), groups=(("a", "b"),))
    earlier = [ExperimentEntry(name="x", size="default", stacks=(stack,)), ExperimentEntry(name="y", size="default")]
    assert kept_stacks(earlier, "x--default", ["b", "c"]) == (stack,)
    assert kept_stacks(earlier, "x--default", ["c"]) == ()
    assert kept_stacks(earlier, "y--default", ["b"]) == ()


def test_below_the_least_gain_the_record_says_what_was_measured(monkeypatch, tmp_path):
    fake_measurement(monkeypatch, s2=1.1, s4=1.15)
    (one,) = stacks_with_choices(cells(), (), Store(tmp_path), workers=1)
    assert (one.stack, one.gain, one.sizes) == (1, None, (2, 4))
    assert one.words == "single runs: stacks of 4 have 1.15 times their steps a second, and 1.2 is needed"


def test_a_failed_measurement_means_single_runs_and_a_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(stacks, "measured_in_processes", lambda some, *_: ["no such operation"] * len(some))
    (one,) = stacks_with_choices(cells(), (), Store(tmp_path), workers=1)
    assert one.stack == 1
    assert one.words == "single runs: stacks could not be measured: no such operation"
    assert [len(group) for group in one.groups] == [1] * 4


def test_one_seed_needs_no_choice(monkeypatch, tmp_path):
    measurements = fake_measurement(monkeypatch, s2=2.0)
    assert stacks_with_choices(cells(seeds=1), (), Store(tmp_path), workers=1) == ()
    assert sum(measurements) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipe": Gpt2AdamW(steps=200, batch_windows=2, compile=True)}, "compiled"),
        ({"objective": ChooseObjective(p=Constant(p=0.5))}, "drawn for each run"),
    ],
)
def test_a_cell_that_cannot_be_stacked_is_not_measured(monkeypatch, tmp_path, change, words):
    measurements = fake_measurement(monkeypatch, s2=2.0)
    (one,) = stacks_with_choices(cells(**change), (), Store(tmp_path), workers=1)
    assert one.stack == 1
    assert words in one.reason
    assert sum(measurements) == 0
    assert why_alone(cells()[0]) == ""


def test_the_measurement_gives_times_of_every_size(monkeypatch):
    monkeypatch.setattr(stacks, "ROUNDS", 1)
    first, *_ = measure([run.spec for run in resolved(seeds=3).runs])
    assert set(first) == {1, 2, 3}
    assert all(seconds > 0 for seconds in first.values())
    dropout = [run.spec for run in resolved(seeds=2, model=modern(layers=1, width=16, heads=2, dropout=0.1)).runs]
    with pytest.raises(RuntimeError, match="random"):
        measure(dropout)


def test_a_run_goes_on_as_it_was_begun(tmp_path):
    """Of four runs in two stacks, one began alone, one in its stack, and two have no checkpoint."""
    store, model = Store(tmp_path).create(), BASE.model.build(20, 6, 1)
    runs = [run.spec for run in resolved().runs]
    ids = [spec.run_id for spec in runs]
    groups = (tuple(ids[:2]), tuple(ids[2:]))
    stack = StackEntry(arm="one", scale="base", stack=2, sizes=(2,), gains=(1.3,), groups=groups)
    store.write_experiment(ExperimentEntry(name="x", size="default", stacks=(stack,)))
    for spec, together in ((runs[0], 1), (runs[2], 2)):
        directory = store.write_spec(spec.run_id, encode(spec))
        save_checkpoint(directory / "ckpt", Saved(run_id=spec.run_id, step=1, runs_together=together), model, {}, 1)
    assert fixed_stack_of(store, ids, all_groups=True) == {ids[1]: groups[0], ids[2]: groups[1], ids[3]: groups[1]}
    assert fixed_stack_of(store, ids, all_groups=False) == {ids[2]: groups[1], ids[3]: groups[1]}
    assert fixed_stack_of(store, ids[:1], all_groups=True) == {}


@pytest.mark.parametrize("value", ["0", "-1", "auto8", "Auto", "", "1.5", "257", "all", "٣", True, str(10**30)])
def test_a_bad_stack_has_a_hint(value):
    with pytest.raises(BadInput) as refused:
        HowToRun(stack=value)
    assert refused.value.hint
    assert refused.value.field == "--stack"


def test_good_stacks():
    assert [stack_size(value) for value in ("1", 8, str(MOST_RUNS), "auto")] == [1, 8, MOST_RUNS, "auto"]
    assert HowToRun().stack == 1
