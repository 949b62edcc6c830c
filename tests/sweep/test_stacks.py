"""Stacks of runs: who shares a process, and that one that fails takes nobody with it."""

import sys
import time
from pathlib import Path

import pytest

from palinode.base import fsio
from palinode.base.errors import EnvironmentProblem
from palinode.results import holds
from palinode.results.store import Store
from palinode.sweep.local import sweep
from palinode.sweep.process import PYTHON_MODULE, Job

OTHER_HOST = {"host": "elsewhere", "pid": 1}
WORKER = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "runs").create()


def job(store: Store, name: str, do: str, stack: str | None = "key", **more) -> Job:
    return Job(name, store.write_spec(name, {"do": do, **more}), stack=stack)


@pytest.fixture
def run(forks):
    """A sweep of these jobs whose workers are forked: how it ended, and its events."""

    def swept(store: Store, *jobs: Job, workers: int = 1, stack: int = 8):
        events: list[dict] = []
        how = {"on_event": events.append, "worker": (*PYTHON_MODULE, "fake_worker"), "nursery": forks}
        return sweep(jobs, store, workers=workers, stack=stack, **how), events

    return swept


def processes(store: Store, name: str) -> list[int]:
    return [row["pid"] for row in fsio.read_rows(store.run_directory(name) / "attempts.jsonl").rows]


def shared(store: Store, names: list[str]) -> list[set[str]]:
    """Which runs were last worked on by one process."""
    by_process: dict[int, set[str]] = {}
    for name in names:
        by_process.setdefault(processes(store, name)[-1], set()).add(name)
    return list(by_process.values())


def test_runs_with_one_key_share_a_process(run, store):
    names = [f"r{i}" for i in range(5)]
    end, events = run(store, *(job(store, name, "done") for name in names))
    assert end.outcomes == dict.fromkeys(names, "done")
    assert shared(store, names) == [set(names)]
    assert {event["run_id"] for event in events if event["event"] == "started"} == set(names)
    assert not list(store.root.glob("*/lease.json"))


def test_not_more_of_them_than_was_said_and_no_others(run, store):
    jobs = [job(store, f"a{i}", "done", "a") for i in range(5)] + [job(store, f"b{i}", "done", "b") for i in range(2)]
    jobs += [job(store, f"n{i}", "done", None) for i in range(2)]
    run(store, *jobs, stack=3)
    sizes = sorted(sorted(names) for names in shared(store, [one.run_id for one in jobs]))
    assert sizes == [["a0", "a1", "a2"], ["a3", "a4"], ["b0", "b1"], ["n0"], ["n1"]]


def test_every_run_alone_unless_asked(run, store):
    names = [f"r{i}" for i in range(3)]
    run(store, *(job(store, name, "done") for name in names), stack=1)
    assert len(shared(store, names)) == 3


def test_the_workers_share_them_fairly(run, store):
    names = [f"r{i}" for i in range(6)]
    run(store, *(job(store, name, "sleep", seconds=0.2) for name in names), workers=3)
    assert sorted(map(len, shared(store, names))) == [2, 2, 2]


def fixed(store: Store, together: list[str], do: str = "done") -> list[Job]:
    return [Job(name, store.write_spec(name, {"do": do}), together=tuple(together)) for name in together]


def test_a_fixed_stack_has_one_process_however_many_workers_are_free(run, store):
    first, second = ["r0", "r1", "r2"], ["s0", "s1"]
    jobs = [*fixed(store, first), *fixed(store, second), job(store, "alone", "done", None)]
    end, _ = run(store, *jobs, workers=4, stack=1)
    assert set(end.outcomes.values()) == {"done"}
    sizes = sorted(sorted(names) for names in shared(store, [one.run_id for one in jobs]))
    assert sizes == [["alone"], first, second]


def test_after_a_crash_of_the_machine_a_fixed_stack_is_taken_over_together(run, store, monkeypatch):
    """Each run has a stale hold with a number of its own."""
    names = ["r0", "r1", "r2"]
    jobs = fixed(store, names)
    for count, name in enumerate(names):
        for number in range(1, count + 2):
            fsio.create_table(
                store.run_directory(name) / f"hold-{number}.json",
                {**OTHER_HOST, "worker": f"{name}-{number}", "released": number <= count},
            )
    monkeypatch.setattr(holds, "STALE_SECONDS", 0.2)
    end, _ = run(store, *jobs)
    assert end.outcomes == dict.fromkeys(names, "done")
    assert shared(store, names) == [set(names)]


@pytest.mark.parametrize("how", ["raise", "kill"])
def test_a_fixed_stack_that_fails_is_tried_alone_even_with_one_run_left(run, store, how):
    (one, _) = fixed(store, ["bad", "elsewhere"], how)
    end, events = run(store, one)
    assert end.outcomes == {"bad": "failed" if how == "raise" else "oom"}
    assert [event["run_id"] for event in events if event["event"] == "alone"] == ["bad"]


def test_one_that_is_done_is_not_in_a_stack(run, store):
    names = [f"r{i}" for i in range(3)]
    jobs = [job(store, name, "done") for name in names]
    run(store, jobs[1])
    end, _ = run(store, *jobs)
    assert end.reused == {"r1"}
    assert len(processes(store, "r1")) == 1
    assert shared(store, ["r0", "r2"]) == [{"r0", "r2"}]


@pytest.mark.parametrize(("how", "outcome"), [("raise", "failed"), ("oom", "oom"), ("kill", "oom"), ("exit", "failed")])
def test_a_failure_is_tried_alone_and_so_are_its_companions(run, store, how, outcome):
    jobs = [job(store, "good", "done"), job(store, "bad", how), job(store, "late", "done")]
    end, events = run(store, *jobs)
    assert end.outcomes == {"good": "done", "bad": outcome, "late": "done"}
    alone = [event for event in events if event["event"] == "alone"]
    assert "bad" in {event["run_id"] for event in alone}
    assert all(event["reason"] for event in alone)
    assert shared(store, ["good", "bad", "late"]) == [{"good"}, {"bad"}, {"late"}]
    assert store.record("bad").result.outcome == outcome


def test_a_full_disk_is_nobodys_failure(run, store):
    with pytest.raises(EnvironmentProblem, match="cannot write"):
        run(store, *(job(store, f"d{i}", "disk") for i in range(2)))
    assert store.record("d0").result is None


def test_asked_to_stop_all_of_them_do(store):
    jobs = [job(store, f"s{i}", "sleep", seconds=60) for i in range(2)]
    began, requests = time.monotonic(), []

    def stop(event):
        if event["event"] == "train" and not requests:
            requests.append(event)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(jobs, store, workers=1, stack=4, on_event=stop, worker=WORKER)
    assert time.monotonic() - began < 30
    assert [store.record(one.run_id).result for one in jobs] == [None, None]
    assert not list(store.root.glob("*/lease.json"))
