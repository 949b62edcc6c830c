"""Hosts that share a store, with a fake worker: each run once, failures twice at most, code only with leave, stop, room, errors."""

import errno
import itertools
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from palinode.base import fsio
from palinode.base.errors import EnvironmentProblem
from palinode.base.numerics import NUMERICS_VERSION
from palinode.results.holds import newest_hold, take
from palinode.results.record import ExperimentEntry, Result, RunEntry
from palinode.results.store import Store
from palinode.sweep import host, local, worker
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


def test_the_process_that_takes_runs_does_not_import_torch():
    program = (
        "import sys, palinode.sweep.host; sys.exit('torch' in sys.modules)"  # seconds and memory; the nursery has it
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


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
    ours = {"numerics_version": NUMERICS_VERSION}
    store.write_spec("slow2", {"do": "sleep", "seconds": 60, **ours})
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
    fsio.write_table(store.run_directory("slow2") / "spec.json", {"do": "done", **ours})
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


def test_an_error_of_the_file_system_itself_is_tried_again_and_then_told_in_one_line(store):
    one = host._Host(store, OPTIONS, print, lambda text: None)

    def act():
        raise OSError(errno.EIO, "Input/output error", "runs/x")

    with pytest.raises(EnvironmentProblem, match="Input/output error") as caught:
        one._with_retries(act)
    assert caught.value.exit_code == 5


def finished(store: Store, run_id: str, kind: str) -> None:
    store.write_result(Result(run_id=run_id, outcome="done", fingerprint={"torch": kind}))


def test_seeds_that_the_own_kind_of_machine_has_begun_are_taken_first_and_those_of_other_kinds_last(store, monkeypatch):
    """Two arms with three seeds: seed 1 was begun by another kind, seed 2 by this kind, seed 3 by nobody."""
    runs = [RunEntry(arm=arm, scale="base", seed=seed, run_id=f"{arm}{seed}") for seed in (1, 2, 3) for arm in "ab"]
    for run in runs:
        store.write_spec(run.run_id, {"do": "done", "threads": 1, "numerics_version": NUMERICS_VERSION})
    store.write_experiment(ExperimentEntry(name="idea", size="default", runs=tuple(runs)))
    finished(store, "a1", "theirs")
    finished(store, "a2", "ours")
    monkeypatch.setattr(host, "_kind_here", lambda directory, options: store.record("a2").result.kind)
    for _ in range(4):  # hosts with orders of their own
        one = host._Host(store, OPTIONS, print, lambda text: None)
        order = sorted(one.open, key=one._rank)
        assert (order[0], set(order[1:3]), order[3]) == ("b2", {"a3", "b3"}, "b1")
    started = []
    work(store, replace(OPTIONS, slots=1), lambda event: started.append(event["run_id"]))
    assert list(dict.fromkeys(started))[0] == "b2"
    assert list(dict.fromkeys(started))[-1] == "b1"


def test_pauses_are_twice_as_long_while_a_hold_takes_long(store, monkeypatch):
    experiment(store, held="done")
    answers, slept = iter((0.1, 5.0, 5.1, 60.0, 0.2)), []

    def sweep(jobs, store, sharing, **how):
        sharing.held_after(next(answers))
        return local.SweepEnd({}, frozenset(), None)  # another host was faster

    monkeypatch.setattr(host, "sweep_shared", sweep)
    monkeypatch.setattr(host, "_pauses", lambda: itertools.repeat(10.0))
    monkeypatch.setattr(host._Host, "_sleep", lambda self, seconds: slept.append(seconds))
    monkeypatch.setattr(host._Host, "_is_over", lambda self: len(slept) == 5)
    assert work(store, OPTIONS) == 0
    assert slept == [10.0, 10.0, 20.0, 20.0, 10.0]


def test_a_worker_tells_how_long_each_hold_took(store, monkeypatch):
    experiment(store, free="done", held="done")
    take(store.run_directory("held"))
    now = iter((100.0, 107.0, 200.0, 200.5))
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: next(now)))
    events = []
    options = SimpleNamespace(
        directories=[store.run_directory("free"), store.run_directory("held")], about={}, together=""
    )
    channel, stop = SimpleNamespace(emit=events.append, broken=False), SimpleNamespace(requested=False)
    worker._lead(options, {}, channel, stop, lambda *_: [Result(run_id="free", outcome="done")])
    assert [(event["event"], event["run_id"], event["hold_seconds"]) for event in events] == [
        ("busy", "held", 0.5),
        ("finished", "free", 7.0),
    ]


