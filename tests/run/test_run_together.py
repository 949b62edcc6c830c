"""Runs of one process: each leaves what it would leave alone, whatever becomes of the others."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import tiny_spec

from palinode import (
    AdamW,
    ChooseObjective,
    Constant,
    EvaluationConfig,
    Gpt2AdamW,
    LtrObjective,
    RtlObjective,
    Store,
    gpt2,
    modern,
)
from palinode.run.one import run_one, run_together, runs_together_before, stack_key
from palinode.train.optim import MuonAdamW
from palinode.train.schedule import Cosine

LOSS = 1e-3  # nats after 40 steps whose sums were taken in another order
PROGRAM = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_run_together import specs
from palinode import Store
from palinode.run.one import run_together
wanted = specs(Path(sys.argv[2]))
def die(event):
    if (event["run_id"], event.get("step"), event["event"]) == (wanted[1].run_id, 20, "train"):
        os.kill(os.getpid(), signal.SIGKILL)
run_together(wanted, Store(Path(sys.argv[3])), on_event=die)
"""


def specs(corpus: Path, count: int = 3, **changes):
    """Without dropout; in one direction, as two runs' passes of a drawn number of rows are read alone."""
    plain = tiny_spec(corpus, model=modern(layers=1, width=16, heads=2), objective=LtrObjective(), **changes)
    return [plain.with_(seed=seed) for seed in range(count)]


def losses(store, spec):
    return {
        row["step"]: row["nats_by_group"]["ltr"] for row in store.record(spec.run_id).metrics if row["event"] == "train"
    }


