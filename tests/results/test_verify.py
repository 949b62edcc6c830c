"""Every file of a store is held against the hash that was written with it, and links lead nowhere."""

import json
import os
import shutil

import pytest

from palinode.base import fsio
from palinode.base.errors import Damaged, EnvironmentProblem
from palinode.results.holds import take
from palinode.results.store import Store
from palinode.results.verify import verify
from synthetic_store import make_store


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "runs")


def first_run(store):
    return store.entry("demo").runs[0].run_id


def edit(path, change):
    """Change one value of a JSON file as an editor would: the hash stays as it was."""
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


def set_score(table):
    table["scores"]["validation"]["ltr"]["nats_per_token"] += 0.1


def set_seed(table):
    table["seed"] += 1


def set_effect(table):
    table["decision"]["smallest_effect"] = 0.5


EDITS = {
    "a score": ("result.json", set_score),
    "a seed": ("spec.json", set_seed),
    "the smallest effect": ("experiments/demo--laptop.json", set_effect),
    "an arm": ("experiments/demo--laptop.json", lambda table: table["arms"][0].update(note="better")),
    "an audit": ("audits", lambda table: table.update(seconds=0.5)),
    "the name of the hash": ("result.json", lambda table: table.update(self_sha25x=table.pop("self_sha256"))),
}


def path_of(store, name):
    if name == "audits":
        return sorted((store.root / "audits").glob("*.json"))[0]
    return store.root / name if "/" in name else store.run_directory(first_run(store)) / name


def test_a_sound_store_is_sound(store):
    verified = verify(store)
    assert verified.damaged == ()
    assert verified.unprotected == ()
    assert verified.files > 10


@pytest.mark.parametrize("edited", EDITS)
def test_a_value_that_was_edited_is_damage_that_names_the_file(store, edited):
    name, change = EDITS[edited]
    path = path_of(store, name)
    edit(path, change)
    [damage] = {str(problem) for problem in verify(store).damaged}
    assert damage.startswith(f"{path}: was changed since it was written")


def test_a_hold_that_was_edited_is_damage_that_names_the_file(store):
    directory = store.run_directory(first_run(store))
    with take(directory):
        path = directory / "hold-1.json"
        edit(path, lambda table: table.update(host="elsewhere"))
        assert [str(problem.file) for problem in verify(store).damaged] == [str(path)]


def test_a_score_that_was_edited_before_there_were_hashes_is_not_that_of_the_last_evaluation(store):
    path = path_of(store, "result.json")
    table = fsio.read_table(path)
    row = {
        "event": "eval",
        "final": True,
        "attempt": 1,
        "step": 600,
        "split": "validation",
        "scores": table["scores"]["validation"],
    }
    store.append_metrics(first_run(store), row)
    fsio.write_json(path, table)
    assert [str(path) for path in verify(store).unprotected] == [str(path)]
    set_score(table)
    fsio.write_json(path, table)
    [damage] = verify(store).damaged
    assert "holds other scores than the last evaluation" in str(damage)
    assert store.experiment("demo").runs[0].outcome == "damaged"


NUMBERS = {"an integer of 5,000 digits": "9" * 5000, "NaN": "NaN", "deep nesting": "[" * 100_000, "infinity": "1e999"}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", ["spec.json", "result.json", "experiments/demo--laptop.json"])
def test_a_number_that_nobody_wrote_is_damage(store, name, number):
    path = path_of(store, name)
    text = path.read_text()
    path.write_text(text.replace("{", '{"extra": ' + NUMBERS[number] + ", ", 1))
    assert str(path) in str(verify(store).damaged[0])
    assert len(store.listing()) == len(store.run_ids()), "one bad file does not hide the others"


@pytest.mark.parametrize("place", ["ckpt", "reports", "run", "experiments", "audits"])
def test_nothing_is_written_through_a_link(store, tmp_path, place):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run_id, entry = first_run(store), store.entry("demo")
    result = store.record(run_id).result
    inside = {"ckpt": store.run_directory(run_id) / "ckpt", "run": store.run_directory(run_id)}.get(
        place, store.root / place
    )
    if inside.exists():
        shutil.rmtree(inside)
    inside.symlink_to(elsewhere)
    if place == "ckpt":
        from palinode.train.checkpoint import Saved, newest_first, save_checkpoint

        (elsewhere / "step-3").mkdir()
        assert newest_first(inside) == [], "what lies outside is neither read nor deleted"
        with pytest.raises(Damaged, match="nothing is written through it"):
            save_checkpoint(inside, Saved(run_id=run_id, step=4), None, [], keep=1)
        (elsewhere / "step-3").rmdir()
    else:
        write = {
            "reports": lambda: store.report_directory(entry),
            "run": lambda: store.write_result(result),
            "experiments": lambda: store.write_experiment(entry),
            "audits": lambda: store.write_audit("0" * 16, None),
        }[place]
        with pytest.raises(Damaged, match="nothing is written through it"):
            write()
    assert list(elsewhere.iterdir()) == []


def test_rows_are_not_appended_through_a_link(tmp_path):
    store = Store(tmp_path / "runs")
    directory = store.write_spec("a" * 16, {"seed": 1})
    (tmp_path / "outside").write_text("")
    os.symlink(tmp_path / "outside", directory / "metrics-1.jsonl")
    with pytest.raises(EnvironmentProblem):
        store.append_metrics("a" * 16, {"event": "train"}, attempt=1)
    assert (tmp_path / "outside").read_text() == ""


def test_a_line_of_torn_rows_is_read_in_linear_time(tmp_path):
    path = tmp_path / "metrics-1.jsonl"
    for torn in ('{"crc":', '{"crc":1,"row":{', '{"crc":1,"row":{"a":'):
        path.write_text(torn * 100_000 + "\n")
        assert fsio.read_rows(path) == ([], "line 1")
