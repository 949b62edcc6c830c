"""How the end of a worker whose run several processes share is told: torchrun says which process died first, and how."""

import os
from collections import deque
from types import SimpleNamespace

import pytest

from palinode.sweep import process
from palinode.sweep.process import Process, shared_worker

ACCOUNT = """W1129 08:00:00.0 1 torch/distributed/elastic/multiprocessing/api.py:1010] Sending process 8 closing signal SIGTERM
E1129 08:00:00.0 1 torch/distributed/elastic/multiprocessing/api.py:984] failed (exitcode: -9) local_rank: 1 (pid: 9) of binary
============================================================
python FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-29_08:00:01
  host      : node
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 8)
  error_file: <N/A>
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-29_08:00:00
  host      : node
  rank      : 1 (local_rank: 1)
  exitcode  : {code} (pid: 9)
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 9
============================================================"""


def death(code, printed):
    lines = deque(printed.splitlines(), maxlen=process.LAST_LINES)
    started = SimpleNamespace(wait=lambda: code)
    return Process({}, started, None, None, None, printed_lines=lines).death()


@pytest.mark.parametrize(
    ("code", "printed", "how", "outcome"),
    [
        (1, ACCOUNT.format(code=-9), "1 of those that share the run was killed by SIGKILL", "oom"),
        (1, ACCOUNT.format(code=-11), "1 of those that share the run was killed by SIGSEGV", "failed"),
        (1, ACCOUNT.format(code=1), "ended with exit code 1", "failed"),
        (1, "the run ended: process 1 of 2 is silent\n" + ACCOUNT.format(code=1), "ended: process 1 of 2 is silent", "failed"),
        (-9, ACCOUNT.format(code=-9), "was killed by SIGKILL", "oom"),
        (3, "", "ended with exit code 3", "failed"),
    ],
)  # fmt: skip
def test_the_first_death_is_told(code, printed, how, outcome):
    assert death(code, printed) == (how, outcome)


def test_variables_of_another_torchrun_do_not_reach_the_worker(monkeypatch):
    names = (
        *("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK"),
        *("ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "TORCHELASTIC_RUN_ID", "PET_NNODES"),
    )
    for name in (*names, "MASTER_PLAN", "PETS"):
        monkeypatch.setenv(name, "1")
    given = {}

    def start(command, environment, streams):
        given.update(environment)
        return SimpleNamespace(pid=os.getpid())

    job = process.Job("0" * 16, process.Path("runs"))
    worker = Process.start(shared_worker(2, "ddp"), [job], {}, start)
    for file in (worker.stdin, worker.stdout, worker.stderr):
        file.close()
    assert not set(names) & set(given)
    assert {"MASTER_PLAN", "PETS", "OMP_NUM_THREADS"} <= set(given)
