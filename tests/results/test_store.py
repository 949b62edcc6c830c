"""The store: the run directories count, the index is only a cache, every outcome is listed, and reading writes nothing."""

import hashlib
import json
import os
import shutil
import time
from typing import get_args

import pytest

from palinode.base import fsio
from palinode.base.config import encode
from palinode.base.errors import BadInput, Damaged, EnvironmentProblem
from palinode.base.finding import AuditReport, Finding
from palinode.base.measures import RunOutcome
from palinode.results import index
from palinode.results.record import ExperimentEntry, Record, Result
from palinode.results.store import Store
from synthetic_store import Synthetic, make_store

RUN = "0123456789abcdef"
READ_ROW = index.read_row


def tree(root, skip=("index.json",)):
    """Path -> (hash of the bytes, time of change, inode) of every file below root. It is equal if nothing was written."""
    files = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name not in skip:
            status = path.stat()
            files[str(path.relative_to(root))] = (
                hashlib.sha256(path.read_bytes()).hexdigest(),
                status.st_mtime_ns,
                status.st_ino,
            )
    return files


@pytest.fixture
def store(tmp_path):
    outcomes = {
        ("both", "base", 0): "diverged",
        ("both", "base", 1): "oom",
        ("both", "base", 2): "failed",
        ("ltr", "base", 1): "unfinished",
        ("ltr", "base", 2): "missing",
        ("both-published-mask", "base", 0): "stopped",
    }
    return make_store(tmp_path / "runs", Synthetic(outcomes=outcomes))


def test_making_a_store_object_touches_nothing_and_reading_an_absent_one_finds_nothing(tmp_path):
    store = Store(tmp_path / "runs")
    assert (store.listing(), store.records(), store.experiments(), store.audits()) == ([], [], [], [])
    assert not (tmp_path / "runs").exists()


def test_creating_a_store_hides_it_from_git(tmp_path):
    assert (Store(tmp_path / "runs").create().root / ".gitignore").read_text() == "*\n"


def test_every_outcome_is_listed(store):
    counted = {}
    for row in store.listing():
        counted[row.outcome] = counted.get(row.outcome, 0) + 1
    assert counted == {"done": 3, "diverged": 1, "oom": 1, "failed": 1, "unfinished": 1, "stopped": 1}
    experiment = store.experiment("demo")
    assert [run.outcome for run in experiment.runs_of("ltr", "base")] == ["done", "unfinished", "missing"]
    assert [run.outcome for run in experiment.runs_of("both", "base")] == ["diverged", "oom", "failed"]
    assert all(row.reason for row in store.listing() if row.outcome in ("diverged", "oom", "failed", "stopped"))


def test_what_was_written_is_read_back(store):
    experiment = store.experiment("demo--laptop")
    record = experiment.runs_of("ltr", "base")[0].record
    assert isinstance(record, Record)
    assert record.result == store.record(record.run_id).result
    [final] = [row for row in record.metrics if row.get("final")]
    assert record.result.score("validation.ltr.nats_per_token") == final["scores"]["ltr"]["nats_per_token"]
    assert record.result.score("validation.up.nats_per_token") is None
    assert record.result.score("nonsense") is None
    assert record.spec["objective"]["kind"] == "ltr"
    assert record.audit_report().findings[0].check == "C8.loss_floor"
    assert experiment.audits["both-published-mask", "base"].leaks
    assert not experiment.audits["ltr", "base"].leaks
    assert experiment.audits["ltr", "base"].outcome == "could_not_tell"


def test_deleted_index_is_rebuilt_identically(store):
    rows = store.listing()
    before = index.load(store.root)
    assert rows == [row for _, row in before.rows.values()]
    (store.root / "index.json").unlink()
    assert store.listing() == rows
    assert index.load(store.root) == before


def test_a_copied_store_gives_the_same_index(store, tmp_path):
    store.listing()
    shutil.copytree(store.root, tmp_path / "copy")
    copy = Store(tmp_path / "copy")
    assert copy.listing() == store.listing()
    assert [row for _, row in index.load(copy.root).rows.values()] == [
        row for _, row in index.load(store.root).rows.values()
    ]


