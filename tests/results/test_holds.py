"""One holder per directory: on one host by the kernel's lock, between hosts by a link that the file system makes exclusive."""

import errno
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from palinode.base import fsio
from palinode.base.errors import EnvironmentProblem
from palinode.results import holds
from palinode.results.holds import STALE_SECONDS, HoldLostError, Watch, end_dead, holder, newest_hold, take, this_host

TAKE = """
import sys, time
from pathlib import Path
from palinode.results.holds import take
hold = take(Path(sys.argv[1]))
print(hold is not None, flush=True)
time.sleep(60)
"""
RACE = Path(__file__).with_name("hold_race.py")
OTHER = {"pid": 1, "host": "far-away", "boot": "b", "namespace": "n", "worker": "w", "beat": 7, "released": False}


@pytest.fixture
def holding(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", TAKE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "True"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def race(root, protocol):
    """By how many of the four hosts each of 300 runs was held."""
    done = subprocess.run([sys.executable, str(RACE), str(root), protocol], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_of_300_runs_is_held_by_exactly_one_of_four_hosts(tmp_path):
    assert race(tmp_path, "hold") == [1] * 300


def test_the_race_shows_what_is_wrong_with_reading_before_writing(tmp_path):
    held = race(tmp_path, "lease")
    assert sum(count > 1 for count in held) > 30, held


def test_one_process_at_a_time_and_free_when_released(tmp_path):
    with take(tmp_path) as hold:
        assert hold.number == 1
        assert take(tmp_path) is None
        owner, stale = holder(tmp_path, Watch())
        assert str(os.getpid()) in owner
        assert stale is None
    assert holder(tmp_path, Watch()) == (None, None)
    with take(tmp_path) as again:
        assert again.number == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hold-1.json", "hold-2.json"]


def test_a_killed_holder_holds_nothing(tmp_path, holding):
    assert take(tmp_path) is None
    holding.kill()
    holding.wait()
    assert holder(tmp_path, Watch()) == (None, None)
    with take(tmp_path) as hold:
        assert hold.number == 2


def test_a_suspended_holder_keeps_its_hold(tmp_path, holding):
    holding.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    assert take(tmp_path) is None
    assert holder(tmp_path, Watch(clock=lambda: time.monotonic() + 1e6))[0] is not None
    holding.send_signal(signal.SIGCONT)


def write(directory, number, content):
    (directory / f"hold-{number}.json").write_text(json.dumps(content))


def test_the_hold_of_another_host_is_stale_after_it_stayed_the_same_while_we_watched(tmp_path):
    now = [0.0]
    watch = Watch(clock=lambda: now[0])
    write(tmp_path, 3, OTHER)
    assert "far-away" in holder(tmp_path, watch)[0]
    now[0] += STALE_SECONDS - 1
    assert holder(tmp_path, watch)[0] is not None
    write(tmp_path, 3, {**OTHER, "beat": 8})
    now[0] += STALE_SECONDS - 1
    assert holder(tmp_path, watch)[0] is not None
    now[0] += STALE_SECONDS + 1
    assert holder(tmp_path, watch) == (None, 3)
    assert take(tmp_path) is None
    assert take(tmp_path, stale=2) is None
    with take(tmp_path, stale=3) as hold:
        assert hold.number == 4


def test_what_is_added_to_a_hold_is_there_at_once_and_stays(tmp_path, monkeypatch):
    hold = take(tmp_path)
    hold.describe(kind="k")
    assert newest_hold(tmp_path).content["kind"] == "k"
    with monkeypatch.context() as full:
        full.setattr(fsio, "write_table", lambda *args: (_ for _ in ()).throw(EnvironmentProblem("No space left")))
        hold.describe(more="m")
    hold.release(failure="oom")
    content = newest_hold(tmp_path).content
    assert [content[name] for name in ("kind", "more", "failure", "released")] == ["k", "m", "oom", True]
    other = take(tmp_path)
    write(tmp_path, other.number + 1, OTHER)
    with pytest.raises(HoldLostError):
        other.describe(kind="k")
    other.release()


@pytest.mark.parametrize("differs", ["boot", "namespace"])
def test_a_host_of_the_same_name_is_another_host(tmp_path, differs):
    write(tmp_path, 1, {**OTHER, **this_host(), differs: "another", "pid": 2**22 + 1})
    assert holder(tmp_path, Watch())[0] is not None
    assert take(tmp_path) is None
    assert not end_dead(tmp_path, 2**22 + 1)


def test_a_hold_that_was_taken_over_is_lost_and_writes_nothing(tmp_path):
    hold = take(tmp_path, heartbeat_seconds=0.02)
    beat = newest_hold(tmp_path).content["beat"]
    end = time.monotonic() + 5
    while newest_hold(tmp_path).content["beat"] == beat and time.monotonic() < end:
        time.sleep(0.01)
    assert newest_hold(tmp_path).content["beat"] > beat
    hold.check()
    write(tmp_path, 2, OTHER)
    while not hold.lost and time.monotonic() < end:
        time.sleep(0.01)
    assert hold.lost
    with pytest.raises(HoldLostError, match="lost to process 1 on far-away"):
        hold.check()
    hold.release()
    assert newest_hold(tmp_path).content == OTHER
    assert not json.loads((tmp_path / "hold-1.json").read_text())["released"]


def test_a_damaged_hold_stops_nobody_on_a_host_that_can_lock_and_an_empty_one_is_being_written(tmp_path):
    (tmp_path / "hold-1.json").write_text("{")
    with take(tmp_path) as hold:
        assert hold.number == 2
    (tmp_path / "hold-3.json").write_text("")
    assert take(tmp_path) is None
    assert "unknown host" in holder(tmp_path, Watch())[0]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_on_file_systems_without_locks_the_process_id_decides(tmp_path, monkeypatch, code):
    def no_locks(*_):
        raise OSError(code, "no locks here")

    monkeypatch.setattr(holds.fcntl, "flock", no_locks)
    write(tmp_path, 1, {**OTHER, **this_host(), "pid": os.getpid()})
    assert take(tmp_path) is None
    write(tmp_path, 1, {**OTHER, **this_host(), "pid": 2**22 + 1})  # beyond the largest process id
    with take(tmp_path) as hold:
        assert hold.number == 2


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EMLINK])
def test_on_file_systems_without_hard_links_the_file_is_created_exclusively(tmp_path, monkeypatch, code):
    def no_links(*_):
        raise OSError(code, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    with take(tmp_path) as hold:
        assert hold.number == 1
        assert not fsio.create_table(tmp_path / "hold-1.json", {})
        assert newest_hold(tmp_path).content["pid"] == os.getpid()
    assert {path.name for path in tmp_path.iterdir()} == {"hold-1.json"}


def test_the_hold_of_a_dead_process_is_released_for_other_hosts(tmp_path, holding):
    holding.kill()
    holding.wait()
    assert end_dead(tmp_path, holding.pid)
    assert newest_hold(tmp_path).content["released"]
    write(tmp_path, 2, OTHER)
    assert not end_dead(tmp_path, holding.pid)
    assert newest_hold(tmp_path).content == OTHER


def test_a_heartbeat_that_cannot_be_written_is_tried_again(tmp_path, monkeypatch):
    hold = take(tmp_path, heartbeat_seconds=0.02)
    failures = []
    write_json = fsio.write_json

    def full(path, value):
        if len(failures) < 3:
            failures.append(path)
            raise EnvironmentProblem("no space left")
        write_json(path, value)

    monkeypatch.setattr(fsio, "write_json", full)
    end = time.monotonic() + 5
    while newest_hold(tmp_path).content["beat"] == 0 and time.monotonic() < end:
        time.sleep(0.01)
    assert newest_hold(tmp_path).content["beat"] > 3
    hold.release()
    assert newest_hold(tmp_path).content["released"]


def test_a_hold_names_its_host_and_process(tmp_path):
    with take(tmp_path):
        content = newest_hold(tmp_path).content
    assert (content["host"], content["pid"]) == (platform.node(), os.getpid())
    assert content["started"].endswith("+00:00")


def test_a_directory_that_is_gone_is_a_problem_of_the_machine(tmp_path):
    with pytest.raises(EnvironmentProblem, match="cannot be opened"):
        take(tmp_path / "gone")


def unreadable(code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO])
def test_a_hold_that_cannot_be_read_now_is_held(tmp_path, monkeypatch, code):
    write(tmp_path, 1, {**OTHER, "released": True})
    assert holder(tmp_path, Watch()) == (None, None)
    with monkeypatch.context() as patched:
        patched.setattr(holds.Path, "read_bytes", unreadable(code))
        assert holder(tmp_path, Watch())[0] is not None
        assert take(tmp_path) is None


def test_a_directory_that_cannot_be_listed_is_held_and_its_holder_writes_nothing(tmp_path, monkeypatch):
    with take(tmp_path) as hold, monkeypatch.context() as patched:
        patched.setattr(os, "listdir", unreadable(errno.ESTALE))
        assert "cannot be read now" in holder(tmp_path, Watch())[0]
        with pytest.raises(EnvironmentProblem, match="cannot be listed"):
            hold.check()


def test_the_failures_of_a_run_stay_with_the_holds_of_its_attempts(tmp_path):
    take(tmp_path).release("failed")
    take(tmp_path).release()
    take(tmp_path).release("oom")
    assert [(hold.number, hold.content["failure"]) for hold in holds.failures(tmp_path)] == [(1, "failed"), (3, "oom")]
