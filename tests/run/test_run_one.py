"""One run: killed anywhere, stopped anywhere, evaluated or not, it ends with the same bits and the same record."""

import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path

import pytest
from tiny_run import run_tiny, tiny_spec

from palinode import Gpt2AdamW, Store
from palinode.base import fsio
from palinode.base.config import encode
from palinode.base.errors import Damaged
from palinode.base.fsio import CRASH_POINT_VARIABLE, TEMPORARY_MARK
from palinode.results import holds
from palinode.results.holds import HoldLostError, take
from palinode.results.rows import metrics_paths, read_rows
from palinode.run.one import run_one
from palinode.run.trained import load_trained
from palinode.train.checkpoint import weights_sha256
from palinode.train.optim import AdamW
from palinode.train.schedule import Cosine

# Each process is forked from a server that has imported torch once, which takes 3 s of computing.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["palinode.run.one", "torch._dynamo"])
UNSTABLE = ("attempt", "seconds")


def steady_rows(store, spec):
    """The metric rows without what a clock or an interruption may change."""
    rows = store.record(spec.run_id).metrics
    return [{key: value for key, value in row.items() if key not in UNSTABLE} for row in rows]


@pytest.fixture(scope="module")
def uninterrupted(corpus, tmp_path_factory):
    """A run that nobody disturbed. The tests read its store, and change only copies."""
    spec = tiny_spec(corpus)
    store = Store(tmp_path_factory.mktemp("uninterrupted"))
    result = run_one(spec, store)
    assert result.outcome == "done"
    return spec, store, result


@pytest.fixture(scope="module")
def stopped_at_27(corpus, tmp_path_factory):
    """The directory of a run that was stopped at step 27. The tests change only copies."""
    spec, seen = tiny_spec(corpus), []
    store = Store(tmp_path_factory.mktemp("stopped"))
    run_one(spec, store, should_stop=lambda: seen.append(0) or len(seen) > 27)
    return store.run_directory(spec.run_id)


def test_the_record_is_complete(uninterrupted):
    spec, store, result = uninterrupted
    record = store.record(spec.run_id)
    assert record.outcome == "done"
    assert result.counters["optimizer_steps"] == 40
    assert result.counters["evaluations"] == 3
    assert 40 < result.counters["passes"] < 80
    assert result.score("validation.ltr.nats_per_token") < 4
    assert set(result.scores["validation"]) == {"ltr", "rtl"}
    assert result.parameters["total"] == sum(
        v for k, v in result.parameters.items() if k not in ("total", "non_embedding")
    )
    assert [row["step"] for row in record.metrics if row["event"] == "train"] == [1, 5, 10, 15, 20, 25, 30, 35, 40]
    assert [row["step"] for row in record.metrics if row["event"] == "eval"] == [15, 30, 40]
    assert {"torch", "python", "device", "cpu_capability", "threads"} <= set(result.fingerprint)


def test_a_finished_run_is_not_trained_again(uninterrupted):
    spec, store, result = uninterrupted
    before = {path: path.stat().st_mtime_ns for path in store.run_directory(spec.run_id).rglob("*")}
    events = []
    assert run_one(spec, store, on_event=events.append) == result
    assert events == []
    assert before == {path: path.stat().st_mtime_ns for path in store.run_directory(spec.run_id).rglob("*")}


def test_a_run_whose_result_is_damaged_is_done_again(uninterrupted, corpus, tmp_path):
    spec, reference, expected = uninterrupted
    store = Store(tmp_path / "damaged")
    shutil.copytree(reference.run_directory(spec.run_id), store.run_directory(spec.run_id))
    (store.run_directory(spec.run_id) / "result.json").write_text("{")
    again = run_one(spec, store)
    assert (again.weights_sha256, again.scores) == (expected.weights_sha256, expected.scores)
    assert store.ended(spec.run_id) == again