def test_reading_writes_nothing_into_run_directories(store):
    before = tree(store.root)
    store.listing()
    for record in store.records():
        assert record.metrics is not None
        assert record.audit is None or record.audit_report()
    store.experiment("demo")
    assert tree(store.root) == before


def test_a_store_that_cannot_be_written_is_listed_all_the_same(store, monkeypatch):
    rows = store.listing()
    (store.root / "index.json").unlink()

    def refuse(path):
        raise EnvironmentProblem("cannot write: read-only file system", file=str(path))

    monkeypatch.setattr(fsio, "committed", refuse)
    assert store.listing() == rows
    assert not (store.root / "index.json").exists()


@pytest.mark.parametrize("content", [b"", b"not an index", b"5 0\n{}", b"5 0\n" + b"\xff" * 200])
def test_a_damaged_index_is_replaced(store, content):
    rows = store.listing()
    (store.root / "index.json").write_bytes(content)
    assert store.listing() == rows
    assert len(index.load(store.root).rows) == len(rows)


def test_an_index_of_another_version_or_with_one_other_byte_is_not_believed(store):
    rows = store.listing()
    path = store.root / "index.json"
    sound = path.read_bytes()
    for other in (b"4" + sound[1:], sound.replace(b"done", b"dome", 1), sound[:-1], sound + b" ", b" " + sound):
        path.write_bytes(other)
        assert index.load(store.root) == index.Index()
        assert store.listing() == rows
        assert path.read_bytes() == sound


def test_the_index_notices_a_new_result_and_a_removed_run(store):
    unfinished = next(row for row in store.listing() if row.outcome == "unfinished")
    store.write_result(Result(run_id=unfinished.run_id, outcome="failed", reason="killed"))
    assert next(row for row in store.listing() if row.run_id == unfinished.run_id).outcome == "failed"
    shutil.rmtree(store.run_directory(unfinished.run_id))
    assert unfinished.run_id not in {row.run_id for row in store.listing()}


def test_a_new_index_takes_ended_runs_from_what_their_processes_appended(store, monkeypatch):
    rows = store.listing()
    (store.root / "index.json").unlink()
    read = []
    monkeypatch.setattr(index, "read_row", lambda path: (read.append(path.name), READ_ROW(path))[1])
    assert store.listing() == rows
    assert read == [row.run_id for row in rows if row.outcome == "unfinished"]


@pytest.mark.parametrize("name", ["spec.json", "result.json", "metrics.jsonl"])
def test_an_appended_row_is_not_believed_when_a_file_of_its_run_is_another(store, name):
    run_id = next(row.run_id for row in store.listing() if row.outcome == "done")
    (store.root / "index.json").unlink()
    with open(store.run_directory(run_id) / name, "a") as file:
        file.write("x")
    assert next(row for row in store.listing() if row.run_id == run_id).outcome == "damaged"


def test_what_was_appended_is_read_once_and_what_others_wrote_there_is_left_out(store):
    rows = store.listing()
    [path] = (store.root / "index.d").iterdir()
    assert index.load(store.root).read == {path.name: path.stat().st_size}
    (store.root / "index.json").unlink()
    (store.root / "index.d" / "linked.jsonl").symlink_to("/etc/passwd")
    fsio.append_line(store.root / "index.d" / "other.jsonl", {"run_id": rows[0].run_id, "mark": "", "row": {"x": 1}})
    fsio.append_line(store.root / "index.d" / "other.jsonl", {"not": "a row"})
    with open(path, "ab") as file:
        file.write(b'{"crc":12,"ro')
    assert store.listing() == rows


