"""worker, watch, stop, run --detach and run --on: what they refuse in one line, and that they end where `palinode run` ends."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import quick_audit
import tiny_experiment
from tiny_experiment import everything_in

from palinode.experiment import audits, plan
from palinode.results.store import Store
from palinode.sweep import executors
from synthetic_store import make_store

DEMO = Path(__file__).parents[2] / "experiments" / "demo.py"
# Tables of a report that have clock seconds in them: the same run takes another time on another machine.
TABLES_WITH_SECONDS = {"costs.csv", "runs.csv", "training_curves.csv", "evaluation_curves.csv", "ratio_curves.csv"}


@pytest.fixture
def tiny(here) -> Path:
    path = here / "tiny.toml"
    path.write_text(tiny_experiment.TOML)
    return path


@pytest.fixture
def quick(palinode, monkeypatch):
    """`palinode` in this process, with the quick audit and calibration: the real audit finds repeated windows in the small text."""
    monkeypatch.setattr(audits, "audit_arm", quick_audit.quick_audit_arm)
    monkeypatch.setattr(audits, "audit_ahead", quick_audit.no_audit_ahead)
    monkeypatch.setattr(plan, "calibrate", quick_audit.quick_calibrate)
    return palinode


@pytest.fixture
def user(tmp_path, monkeypatch) -> Path:
    """The user's configuration, which defines the engine `lab`."""
    path = tmp_path / "config.toml"
    path.write_text('[executor.lab]\nkind = "slurm"\noptions = { partition = "gpu" }\n')
    monkeypatch.setattr(executors, "configuration_path", lambda: path)
    return path


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--on", "slrum"), 2, "--on: 'slrum' is none of local, slurm, ray, lab (did you mean 'slurm'?)"),
        (("--on", "slurm", "--on-option", "partiton=gpu"), 2, "no option 'partiton' (did you mean 'partition'?)"),
        (("--on", "local", "--on-option", "partition=gpu"), 2, "--on-option: local has no option 'partition'"),
        (("--on", "local", "--on-option", "gpu"), 2, "--on-option: 'gpu' is not NAME=VALUE"),
        (("--on-option", "partition=gpu"), 2, "--on-option: is an option of --on"),
        (("--on", "local", "--detach"), 2, "--detach: does not go together with --on"),
        (("--detach", "--stack", "auto"), 2, "--stack: other hosts need a number"),
        (("--on", "local", "--processes", "2"), 2, "--processes: does not go together with --on or --detach"),
        (("--detach", "--hours", "2"), 2, "--hours: limits this process alone (palinode worker --for)"),
    ],
)
def test_options_of_other_hosts_are_refused_before_anything_is_written(palinode, tiny, user, arguments, code, words):
    if "slurm" in arguments and importlib.util.find_spec("submitit") is None:
        pytest.skip("submitit is not installed")
    output = palinode("run", str(tiny), *arguments)
    assert output.code == code
    assert words in output.err
    assert len(output.err.splitlines()) == 1
    assert not Path("runs/experiments").exists()


@pytest.mark.parametrize(("name", "package"), [("slurm", "submitit"), ("lab", "submitit"), ("ray", "ray")])
def test_a_package_that_is_missing_is_named_with_the_way_to_install_it(
    palinode, tiny, user, monkeypatch, name, package
):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == package else find(wanted))
    output = palinode("run", str(tiny), "--on", name)
    extra = "ray" if package == "ray" else "slurm"
    assert output.code == 5
    assert output.err.splitlines() == [f'{package} is not installed (pip install "palinode[{extra}]")']


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--slots", "0"), "--slots: '0' is no number of slots"),
        (("--slots", "many"), "--slots: 'many' is no number of slots"),
        (("--for", "4"), "--for: '4' is no time (such as 90s, 10m, 4h or 2d)"),
        (("--idle", "-1m"), "--idle: '-1m' is no time"),
        (("--stack", "auto"), "--stack: a worker needs a number"),
        (("--experiment", "nothing"), "no experiment 'nothing'"),
        (("--store", "elsewhere"), "there is no results store here"),
    ],
)
def test_a_worker_refuses_bad_options_in_one_line(palinode, here, arguments, words):
    make_store(here / "runs")
    output = palinode("worker", *arguments)
    assert output.code == 2
    assert words in output.err
    assert len(output.err.splitlines()) == 1


def test_a_host_that_does_not_see_the_store_of_its_driver_says_so(palinode, here, monkeypatch):
    from palinode.cli import worker

    monkeypatch.setattr(worker, "PROBE_SECONDS", 0.0)
    for store in ("runs", "nowhere"):
        make_store(here / "runs") if store == "runs" else None
        output = palinode("worker", "--store", store, "--probe", "0123")
        assert output.code == 5
        assert f"does not see the store {store}: all hosts must share its file system" in output.err