@pytest.mark.parametrize("stop_at", [1, 10, 27, 39])
def test_a_stopped_run_goes_on_to_the_same_bits(uninterrupted, corpus, tmp_path, stop_at):
    spec, reference, expected = uninterrupted
    store, seen = Store(tmp_path / "stopped"), []
    stopped = run_one(spec, store, should_stop=lambda: seen.append(0) or len(seen) > stop_at)
    assert (stopped.outcome, stopped.counters["optimizer_steps"]) == ("stopped", stop_at)
    assert store.record(spec.run_id).outcome == "unfinished"
    finished = run_one(spec, store)
    assert finished.weights_sha256 == expected.weights_sha256
    assert finished.scores == expected.scores
    assert finished.attempts == 2
    assert steady_rows(store, spec) == steady_rows(reference, spec)


def flipped(line):
    return line.replace(b'"step":', b'"stop":')


LOST_ROWS = {
    "the first row is damaged": lambda lines: [lines[0], flipped(lines[1]), *lines[2:]],
    "a row before the first checkpoint is damaged": lambda lines: [*lines[:3], flipped(lines[3]), *lines[4:]],
    "a row after the first checkpoint is damaged": lambda lines: [*lines[:5], flipped(lines[5]), *lines[6:]],
    "the first row is gone": lambda lines: [lines[0], *lines[2:]],
    "the last row is gone": lambda lines: lines[:-1],
    "a row is there twice": lambda lines: [*lines[:3], lines[2], *lines[3:]],
    "two rows have changed places": lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
    "the row of the attempt is gone": lambda lines: lines[1:],
    "all rows are gone": lambda lines: [],
}


@pytest.mark.parametrize(
    "lost", [one if place % 2 else pytest.param(one, marks=pytest.mark.nightly) for place, one in enumerate(LOST_ROWS)]
)
def test_rows_that_were_lost_are_computed_again(uninterrupted, stopped_at_27, tmp_path, lost):
    """Training goes on from a checkpoint only where all rows from before it are there."""
    spec, reference, expected = uninterrupted
    store, notes = Store(tmp_path / "damaged"), []
    shutil.copytree(stopped_at_27, store.run_directory(spec.run_id))
    metrics = store.run_directory(spec.run_id) / "metrics-1.jsonl"
    metrics.write_bytes(b"".join(LOST_ROWS[lost](metrics.read_bytes().splitlines(keepends=True))))
    finished = run_one(spec, store, on_event=lambda event: notes.append(event.get("message", "")))
    assert finished.weights_sha256 == expected.weights_sha256
    assert finished.counters == expected.counters
    assert steady_rows(store, spec) == steady_rows(reference, spec)
    if lost == "the row of the attempt is gone":
        assert any("going on from step 27" in note for note in notes)
    else:
        assert any("damaged checkpoint passed over" in note for note in notes)


def test_a_run_of_the_old_form_goes_on(uninterrupted, stopped_at_27, tmp_path):
    """Before there were holds, all attempts wrote one file, and a manifest had neither a hash of itself nor a count of rows."""
    spec, reference, expected = uninterrupted
    store, notes = Store(tmp_path / "old"), []
    directory = store.run_directory(spec.run_id)
    shutil.copytree(stopped_at_27, directory)
    rows, _ = read_rows(directory)
    (directory / "metrics-1.jsonl").unlink()
    (directory / "hold-1.json").unlink()
    fsio.rewrite_lines(directory / "metrics.jsonl", [row | {"attempt": 3} for row in rows])
    for path in (*(directory / "ckpt").glob("*/manifest.json"), directory / "spec.json"):
        table = fsio.read_table(path)
        if path.name == "manifest.json":
            del table["rows"]
            table["version"] = 2
        fsio.write_json(path, table)
    finished = run_one(spec, store, on_event=lambda event: notes.append(event.get("message", "")))
    assert any("going on from step 27" in note for note in notes)
    assert finished.attempts == 4
    assert (finished.weights_sha256, finished.counters) == (expected.weights_sha256, expected.counters)
    assert steady_rows(store, spec) == steady_rows(reference, spec)