def test_one_run_in_many_that_changed_does_not_write_the_index_at_once(tmp_path):
    store = Store(tmp_path)
    for number in range(101):
        store.write_spec(f"{number:016x}", {"seed": number})
    store.listing()
    stamp = (store.root / "index.json").stat().st_ino
    store.write_result(Result(run_id=f"{5:016x}", outcome="failed", reason="killed"))
    assert [row.outcome for row in store.listing()].count("failed") == 1
    assert (store.root / "index.json").stat().st_ino == stamp
    os.utime(store.root / "index.json", (time.time() - 61, time.time() - 61))
    store.listing()
    assert (store.root / "index.json").stat().st_ino != stamp


def test_an_up_to_date_index_means_no_run_directory_is_read_and_nothing_is_written(store, monkeypatch):
    rows = store.listing()
    stamp = (store.root / "index.json").stat().st_ino
    monkeypatch.setattr(index, "read_row", lambda directory: pytest.fail("read a run directory"))
    assert store.listing() == rows
    assert (store.root / "index.json").stat().st_ino == stamp


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result.json", b'{"run_id": "'),
        ("result.json", b"[1, 2]"),
        ("result.json", b'{"run_id": "0123456789abcdef", "outcome": "excellent"}'),
        ("result.json", b'{"run_id": "fedcba9876543210", "outcome": "done"}'),
        (
            "result.json",
            b'{"run_id": "0123456789abcdef", "outcome": "done", "scores": {"validation": {"ltr": {"x": NaN}}}}',
        ),
        ("result.json", b"[" * 100_000),
        ("spec.json", b"\xff\xfe\x00"),
    ],
)
def test_damaged_files_are_named_and_listed(tmp_path, name, content):
    store = Store(tmp_path)
    store.write_spec(RUN, {"seed": 1})
    (store.run_directory(RUN) / name).write_bytes(content)
    with pytest.raises(Damaged) as caught:
        store.record(RUN)
    assert name in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    [row] = store.listing()
    assert row.outcome == "damaged"
    assert row.reason.startswith(name)
    assert [record.outcome for record in store.records()] == ["damaged"]


@pytest.mark.parametrize(
    "content", [None, b"", b'{"seed": 1', b'{"seed": 2, "self_sha256": "0"}', b'{"seed": 1, "seed": 1}']
)
def test_a_spec_that_cannot_be_read_is_written_again(tmp_path, content):
    store = Store(tmp_path)
    path = store.write_spec(RUN, {"seed": 1}) / "spec.json"
    path.unlink() if content is None else path.write_bytes(content)
    store.write_spec(RUN, {"seed": 1})
    assert fsio.read_table(path) == {"seed": 1}


@pytest.mark.parametrize(
    "make", [lambda path: os.mkfifo(path), lambda path: path.symlink_to("/etc/passwd"), lambda path: path.mkdir()]
)
@pytest.mark.parametrize("name", ["spec.json", "result.json"])
def test_pipes_links_and_directories_in_place_of_files_are_damage(tmp_path, make, name):
    store = Store(tmp_path)
    store.run_directory(RUN).mkdir(parents=True)
    make(store.run_directory(RUN) / name)
    assert store.records()[0].outcome == "damaged"
    assert store.listing()[0].outcome == "damaged"


def test_pipes_and_links_in_place_of_metrics_and_audit_are_not_followed(tmp_path):
    store = Store(tmp_path)
    store.write_spec(RUN, {"seed": 1})
    os.mkfifo(store.run_directory(RUN) / "metrics.jsonl")
    (store.run_directory(RUN) / "audit.json").symlink_to("/etc/passwd")
    record = store.record(RUN)
    with pytest.raises(Damaged, match=r"metrics\.jsonl: is not a regular file"):
        assert record.metrics
    assert record.audit is None


def replaced_by(make):
    def act(path):
        path.unlink()
        make(path)

    return act


