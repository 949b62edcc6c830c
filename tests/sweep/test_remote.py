"""The driver of workers: engines start them, and the store says how far they are."""

import socket
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from palinode.base import user_settings
from palinode.base.errors import BadInput, EnvironmentProblem
from palinode.base.user_settings import ExecutorTable
from palinode.results.holds import take
from palinode.results.record import ExperimentEntry, RunEntry
from palinode.results.store import Store
from palinode.sweep import executors, host, remote
from palinode.sweep.executors import executor_named, executor_of, parse_options
from palinode.sweep.executors.command import Command
from palinode.sweep.executors.local import LocalExecutor
from palinode.sweep.host import HostOptions, work
from palinode.sweep.process import Job
from palinode.sweep.remote import Fleet, detach

WORKER = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))
NAME = "idea--default"


class Thread:
    """A handle of a host that is a thread of this process."""

    name = "job 8123"

    def __init__(self, store: Store, command):
        probe = command[command.index("--probe") + 1]
        options = HostOptions(command[command.index("--experiment") + 1], 1, probe=probe, worker=WORKER)
        self._thread = threading.Thread(target=work, args=(store, options), daemon=True)
        self._thread.start()

    def state(self):
        return "running" if self._thread.is_alive() else "ended"

    def why(self):
        return ""

    def stop(self):
        raise AssertionError("the worker ends when its driver's file is gone")

    kill = stop


class Ended:
    """A handle of a worker that ends at once."""

    name = ""

    def state(self):
        return "ended"

    def why(self):
        return "node7 does not see the store"

    def stop(self):
        pass

    kill = stop


class Engine:
    """An engine that makes these handles, and counts them."""

    def __init__(self, handle):
        self.handle, self.started = handle, []

    def start(self, command):
        self.started.append(command)
        return self.handle(command)


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setenv("PALINODE_NURSERY", "off")
    monkeypatch.setattr(host, "PAUSES_SECONDS", (0.05,))
    monkeypatch.setattr(remote, "LOOK_SECONDS", 0.05)
    place = Store(tmp_path / "runs").create()
    place.workers_directory()
    return place


def jobs_of(store: Store, **do: str) -> list[Job]:
    jobs = [
        Job(name, store.write_spec(name, {"do": what, "numerics_version": host.NUMERICS_VERSION}))
        for name, what in do.items()
    ]
    runs = tuple(RunEntry(arm="a", scale="base", seed=seed, run_id=name) for seed, name in enumerate(do))
    store.write_experiment(ExperimentEntry(name="idea", size="default", runs=runs))
    return jobs


def test_workers_train_the_runs_and_end_when_the_driver_has_what_it_needs(store):
    events, lines = [], []
    engine = Engine(lambda command: Thread(store, command))
    fleet = Fleet("threads", engine, 2, lines.append)
    end = fleet.sweep(jobs_of(store, a="done", b="diverged", c="done"), store, NAME, events.append)
    assert end.outcomes == {"a": "done", "b": "diverged", "c": "done"}
    assert (end.reused, end.interrupted, end.is_cut_short) == (frozenset(), None, False)
    assert sorted(event["run_id"] for event in events if event["event"] == "finished") == ["a", "b", "c"]
    assert lines[-1] == "2 done, 1 diverged, 0 open"
    assert "2 workers asked of threads (job 8123, job 8123)" in lines
    assert 1 <= len(engine.started) <= 3
    assert list((store.root / "workers").glob("probe-*")) == []
    again = fleet.sweep([Job(name, store.run_directory(name)) for name in "abc"], store, NAME, events.append)
    assert again.reused == {"a", "b", "c"}


def test_a_run_that_failed_ends_the_driving_and_is_tried_again_by_the_next(store):
    jobs = jobs_of(store, bad="raise", good="done")
    for _ in range(2):
        engine = Engine(lambda command: Thread(store, command))
        end = Fleet("threads", engine, 1, lambda line: None).sweep(jobs, store, NAME, lambda event: None)
        assert end.outcomes == {"bad": "failed", "good": "done"}
        assert end.exit_code == 1
        assert engine.started


def test_workers_that_end_at_once_are_a_problem_with_their_last_line(store):
    engine = Engine(lambda command: Ended())
    with pytest.raises(EnvironmentProblem, match="slurm workers end at once: node7 does not see the store") as caught:
        Fleet("slurm", engine, 1, lambda line: None).sweep(jobs_of(store, a="done"), store, NAME, lambda event: None)
    assert caught.value.exit_code == 5
    assert len(engine.started) == remote.MOST_ENDED_AT_ONCE


def test_workers_that_are_preempted_after_they_took_a_run_are_replaced(store):
    jobs = jobs_of(store, a="done")

    class Preempted(Ended):
        """A handle of a worker that takes the run, and ends before it has ended the run."""

        def __init__(self):
            take(jobs[0].directory).release()

    engine = Engine(lambda command: Preempted() if len(engine.started) < 6 else Thread(store, command))
    lines = []
    end = Fleet("ray", engine, 1, lines.append).sweep(jobs, store, NAME, lambda event: None)
    assert end.outcomes == {"a": "done"}
    assert len(engine.started) == 6