def files_of(store, spec):
    """The names of the files of a run, without the numbers of its attempts."""
    return {re.sub(r"-\d+", "", path.name) for path in store.run_directory(spec.run_id).iterdir()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The store of the runs that were trained alone; each is trained for the first test that compares with it."""
    return Store(tmp_path_factory.mktemp("alone"))


def assert_as_alone(store, spec, result, other):
    expected = run_one(spec, other)
    assert losses(store, spec) == pytest.approx(losses(other, spec), abs=LOSS)
    for metric in ("validation.ltr.nats_per_token", "validation.rtl.nats_per_token"):
        assert result.score(metric) == pytest.approx(expected.score(metric), abs=LOSS)
    assert result.counters == expected.counters
    assert result.parameters == expected.parameters
    assert store.record(spec.run_id).audit_report().outcome == other.record(spec.run_id).audit_report().outcome
    assert files_of(store, spec) == files_of(other, spec)


def test_each_leaves_what_it_would_leave_alone(corpus, alone, tmp_path):
    store, events = Store(tmp_path / "runs"), []
    wanted = specs(corpus)
    results = run_together(wanted, store, on_event=events.append)
    assert [result.outcome for result in results] == ["done"] * 3
    assert [result.fingerprint["runs_together"] for result in results] == [3, 3, 3]
    for spec, result in zip(wanted, results, strict=True):
        assert_as_alone(store, spec, result, alone)
        assert {event["step"] for event in events if event["run_id"] == spec.run_id} >= {1, 5, 40}


def test_what_is_done_is_not_trained_again(corpus, tmp_path):
    store, events = Store(tmp_path / "runs"), []
    wanted = specs(corpus)
    first = run_one(wanted[0], store)
    results = run_together(wanted, store, on_event=events.append)
    assert results[0] == first
    assert wanted[0].run_id not in {event["run_id"] for event in events}
    assert [result.fingerprint["runs_together"] for result in results] == [1, 2, 2]
    assert run_together(wanted, store, on_event=lambda event: pytest.fail(str(event))) == results


def test_stopped_together_they_go_on_together(corpus, alone, tmp_path):
    store, requests = Store(tmp_path / "runs"), []
    wanted = specs(corpus)

    def should_stop():
        requests.append(1)
        return len(requests) == 13

    assert [result.outcome for result in run_together(wanted, store, should_stop=should_stop)] == ["stopped"] * 3
    assert not any((store.run_directory(spec.run_id) / "result.json").exists() for spec in wanted)
    results = run_together(wanted, store)
    assert [result.attempts for result in results] == [2, 2, 2]
    for spec, result in zip(wanted, results, strict=True):
        assert_as_alone(store, spec, result, alone)


def test_what_was_stacked_on_its_way_says_so_when_it_ends_alone(corpus, tmp_path):
    """Its bits are those of a stack: an equal fingerprint would promise the bits of a run that never was in one."""
    store, requests = Store(tmp_path / "runs"), []
    wanted = specs(corpus)
    run_together(wanted, store, should_stop=lambda: bool(requests.append(1)) or len(requests) == 13)
    assert run_one(wanted[0], store).fingerprint["runs_together"] == 3


@pytest.mark.parametrize("evaluate_every", [None, 1])
def test_one_that_diverges_leaves_the_others_alone(corpus, tmp_path, evaluate_every):
    store, (first, second) = Store(tmp_path / "runs"), specs(corpus, 2, evaluation=EvaluationConfig(max_tokens=200))
    recipe = Gpt2AdamW(
        steps=4,
        batch_windows=4,
        gradient_clip=None,
        schedule=Cosine(warmup_steps=0),
        evaluate_every_steps=evaluate_every,
    )
    wild = recipe.with_(optimizer=AdamW(learning_rate=1e38))
    results = run_together([first.with_(recipe=recipe), second.with_(recipe=wild)], store)
    assert [result.outcome for result in results] == ["done", "diverged"]
    assert "at step" in results[1].reason


@pytest.mark.nightly
def test_killed_they_go_on_from_their_own_checkpoints(corpus, alone, tmp_path):
    """The second of them dies just before its checkpoint of step 20: it goes on from step 10 and the first one waits at 20."""
    store, wanted, events = Store(tmp_path / "runs"), specs(corpus), []
    program = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(corpus), str(store.root)]
    assert subprocess.run(program, check=False).returncode == -signal.SIGKILL
    results = run_together(wanted, store, on_event=events.append)
    notes = [event["message"] for event in events if event["event"] == "note"]
    assert notes == ["going on from step 20", "going on from step 10", "going on from step 10"]
    for spec, result in zip(wanted, results, strict=True):
        assert_as_alone(store, spec, result, alone)


def test_in_a_fixed_stack_a_run_ends_with_the_same_bits_wherever_it_was_stopped(corpus, tmp_path):
    """Width 18: the places of a stack have memory of different alignment there, which changes bits."""
    recipe = Gpt2AdamW(steps=8, batch_windows=3, checkpoint_every_steps=2, schedule=Cosine(warmup_steps=2))
    model = gpt2(layers=1, width=18, heads=3, bias=True)
    wanted = [spec.with_(model=model, recipe=recipe) for spec in specs(corpus)]
    together = [spec.run_id for spec in wanted]
    whole, resumed, requests = Store(tmp_path / "whole"), Store(tmp_path / "resumed"), []
    expected = run_together(wanted, whole, together=together)
    run_together(wanted, resumed, should_stop=lambda: bool(requests.append(1)) or len(requests) == 4, together=together)
    (middle,) = run_together([wanted[1]], resumed, together=together)
    others = run_together([wanted[2], wanted[0]], resumed, together=together)
    for before, after in zip(expected, [others[1], middle, others[0]], strict=True):
        assert (before.run_id, before.weights_sha256) == (after.run_id, after.weights_sha256)
        assert before.scores == after.scores
        assert before.compared_fingerprint == after.compared_fingerprint
        assert "stack of 3 runs" in after.may_differ_by
    assert runs_together_before(resumed, together[0]) == 3
    assert runs_together_before(Store(tmp_path / "empty"), together[0]) is None


@pytest.mark.nightly
def test_runs_of_a_fixed_stack_whose_batches_differ_in_shape_do_not_depend_on_each_other(corpus, tmp_path):
    recipe = Gpt2AdamW(steps=6, batch_windows=4, schedule=Cosine(warmup_steps=2))
    drawn = ChooseObjective(p=Constant(p=0.5))
    wanted = [spec.with_(recipe=recipe, objective=drawn) for spec in specs(corpus, 2)]
    together = [spec.run_id for spec in wanted]
    both = run_together(wanted, Store(tmp_path / "both"), together=together)
    for spec, result in zip(wanted, both, strict=True):
        (alone,) = run_together([spec], Store(tmp_path / spec.run_id), together=together)
        assert alone.weights_sha256 == result.weights_sha256


def test_the_key_is_the_shape(corpus):
    one, two, _ = specs(corpus)
    assert stack_key(one) == stack_key(two)
    assert stack_key(one) == stack_key(one.with_(labels="last"))
    assert stack_key(one) == stack_key(
        one.with_(recipe=one.recipe.with_(optimizer=MuonAdamW(matrix_learning_rate=0.2)))
    )
    apart = (
        {"objective": RtlObjective()},
        {"model": modern(layers=2, width=16, heads=2)},
        {"recipe": one.recipe.with_(batch_windows=8)},
        {"data": one.data.with_(window_tokens=16)},
        {"threads": 2},
    )
    assert len({stack_key(one), *(stack_key(one.with_(**change)) for change in apart)}) == 1 + len(apart)
    assert stack_key(one.with_(recipe=one.recipe.with_(compile=True))) is None