DESTROYED = {
    "garbage": (lambda path: path.write_text("garbage\n" * 50), "line 1 is"),
    "zeros": (lambda path: path.write_bytes(b"\0" * path.stat().st_size), "line 1 is"),
    "emptied": (lambda path: path.write_text(""), "ends at step 0, but the run ended at step 600"),
    "halved": (lambda path: os.truncate(path, path.stat().st_size // 2), "but the run ended at step 600"),
    "gone": (lambda path: path.unlink(), "is missing, though the run is done"),
    "a directory": (replaced_by(lambda path: path.mkdir()), "is not a regular file"),
    "a pipe": (replaced_by(os.mkfifo), "is not a regular file"),
    "a link": (replaced_by(lambda path: path.symlink_to("/etc/passwd")), "is not a regular file"),
    "a link to nothing": (replaced_by(lambda path: path.symlink_to("nothing")), "is not a regular file"),
}

OVERWRITTEN = ("garbage", "zeros", "emptied", "halved")  # the directory of the run does not change


@pytest.mark.parametrize("destroyed", DESTROYED)
def test_destroyed_metrics_of_a_finished_run_are_damage_wherever_it_is_shown(tmp_path, destroyed):
    act, says = DESTROYED[destroyed]
    store = make_store(tmp_path / "runs")
    run_id = store.experiment("demo").runs[0].entry.run_id
    assert {row.outcome for row in store.listing()} == {"done"}
    act(store.run_directory(run_id) / "metrics.jsonl")
    with pytest.raises(Damaged, match=says):
        assert store.record(run_id).metrics
    run = store.experiment("demo").runs[0]
    assert (run.outcome, run.result, run.record.metrics) == ("damaged", None, ())
    assert says in run.record.reason
    assert f"{run_id}/metrics.jsonl: " in run.record.reason
    assert [record.run_id for record in store.records() if record.outcome == "damaged"] == [run_id]
    if destroyed in OVERWRITTEN:  # only reading the files shows it; `palinode ls --verify` does, and renews the index
        store.rebuild_index()
    [row] = [row for row in store.listing() if row.outcome == "damaged"]
    assert row.run_id == run_id
    assert row.reason.startswith("metrics.jsonl: ")
    assert says in row.reason
    (store.root / "index.json").unlink()
    assert row in store.listing()


def test_a_line_lost_in_the_middle_is_found_where_the_metrics_are_read(tmp_path):
    store = make_store(tmp_path / "runs")
    run_id = store.experiment("demo").runs[0].entry.run_id
    path = store.run_directory(run_id) / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], lines[3][:40] + b"\n", *lines[4:]]))
    assert store.experiment("demo").runs[0].outcome == "damaged"
    assert "line 4 is" in store.experiment("demo").runs[0].record.reason
    assert store.record(run_id).outcome == "done", "a single record does not read its metrics"


def test_what_a_kill_leaves_is_no_damage(tmp_path):
    store = make_store(tmp_path / "runs", Synthetic(outcomes={("ltr", "base", 1): "unfinished"}))
    for seed, tail in ((0, b'{"crc":12,"ro'), (1, b'{"crc":12,"ro')):
        run = store.experiment("demo").runs[seed]
        path = store.run_directory(run.entry.run_id) / "metrics.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(
            b"".join([*lines[:4], tail, *lines[4:], tail])
        )  # the next attempt wrote on after the torn line
        again = store.experiment("demo").runs[seed]
        assert (again.outcome, again.record.metrics) == (run.outcome, run.record.metrics)
    assert sorted({row.outcome for row in store.listing()}) == ["done", "unfinished"]


