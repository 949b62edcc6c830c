"""Workers that are forked: the same ends as workers that are started, whoever is killed, and nothing is left behind."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_local import alive, attempts, eventually, job

from palinode.base import fsio
from palinode.base.errors import BadInput
from palinode.results.store import Store
from palinode.sweep import nursery as nurseries
from palinode.sweep.local import sweep
from palinode.sweep.nursery import Nursery
from palinode.sweep.process import PYTHON_MODULE, Job, Streams

pytestmark = pytest.mark.skipif(nurseries.why_none() is not None, reason="only Linux has what a nursery needs")
HERE = Path(__file__).parent
WORKER = (*PYTHON_MODULE, "fake_worker")
DRIVER = f"""
import json, sys
from pathlib import Path
from palinode.results.store import Store
from palinode.sweep.local import sweep
from palinode.sweep.nursery import Nursery
from palinode.sweep.process import Job
store = Store(Path(sys.argv[1]))
jobs = [Job(i, store.run_directory(i)) for i in sys.argv[2:]]
with Nursery(("fake_worker",)) as nursery:
    def tell(event):
        print(json.dumps({{**event, "nursery": nursery.pid}}), flush=True)
    end = sweep(jobs, store, workers=2, worker={WORKER!r}, on_event=tell, nursery=nursery)
sys.exit(end.exit_code)
"""
THREAD = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "runs").create()


@pytest.fixture(autouse=True)
def importable(tmp_path, monkeypatch) -> None:
    """The fake worker, and the modules that a test writes into its folder, can be imported by other processes."""
    places = (str(HERE), str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))


@pytest.fixture
def problems() -> list[str]:
    return []


@pytest.fixture
def nursery(problems):
    with Nursery(("fake_worker",), problems.append) as one:
        yield one


def run(store: Store, nursery: Nursery, *jobs, on_event=lambda event: None, workers: int = 2):
    events: list[dict] = []

    def listen(event):
        events.append(event)
        on_event(event)

    end = sweep(jobs, store, workers=workers, on_event=listen, worker=WORKER, nursery=nursery)
    return end, events


def children() -> set[str]:
    return set(Path("/proc/self/task", str(os.getpid()), "children").read_text().split())


def test_every_end_is_the_end_of_a_worker_that_is_started(store, nursery, problems):
    before = children()
    kinds = ["done", "diverged", "raise", "oom", "kill", "segfault", "exit", "print"]
    end, events = run(store, nursery, *(job(store, kind, kind) for kind in kinds))
    outcomes = ["done", "diverged", "failed", "oom", "oom", "failed", "failed", "done"]
    assert end.outcomes == dict(zip(kinds, outcomes, strict=True))
    reasons = {kind: store.record(kind).result.reason or "" for kind in kinds}
    assert "SIGKILL" in reasons["kill"]
    assert "SIGSEGV" in reasons["segfault"]
    assert "exit code 7" in reasons["exit"]
    assert {"event": "output", "text": "from the run", "run_id": "print"} in events
    assert [e["threads"] for e in events if e["event"] == "train"] == ["1"] * len(kinds)
    assert problems == []
    assert nursery.pid is not None
    nursery.close()
    assert children() == before, "no zombie is left"


def test_a_forked_worker_has_a_session_and_three_descriptors_and_is_a_child_of_the_driver(store, nursery):
    seen = {}

    def look(event):
        if event["event"] == "train":
            pid = next(e["pid"] for e in events if e["event"] == "started")
            seen["descriptors"] = sorted(os.listdir(f"/proc/{pid}/fd"))
            seen["session"], seen["parent"] = os.getsid(pid) == pid, str(pid) in children()
            os.kill(os.getpid(), signal.SIGINT)  # enough was seen

    events: list[dict] = []
    one = job(store, "one", "sleep", seconds=30)
    sweep([one], store, workers=1, on_event=lambda e: (events.append(e), look(e)), worker=WORKER, nursery=nursery)
    assert seen["session"]
    assert seen["parent"]
    # besides the three: the copy of standard output that carries the events, and the locked folder of the run
    assert seen["descriptors"] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.nightly)])
def test_jobs_leak_no_descriptor(store, nursery, count):
    """What jobs leak grows with each batch of them. Another part of this process (a library's first use) opens a file once."""
    growth = []
    for batch in range(4):
        before = _descriptors(nursery)
        end, _ = run(store, nursery, *(job(store, f"b{batch}-j{number}", "done") for number in range(count)))
        assert set(end.outcomes.values()) == {"done"}
        growth.append({who: _descriptors(nursery)[who] - before[who] for who in before})
    after_the_first = growth[1:]  # the first batch starts the nursery
    assert {who: min(batch[who] for batch in after_the_first) for who in ("driver", "nursery")} == {
        "driver": 0,
        "nursery": 0,
    }


def _descriptors(nursery: Nursery) -> dict[str, int]:
    gc.collect()  # what waits for the collector is closed at a moment that no job chose
    return {"driver": len(os.listdir("/proc/self/fd")), "nursery": len(os.listdir(f"/proc/{nursery.pid or 'self'}/fd"))}


def test_when_the_nursery_is_killed_its_workers_go_on_and_later_ones_are_started(store, nursery, problems):
    def kill(event):
        if event["event"] == "train" and not killed:
            killed.append(nursery.pid)
            os.kill(nursery.pid, signal.SIGKILL)

    killed: list[int] = []
    before = children()
    end, _ = run(store, nursery, *(job(store, f"s{i}", "sleep", seconds=0.2) for i in range(4)), on_event=kill)
    assert set(end.outcomes.values()) == {"done"}
    assert [attempts(store, f"s{i}") for i in range(4)] == [1] * 4
    assert len(problems) == 1
    assert "its process has ended" in problems[0]
    assert children() == before


def test_when_the_driver_is_killed_nothing_is_left_and_the_next_driver_goes_on(store):
    names = [job(store, f"s{i}", "sleep", seconds=30).run_id for i in range(2)]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(store.root), *names], stdout=subprocess.PIPE)
    events: list[dict] = []
    while sum(event["event"] == "train" for event in events) < 2:
        events.append(json.loads(driver.stdout.readline()))
    pids = [event["pid"] for event in events if event["event"] == "started"] + [events[-1]["nursery"]]
    assert all(map(alive, pids))
    driver.kill()
    driver.communicate()
    eventually(lambda: not any(map(alive, pids)))
    for name in names:
        fsio.write_json(store.run_directory(name) / "spec.json", {"do": "done"})
    end, _ = run(store, Nursery(), *(Job(name, store.run_directory(name)) for name in names))
    assert set(end.outcomes.values()) == {"done"}