@pytest.mark.parametrize(
    ("ids", "processes", "expected"),
    [
        ("", 1, ()),
        ("0,1,2", 1, ("0", "1", "2")),
        ("0,1,2,3", 2, ("0,1", "2,3")),
        ("0,1,2", 2, ("0,1",)),
        ("0", 2, ("0",)),  # too few: the run itself says so
    ],
)
def test_each_slot_has_as_many_gpus_as_processes_share_a_run(store, monkeypatch, ids, processes, expected):
    store.write_spec("r", {"do": "done", "device": "cuda", "threads": 1, "numerics_version": NUMERICS_VERSION})
    run = RunEntry(arm="a", scale="base", seed=1, run_id="r")
    store.write_experiment(ExperimentEntry(name="idea", size="default", runs=(run,)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ids)
    monkeypatch.setattr(host, "gpu_names", lambda: ("NVIDIA A100", "NVIDIA T4"))
    said = []
    one = host._Host(store, replace(OPTIONS, slots=None, processes=processes, parallel="ddp"), print, said.append)
    assert one.devices == expected
    assert (", 2 slots (NVIDIA A100, NVIDIA T4), " in said[0]) == (len(expected) == 2)
    assert ("NVIDIA" in said[0]) == bool(expected)


def test_slots_are_the_cores_that_the_engine_gave_divided_by_what_a_run_needs(store, monkeypatch):
    spec = {"do": "done", "threads": 2, "numerics_version": NUMERICS_VERSION}
    store.write_spec("r", spec)
    run = RunEntry(arm="a", scale="base", seed=1, run_id="r")
    store.write_experiment(ExperimentEntry(name="idea", size="default", runs=(run,)))
    monkeypatch.setattr(local.os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(local, "CPU_QUOTA", store.root / "none")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "12")
    said = []
    for processes, slots in ((1, 6), (3, 2), (8, 1)):
        one = host._Host(store, replace(OPTIONS, slots=None, processes=processes), print, said.append)
        assert one.slots == slots
    assert f"{slots} slot, " in said[-1]


def test_a_host_logs_what_it_did(store, monkeypatch):
    experiment(store, good="done", bad="raise")
    hold_seconds = []
    monkeypatch.setattr(host._Host, "_note_hold_seconds", lambda self, seconds: hold_seconds.append(seconds))
    work(store, replace(OPTIONS, price=lambda devices: (3.0, "EUR")))
    [path] = (store.root / "workers").glob("*.jsonl")
    rows = fsio.read_rows(path).rows
    assert (rows[0]["event"], rows[0]["slots"], rows[0]["price"]) == ("began", 2, [3.0, "EUR"])
    assert {(row["run_id"], row["outcome"]) for row in rows if row["event"] == "ended"} == {
        ("good", "done"),
        ("bad", "failed"),
    }
    assert sum(row["event"] == "started" for row in rows) == 2
    assert len(hold_seconds) == 2
    assert 0 < min(hold_seconds) <= max(hold_seconds) < 60
    hold = newest_hold(store.run_directory("good"))
    assert hold.price_per_hour == (1.5, "EUR")  # the price of the host, shared by two slots
    cost, currency = hold.cost
    assert 0 <= cost < 0.1
    assert currency == "EUR"


def test_the_time_and_the_cost_that_are_left_are_told_where_they_are_known(store):
    entry = experiment(store, a="done", b="done", c="done", d="done")
    store.write_result(Result(run_id="a", outcome="done", seconds={"total": 3600.0}))
    held = {"host": "node7", "pid": 1, "beat": 0, "released": False}
    priced = {**held, "price_per_hour": 2.0, "currency": "EUR"}
    onlooker, names = Onlooker(store), "abcd"
    assert onlooker.left_words(onlooker.look(names), entry, entry.runs) == ""  # nobody works
    fsio.write_table(store.run_directory("b") / "hold-1.json", priced)
    assert onlooker.left_words(onlooker.look(names), entry, entry.runs) == "; 2.5 h and 5.00 EUR left"
    fsio.write_table(store.run_directory("c") / "hold-1.json", held)
    assert onlooker.left_words(onlooker.look(names), entry, entry.runs) == "; 1 h left"  # no price of one of them


def test_the_progress_is_read_from_the_store(store):
    experiment(store, a="done", b="raise", c="sleep", d="done")
    onlooker, names = Onlooker(store), ("a", "b", "c", "d")
    assert onlooker.look(names).words == "0 done, 4 open"
    held = {"host": "node7", "pid": 1, "beat": 0, "released": False}
    fsio.write_table(store.run_directory("c") / "hold-1.json", held)
    store.workers_directory()
    probe, finished = store.probe_path("0123"), []
    fsio.write_text(probe, "")

    def end_after_three(event):
        finished.extend([event["run_id"]] if event["event"] == "finished" else [])
        if len(finished) == 3:
            probe.unlink()

    work(store, replace(OPTIONS, probe="0123"), end_after_three)
    seen = onlooker.look(names)
    assert seen.words == "2 done, 1 failed, 1 running on 1 host, 0 open"
    assert not seen.is_over
    fsio.write_table(store.run_directory("c") / "hold-1.json", {**held, "released": True})
    assert onlooker.look(names).open == ("c",)
    fsio.write_table(store.run_directory("c") / "hold-2.json", {**held, "host": "node8"})
    store.write_result(Result(run_id="d", outcome="done", attempts=4))
    assert Onlooker(store).look(names).words == "2 done, 1 failed, 1 running on 1 host, 0 open, 4 taken up again"


def test_looks_at_many_runs_come_in_turn(store, monkeypatch):
    names = [f"r{number}" for number in range(12)]
    experiment(store, **dict.fromkeys(names, "done"))
    onlooker, looked = Onlooker(store, most=4), []
    find = onlooker._outcome
    monkeypatch.setattr(onlooker, "_outcome", lambda run_id: looked.append(run_id) or find(run_id))
    assert len(onlooker.look(names).open) == len(looked) == 12, "all are looked at once"
    held = {"host": "node7", "pid": 1, "beat": 0, "released": False}
    for name in names[:3]:
        fsio.write_table(store.run_directory(name) / "hold-1.json", held)
    seen = {run_id for _ in range(5) if (looked.clear() or onlooker.look(names)) for run_id in looked}
    assert seen == set(names)
    looked.clear()
    assert len(onlooker.look(names).hosts) == 3
    assert len(looked) == 4
    assert len(set(looked) & set(names[:3])) >= 2
    for name in names:
        store.write_result(Result(run_id=name, outcome="done"))
    for looks in (4, 4, 4, 0):
        looked.clear()
        end = onlooker.look(names)
        assert len(looked) == looks
    assert end.is_over


@pytest.mark.parametrize(("how", "then"), [("done", "done"), ("diverged", "failed")])
def test_a_host_leaves_a_run_closed_until_its_source_has_ended(store, how, then):
    experiment(store, first=how, second="done")
    spec = store.run_directory("second") / "spec.json"
    fsio.write_table(spec, {**fsio.read_table(spec), "start_from": {"run": "first"}})
    assert list(host._Host(store, OPTIONS, print, lambda text: None).open) == ["first"]
    assert work(store, OPTIONS) == int(then == "failed")
    assert store.record("second").outcome == then