def test_detached_runs_are_left_to_workers_until_all_have_ended(store):
    jobs = jobs_of(store, a="done", b="done")
    end = detach(jobs, store, NAME, lambda event: None)
    assert (end.left_to_workers, end.is_cut_short, end.outcomes) == ({"a", "b"}, True, {})
    assert work(store, HostOptions(slots=2, worker=WORKER)) == 0
    end = detach(jobs, store, NAME, lambda event: None)
    assert (end.left_to_workers, end.is_cut_short, end.outcomes) == (frozenset(), False, {"a": "done", "b": "done"})


def test_a_process_of_this_machine_says_why_it_ended(tmp_path):
    script = "import sys; print('first'); print('the reason', file=sys.stderr); sys.exit(5)"
    handle = LocalExecutor(tmp_path).start([sys.executable, "-c", script])
    while handle.state() != "ended":
        time.sleep(0.02)
    assert handle.why() == "the reason"


def test_a_command_of_a_ray_task_runs_in_the_folder_of_the_driver(tmp_path):
    child = Command([sys.executable, "-c", "import os, sys; print(os.getcwd(), file=sys.stderr)"], str(tmp_path))
    assert (child.wait(), child.last_line) == (0, str(tmp_path))


def ended_with(handle) -> str:
    while handle.state() != "ended":
        time.sleep(0.02)
    return handle.why()


TELL_CORES = ["sh", "-c", "echo cores $PALINODE_CORES >&2"]


def test_workers_of_one_machine_share_its_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "usable_cores", lambda: 8)
    table = ExecutorTable("local")
    assert ended_with(executor_of(table, {}, tmp_path, workers=3).start(TELL_CORES)) == "cores 2"
    assert ended_with(executor_of(table, {"cores": 5}, tmp_path, workers=3).start(TELL_CORES)) == "cores 5"
    with pytest.raises(BadInput, match="0 is no number of cores"):
        executor_of(table, {"cores": 0}, tmp_path)


def test_a_cluster_of_ray_that_is_gone_is_not_waited_for(monkeypatch):
    """Ray itself would ask for it for a quarter of an hour. `found`: what Ray makes of an option, RAY_ADDRESS, its own notes."""
    module = pytest.importorskip("palinode.sweep.executors.ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        alive = f"127.0.0.1:{listening.getsockname()[1]}"
        found = {"": None, "there": alive}
        monkeypatch.setattr(module, "canonicalize_bootstrap_address", lambda given: found[given or ""])
        assert module._address("") == "local"
        assert module._address("there") == alive
        assert module._address("ray://far:10001") == "ray://far:10001"
        found[""] = alive
        assert module._address("") == alive
    assert module._address("") == "local", "a note of a cluster that was here"
    for give in (lambda: "there", lambda: monkeypatch.setenv("RAY_ADDRESS", alive) or ""):
        with pytest.raises(ConnectionError, match=f"nobody answers at {alive}"):
            module._address(give())


@pytest.mark.parametrize(("resources", "told"), [({"CPU": 3.0}, "cores 3"), ({"CPU": 0.5}, "cores 1"), ({}, "cores")])
def test_a_task_of_ray_has_the_cores_that_ray_gave_it(tmp_path, monkeypatch, resources, told):
    module = pytest.importorskip("palinode.sweep.executors.ray")
    monkeypatch.delenv("PALINODE_CORES", raising=False)
    context = SimpleNamespace(get_assigned_resources=lambda: resources)
    monkeypatch.setattr(module.ray, "get_runtime_context", lambda: context)
    assert module.run(TELL_CORES, str(tmp_path)) == told


def test_a_job_of_slurm_has_the_cores_that_it_asked_for_and_is_queued_again_often(tmp_path, monkeypatch):
    module = pytest.importorskip("palinode.sweep.executors.slurm")
    monkeypatch.delenv("PALINODE_CORES", raising=False)
    executor = module.executor({"cluster": "local", "cpus_per_task": 3}, tmp_path)
    assert executor._executor._executor.max_num_timeout == module.MOST_TIMEOUTS
    tasks = []
    monkeypatch.setattr(executor._executor, "submit", tasks.append)
    executor.start(TELL_CORES)
    (task,) = tasks
    again = task.checkpoint().function  # what goes on after a preemption
    for one in (task, again):
        assert one() == 0
        assert one._child.last_line == "cores 3"


def test_set_up_commands_run_before_the_worker(tmp_path, monkeypatch):
    path = tmp_path / "config.toml"
    path.write_text('[executor.lab]\nkind = "local"\nsetup = ["export WORD=hello"]\n')
    monkeypatch.setattr(user_settings, "configuration_path", lambda: path)
    handle = executor_named("lab", {}, tmp_path).start(["sh", "-c", "echo $WORD world"])
    while handle.state() != "ended":
        time.sleep(0.02)
    assert handle.why() == "hello world"


def test_options_are_numbers_truth_values_and_texts():
    given = ["timeout_min=240", "mem_gb=7.5", "exclusive=true", "partition=gpu", "constraint=a=b"]
    expected = {"timeout_min": 240, "mem_gb": 7.5, "exclusive": True, "partition": "gpu", "constraint": "a=b"}
    assert parse_options(given) == expected
    for wrong in (["gpu"], ["=3"], ["a=1", "a=2"]):
        with pytest.raises(BadInput, match="--on-option"):
            parse_options(wrong)


def test_an_executor_has_at_most_120_lines():
    files = list(Path(executors.__file__).parent.glob("*.py"))
    lengths = {path.stem: len(path.read_text().splitlines()) for path in files if path.stem in executors.KINDS}
    assert lengths.keys() == set(executors.KINDS)
    assert max(lengths.values()) <= 120, lengths
