"""Hosts that die or are preempted, with runs of a fake worker. `make battery` tries the same with real runs (tools/hosts.py)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from palinode.base import fsio
from palinode.base.numerics import NUMERICS_VERSION
from palinode.results.record import ExperimentEntry, RunEntry
from palinode.results.store import Store

FAKE_WORKER = Path(__file__).with_name("fake_worker.py")
OTHER_HOST = Path(__file__).parents[2] / "tools" / "other_host"
HOST = """
import sys
from pathlib import Path
from palinode.results.store import Store
from palinode.sweep import host
host.PAUSES_SECONDS = (0.1,)
options = host.HostOptions(slots=1, worker=(sys.executable, sys.argv[2]))
sys.exit(host.work(Store(Path(sys.argv[1])), options))
"""
# A job that says when it has begun, and ends by itself only the second time.
JOB = """
import signal, sys, time
from pathlib import Path
begun = Path(sys.argv[1])
if begun.exists():
    begun.with_name("ended").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
begun.touch()
time.sleep(60)
"""
# What submitit does: it calls `checkpoint` in a signal handler that interrupts the task.
PREEMPTED = """
import signal, sys
from palinode.sweep.executors.slurm import Task
task = Task([sys.executable, *sys.argv[1:]])
def preempt(*_):
    task.checkpoint().function()
    sys.exit(0)
signal.signal(signal.SIGUSR2, preempt)
task()
"""


@pytest.fixture
def store(tmp_path) -> Store:
    (tmp_path / "locks").mkdir()
    return Store(tmp_path / "runs").create()


def start_host(store: Store, name: str) -> subprocess.Popen:
    """A worker on a host of this name, whose heartbeats are short."""
    path = os.pathsep.join([str(OTHER_HOST), *filter(None, [os.environ.get("PYTHONPATH")])])
    locks = str(store.root.parent / "locks")
    battery = {"BATTERY_HOST": name, "BATTERY_LOCKS": locks, "BATTERY_HEARTBEAT": "0.2"}
    command = [sys.executable, "-c", HOST, str(store.root), str(FAKE_WORKER)]
    return subprocess.Popen(command, env={**os.environ, **battery, "PYTHONPATH": path, "PALINODE_NURSERY": "off"})


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_run_of_a_host_that_was_killed_is_taken_over_by_another_host(store):
    spec = {"do": "sleep", "seconds": 1.0, "threads": 1, "numerics_version": NUMERICS_VERSION}
    directory = store.write_spec("r1", spec)
    run = RunEntry(arm="a", scale="base", seed=1, run_id="r1")
    store.write_experiment(ExperimentEntry(name="idea", size="default", runs=(run,)))
    first = start_host(store, "host-a")
    wait_for((directory / "attempts.jsonl").exists)
    pid = fsio.read_rows(directory / "attempts.jsonl").rows[0]["pid"]
    for one in (first.pid, pid):
        os.kill(one, signal.SIGKILL)
    first.wait()
    assert start_host(store, "host-b").wait(timeout=60) == 0
    assert store.record("r1").outcome == "done"
    holds = [json.loads((directory / f"hold-{number}.json").read_text()) for number in (1, 2)]
    assert [(hold["host"], hold["released"]) for hold in holds] == [("host-a", False), ("host-b", True)]
    assert len(fsio.read_rows(directory / "attempts.jsonl").rows) == 2


def test_a_job_that_is_preempted_stops_its_worker_and_starts_it_again(tmp_path):
    pytest.importorskip("submitit")
    begun = tmp_path / "begun"
    task = subprocess.Popen([sys.executable, "-c", PREEMPTED, "-c", JOB, str(begun)])
    wait_for(begun.exists)
    task.send_signal(signal.SIGUSR2)
    assert task.wait(timeout=60) == 0
    assert (tmp_path / "ended").exists()
