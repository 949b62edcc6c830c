"""Hosts that share a store, with a fake worker: each run once, failures twice at most, code only with leave, stop, room, errors."""

import errno
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from palinode.base import fsio
from palinode.base.errors import EnvironmentProblem
from palinode.base.numerics import NUMERICS_VERSION
from palinode.results.record import ExperimentEntry, RunEntry
from palinode.results.store import Store
from palinode.sweep import host, local
from palinode.sweep.host import HostOptions, work
from palinode.sweep.watching import Onlooker

OPTIONS = HostOptions(slots=2, worker=(sys.executable, str(Path(__file__).with_name("fake_worker.py"))))


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "runs").create()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("PALINODE_NURSERY", "off")
    monkeypatch.setattr(host, "PAUSES_SECONDS", (0.05,))
    monkeypatch.setattr(host, "RETRY_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(local, "STOP_LOOK_SECONDS", 0.05)


def experiment(store: Store, name: str = "idea", numerics: int = NUMERICS_VERSION, **do: str) -> ExperimentEntry:
    """An experiment with a run for each argument: the name of the run, and what the fake worker does."""
    for run_id, what in do.items():
        store.write_spec(run_id, {"do": what, "seconds": 0.2, "threads": 1, "numerics_version": numerics})
    runs = tuple(RunEntry(arm="a", scale="base", seed=seed, run_id=run_id) for seed, run_id in enumerate(do))
    entry = ExperimentEntry(name=name, size="default", runs=runs)
    store.write_experiment(entry)
    return entry


def attempts(store: Store, run_id: str) -> int:
    return len(fsio.read_rows(store.run_directory(run_id) / "attempts.jsonl").rows)


def test_hosts_on_one_store_do_every_run_once(store):
    entry = experiment(store, r1="sleep", r2="sleep", r3="sleep")
    codes, lines = [], []
    hosts = [
        threading.Thread(target=lambda: codes.append(work(store, replace(OPTIONS, slots=1), say=lines.append)))
        for _ in range(2)
    ]
    for one in hosts:
        one.start()
    for one in hosts:
        one.join()
    assert codes == [0, 0]
    assert [attempts(store, run.run_id) for run in entry.runs] == [1, 1, 1]
    assert "1 slot" in lines[0]
    assert "3 of 3 runs open" in lines[0]
    assert work(store, OPTIONS, say=lines.append) == 0
    assert "0 of 3 runs open" in lines[-1]


def test_hosts_go_through_the_runs_in_orders_of_their_own(store):
    experiment(store, **{f"r{i}": "done" for i in range(8)})
    hosts = [host._Host(store, OPTIONS, print, lambda text: None) for _ in range(4)]
    orders = {tuple(sorted(one.open, key=one._rank)) for one in hosts}
    assert len(orders) > 1
    assert {tuple(sorted(order)) for order in orders} == {tuple(f"r{i}" for i in range(8))}


def test_a_run_that_failed_is_tried_once_more_on_another_host_and_then_left(store):
    experiment(store, bad="raise")
    assert work(store, OPTIONS) == 1
    assert work(store, OPTIONS) == 0  # not again on this host
    assert attempts(store, "bad") == 1

    def as_of_another_host(number):
        path = store.run_directory("bad") / f"hold-{number}.json"
        fsio.write_table(path, {**fsio.read_table(path), "host": "far-away"})

    as_of_another_host(1)
    assert work(store, OPTIONS) == 1
    as_of_another_host(2)
    assert work(store, OPTIONS) == 0
    assert attempts(store, "bad") == 2


def test_code_of_the_store_runs_only_with_leave(store):
    experiment(store, mine="done")
    fsio.write_text(store.run_directory("mine") / "code.json", "{}")
    lines = []
    assert work(store, OPTIONS, say=lines.append) == 0
    assert attempts(store, "mine") == 0
    assert any("--allow-code" in line for line in lines)
    assert work(store, replace(OPTIONS, allow_code=True)) == 0
    assert attempts(store, "mine") == 1


def test_a_stopped_experiment_is_stopped_everywhere_and_another_goes_on(store):
    entry = experiment(store, slow="sleep")
    store.write_spec("slow2", {"do": "sleep", "seconds": 60})
    long = entry.with_(runs=(*entry.runs, RunEntry(arm="a", scale="base", seed=9, run_id="slow2")))
    store.write_experiment(long)
    experiment(store, "other", fine="done")

    def stop_it(event):
        if event["event"] == "train" and event["run_id"] == "slow2":
            store.ask_to_stop(long)

    assert work(store, replace(OPTIONS, slots=3), stop_it) == 0
    assert store.record("fine").outcome == "done"
    assert store.record("slow2").outcome == "unfinished"
    store.forget_stop(long)
    fsio.write_table(store.run_directory("slow2") / "spec.json", {"do": "done"})
    assert work(store, OPTIONS) == 0
    assert store.record("slow2").outcome == "done"


def test_seeds_that_no_look_has_used_yet_are_trained_from_the_queue(store):
    entry = experiment(store, first="done", second="done")
    store.write_experiment(entry.with_(runs=entry.runs[:1]))
    store.write_queue(entry.full_name, entry.runs)
    assert work(store, OPTIONS) == 0
    assert [attempts(store, name) for name in ("first", "second")] == [1, 1]


def test_runs_of_another_numerics_version_are_refused(store):
    experiment(store, numerics=NUMERICS_VERSION + 1, newer="done")
    with pytest.raises(EnvironmentProblem, match=f"has numerics version {NUMERICS_VERSION}, the runs are for"):
        work(store, OPTIONS)


def test_no_run_is_taken_while_there_is_no_room(store, monkeypatch):
    entry = experiment(store, big="done")
    store.write_experiment(entry.with_(plan={"cells": [{"disk_bytes": 1000}]}))
    disk = SimpleNamespace(f_bavail=1, f_frsize=1999, f_files=0, f_favail=0)
    monkeypatch.setattr(host.os, "statvfs", lambda path: disk)
    lines = []
    assert work(store, replace(OPTIONS, seconds=0.3), say=lines.append) == 0
    assert attempts(store, "big") == 0
    assert any("too little room" in line for line in lines)
    disk.f_frsize = 2000
    assert work(store, OPTIONS) == 0
    assert attempts(store, "big") == 1


@pytest.mark.parametrize(("times", "code"), [(2, errno.ESTALE), (2, errno.EIO), (3, errno.ESTALE), (1, errno.ENOSPC)])
def test_errors_that_a_network_disk_gets_over_are_tried_again(store, times, code):
    one = host._Host(store, OPTIONS, print, lambda text: None)
    errors = [OSError(code, os.strerror(code)) for _ in range(times)]

    def act():
        if errors:
            raise EnvironmentProblem("cannot be listed") from errors.pop()
        return "done"

    if times == 2:
        assert one._with_retries(act) == "done"
    else:
        with pytest.raises(EnvironmentProblem):
            one._with_retries(act)


@pytest.mark.nightly
def test_the_progress_is_read_from_the_store(store):
    experiment(store, a="done", b="raise", c="sleep", d="done")
    onlooker, names = Onlooker(store), ("a", "b", "c", "d")
    assert onlooker.look(names).words == "0 done, 4 open"
    held = {"host": "node7", "pid": 1, "beat": 0, "released": False}
    fsio.write_table(store.run_directory("c") / "hold-1.json", held)
    work(store, replace(OPTIONS, seconds=8.0))  # the time of three processes on a busy machine
    seen = onlooker.look(names)
    assert seen.words == "2 done, 1 failed, 1 running on 1 host, 0 open"
    assert not seen.is_over
    fsio.write_table(store.run_directory("c") / "hold-1.json", {**held, "released": True})
    assert onlooker.look(names).open == ("c",)


@pytest.mark.parametrize(("how", "then"), [("done", "done"), ("diverged", "failed")])
def test_a_host_leaves_a_run_closed_until_its_source_has_ended(store, how, then):
    experiment(store, first=how, second="done")
    spec = store.run_directory("second") / "spec.json"
    fsio.write_table(spec, {**fsio.read_table(spec), "start_from": {"run": "first"}})
    assert list(host._Host(store, OPTIONS, print, lambda text: None).open) == ["first"]
    assert work(store, OPTIONS) == int(then == "failed")
    assert store.record("second").outcome == then
