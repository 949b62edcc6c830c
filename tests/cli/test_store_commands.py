"""ls, show, compare, report on a store that real runs could have left."""

import json
import shutil
import time
from pathlib import Path

import pytest
from tiny_experiment import everything_in

from palinode import read
from palinode.base import fsio
from palinode.results.store import Store
from synthetic_store import Synthetic, make_store
from synthetic_tasks import LEVELS, TASK_ARMS, make_task_store


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make_store(tmp_path_factory.mktemp("made") / "runs").root


@pytest.fixture
def store(made, here) -> Store:
    shutil.copytree(made, here / "runs")
    return Store("runs")


def test_ls_counts_what_the_experiments_hold(palinode, store):
    entry = store.experiments()[0]
    output = palinode("ls")
    assert output.code == 0
    header, line = output.out.splitlines()
    assert header.split()[:2] == ["experiment", "arms"]
    assert line.split()[:4] == [entry.full_name, str(len(entry.arms)), str(len(entry.runs)), str(len(entry.runs))]
    (listed,) = json.loads(palinode("ls", "--json").out)
    assert listed == {"name": entry.full_name, "runs": {"done": len(entry.runs)}}
    runs = json.loads(palinode("ls", "--runs", "--json").out)
    assert sorted(run["run_id"] for run in runs) == sorted(run.run_id for run in entry.runs)
    header, *lines = palinode("ls", "--runs").out.splitlines()
    assert header.split() == [
        "run",
        "outcome",
        "experiment",
        "arm",
        "scale",
        "seed",
        "step",
        "loss",
        "min",
        "left",
        "MB",
    ]
    assert len(lines) == len(runs)
    of_run = {run.run_id: run for run in entry.runs}
    for line in lines:
        run_id, outcome, name, *_, left, megabytes = line.split()
        assert (outcome, name, left) == ("done", entry.full_name, "-")
        files = [path for path in (store.root / run_id).rglob("*") if path.is_file()]
        assert megabytes == f"{sum(path.stat().st_size for path in files) / 1e6:.1f}"
        assert of_run[run_id].arm in line


def test_a_run_at_work_shows_how_far_it_is(palinode, store, monkeypatch):
    from palinode.results.holds import STALE_SECONDS, take

    entry = store.entry("demo")
    run_id = next(run.run_id for run in entry.runs if run.arm == "both")
    for name in ("result.json", "metrics.jsonl"):
        (store.run_directory(run_id) / name).unlink()
    steps = store.record(run_id).spec["recipe"]["steps"]

    def listed() -> dict:
        return next(run for run in json.loads(palinode("ls", "--runs", "--json").out) if run["run_id"] == run_id)

    assert (listed()["outcome"], listed()["step"]) == ("unfinished", 0)  # nobody has begun it
    row = {"event": "train", "nats_by_group": {"ltr": 2.5, "rtl": 3.5}, "attempt": 1}
    for step in range(1, 101):  # the last 50 steps take a tenth of the time of the others
        seconds = min(step, 50) + max(0, step - 50) / 10
        counts = {"tokens_scored_ltr": 2 * step, "tokens_scored_rtl": 3 * step}
        store.append_metrics(run_id, {**row, **counts, "step": step, "seconds": float(seconds)}, attempt=1)
    assert (listed()["outcome"], listed()["step"], listed()["minutes_left"]) == ("stalled", 100, None)
    with take(store.run_directory(run_id)):
        seen = listed()
        assert (seen["outcome"], seen["loss"]) == ("running", 3.5)  # of the pass that training scores most
        assert seen["minutes_left"] == pytest.approx((steps - 100) / 10 / 60)
        (line,) = (line for line in palinode("ls", "--runs").out.splitlines() if run_id in line)
        assert f"100/{steps}" in line
        lines = palinode("watch", "demo", "--once", "--runs").out.splitlines()
        assert "1 running on 1 host, 0 open" in lines[0]
        assert [line.split()[:2] for line in lines[1:]] == [["run", "outcome"], [run_id, "running"]]
        now = time.time()
        with monkeypatch.context() as patched:
            patched.setattr("time.time", lambda: now + STALE_SECONDS + 5)  # no heartbeat for so long
            assert listed()["outcome"] == "stalled"
    assert listed()["outcome"] == "stalled"
    assert f"{run_id}  stalled" in palinode("watch", "demo", "--once", "--runs").out
    assert len(palinode("watch", "demo", "--once").out.splitlines()) == 1