def test_a_signal_stops_forked_workers_politely(store, nursery):
    def interrupt(event):
        if event["event"] == "train":
            os.kill(os.getpid(), signal.SIGINT)

    end, _ = run(store, nursery, job(store, "s", "sleep", seconds=30), on_event=interrupt)
    assert (end.outcomes, end.exit_code) == ({"s": "stopped"}, 130)


def test_a_signal_is_noticed_while_the_nursery_imports(store, tmp_path):
    (tmp_path / "slow_worker.py").write_text("import time\ntime.sleep(60)\n")
    began = time.monotonic()
    with Nursery(("slow_worker",)) as slow:

        def not_ready() -> bool:
            os.kill(os.getpid(), signal.SIGTERM)
            return Nursery.is_ready(slow)

        slow.is_ready = not_ready
        end = sweep([job(store, "s", "done")], store, workers=1, worker=WORKER, nursery=slow)
    assert end.exit_code == 143
    assert attempts_or_none(store, "s") == 0
    assert time.monotonic() - began < 30


def attempts_or_none(store: Store, name: str) -> int:
    return attempts(store, name) if (store.run_directory(name) / "attempts.jsonl").exists() else 0


@pytest.mark.parametrize(
    ("module", "reason"), [(THREAD, "it has 2 threads"), ("raise ValueError('no such thing')", "ValueError: no such")]
)
def test_a_nursery_that_cannot_fork_says_so_and_workers_are_started(store, tmp_path, problems, module, reason):
    (tmp_path / "odd.py").write_text(module)
    with Nursery(("odd", "fake_worker"), problems.append) as odd:
        end, _ = run(store, odd, *(job(store, f"d{i}", "done") for i in range(3)))
    assert set(end.outcomes.values()) == {"done"}
    assert len(problems) == 1
    assert reason in problems[0]


def test_it_can_be_switched_off(store, monkeypatch, problems):
    monkeypatch.setenv("PALINODE_NURSERY", "off")
    with Nursery(("fake_worker",), problems.append) as off:
        end, _ = run(store, off, job(store, "d", "done"))
        assert off.pid is None
    assert (end.outcomes, problems) == ({"d": "done"}, [])
    monkeypatch.setenv("PALINODE_NURSERY", "no")
    with pytest.raises(BadInput, match="PALINODE_NURSERY"):
        Nursery(("fake_worker",))


def test_a_command_of_another_program_is_started(nursery):
    reading, writing = os.pipe()
    with open(os.devnull, "r+b") as null:
        started = nursery.start(["/bin/echo", "hello"], os.environ, Streams(null.fileno(), writing, null.fileno()))
        os.close(writing)
        assert started.wait() == 0
        assert os.read(reading, 100) == b"hello\n"
    os.close(reading)
    assert nursery.pid is None


def test_a_forked_job_works_in_the_folder_that_the_driver_is_in(tmp_path, monkeypatch):
    """Also where that folder was deleted: the job then stays in the folder of the nursery."""
    (tmp_path / "where.py").write_text("import os\n\n\ndef main():\n    print(os.getcwd(), flush=True)\n    return 0\n")
    with Nursery(("where",)) as places:
        first = printed(places, tmp_path)
        (folder := tmp_path / "other").mkdir()
        monkeypatch.chdir(folder)
        assert printed(places, tmp_path) == str(folder) != first
        folder.rmdir()
        assert printed(places, tmp_path) == first


def printed(nursery: Nursery, tmp_path: Path) -> str:
    """What the job `where` writes."""
    with (tmp_path / "out").open("wb") as out, Path(os.devnull).open("rb") as nothing:
        streams = Streams(nothing.fileno(), out.fileno(), out.fileno())
        assert nursery.start([*PYTHON_MODULE, "where"], os.environ, streams).wait() == 0
    return (tmp_path / "out").read_text().strip()