def test_a_finished_experiment_is_watched_to_its_end_at_once_and_a_worker_has_nothing_to_do(palinode, here):
    entry = make_store(here / "runs").experiments()[0]
    before = everything_in(here / "runs")
    output = palinode("watch", entry.full_name)
    assert (output.code, output.out) == (0, f"{len(entry.runs)} done, 0 open\n")
    output = palinode("worker")
    assert output.code == 0
    assert f"0 of {len(entry.runs)} runs open" in output.err
    assert everything_in(here / "runs").items() >= before.items()


def test_stop_leaves_a_request_that_the_next_run_deletes(palinode, here):
    store = make_store(here / "runs")
    entry = store.experiments()[0]
    assert palinode("stop", entry.full_name).code == 0
    assert store.stop_path(entry).exists()
    assert palinode("stop", "nothing").code == 2
    store.forget_stop(entry)
    assert not store.stop_path(entry).exists()


def scores_of(store: Path) -> dict[str, object]:
    place = Store(store)
    results = {run_id: place.record(run_id).result for run_id in place.run_ids()}
    return {run_id: (result.outcome, result.scores, result.weights_sha256) for run_id, result in results.items()}


@pytest.mark.nightly
def test_detached_runs_end_with_the_same_bits_and_the_same_verdict(quick, tiny):
    assert quick("run", str(tiny), "--store", "local").code == 0
    output = quick("run", str(tiny), "--store", "shared", "--detach")
    assert output.code == 0
    assert "4 runs are written to shared" in output.out
    assert quick("stop", "tiny", "--store", "shared").code == 0
    assert quick("worker", "--store", "shared").code == 0
    assert quick("watch", "tiny", "--store", "shared", "--once").out == "0 done, 4 open\n"
    assert quick("run", str(tiny), "--store", "shared", "--detach").code == 0
    assert quick("worker", "--store", "shared", "--slots", "1").code == 0
    assert scores_of(Path("shared")) == scores_of(Path("local"))
    assert quick("run", str(tiny), "--store", "shared").code == 0
    told = [quick("compare", "tiny", "--json", "--store", store).out for store in ("local", "shared")]
    assert json.loads(told[0]) == json.loads(told[1])


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("engine", "package"),
    [(("local",), None), (("slurm", "--on-option", "cluster=local"), "submitit"), (("ray",), "ray")],
)
def test_every_engine_ends_with_the_same_bits(quick, tiny, engine, package, monkeypatch):
    if package is not None:
        pytest.importorskip(package)
    monkeypatch.setenv("PYTHONPATH", str(Path(executors.__file__).parents[3]))
    assert quick("run", str(tiny), "--store", "here").code == 0
    output = quick("run", str(tiny), "--store", "there", "--on", *engine, "--workers", "2")
    assert output.code == 0, output.err
    assert "Traceback" not in output.err
    assert scores_of(Path("there")) == scores_of(Path("here"))


@pytest.mark.nightly
@pytest.mark.parametrize(("engine", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_the_demo_on_an_engine_ends_with_the_report_of_the_local_run(palinode, here, engine, package, monkeypatch):
    """As docs/scaling-out.md tells a new user. The tables and figures of the report are equal, but for those of clock seconds."""
    pytest.importorskip(package)
    monkeypatch.setenv("PYTHONPATH", str(Path(executors.__file__).parents[3]))
    command = ("run", str(DEMO), "--size", "smoke", "--report")
    local = palinode(*command, "--store", "here")
    shutil.copytree("here/audits", "there/audits")
    on = ("--on-option", "cluster=local") if engine == "slurm" else ()
    remote = palinode(*command, "--store", "there", "--on", engine, *on, "--workers", "2")
    assert (local.code, remote.code) == (0, 0), remote.err
    assert "Traceback" not in remote.err
    assert not [path for path in Path("there/workers").rglob("*log.err") if "Traceback" in path.read_text()]
    assert remote.out.replace("there/", "here/") == local.out
    assert scores_of(Path("there")) == scores_of(Path("here"))
    tables = {path.name: path.read_bytes() for path in Path("here/reports/demo--smoke/tables").glob("*.csv")}
    differ = {
        path.name
        for path in Path("there/reports/demo--smoke/tables").glob("*.csv")
        if tables.pop(path.name, None) != path.read_bytes()
    }
    assert tables == {}
    assert differ <= TABLES_WITH_SECONDS