def test_a_holder_that_was_paused_and_goes_on_writes_nothing(uninterrupted, tmp_path, monkeypatch):
    spec, reference, expected = uninterrupted
    store, steps = Store(tmp_path / "paused"), []

    def successor() -> bool:
        """At step 20 the process was paused for so long that another host took the run over, and finished it."""
        steps.append(0)
        if len(steps) == 20:
            with monkeypatch.context() as patched:
                # Another host does not see the lock of this one.
                patched.setattr(holds, "_lock", lambda path: (os.open(path, os.O_RDONLY), True))
                with take(directory, stale=1) as other:
                    results.append(run_one(spec, store, hold=other))
            left.update({path: path.read_bytes() for path in directory.rglob("*") if path.is_file()})
        return False

    results, left = [], {}
    directory = store.write_spec(spec.run_id, encode(spec))
    hold = take(directory)
    with pytest.raises(HoldLostError, match="lost to process"):
        run_one(spec, store, should_stop=successor, hold=hold)
    hold.release()
    assert results[0].weights_sha256 == expected.weights_sha256
    assert store.record(spec.run_id).result == results[0]
    assert steady_rows(store, spec) == steady_rows(reference, spec)
    assert left == {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_evaluation_never_touches_the_training_stream(uninterrupted, corpus, tmp_path):
    spec, _, expected = uninterrupted
    without = run_one(tiny_spec(corpus, evaluate_every=None), Store(tmp_path / "without"))
    often = run_one(tiny_spec(corpus, evaluate_every=1), Store(tmp_path / "often"))
    assert without.weights_sha256 == often.weights_sha256 == expected.weights_sha256
    assert without.scores == often.scores == expected.scores


FILES = ("spec.json", "model.safetensors", "optimizer.safetensors", "manifest.json", "result.json")
MOMENTS = ("written", "before_rename", "after_rename")
QUICK = {"model.safetensors.after_rename", "manifest.json.before_rename", "result.json.written"}
CRASH_POINTS = [
    pytest.param(label, marks=[] if label in QUICK else pytest.mark.nightly)
    for label in (f"{name}.{moment}" for name in FILES for moment in MOMENTS)
] + ["metrics-1.jsonl.before_append"]


@pytest.mark.parametrize("label", CRASH_POINTS)
def test_killed_at_a_labelled_point_it_goes_on_to_the_same_bits(uninterrupted, corpus, tmp_path, label):
    spec, reference, expected = uninterrupted
    root = tmp_path / "crashed"
    process = start(corpus, root, {CRASH_POINT_VARIABLE: label})
    process.join()
    assert process.exitcode == -9, "the crash point must have been reached"
    again = run_one(spec, Store(root))
    assert again.weights_sha256 == expected.weights_sha256
    assert again.scores == expected.scores
    assert steady_rows(Store(root), spec) == steady_rows(reference, spec)
    assert list(Path(root).rglob(f"*{TEMPORARY_MARK}*")) == []


def kill_at_random(corpus, root, spec, kills, seed):
    """kill -9 a moment after a random row of metrics was written; returns how many kills hit a living process."""
    moments, hits = random.Random(seed), 0
    directory = Store(root).run_directory(spec.run_id)
    for _ in range(kills):
        process = start(corpus, root)
        rows, began, before = moments.randint(1, 9), time.monotonic(), len(metrics_paths(directory))
        while process.is_alive() and time.monotonic() - began < 60:
            paths = metrics_paths(directory)
            if len(paths) > before and paths[-1].read_bytes().count(b"\n") >= rows:
                break
            time.sleep(0.005)
        time.sleep(moments.uniform(0.0, 0.1))
        hits += process.is_alive()
        process.kill()
        process.join()
    return hits


@pytest.mark.parametrize(("kills", "seed"), [(3, 0), pytest.param(60, 1, marks=pytest.mark.nightly)])
def test_kill_9_at_random_moments(uninterrupted, corpus, tmp_path, kills, seed):
    spec, reference, expected = uninterrupted
    root = tmp_path / "killed"
    hits = kill_at_random(corpus, root, spec, kills, seed)
    assert hits >= 1
    again = run_one(spec, Store(root))
    assert again.weights_sha256 == expected.weights_sha256
    assert steady_rows(Store(root), spec) == steady_rows(reference, spec)


def start(corpus, root, environment=None):
    process = PROCESSES.Process(target=run_tiny, args=(corpus, root, {**os.environ, **(environment or {})}))
    process.start()
    return process


@pytest.mark.parametrize(
    ("steps", "evaluate_every"), [(30, None), (30, 1), (1, None)], ids=["training", "a look", "the end"]
)
def test_a_diverged_run_is_a_result_with_its_step(corpus, tmp_path, steps, evaluate_every):
    """Whether a batch or an evaluation is the first to see it: a rate at which runs diverge is final, so never chosen."""
    recipe = Gpt2AdamW(
        steps=steps,
        batch_windows=4,
        gradient_clip=None,
        optimizer=AdamW(learning_rate=1e38),
        schedule=Cosine(warmup_steps=0),
        evaluate_every_steps=evaluate_every,
    )
    spec, store = tiny_spec(corpus, recipe=recipe), Store(tmp_path / "store")
    result = run_one(spec, store)
    assert result.outcome == "diverged"
    assert "at step" in result.reason
    assert store.record(spec.run_id).outcome == "diverged"
    assert result.scores == {}


def test_trained_weights_are_those_the_run_ended_with_or_none(uninterrupted):
    spec, store, result = uninterrupted
    assert weights_sha256(load_trained(spec, store).model) == result.weights_sha256
    newest = store.run_directory(spec.run_id) / "ckpt" / "step-40" / "model.safetensors"
    whole = newest.read_bytes()
    newest.write_bytes(whole[:-1])
    with pytest.raises(Damaged, match="hash does not match") as refused:
        load_trained(spec, store)
    assert refused.value.file == str(newest)
    newest.write_bytes(whole)
    assert weights_sha256(load_trained(spec, store).model) == result.weights_sha256


def test_part_of_a_checkpoint_is_written_again(corpus, tmp_path):
    """A kill between the files of a checkpoint: the next attempt, which comes to the same step, completes it."""
    spec, store = tiny_spec(corpus), Store(tmp_path / "runs")
    run_one(spec, store)
    [*_, newest] = sorted((store.run_directory(spec.run_id) / "ckpt").iterdir(), key=lambda path: int(path.name[5:]))
    (store.run_directory(spec.run_id) / "result.json").unlink()
    (newest / "manifest.json").unlink()
    (newest / "optimizer.safetensors").unlink()
    result = run_one(spec, store)
    assert result.outcome == "done"
    assert (newest / "manifest.json").is_file()
    assert weights_sha256(load_trained(spec, store).model) == result.weights_sha256


def test_a_curve_of_fewer_tokens_changes_no_weight_and_no_last_score(corpus, tmp_path):
    """Evaluations before the last one score the first tokens of the split; training and the last evaluation stay."""
    plain = tiny_spec(corpus, steps=12, evaluate_every=6)
    short = plain.with_(evaluation=plain.evaluation.with_(curve_tokens=100))
    assert plain.with_(evaluation=plain.evaluation.with_(curve_tokens=None)).run_id == plain.run_id != short.run_id
    results, scored = {}, {}
    for spec in (plain, short):
        store = Store(tmp_path / spec.run_id)
        results[spec] = run_one(spec, store)
        rows = [row for row in store.record(spec.run_id).metrics if row["event"] == "eval"]
        scored[spec] = [row["scores"]["ltr"]["tokens_scored"] for row in rows]
    assert results[short].weights_sha256 == results[plain].weights_sha256
    assert results[short].scores == results[plain].scores
    assert scored[plain][0] == scored[plain][1] == scored[short][1]
    assert 0 < scored[short][0] <= 100
