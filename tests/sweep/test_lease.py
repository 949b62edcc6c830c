"""One holder per run directory: on one host by the kernel's lock, between hosts by heartbeats and the own clock."""

import json
import subprocess
import sys
import time

import pytest

from palinode.base.errors import EnvironmentProblem
from palinode.sweep import lease as leases
from palinode.sweep.lease import LEASE_FILE, STALE_SECONDS, Watch, acquire, holder, read_lease

HOLD = """
import sys, time
from pathlib import Path
from palinode.sweep.lease import acquire
held = acquire(Path(sys.argv[1]))
print(held is not None, flush=True)
time.sleep(60)
"""
OTHER = {"pid": 1, "host": "far-away/boot", "nonce": "abc", "beat": 7}


@pytest.fixture
def holding(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "True"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_one_process_at_a_time_and_free_when_released(tmp_path):
    held = acquire(tmp_path)
    assert held is not None
    assert acquire(tmp_path) is None
    words, nonce = holder(tmp_path, Watch())
    assert "this host" in words
    assert nonce is None
    held.release()
    assert not (tmp_path / LEASE_FILE).exists()
    again = acquire(tmp_path)
    assert again is not None
    again.release()


def test_a_killed_holder_holds_nothing(tmp_path, holding):
    assert acquire(tmp_path) is None
    holding.kill()
    holding.wait()
    assert holder(tmp_path, Watch()) == (None, None)
    taken = acquire(tmp_path)
    assert taken is not None
    taken.release()


def test_a_stopped_holder_keeps_its_lease(tmp_path, holding):
    import signal

    holding.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    assert acquire(tmp_path) is None
    assert holder(tmp_path, Watch(clock=lambda: time.monotonic() + 1e6))[0] is not None
    holding.send_signal(signal.SIGCONT)


def test_another_hosts_lease_is_stale_only_after_it_stood_still_under_our_eyes(tmp_path):
    now = [0.0]
    watch = Watch(clock=lambda: now[0])
    (tmp_path / LEASE_FILE).write_text(json.dumps(OTHER))
    assert "far-away" in holder(tmp_path, watch)[0]
    now[0] += STALE_SECONDS - 1
    assert holder(tmp_path, watch)[0] is not None
    (tmp_path / LEASE_FILE).write_text(json.dumps({**OTHER, "beat": 8}))  # it lives
    now[0] += STALE_SECONDS - 1
    assert holder(tmp_path, watch)[0] is not None
    now[0] += STALE_SECONDS + 1
    assert holder(tmp_path, watch) == (None, "abc")
    assert acquire(tmp_path) is None
    assert acquire(tmp_path, stale_nonce="another") is None
    taken = acquire(tmp_path, stale_nonce="abc")
    assert taken is not None
    taken.release()


def test_after_a_restart_of_this_host_its_old_leases_are_free(tmp_path):
    import platform

    (tmp_path / LEASE_FILE).write_text(json.dumps({**OTHER, "host": f"{platform.node()}/an-earlier-boot"}))
    assert holder(tmp_path, Watch()) == (None, None)


def test_a_lease_taken_over_is_noticed_and_left_alone(tmp_path):
    held = acquire(tmp_path, heartbeat_seconds=0.02)
    beat = read_lease(tmp_path)["beat"]
    end = time.monotonic() + 5
    while read_lease(tmp_path)["beat"] == beat and time.monotonic() < end:
        time.sleep(0.01)
    assert read_lease(tmp_path)["beat"] > beat
    while not held.lost and time.monotonic() < end:
        (tmp_path / LEASE_FILE).write_text(json.dumps(OTHER))
        time.sleep(0.05)
    assert held.lost
    (tmp_path / LEASE_FILE).write_text(json.dumps(OTHER))
    held.release()
    assert read_lease(tmp_path) == OTHER


def test_a_damaged_lease_file_stops_nobody(tmp_path):
    (tmp_path / LEASE_FILE).write_text("{")
    taken = acquire(tmp_path)
    assert taken is not None
    taken.release()


def test_file_systems_without_locks_fall_back_to_the_process(tmp_path, monkeypatch):
    import errno
    import os

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(leases.fcntl, "flock", no_locks)
    mine = {"pid": os.getpid(), "host": leases.this_host(), "nonce": "x", "beat": 1}
    (tmp_path / LEASE_FILE).write_text(json.dumps(mine))
    assert acquire(tmp_path) is None
    (tmp_path / LEASE_FILE).write_text(json.dumps({**mine, "pid": 2**22 + 1}))  # beyond the largest process id
    taken = acquire(tmp_path)
    assert taken is not None
    taken.release()


def test_a_directory_that_is_gone_is_the_machines_problem(tmp_path):
    with pytest.raises(EnvironmentProblem, match="cannot be opened"):
        acquire(tmp_path / "gone")
