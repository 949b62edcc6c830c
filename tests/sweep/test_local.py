"""The local sweep with a fake worker: outcomes, reuse, interrupts, death on every side, two drivers on one store."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest

from palinode.base import fsio
from palinode.base.errors import EnvironmentProblem
from palinode.results.record import Result
from palinode.results.store import Store
from palinode.sweep import local
from palinode.sweep.local import default_workers, sweep, usable_cores
from palinode.sweep.nursery import Nursery
from palinode.sweep.process import PYTHON_MODULE, Job

WORKER = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))
DRIVER = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from palinode.results.store import Store
from palinode.sweep.local import sweep
from palinode.sweep.nursery import Nursery
from palinode.sweep.process import PYTHON_MODULE, Job
store = Store(Path(sys.argv[1]))
jobs = [Job(i, store.run_directory(i)) for i in sys.argv[3:]]
end = sweep(jobs, store, workers=int(sys.argv[2]), worker={WORKER!r}, on_event=lambda e: print(json.dumps(e), flush=True))
print(json.dumps({{"outcomes": dict(end.outcomes), "reused": sorted(end.reused)}}), flush=True)
sys.exit(end.exit_code)
"""


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "runs").create()


def job(store: Store, name: str, do: str, **more) -> Job:
    return Job(name, store.write_spec(name, {"do": do, **more}))


@pytest.fixture
def run(forks):
    """A sweep of these jobs whose workers are forked: how it ended, and its events."""

    def swept(store: Store, *jobs: Job, workers: int = 2):
        events: list[dict] = []
        how = {"on_event": events.append, "worker": (*PYTHON_MODULE, "fake_worker"), "nursery": forks}
        return sweep(jobs, store, workers=workers, **how), events

    return swept


def attempts(store: Store, name: str) -> int:
    return len(fsio.read_rows(store.run_directory(name) / "attempts.jsonl").rows)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def eventually(condition, seconds: float = 10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("did not happen in time")


def test_every_end_is_a_result_and_the_others_go_on(run, store):
    kinds = ["done", "diverged", "raise", "oom", "kill", "segfault", "exit", "print"]
    end, events = run(store, *(job(store, kind, kind) for kind in kinds))
    assert end.outcomes == {
        "done": "done",
        "diverged": "diverged",
        "raise": "failed",
        "oom": "oom",
        "kill": "oom",
        "segfault": "failed",
        "exit": "failed",
        "print": "done",
    }
    assert end.exit_code == 1
    assert end.interrupted is None
    reasons = {kind: store.record(kind).result.reason for kind in kinds}
    assert reasons["raise"].startswith("KeyError: 'no such key'\nTraceback")
    assert "fake_worker.py" in reasons["raise"]
    assert "SIGKILL" in reasons["kill"]
    assert "memory" in reasons["kill"]
    assert "SIGSEGV" in reasons["segfault"]
    assert "exit code 7" in reasons["exit"]
    assert {"event": "output", "text": "from the run", "run_id": "print"} in events
    assert [e["threads"] for e in events if e["event"] == "train"] == ["1"] * len(kinds)
    assert not list(store.root.glob("*/lease.json"))


def test_done_is_not_done_again_and_failed_is_tried_again(run, store):
    jobs = [job(store, kind, kind) for kind in ("done", "diverged", "raise")]
    run(store, *jobs)
    end, events = run(store, *jobs)
    assert end.reused == {"done", "diverged"}
    assert end.outcomes == {"done": "done", "diverged": "diverged", "raise": "failed"}
    assert [attempts(store, name) for name in ("done", "diverged", "raise")] == [1, 1, 2]
    assert [event["run_id"] for event in events if event["event"] == "started"] == ["raise"]


def test_a_run_named_twice_is_done_once(run, store):
    one = job(store, "one", "done")
    end, _ = run(store, one, one)
    assert attempts(store, "one") == 1
    assert end.exit_code == 0


def test_at_most_so_many_at_a_time(store):
    going, most = 0, 0

    def count(event):
        nonlocal going, most
        going += {"started": 1, "finished": -1}.get(event["event"], 0)
        most = max(most, going)

    jobs = [job(store, f"s{i}", "sleep", seconds=0.1) for i in range(5)]
    end = sweep(jobs, store, workers=2, on_event=count, worker=WORKER)
    assert most == 2
    assert set(end.outcomes.values()) == {"done"}


def test_a_full_disk_ends_the_sweep_with_the_disks_own_error(run, store):
    with pytest.raises(EnvironmentProblem, match="cannot write"):
        run(store, job(store, "disk", "disk"), *(job(store, f"s{i}", "sleep", seconds=30) for i in range(3)))
    assert store.record("disk").result is None
    assert attempts(store, "s2") == 0


def test_a_damaged_result_is_made_again(run, store):
    one = job(store, "one", "done")
    (one.directory / "result.json").write_text("{")
    end, _ = run(store, one)
    assert end.outcomes == {"one": "done"}
    assert isinstance(store.record("one").result, Result)


def test_a_listener_that_breaks_leaves_no_process_behind(store):
    pids = []

    def listen(event):
        if event["event"] == "started":
            pids.append(event["pid"])
        if event["event"] == "train":
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        sweep(
            [job(store, f"s{i}", "sleep", seconds=60) for i in range(2)],
            store,
            workers=2,
            on_event=listen,
            worker=WORKER,
        )
    assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)