def test_ls_names_damage_and_lists_the_rest(palinode, store):
    (store.root / "experiments" / "broken--x.json").write_text("{")
    run = store.root / store.run_ids()[0]
    (run / "result.json").write_text("{")
    output = palinode("ls")
    assert output.code == 0
    assert "broken--x.json" in output.err
    assert "1 damaged" in output.out


def test_show_an_experiment_and_a_run(palinode, store):
    entry = store.experiments()[0]
    output = palinode("show", entry.full_name)
    assert output.code == 0
    for arm in entry.arms:
        assert f"arm {arm.name}" in output.out
    assert all(run.run_id in output.out for run in entry.runs)
    assert json.loads(palinode("show", entry.name, "--json").out)["name"] == entry.name
    run_id = entry.runs[0].run_id
    output = palinode("show", run_id)
    assert output.out.startswith(f"run {run_id}: done")
    assert "nats_per_token" in output.out
    shown = json.loads(palinode("show", run_id, "--json").out)
    assert shown["result"]["run_id"] == run_id


def test_a_run_is_found_by_the_beginning_of_its_id(palinode, store):
    run_ids = store.run_ids()
    prefix = next(
        run_ids[0][:n] for n in range(1, 17) if sum(other.startswith(run_ids[0][:n]) for other in run_ids) == 1
    )
    assert palinode("show", prefix).out.startswith(f"run {run_ids[0]}: ")
    output = palinode("show", "zz")
    assert output.code == 2
    assert "'zz' is neither" in output.err


def test_damaged_runs_exit_4_and_name_the_file(palinode, store):
    run_id = store.run_ids()[0]
    (store.root / run_id / "result.json").write_text('{"run_id": 3}')
    output = palinode("show", run_id)
    assert output.code == 4
    assert "result.json" in output.err
    assert output.out == ""


def test_compare_prints_every_verdict_with_its_stamp(palinode, store):
    entry = store.experiments()[0]
    output = palinode("compare", entry.full_name)
    assert output.code == 0
    leaking = [arm.name for arm in entry.arms if arm.expect_leak]
    stamped = next(line for line in output.out.splitlines() if line.startswith("LEAK  "))
    assert leaking[0] in stamped
    verdicts = json.loads(palinode("compare", entry.full_name, "--json").out)
    assert [verdict["arm"] for verdict in verdicts] == [arm.name for arm in entry.arms if arm.name != "ltr"]
    assert [verdict["leak"] for verdict in verdicts] == ["none", "expected"]
    assert all(verdict["outcome"] in ("better", "worse", "smaller than matters", "cannot tell") for verdict in verdicts)


def test_compare_tells_chance_beside_an_accuracy(palinode, here):
    make_task_store(here / "runs")
    output = palinode("compare", "recall--laptop")
    assert output.code == 0
    blocks = output.out.split("\n\n")
    verdicts = [block for block in blocks if ": Over " not in block]
    assert any(f": Over {len(LEVELS)} scales: " in block for block in blocks)
    assert len(verdicts) == (len(TASK_ARMS) - 1) * len(LEVELS)
    for arm, block in zip((arm.name for arm in TASK_ARMS[1:] for _ in LEVELS), verdicts, strict=True):
        (line,) = (line for line in block.splitlines() if "; chance " in line)
        assert line.startswith(f"  {arm} ")


def test_compare_two_runs(palinode, store):
    first, second = store.run_ids()[:2]
    data = json.loads(palinode("compare", first, second, "--json").out)
    assert data["runs"] == [first, second]
    assert all(before != after for before, after in data["spec"].values())
    assert any(path.endswith("nats_per_token") for path in data["scores"])
    assert first in palinode("compare", first, second).out
    assert palinode("compare", first, second, first).code == 2


