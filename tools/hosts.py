"""Parts of the battery with several hosts on one store: hosts that die, are preempted, are paused, or start at the same moment.

A host is a tree of processes of this machine that has the name of another one (`other_host/`), or a node of an engine.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trials import LONGEST_SECONDS, RUN_ALONE, Place, State, Tally, descendants, finish, kill_process

from palinode.results.holds import newest_hold

OTHER_HOST = Path(__file__).parent / "other_host"
RACE = Path(__file__).parent.parent / "tests" / "results" / "hold_race.py"
WORKER = ("worker", "--slots", "1", "--quiet")
MOST_PER_SWEEP = 8  # how often one sweep is disturbed
LATEST_SECONDS = 2.0  # from the moment that a run is held to the disturbance, at most; a run takes about as long
TASK = b"submitit.core._submit"  # in the command line of the process that Slurm would preempt


def killed(folder: Path, reference: State, tally: Tally, count: int, chance: random.Random) -> None:
    """kill -9 of all processes of a host amid a run. Two hosts share a store, and a new host starts in place of the dead one."""
    done = 0
    while done < count:
        place, what = _detached(folder, f"hosts-{done}", tally), f"hosts {done}"
        trees = {name: _start_host(place, name) for name in (f"host-{done}-0", f"host-{done}-1")}
        kills = 0
        while done + kills < count and kills < MOST_PER_SWEEP and (name := _holder(place, trees)) is not None:
            time.sleep(chance.uniform(0.0, LATEST_SECONDS))
            tally["killed with a checkpoint there"] += _has_checkpoint(place, name)
            _kill_tree(trees.pop(name))
            kills += 1
            new = f"host-{done}-{kills + 1}"
            trees[new] = _start_host(place, new)
        done += kills
        _end(place, reference, tally, trees.values(), what, kills)


def ray_nodes(folder: Path, reference: State, tally: Tally, count: int, chance: random.Random) -> None:
    """A node of a Ray cluster dies with all its processes: a head without cores, two nodes, and a new node for each dead one."""
    try:
        from ray.cluster_utils import Cluster
    except ImportError:
        tally["not tried: ray is not installed"] += 1
        return
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's spelling; its default, 15, starves it on a busy machine
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    done = 0
    try:
        while done < count:
            place = Place(folder / f"ray-{done}", folder / "reference")
            driver = place.start(
                *RUN_ALONE[:2], "--on", "ray", "--on-option", f"address={cluster.address}", "--workers", "2"
            )
            deaths = 0
            while done + deaths < count and deaths < MOST_PER_SWEEP and _wait_for_a_run(place, driver):
                time.sleep(chance.uniform(0.0, LATEST_SECONDS))
                node = chance.choice(nodes)
                tree = descendants(node.all_processes["raylet"][0].process.pid)
                tally["deaths amid a run"] += any(pid in tree for pid in _pids_that_hold(place))
                cluster.remove_node(node, allow_graceful=False)
                for pid in tree:
                    kill_process(pid)
                nodes = [one for one in nodes if one is not node] + [cluster.add_node(num_cpus=1)]
                deaths += 1
            done += deaths
            _end(place, reference, tally, [driver], f"ray {done}", deaths)
    finally:
        cluster.shutdown()


def preempted(folder: Path, reference: State, tally: Tally, count: int, chance: random.Random) -> None:
    """SIGUSR2 to a job of submitit's local executor amid a run, as Slurm sends it before it takes a machine away."""
    done = 0
    while done < count:
        place = Place(folder / f"slurm-{done}", folder / "reference")
        driver = place.start(*RUN_ALONE[:2], "--on", "slurm", "--on-option", "cluster=local", "--workers", "1")
        signals = 0
        while done + signals < count and signals < MOST_PER_SWEEP and _wait_for_a_run(place, driver):
            time.sleep(chance.uniform(0.0, LATEST_SECONDS))
            task = next((pid for pid in descendants(driver.pid) if TASK in _command_line(pid)), None)
            if task is None:  # the job is between two attempts
                continue
            os.kill(task, signal.SIGUSR2)
            signals += 1
            _wait_for(lambda task=task, driver=driver: not Path(f"/proc/{task}").exists() or driver.poll() is not None)
        done += signals
        logs = [path.read_text(errors="replace") for path in (place.folder / "runs" / "workers").rglob("*_log.*")]
        tally["jobs queued again"] += sum(log.count("Requeued job") for log in logs)
        for log in logs:
            tally.read(log, f"slurm {done}")
        _end(place, reference, tally, [driver], f"slurm {done}", signals)


def names(folder: Path, reference: State, tally: Tally, count: int, chance: random.Random) -> None:
    """Two hosts with names of their own (`unshare -u`) start at the same moment. Each run is trained once."""
    for number in range(count):
        if subprocess.run(["unshare", "-u", "true"], capture_output=True).returncode:
            tally["not tried: no right to give a name"] += 1
            return
        place = _detached(folder, f"names-{number}", tally)
        named = ["unshare", "-u", "sh", "-c", 'hostname "$0" && exec "$@"']
        trees = [_start(place, [*named, name, *_worker()]) for name in ("battery-a", "battery-b")]
        _wait_for(lambda trees=trees: all(tree.poll() is not None for tree in trees))
        held = [json.loads(path.read_text())["host"] for path in (place.folder / "runs").glob("*/hold-*.json")]
        tally["runs trained twice"] += len(held) - len(reference["runs"])
        tally["sweeps that both hosts worked on"] += len(set(held)) == 2
        _end(place, reference, tally, trees, f"names {number}", 1)


