"""worker, watch, stop, run --detach and run --on: what they refuse in one line, and that they end where `palinode run` ends."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import quick_audit
import tiny_experiment
from tiny_experiment import everything_in

from palinode.base import fsio, user_settings
from palinode.experiment import audits, plan
from palinode.results.store import Store
from palinode.sweep import executors, host, remote
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
    monkeypatch.setattr(user_settings, "configuration_path", lambda: path)
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
        (
            ("--detach", "--processes", "2"),
            2,
            "--processes: does not go together with --detach (palinode worker --processes)",
        ),
        (("--on", "local", "--processes", "3"), 2, "--processes: 3 processes cannot share 1 micro-batch"),
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
        (("--parallel", "ddp"), "--parallel: one process shares no run"),
        (("--processes", "2", "--stack", "2"), "--stack: runs that several processes share are not stacked"),
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


def test_a_run_shows_its_attempts_and_what_they_cost(palinode, here):
    store = make_store(here / "runs")
    run_id = store.run_ids()[0]
    attempts = store.record(run_id).result.attempts
    hold = {
        "host": "node7",
        "kind": "3f2a",
        "started": "2026-01-01T00:00:00+00:00",
        "until": "2026-01-01T02:30:00+00:00",
    }
    fsio.write_table(store.run_directory(run_id) / "hold-7.json", {**hold, "price_per_hour": 2.0, "currency": "EUR"})
    fsio.write_table(store.run_directory(run_id) / "hold-8.json", {"host": "node8"})
    assert attempts not in (7, 8)
    lines = palinode("show", run_id).out.splitlines()
    assert [line.split() for line in lines if "node" in line] == [
        ["7", "node7", "3f2a", "2026-01-01", "00:00:00", "2026-01-01", "02:30:00", "5", "EUR"],
        ["8", "node8", "-", "-", "-", "-"],
    ]
    assert json.loads(palinode("show", run_id, "--json").out)["attempts"][0]["cost"] == "5 EUR"


def test_a_listing_says_on_which_host_a_run_is_and_when_it_was_heard_of_last(palinode, here):
    store = make_store(here / "runs")
    run_id = store.run_ids()[0]
    (store.run_directory(run_id) / "result.json").unlink()
    held = {"host": "node7", "pid": 1, "beat": 0, "released": False}
    fsio.write_table(store.run_directory(run_id) / "hold-9.json", held)
    output = palinode("ls", "--runs")
    assert "last beat" in output.out.splitlines()[0]
    [line] = [line for line in output.out.splitlines() if run_id in line]
    assert "running" in line
    assert "node7" in line
    assert "s ago" in line


def test_a_price_without_a_unit_is_refused_by_every_command_that_reads_prices(palinode, tiny, user):
    user.write_text("[prices]\ncpu = 0.1\n")
    make_store(tiny.parent / "runs")
    for arguments in (("run", str(tiny)), ("plan", str(tiny), "--no-measure"), ("worker",)):
        output = palinode(*arguments)
        assert output.code == 2, arguments
        assert "prices.cpu: is a price without a unit" in output.err
        assert len(output.err.splitlines()) == 1


def test_a_driver_without_a_gpu_leaves_runs_for_one_to_workers(palinode, tiny, monkeypatch):
    monkeypatch.setattr(audits, "audit_arm", quick_audit.quick_audit_arm)
    monkeypatch.setattr(audits, "audit_ahead", quick_audit.no_audit_ahead)
    on_gpu = ("--set", "device=cuda")
    output = palinode("run", str(tiny), *on_gpu)
    assert (output.code, "no CUDA device on this machine" in output.err) == (5, True)
    output = palinode("run", str(tiny), *on_gpu, "--detach")
    assert output.code == 0, output.err
    assert "4 runs are written to runs" in output.out


def test_workers_that_end_at_once_end_the_driver_with_their_last_line(palinode, tiny, user, monkeypatch):
    monkeypatch.setattr(audits, "audit_arm", quick_audit.quick_audit_arm)
    monkeypatch.setattr(audits, "audit_ahead", quick_audit.no_audit_ahead)
    monkeypatch.setattr(remote, "LOOK_SECONDS", 0.02)
    user.write_text('[executor.lab]\nkind = "local"\nsetup = ["echo no module named palinode >&2", "exit 3"]\n')
    output = palinode("run", str(tiny), "--on", "lab", "--quiet")
    assert output.code == 5
    assert output.err.splitlines()[-1] == "lab workers end at once: no module named palinode"
    assert list(Path("runs/workers").glob("probe-*")) == []


def test_the_processes_of_an_engine_must_fit_the_micro_batches(palinode, tiny, user):
    user.write_text('[executor.lab]\nkind = "local"\nprocesses = 3\nparallel = "ddp"\n')
    output = palinode("run", str(tiny), "--on", "lab")
    assert output.code == 2
    assert "--processes: 3 processes cannot share 1 micro-batch" in output.err
    assert len(output.err.splitlines()) == 1


def test_a_host_of_another_numerics_version_takes_no_run(palinode, tiny, monkeypatch):
    monkeypatch.setattr(audits, "audit_arm", quick_audit.quick_audit_arm)
    monkeypatch.setattr(audits, "audit_ahead", quick_audit.no_audit_ahead)
    assert palinode("run", str(tiny), "--detach", "--quiet").code == 0
    monkeypatch.setattr(host, "NUMERICS_VERSION", host.NUMERICS_VERSION + 1)
    output = palinode("worker")
    assert output.code == 5
    assert f"has numerics version {host.NUMERICS_VERSION}, the runs are for {host.NUMERICS_VERSION - 1}" in output.err
    assert len(output.err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [("watch", "nothing"), ("stop", "nothing"), ("worker", "--probe", "../../x")])
def test_a_name_that_is_none_is_refused_in_one_line(palinode, here, arguments):
    make_store(here / "runs")
    output = palinode(*arguments)
    assert output.code == 2
    assert len(output.err.splitlines()) == 1


def test_stop_leaves_a_request_that_the_next_run_deletes(palinode, here):
    store = make_store(here / "runs")
    entry = store.experiments()[0]
    assert palinode("stop", entry.full_name).code == 0
    assert store.stop_path(entry.full_name).exists()
    assert palinode("stop", "nothing").code == 2
    store.forget_stop(entry)
    assert not store.stop_path(entry.full_name).exists()


def scores_of(store: Path) -> dict[str, object]:
    place = Store(store)
    results = {run_id: place.record(run_id).result for run_id in place.run_ids()}
    return {run_id: (result.outcome, result.scores, result.weights_sha256) for run_id, result in results.items()}


@pytest.mark.nightly
def test_detached_runs_end_with_the_same_bits_and_the_same_verdict(quick, tiny, own_nurseries):
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
def test_every_engine_ends_with_the_same_bits(quick, tiny, own_nurseries, engine, package, monkeypatch):
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
def test_the_demo_on_an_engine_ends_with_the_report_of_the_local_run(
    palinode, here, own_nurseries, engine, package, monkeypatch
):
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