def test_a_listing_reads_the_end_of_the_metrics_once(store, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(fsio, "read_rows", lambda path: pytest.fail("read all of it"))
        rows = store.listing()
    monkeypatch.setattr(fsio, "read_last_rows", lambda path: pytest.fail("read it again"))
    assert store.listing() == rows


@pytest.mark.parametrize("outcome", get_args(RunOutcome))
def test_a_run_is_finished_when_its_spec_would_only_give_its_result_again(tmp_path, outcome):
    store = make_store(tmp_path / "runs", Synthetic(outcomes={("ltr", "base", 0): outcome}))
    result = store.experiment("demo").runs_of("ltr", "base")[0].result
    assert store.ended(result.run_id) == (result if outcome in ("done", "diverged") else None)


def test_a_run_that_is_missing_unfinished_or_damaged_is_not_finished(tmp_path):
    store = Store(tmp_path)
    assert store.ended(RUN) is None
    store.write_spec(RUN, {"seed": 1})
    assert store.ended(RUN) is None
    store.write_result(Result(run_id=RUN, outcome="done"))
    assert store.ended(RUN) is not None
    for name in ("spec.json", "result.json"):
        path = store.run_directory(RUN) / name
        sound = path.read_bytes()
        path.write_bytes(sound[:-2])
        assert store.ended(RUN) is None
        path.write_bytes(sound)
    assert store.ended(RUN) is not None


def test_the_entry_of_an_early_version_reads_with_its_rule(tmp_path):
    """An entry without `expect_collapse`, `choices` and `to_choose`, which came later."""
    stored = {
        "name": "demo",
        "size": "smoke",
        "arms": [{"name": "ltr", "expect_leak": False, "note": "", "diff": []}],
        "decision": {
            "metric": "validation.ltr.nats_per_token",
            "baseline": "ltr",
            "better": "lower",
            "confidence": 0.9,
            "smallest_effect": 0.01,
            "equal": "window_tokens",
        },
    }
    fsio.write_json(tmp_path / "experiments" / "demo--smoke.json", stored)
    entry = Store(tmp_path).entry("demo")
    rule = encode(entry.rule)
    assert {name: rule[name] for name in stored["decision"]} == stored["decision"]
    assert (rule["claim"], rule["family"], rule["published"]) == ("difference", "grid", None)
    assert Store(tmp_path).damaged_experiments() == []


def test_a_run_with_a_result_and_no_spec_is_damaged(store):
    run_id = next(row.run_id for row in store.listing() if row.outcome == "done")
    (store.run_directory(run_id) / "spec.json").unlink()
    assert next(row for row in store.listing() if row.run_id == run_id).reason.startswith("spec.json: cannot be read")
    assert [record.run_id for record in store.records() if record.outcome == "damaged"] == [run_id]
    with pytest.raises(Damaged, match=r"spec\.json"):
        store.record(run_id)


def test_a_link_is_not_a_run_directory(tmp_path):
    store = Store(tmp_path / "runs").create()
    (tmp_path / "elsewhere").mkdir()
    (store.root / RUN).symlink_to(tmp_path / "elsewhere")
    assert store.run_ids() == []
    with pytest.raises(BadInput):
        store.record(RUN)


@pytest.mark.parametrize(
    "run_id", ["", "..", "a/b", "/etc", "a\0b", ".hidden", "-x", "x" * 65, "experiments", "audits", "reports"]
)
def test_names_that_leave_the_store_are_refused(tmp_path, run_id):
    with pytest.raises(BadInput) as caught:
        Store(tmp_path).run_directory(run_id)
    assert caught.value.field == "run_id"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".x", "-x", "a--b", "nul\0", "x" * 101, "a\nb", "con:", "end."])
def test_experiment_names_stay_inside_their_directory(tmp_path, name):
    with pytest.raises(BadInput):
        Store(tmp_path).write_experiment(ExperimentEntry(name=name, size="smoke"))
    assert not (tmp_path / "experiments").exists()


def test_an_experiment_is_found_by_name_where_that_is_enough(tmp_path):
    store = Store(tmp_path)
    store.write_experiment(ExperimentEntry(name="idée 🌱", size="smoke"))
    assert store.entry("idée 🌱").size == "smoke"
    store.write_experiment(ExperimentEntry(name="idée 🌱", size="gpu"))
    assert store.entry("idée 🌱--gpu").size == "gpu"
    with pytest.raises(BadInput, match="2 sizes"):
        store.entry("idée 🌱")
    with pytest.raises(BadInput, match="did you mean 'idée 🌱'"):
        store.entry("idee 🌱")
    assert [entry.size for entry in store.experiments()] == ["gpu", "smoke"]