def paused(folder: Path, reference: State, tally: Tally, count: int, chance: random.Random) -> None:
    """SIGSTOP on a whole host amid a run, SIGCONT when another host has ended the sweep. It may then write its log only."""
    for number in range(count):
        place, what = _detached(folder, f"paused-{number}", tally), f"paused {number}"
        first = _start_host(place, "host-a")
        _holder(place, {"host-a": first})
        time.sleep(chance.uniform(0.0, LATEST_SECONDS))
        tree = [first.pid, *descendants(first.pid)]
        _signal(tree, signal.SIGSTOP)
        second = _start_host(place, "host-b")
        _wait_for(lambda second=second: second.poll() is not None)
        tally["runs taken over"] += len(list((place.folder / "runs").glob("*/hold-2.json")))
        before = _contents(place.folder / "runs")
        _signal(tree, signal.SIGCONT)
        _wait_for(lambda first=first: first.poll() is not None)
        after = _contents(place.folder / "runs")  # the log of a host says when it lost a run
        changed = sorted(name for name in after if before.get(name) != after[name] and not name.startswith("workers/"))
        tally["files written by a host that had lost its run"] += len(changed)
        tally["silent"] += bool(changed)
        if changed:
            print(f"  {what}: written: {', '.join(changed)}", file=sys.stderr)
        _end(place, reference, tally, [first, second], what, 1)


def race(folder: Path, reference: State, tally: Tally, count: int, chance: random.Random) -> None:
    """Four hosts ask for each run at the same moment, on a disk whose locks end at the host. Only one may hold it."""
    while tally["tried"] < count:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            printed = subprocess.run(
                [sys.executable, str(RACE), place, "hold"], capture_output=True, text=True, check=True
            )
        held = json.loads(printed.stdout)
        tally["tried"] += len(held)
        tally["lost"] += sum(hosts == 0 for hosts in held)
        tally["doubled"] += sum(hosts > 1 for hosts in held)


# --- inside -------------------------------------------------------------------------------------------------------


def _detached(folder: Path, name: str, tally: Tally) -> Place:
    """A place with the audits of the reference, whose runs are written for workers."""
    place = Place(folder / name, folder / "reference")
    (place.folder / "locks").mkdir()
    code, _, err = place.call(*RUN_ALONE[:2], "--detach")
    tally.read(err, name)
    if code:
        sys.exit(f"the runs were not written, exit {code}: {err[-500:]}")
    return place


def _worker() -> list[str]:
    return [sys.executable, "-P", str(OTHER_HOST / "worker.py"), *WORKER]


def _start_host(place: Place, name: str) -> subprocess.Popen[str]:
    """A worker that counts as one on a host of this name, in a session of its own."""
    path = os.pathsep.join([str(OTHER_HOST), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    return _start(place, _worker(), PYTHONPATH=path, BATTERY_HOST=name, BATTERY_LOCKS=str(place.folder / "locks"))


def _start(place: Place, command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    variables = {**os.environ, **place.environment(environment)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=place.folder, env=variables, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def _held(place: Place) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The directories of the runs that are held and have no result yet, with what their newest hold says."""
    for directory in sorted(path for path in (place.folder / "runs").iterdir() if (path / "spec.json").exists()):
        newest = newest_hold(directory)
        is_held = newest is not None and newest.content and not newest.content.get("released")
        if is_held and not (directory / "result.json").exists():
            assert newest is not None
            yield directory, dict(newest.content or {})


def _holder(place: Place, trees: dict[str, subprocess.Popen[str]]) -> str | None:
    """The name of a host that holds a run, as soon as there is one; None when all hosts have ended before."""
    while any(tree.poll() is None for tree in trees.values()):
        for _, content in _held(place):
            if content.get("host") in trees:
                return str(content["host"])
        time.sleep(0.02)
    return None


def _has_checkpoint(place: Place, host: str) -> bool:
    return any(content.get("host") == host and any(path.glob("ckpt/step-*")) for path, content in _held(place))


def _pids_that_hold(place: Place) -> list[int]:
    return [int(content.get("pid", 0)) for _, content in _held(place)]


def _wait_for_a_run(place: Place, driver: subprocess.Popen[str]) -> bool:
    """Wait until a living process holds a run; False when the driver has ended before."""
    while driver.poll() is None:
        if (place.folder / "runs").exists() and any(Path(f"/proc/{pid}").exists() for pid in _pids_that_hold(place)):
            return True
        time.sleep(0.02)
    return False


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONGEST_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("a host does not end")
        time.sleep(0.05)


def _command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _kill_tree(root: subprocess.Popen[str]) -> None:
    """Kill a process and all below it. It is stopped first, so that it starts nothing meanwhile."""
    _signal([root.pid], signal.SIGSTOP)
    for pid in [*descendants(root.pid), root.pid]:
        kill_process(pid)
    root.communicate()


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _end(
    place: Place,
    reference: State,
    tally: Tally,
    processes: Iterable[subprocess.Popen[str]],
    what: str,
    trials: int,
) -> None:
    """Wait for the processes, count what is lost or differs, and delete the place. No other command may have repaired it before."""
    for process in processes:
        _, err = process.communicate(timeout=LONGEST_SECONDS)
        tally.read(err, what)
        if process.returncode:
            tally[f"exit {process.returncode}"] += 1
            print(f"  {what}: exit {process.returncode}: {err[-500:]}", file=sys.stderr)
    without = [run_id for run_id in reference["runs"] if not (place.folder / "runs" / run_id / "result.json").exists()]
    tally["lost"] += len(without)
    finish(place, tally, what, RUN_ALONE)
    tally.judge(place, reference, what, trials)
    shutil.rmtree(place.folder)