def drive(store: Store, *names: str, workers: int = 2) -> subprocess.Popen:
    command = [sys.executable, "-c", DRIVER, str(store.root), str(workers), *names]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def until_training(driver: subprocess.Popen, runs: int) -> list[int]:
    """Reads the driver's events until so many runs train; their process ids."""
    pids, training = [], 0
    while training < runs:
        event = json.loads(driver.stdout.readline())
        pids += [event["pid"]] if event.get("event") == "started" else []
        training += event.get("event") == "train"
    return pids


def finish(driver: subprocess.Popen) -> tuple[int, str, str]:
    out, err = driver.communicate(timeout=30)
    return driver.returncode, out, err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_one_signal_stops_politely(store, number, code):
    names = [job(store, f"s{i}", "sleep", seconds=60).run_id for i in range(3)]
    driver = drive(store, *names)
    pids = until_training(driver, 2)
    driver.send_signal(number)
    began = time.monotonic()
    returned, out, err = finish(driver)
    assert returned == code
    assert time.monotonic() - began < 5
    assert out.count('"outcome": "stopped"') == 2
    assert err == ""
    assert not any(alive(pid) for pid in pids)
    assert attempts(store, "s2") == 0
    assert all(store.record(name).outcome == "unfinished" for name in names)


def test_the_second_interrupt_kills_within_a_second(store):
    names = [job(store, f"d{i}", "deaf").run_id for i in range(2)]
    driver = drive(store, *names)
    pids = until_training(driver, 2)
    driver.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert driver.poll() is None
    driver.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert finish(driver)[0] == 130
    assert time.monotonic() - began < 1.5
    assert not any(alive(pid) for pid in pids)
    assert all(store.record(name).outcome == "unfinished" for name in names)


def test_runs_end_when_their_driver_is_killed_and_the_next_driver_goes_on(run, store):
    names = [job(store, f"s{i}", "sleep", seconds=60).run_id for i in range(2)]
    driver = drive(store, *names)
    pids = until_training(driver, 2)
    driver.kill()
    finish(driver)
    eventually(lambda: not any(alive(pid) for pid in pids))
    (store.run_directory("s0") / "spec.json").write_text('{"do": "done"}')
    end, _ = run(store, Job("s0", store.run_directory("s0")))
    assert end.outcomes == {"s0": "done"}


@pytest.mark.nightly
def test_two_drivers_do_every_run_once(store):
    names = [job(store, f"r{i}", "sleep", seconds=0.15).run_id for i in range(6)]
    drivers = [drive(store, *order) for order in (names, names[::-1], names)]
    ends = [finish(driver) for driver in drivers]
    assert [end[0] for end in ends] == [0, 0, 0], ends
    assert [attempts(store, name) for name in names] == [1] * 6
    for _, out, _ in ends:
        assert json.loads(out.splitlines()[-1])["outcomes"] == dict.fromkeys(names, "done")


def test_a_driver_takes_over_what_a_killed_one_was_doing(store):
    name = job(store, "long", "sleep", seconds=4).run_id
    first = drive(store, name)
    (pid,) = until_training(first, 1)
    second = drive(store, name)
    event = json.loads(second.stdout.readline())
    assert event["event"] == "elsewhere"
    assert str(pid) in event["message"]
    os.kill(pid, signal.SIGKILL)
    first.kill()
    finish(first)
    # the first driver may have recorded the death before it was killed itself: then that is what the second one sees
    returned, out, _ = finish(second)
    outcome = json.loads(out.splitlines()[-1])["outcomes"]["long"]
    assert (outcome, returned) in (("done", 0), ("oom", 1))


def test_a_worker_that_is_told_to_end_stops_like_any_other(store):
    end_events: list[dict] = []

    def listen(event):
        end_events.append(event)
        if event["event"] == "train":
            os.kill(next(e["pid"] for e in end_events if e["event"] == "started"), signal.SIGTERM)

    end = sweep([job(store, "s", "sleep", seconds=60)], store, workers=1, on_event=listen, worker=WORKER)
    assert end.outcomes == {"s": "stopped"}
    assert end.exit_code == 1


def test_workers_by_default_fill_the_cores():
    cores = usable_cores()
    assert default_workers(1) == cores
    assert default_workers(cores) == 1
    assert default_workers(10 * cores) == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"SLURM_CPUS_PER_TASK": "4"}, 4),
        ({"SLURM_CPUS_PER_TASK": "4", "SLURM_CPUS_ON_NODE": "9"}, 4),
        ({"SLURM_CPUS_ON_NODE": "9"}, 9),
        ({"PALINODE_CORES": "2", "SLURM_CPUS_PER_TASK": "4"}, 2),
        ({"SLURM_CPUS_PER_TASK": "400"}, 16),
        ({"SLURM_CPUS_PER_TASK": "many"}, 16),
        ({"SLURM_CPUS_PER_TASK": "0"}, 16),
        ({}, 16),
    ],
)
def test_the_cores_that_an_engine_gave_count(tmp_path, monkeypatch, given, expected):
    monkeypatch.setattr(local.os, "sched_getaffinity", lambda pid: set(range(16)))
    for name in local.GIVEN_CORES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert usable_cores(tmp_path / "none") == expected


