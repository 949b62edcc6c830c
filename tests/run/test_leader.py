"""What the leader of a shared run does when other processes are silent, killed, or too small for the whole weights."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from palinode.audit import audit_trained
from palinode.run import processes
from palinode.run.processes import Leader, OtherProcessFailed


class Ended(BaseException):
    """Stands for the end of this process."""


class Group:
    """The processes of a run as the leader sees them; each call of `ticks` gives the next numbers."""

    def __init__(self, *ticks, problem=None, pids=()):
        self.numbers, self.problem, self.pids, self.orders = list(ticks), problem, pids, []

    def ticks(self):
        return self.numbers.pop(0) if len(self.numbers) > 1 else self.numbers[0]

    def told(self, order):
        self.orders.append(list(order))

    def reported_problem(self):
        return self.problem

    def has_lost_a_process(self):
        return any(not processes_alive(pid) for pid in self.pids)


def processes_alive(pid):
    return pid == os.getpid()


@pytest.fixture
def ended(monkeypatch):
    """The exit codes with which this process would have ended."""
    codes = []

    def end(code):
        codes.append(code)
        raise Ended

    monkeypatch.setattr(processes.os, "_exit", end)
    monkeypatch.setattr(processes, "DEATH_SECONDS", 0.02)
    return codes


@pytest.mark.parametrize(
    ("ticks", "says"),
    [
        ([[3, 3], [4, 2]], "the run ended: process 1 of 2 is silent\n"),
        ([[5, 2, 2]], "the run ended: process 1, 2 of 3 is silent\n"),
        ([[5, 5]], "the run ended: all 2 processes are silent\n"),
    ],
)
def test_processes_that_get_on_no_further_are_ended(ended, capsys, ticks, says):
    leader = Leader(Group(*ticks), "ddp", silence_seconds=0.02, is_idle=False)
    with pytest.raises(Ended):
        leader._watch()
    assert ended == [1]
    assert capsys.readouterr().err == says


def test_processes_that_get_on_or_wait_for_an_order_are_left_alone(monkeypatch):
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 30:
            raise Ended
        leader.is_idle = len(looks) > 20  # the leader audits alone for a long time
        real(seconds)

    real = time.sleep
    monkeypatch.setattr(processes.time, "sleep", sleep)
    group = Group(*([number, 1] for number in range(100)))
    leader = Leader(group, "ddp", silence_seconds=0.01, is_idle=False)
    with pytest.raises(Ended):
        leader._watch()
    assert len(looks) == 30


def test_a_broken_connection_ends_the_leader_where_a_process_has_died(ended):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leader = Leader(Group([0], pids=(os.getpid(), dead.pid)), "ddp")
    with pytest.raises(Ended), leader._all_work("step"):
        raise RuntimeError("connection closed by peer")
    assert ended == [1]


@pytest.mark.parametrize(
    ("problem", "raised"),
    [
        ("process 1: ValueError: this idea does not work", OtherProcessFailed),
        ("process 1: RuntimeError: CUDA out of memory", MemoryError),
        (None, RuntimeError),
    ],
)
def test_an_error_of_another_process_is_the_error_of_the_run(ended, problem, raised):
    leader = Leader(Group([0], problem=problem, pids=(os.getpid(),)), "ddp")
    with pytest.raises(raised, match=problem or "the own fault"), leader._all_work("step"):
        raise RuntimeError("the own fault")
    leader.leave()
    assert leader.group.orders == [["step"]], "the others are no longer waiting for an order"
    assert ended == []


def test_weights_that_do_not_fit_are_not_audited():
    trained = SimpleNamespace(spec=SimpleNamespace(run_id="0" * 16), data=None)
    report = audit_trained(trained, [], fits=False)
    assert report.outcome == "could_not_tell"
    assert [one.check for one in report.findings if one.outcome == "could_not_tell"] == ["C1.perturbation", "C6.nats"]


def test_the_room_for_whole_weights_is_asked_of_the_device(monkeypatch):
    model = torch.nn.Linear(10, 10, bias=False)
    training = SimpleNamespace(model=model, device=torch.device("cpu"))
    for free, fits in ((1200.0, True), (1199.0, False)):
        monkeypatch.setattr(processes, "free_memory_bytes", lambda device, count, free=free: free)
        assert processes.fits_whole(training) == fits