def test_damaged_experiments_are_shown_and_do_not_hide_the_others(store):
    (store.root / "experiments" / "broken--smoke.json").write_text("{")
    (store.root / "experiments" / "renamed--smoke.json").write_text(
        (store.root / "experiments" / "demo--laptop.json").read_text()
    )
    assert [entry.name for entry in store.experiments()] == ["demo"]
    assert ["broken--smoke.json" in str(d) or "renamed--smoke.json" in str(d) for d in store.damaged_experiments()] == [
        True,
        True,
    ]
    with pytest.raises(Damaged, match="broken--smoke"):
        store.entry("broken--smoke")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"audits": {"ltr": {"base": "../x"}}}, "audits.ltr.base: '../x' is not the hash of an audit"),
        ({"comparison": "../x"}, "comparison: '../x'"),
        ({"runs": [{"arm": "ltr", "scale": "base", "seed": 0, "run_id": "../x"}]}, "runs: '../x' is not a run id"),
        ({"decision": {"baseline": "ltr", "confidence": 2}}, "decision.confidence: "),
        ({"decision": {"baseline": "ltr", "smallest_effect": -1}}, "decision.smallest_effect: "),
        ({"decision": {"baseline": "ltr", "better": "up"}}, "decision.better: "),
        ({"decision": {"baseline": "ltr", "better": "higher"}}, "decision.better: nats_per_token is better when lower"),
        ({"decision": {"baseline": "ltr", "metric": "test.ltr.acuracy"}}, "decision.metric: "),
        ({"decision": {"baseline": "ltr", "equal": "tokens"}}, "decision.equal: "),
        ({"decision": {"confidence": 0.9}}, "decision.baseline: "),
        ({"decision": {"baseline": "lrt"}}, "decision.baseline: no arm is named 'lrt' (did you mean 'ltr'?)"),
    ],
)
def test_an_entry_that_holds_what_none_can_is_damage(store, changes, field):
    path = store.root / "experiments" / "demo--laptop.json"
    fsio.write_table(path, fsio.read_table(path) | changes)
    with pytest.raises(Damaged) as caught:
        store.entry("demo")
    assert str(caught.value).startswith(f"{path}: {field}")
    assert [str(problem) for problem in store.damaged_experiments()] == [str(caught.value)]
    assert store.experiments() == []


def test_a_damaged_audit_is_reported_with_the_experiment(store):
    audit_hash = store.entry("demo").audits["ltr"]["base"]
    (store.root / "audits" / f"{audit_hash}.json").write_text('{"subject": 3}')
    experiment = store.experiment("demo")
    assert ("ltr", "base") not in experiment.audits
    assert audit_hash in str(experiment.damaged[audit_hash])


@pytest.mark.parametrize(
    "harm", [lambda path: path.unlink(), lambda path: path.write_bytes(b""), replaced_by(lambda path: path.mkdir())]
)
def test_a_run_whose_audit_was_lost_is_not_done(store, harm):
    run_id = store.experiment("demo").runs_of("ltr", "base")[0].entry.run_id
    assert store.ended(run_id).outcome == "done"
    harm(store.run_directory(run_id) / "audit.json")
    assert store.ended(run_id) is None
    with pytest.raises(Damaged, match=f"{run_id}/audit.json"):
        store.record(run_id).audit  # noqa: B018 - reads the file


def test_a_run_whose_rows_were_lost_is_not_done(store):
    run_id = store.experiment("demo").runs_of("ltr", "base")[0].entry.run_id
    (store.run_directory(run_id) / "metrics.jsonl").unlink()
    assert store.ended(run_id) is None


def test_runs_are_found_by_the_beginning_of_their_id(store):
    run_ids = store.run_ids()
    assert store.find(run_ids[0][:12]) == run_ids[0]
    with pytest.raises(BadInput, match="runs begin with"):
        store.find("")
    with pytest.raises(BadInput, match="no run"):
        store.find("zzzz")


