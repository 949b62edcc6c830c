"""Resume is bit-exact at every step of a 50-step run, in a new process, for every optimizer, with dropout on.

For hlb-gpt also while rows and batches grow. By day the run goes on from every 24th step with that recipe (runs of the command line
do so with speedrun: tests/cli/test_run.py); by night from every step, with all three.
"""

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from tiny_training import make_training

from palinode.train.checkpoint import Saved, load_newest, newest_first, save_checkpoint, weights_sha256
from palinode.train.loop import Counters, DivergedError, train

HERE = Path(__file__).parent


def saved_at(training) -> Saved:
    return Saved(
        run_id="run",
        step=training.step,
        counters=asdict(training.counters),
        objective_state=training.objective_state,
        recipe_state=training.recipe_state,
    )


def run_to_end(recipe: str, root: Path) -> tuple[str, float, float]:
    training = make_training(recipe)

    def save_every_step(report):
        saved = saved_at(training)
        save_checkpoint(root, saved, training.model, training.optimizers, keep=10**6)

    train(training, after_step=save_every_step)
    return weights_sha256(training.model), training.counters.passes, training.objective_state["p"]


@pytest.mark.parametrize("every", [24, pytest.param(1, marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    "recipe", ["hlb-gpt", *(pytest.param(one, marks=pytest.mark.nightly) for one in ("gpt2-adamw", "speedrun"))]
)
def test_every_step_of_a_run_resumes_to_the_same_bits(recipe, every, tmp_path):
    weights, passes, p = run_to_end(recipe, tmp_path)
    assert 50 < passes < 100, "both directions must have been drawn for this test to mean something"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "resume_worker.py"), recipe, str(tmp_path), str(every)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert sorted(int(line[0]) for line in lines) == list(range(1, 51, every))
    assert {(line[1], float(line[2]), float(line[3])) for line in lines} == {(weights, passes, p)}


def test_another_seed_gives_other_weights():
    """The positive control of the test above: the hash does depend on what was trained."""
    hashes = set()
    for seed in (3, 4):
        training = make_training("speedrun", seed=seed, steps=3)
        train(training, after_step=lambda report: None)
        hashes.add(weights_sha256(training.model))
    assert len(hashes) == 2


@pytest.fixture
def three_checkpoints(tmp_path):
    training = make_training("gpt2-adamw", steps=6)

    def save(report):
        if training.step % 2 == 0:
            saved = saved_at(training)
            save_checkpoint(tmp_path, saved, training.model, training.optimizers, keep=3)

    train(training, after_step=save)
    return tmp_path


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "manifest.json"])
@pytest.mark.parametrize("harm", ["truncate", "flip", "zero", "delete"])
def test_a_damaged_checkpoint_is_passed_over_and_named(three_checkpoints, name, harm):
    path = three_checkpoints / "step-6" / name
    content = bytearray(path.read_bytes())
    if harm == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "flip":
        content[len(content) // 3] ^= 0x04 if name != "manifest.json" else 0x80
        path.write_bytes(content)
    elif harm == "zero":
        path.write_bytes(bytes(len(content)))
    else:
        path.unlink()
    training = make_training("gpt2-adamw", steps=6)
    saved, problems = load_newest(three_checkpoints, "run", training.model, training.optimizers)
    assert saved.step == 4
    assert len(problems) == 1
    assert "step-6" in problems[0]


def test_a_checkpoint_of_another_run_is_not_loaded(three_checkpoints):
    training = make_training("gpt2-adamw", steps=6)
    saved, problems = load_newest(three_checkpoints, "another", training.model, training.optimizers)
    assert saved is None
    assert len(problems) == 3


def test_the_last_verified_checkpoint_is_kept_when_newer_ones_are_damaged(three_checkpoints):
    for step in (4, 6):
        (three_checkpoints / f"step-{step}" / "model.safetensors").write_bytes(b"damaged")
    training = make_training("gpt2-adamw", steps=6)
    saved, _ = load_newest(three_checkpoints, "run", training.model, training.optimizers)
    training.counters = Counters(**saved.counters)
    training.objective_state, training.recipe_state = saved.objective_state, saved.recipe_state
    saved = saved_at(training).with_(step=3)
    save_checkpoint(three_checkpoints, saved, training.model, training.optimizers, keep=1)
    assert (three_checkpoints / "step-3").exists()
    assert [path.name for path in newest_first(three_checkpoints)][:3] == ["step-6", "step-4", "step-3"]


@pytest.mark.parametrize("at_step", [0, 3, 5])
def test_a_run_that_stops_being_finite_says_at_which_step_and_keeps_the_weights_from_before(at_step):
    training = make_training("gpt2-adamw", steps=6)
    hashes = {}

    def break_the_next_step(report):
        hashes[training.step] = weights_sha256(training.model)
        if training.step == at_step:
            poison(training)

    if at_step == 0:
        hashes[0] = weights_sha256(training.model)
        poison(training)
    with pytest.raises(DivergedError) as raised:
        train(training, after_step=break_the_next_step)
    assert raised.value.step == at_step
    assert weights_sha256(training.model) == hashes[at_step]


def poison(training):
    """Make every later loss infinite without touching the weights."""
    honest = training.model.logits
    training.model.logits = lambda hidden: honest(hidden) * float("inf")