def test_a_run_where_an_experiment_is_named_and_the_other_way_round(palinode, store):
    entry, run_id = store.experiments()[0], store.run_ids()[0]
    cases = {
        ("compare", "demo", "other"): "NAME: 'demo' is an experiment (its runs: `palinode show demo`)",
        ("sample", "demo"): "RUN: 'demo' is an experiment (its runs: `palinode show demo`)",
        (
            "cut",
            entry.full_name,
        ): f"RUN: '{entry.full_name}' is an experiment (its runs: `palinode show {entry.full_name}`)",
        ("compare", run_id): f"NAME: '{run_id}' is a run (its experiment: `palinode compare {entry.full_name}`)",
        ("report", run_id): f"NAME: '{run_id}' is a run (its experiment: `palinode report {entry.full_name}`)",
        ("report", "ideas/idea.py"): "NAME: give the name of the experiment, not its file (`palinode report idea`)",
        ("compare", "demmo"): "NAME: no experiment 'demmo' in runs (did you mean 'demo'?)",
        ("cut", "zz"): "RUN: no run 'zz' in runs (`palinode ls --runs` lists them)",
        ("compare", run_id, "zz"): "NAME: no run 'zz' in runs (`palinode ls --runs` lists them)",
        ("sample", run_id, "--top-p", "3"): "--top-p: Input should be less than or equal to 1, got 3.0",
    }
    for arguments, line in cases.items():
        output = palinode(*arguments)
        assert (output.code, output.out, output.err) == (2, "", f"{line}\n")


def test_a_run_of_no_experiment_is_shown(palinode, store):
    entry, run_id = store.experiments()[0], store.run_ids()[0]
    (store.root / "experiments" / f"{entry.full_name}.json").unlink()
    assert palinode("report", run_id).err == f"NAME: '{run_id}' is a run (`palinode show {run_id}`)\n"


def test_report_hands_over_and_prints_the_path(palinode, store, monkeypatch):
    requests = []
    monkeypatch.setattr(
        "palinode.report.build.build_report",
        lambda *given, one_kind: requests.append((*given, one_kind)) or Path("page/report.html"),
    )
    output = palinode("report", "demo", "--out", "page")
    assert (output.code, output.out) == (0, "page/report.html\n")
    ((given, name, out, window, one_kind),) = requests
    assert (given.root, name, out, window, one_kind) == (store.root, "demo", Path("page"), (0.5, 1.0), False)
    palinode("report", "demo", "--window", "0.8..1", "--one-kind")
    assert requests[-1][-2:] == ((0.8, 1.0), True)
    assert json.loads(palinode("report", "demo", "--json").out) == {"report": "page/report.html"}


def test_reading_writes_nothing_but_the_index(palinode, store, here):
    before = everything_in(here)
    entry = store.experiments()[0]
    for arguments in (("ls",), ("show", entry.full_name), ("show", store.run_ids()[0]), ("compare", entry.full_name)):
        assert palinode(*arguments).code == 0
    after = everything_in(here)
    assert {path for path in after if after[path] != before.get(path, b"")} <= {str(here / "runs" / "index.json")}


def test_names_of_a_foreign_store_cannot_drive_the_terminal(palinode, store):
    path = next((store.root / "experiments").glob("*.json"))
    data = fsio.read_table(path)
    data["question"] = "\x1b]0;owned\x07 \x1b[2J"
    data["arms"][0]["note"] = "\x1b[31m"
    fsio.write_table(path, data)
    output = palinode("show", path.stem)
    assert output.code == 0
    assert "\x1b" not in output.out
    assert "\x07" not in output.out


def test_an_experiment_wins_over_a_run_whose_id_begins_with_its_name(palinode, here):
    for name in "abcdef":
        store = make_store(here / "runs", Synthetic(name=name))
    hit = next(name for name in "abcdef" if any(run_id.startswith(name) for run_id in store.run_ids()))
    assert palinode("show", hit).out.startswith(f"{hit}--laptop\n")
    assert set(read(hit, store)["run"]) == {run.run_id for run in store.entry(hit).runs}
