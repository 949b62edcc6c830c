"""`palinode run --processes N`: bad input, a process that is killed, and a run that goes on with another number of processes."""

import signal
from pathlib import Path

import pytest
import quick_audit
from tiny_experiment import TOML, everything_in

from palinode.experiment import audits, plan
from palinode.results.holds import all_holds
from palinode.results.store import Store

PARTS = TOML.replace("seeds = [1, 2]", "seeds = [1]").replace(
    "batch_windows = 2", "batch_windows = 6\nmicro_batches = 6"
)
# Kills the process KILL_RANK at the step KILL_STEP.
KILLED = """
import os, signal
from palinode import *
from palinode.data.config import DataConfig

class Dies(LtrObjective):
    kind = ""
    def draw(self, batch, window_tokens, generator, progress):
        here = os.environ.get("RANK", "0"), str(progress.step)
        if here == (os.environ.get("KILL_RANK"), os.environ.get("KILL_STEP")):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().draw(batch, window_tokens, generator, progress)

experiment = Experiment(
    name="mine", question="?", arms=(Arm(name="dies"),),
    base=RunSettings(
        data=DataConfig(corpus="text.txt", split="contiguous", window_tokens=16), model=DecoderConfig(layers=1, width=16, heads=2),
        objective=Dies(),
        recipe=Speedrun(steps=12, batch_windows=4, micro_batches=4, checkpoint_every_steps=2, evaluate_every_steps=4),
        evaluation=EvaluationConfig(directions=("ltr",), max_tokens=400),
    ),
    decision=Decision(baseline="dies"), seeds=(1,),
)
"""
OF_OTHERS = {"MASTER_PORT": "1", "MASTER_ADDR": "nowhere", "WORLD_SIZE": "9", "LOCAL_RANK": "5", "PET_NNODES": "3"}


@pytest.fixture
def quick(palinode, monkeypatch):
    """`palinode` in this process, with the quick audit and calibration."""
    monkeypatch.setattr(audits, "audit_arm", quick_audit.quick_audit_arm)
    monkeypatch.setattr(audits, "audit_ahead", quick_audit.no_audit_ahead)
    monkeypatch.setattr(plan, "calibrate", quick_audit.quick_calibrate)
    return palinode


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--processes", "4"), "--processes: 4 processes cannot share 6 micro-batches"),
        (("--processes", "0"), "--processes"),
        (("--processes", "2", "--parallel", "fsdp"), "--parallel: 'fsdp' is none of ddp, fsdp2"),
        (("--parallel", "ddp"), "--parallel: one process shares no run"),
        (("--processes", "2", "--stack", "2"), "--stack: runs that several processes share are not stacked"),
        (("--processes", "2", "--detach"), "--processes: does not go together with --detach"),
        (("--processes", "2", "--parallel", "fsdp2", "--set", "recipe.compile=true"), "recipe.compile: fsdp2 does not"),
    ],
)
def test_what_processes_cannot_share_is_refused(quick, here, options, says):
    Path("x.toml").write_text(PARTS)
    before = everything_in(here)
    told = quick("run", "x.toml", "--yes", "--quiet", *options)
    assert (told.code, told.out) == (2, "")
    (line,) = told.err.splitlines()
    assert says in line
    assert everything_in(here) == before, "nothing was written"


@pytest.mark.nightly
@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_a_run_goes_on_after_a_process_was_killed_with_another_number_of_processes(quick, here, monkeypatch, way):
    """Two processes until one is killed, one process until it is killed, then two; against one process that is not killed."""
    Path("mine.py").write_text(KILLED)
    for name, value in OF_OTHERS.items():
        monkeypatch.setenv(name, value)

    def run(store, *options, rank="", step=""):
        monkeypatch.setenv("KILL_RANK", rank)
        monkeypatch.setenv("KILL_STEP", step)
        told = quick("run", "mine.py", "--yes", "--quiet", "--store", store, *options)
        (record,) = Store(Path(store)).records()
        return told, record

    two = ("--processes", "2", "--parallel", way)
    told, record = run("runs", *two, rank="1", step="5")
    assert (told.code, record.result.outcome) == (1, "oom"), told.err
    assert record.result.reason.splitlines()[0].startswith("the run's process 1 of those that share the run was killed")
    told, record = run("runs", rank="0", step="9")
    assert (told.code, record.result.outcome) == (1, "oom"), told.err
    told, record = run("runs", *two)
    assert (told.code, record.result.outcome, record.result.attempts) == (0, "done", 3), told.err
    assert record.result.fingerprint["processes"] == "2, 1"
    assert record.result.fingerprint["parallel"] == way
    assert all_holds(record.directory)[-1].content["kind"] == record.result.kind
    _, alone = run("alone")
    steps = [[row["step"] for row in one.metrics if row["event"] == "eval"] for one in (record, alone)]
    assert steps[0] == steps[1] == [4, 8, 12]
    losses = [one.result.scores["validation"]["ltr"]["nats_sum"] for one in (record, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert record.result.counters == alone.result.counters


@pytest.mark.nightly
def test_the_leader_of_a_shared_run_may_be_killed(quick, here, monkeypatch):
    Path("mine.py").write_text(KILLED)
    monkeypatch.setenv("KILL_RANK", "0")
    monkeypatch.setenv("KILL_STEP", "3")
    told = quick("run", "mine.py", "--yes", "--quiet", "--processes", "2")
    (record,) = Store(Path("runs")).records()
    assert told.code == 1
    assert "process 0 of those that share the run was killed by SIGKILL" in record.result.reason
    assert signal.SIGKILL.name in record.result.reason.splitlines()[0]