def test_a_containers_quota_counts(tmp_path):
    cores = usable_cores(tmp_path / "none")
    for text, expected in (
        ("max 100000", cores),
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("99900000 100000", cores),
    ):
        (tmp_path / "cpu.max").write_text(text + "\n")
        assert usable_cores(tmp_path / "cpu.max") == expected


def test_a_deadline_starts_only_what_ends_in_time_and_stops_what_does_not(store):
    jobs = [
        replace(job(store, "long", "done"), seconds=60.0),
        replace(job(store, "short", "done"), seconds=0.01),
        replace(job(store, "slow", "sleep", seconds=30), seconds=0.01),  # takes longer than expected
    ]
    started = time.monotonic()
    end = sweep(jobs, store, workers=2, worker=WORKER, deadline=started + 4.0)
    assert time.monotonic() - started < 15
    assert end.outcomes == {"short": "done", "slow": "stopped"}
    assert end.late == {"long", "slow"}
    assert (end.interrupted, end.exit_code) == (None, 143)
    assert attempts(store, "long") == 0


def test_runs_of_other_processes_are_looked_at_a_few_at_a_time_and_less_and_less(store, monkeypatch):
    """Not each once a second: with 200 hosts that each wait for 199 runs this was 40,000 looks a second."""
    jobs = [job(store, f"r{i:02d}", "done") for i in range(30)]
    looks, now = [], [0.0]

    def held(directory, watch):
        looks.append((now[0], directory.name))
        return "process 1 on far-away", None

    monkeypatch.setattr(local, "holder", held)
    driver = local._Driver(store, 1, 1, lambda event: None, WORKER, Nursery(), deque(jobs))
    monkeypatch.setattr(local.time, "monotonic", lambda: now[0])
    driver._start_what_fits()
    looks.clear()
    while now[0] < 600:
        driver._look_elsewhere()
        now[0] += 0.25
    assert len(looks) < 600 / 30 * local.LOOKS
    seen = [name for _, name in looks[: len(jobs)]]
    assert sorted(seen) == sorted(one.run_id for one in jobs)  # each in its turn
    gaps = [after - before for (before, _), (after, _) in zip(looks, looks[1:], strict=False) if after > before]
    assert gaps[0] < 4
    assert max(gaps) <= 1.5 * local.LONGEST_PAUSE_SECONDS + 0.25
    driver.running.append(None)  # no worker is without a run: there is nothing to look for
    looks.clear()
    now[0] += 1000
    driver._look_elsewhere()
    assert looks == []


def test_the_death_of_a_worker_does_not_replace_the_result_of_the_process_that_took_its_run_over(
    run, store, monkeypatch
):
    write_death = local._Driver._write_death

    def after_another_has_finished_it(driver, process, of_run):
        store.write_result(Result(run_id="one", outcome="done"))
        write_death(driver, process, of_run)

    monkeypatch.setattr(local._Driver, "_write_death", after_another_has_finished_it)
    end, _ = run(store, job(store, "one", "kill"))
    assert end.outcomes == {"one": "done"}
    assert store.record("one").result.outcome == "done"


def follower(store: Store, name: str, after: str, do: str = "done") -> Job:
    return replace(job(store, name, do), after=after)


def test_a_run_waits_for_the_run_that_it_starts_from(run, store):
    jobs = follower(store, "third", "second"), follower(store, "second", "first"), job(store, "first", "done")
    end, events = run(store, *jobs)
    assert set(end.outcomes.values()) == {"done"}
    order = [(one["run_id"], one["event"]) for one in events if one["event"] in ("started", "finished")]
    assert order == [(name, event) for name in ("first", "second", "third") for event in ("started", "finished")]


@pytest.mark.parametrize("how", ["diverged", "raise", "missing"])
def test_a_run_fails_with_the_run_that_it_starts_from(run, store, how):
    source = [] if how == "missing" else [job(store, "source", how)]
    end, _ = run(store, follower(store, "second", "source"), follower(store, "third", "second"), *source)
    assert (end.outcomes["second"], end.outcomes["third"]) == ("failed", "failed")
    reason = store.record("second").result.reason
    assert reason.startswith("start_from: run source is ")
    assert "\n" not in reason
    assert attempts(store, "second") == 0


def test_a_run_left_for_lack_of_time_leaves_its_followers(store):
    jobs = follower(store, "second", "first"), replace(job(store, "first", "done"), seconds=1e9)
    end = sweep(jobs, store, workers=2, worker=WORKER, deadline=time.monotonic() + 60)
    assert end.late == {"first", "second"}
    assert not end.outcomes