def test_a_run_is_found_by_its_arm_and_seed_where_only_one_has_them(tmp_path):
    store = make_store(tmp_path, Synthetic(scales=("small",)))
    run = store.entry("demo").runs[0]
    assert store.find(f"{run.arm}:{run.seed}") == run.run_id
    make_store(tmp_path, Synthetic(name="demo", scales=("small",)))
    assert store.find(f"{run.arm}:{run.seed}") == run.run_id, "two experiments may share a run"
    with pytest.raises(BadInput, match=rf"no run '{run.arm}:99' .*did you mean"):
        store.find(f"{run.arm}:99")
    make_store(tmp_path, Synthetic(name="other", scales=("small",)))
    with pytest.raises(BadInput, match=rf"2 runs are '{run.arm}:{run.seed}' \(name one by its id: {run.run_id}"):
        store.find(f"{run.arm}:{run.seed}")


def test_options_that_came_later_are_no_other_spec(tmp_path):
    store = Store(tmp_path)
    stored = {"seed": 1, "recipe": {"steps": 3, "rows": [1, 2]}}
    path = store.write_spec("0" * 16, stored) / "spec.json"
    written = path.read_bytes()
    for upgraded in ({**stored, "labels": "all"}, {**stored, "recipe": {**stored["recipe"], "growth": None}}):
        store.write_spec("0" * 16, upgraded)
        assert path.read_bytes() == written
    for other in ({**stored, "recipe": {"steps": 4}}, {**stored, "recipe": {"rows": [1]}}, {"seed": 2}, {"recipe": 3}):
        with pytest.raises(Damaged, match="another spec"):
            store.write_spec("0" * 16, other)


def test_another_spec_under_the_same_id_is_damage(tmp_path):
    store = Store(tmp_path)
    store.write_spec(RUN, {"seed": 1, "p": 0.1})
    store.write_spec(RUN, {"p": 0.1, "seed": 1})
    with pytest.raises(Damaged, match="another spec"):
        store.write_spec(RUN, {"seed": 2})


def test_metrics_keep_the_later_attempt_and_come_in_order(tmp_path):
    store = Store(tmp_path)
    store.write_spec(RUN, {})
    for attempt, step, value in [(1, 10, 3.0), (1, 20, 2.5), (1, 30, 2.4), (2, 20, 2.5), (2, 30, 2.25)]:
        store.append_metrics(RUN, {"event": "train", "attempt": attempt, "step": step, "value": value})
    store.append_metrics(RUN, {"event": "eval", "split": "validation", "attempt": 2, "step": 30})
    with open(store.run_directory(RUN) / "metrics.jsonl", "ab") as handle:
        handle.write(b'{"crc":1,"row":{"event":"train","step":40}}{"crc":12,"ro')
    rows = store.record(RUN).metrics
    assert [(row["event"], row["step"], row["attempt"]) for row in rows] == [
        ("train", 10, 1),
        ("train", 20, 2),
        ("eval", 30, 2),
        ("train", 30, 2),
    ]


def test_audits_are_cached_under_their_hash(tmp_path):
    store = Store(tmp_path)
    report = AuditReport(
        subject="x", findings=(Finding(check="C1.x", outcome="pass", law="l", message="m", pictures={"p": ((0.0,),)}),)
    )
    store.write_audit("abc123", report)
    assert store.audit("abc123") == report
    assert store.audit("def456") is None
    assert store.audits() == ["abc123"]
    with pytest.raises(BadInput):
        store.audit("../x")


@pytest.mark.nightly
def test_listing_five_thousand_runs_takes_under_a_second(tmp_path):
    root = tmp_path / "runs"
    root.mkdir()
    result = json.dumps(
        {"run_id": "RUN", "outcome": "done", "scores": {"validation": {"ltr": {"nats_per_token": 2.0}}}}
    )
    for number in range(5000):
        directory = root / f"{number:016x}"
        directory.mkdir()
        (directory / "spec.json").write_text('{"seed": 1, "model": {"kind": "decoder"}}')
        (directory / "result.json").write_text(result.replace("RUN", directory.name))
    store = Store(root)
    assert len(store.listing()) == 5000
    best = min(_seconds(store.listing) for _ in range(3))
    assert best < 1.0, f"{best:.2f} s"


def _seconds(call):
    started = time.process_time()  # of this process: other work on the machine does not count
    call()
    return time.process_time() - started
