"""Real runs, forked and started: the same bits, also of a user's file that starts a thread when it is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from palinode.results.store import Store
from palinode.sweep.nursery import why_none

PROGRAM = (sys.executable, str(Path(__file__).with_name("quick_audit.py")))
IDEA = """
import threading, time
from palinode import *
from palinode.data.config import DataConfig

threading.Thread(target=time.sleep, args=(600,), daemon=True).start()

class Own(LtrObjective):
    kind = ""

experiment = Experiment(
    name="mine", question="?", arms=(Arm(name="ltr"), Arm(name="own", change={{"objective": Own()}})),
    base=RunSettings(
        data=DataConfig(corpus="text.txt", split="contiguous", window_tokens=128), model=modern(layers=2, width=64, heads=1),
        objective=LtrObjective(), recipe=Speedrun(steps=4, batch_windows=16),
        evaluation=EvaluationConfig(directions=("ltr",), max_tokens=400), threads={threads},
    ),
    decision=Decision(baseline="ltr"), seeds=(1,),
)
"""


@pytest.mark.nightly
@pytest.mark.skipif(why_none() is not None, reason="only Linux has what a nursery needs")
@pytest.mark.parametrize("threads", [1, 2])
def test_forked_and_started_runs_have_the_same_weights(here, threads):
    Path("idea.py").write_text(IDEA.format(threads=threads))
    weights, fingerprints = {}, {}
    for how in ("on", "off"):
        command = [*PROGRAM, "run", "idea.py", "--store", how, "--workers", "2"]
        ended = subprocess.run(
            command, env={**os.environ, "PALINODE_NURSERY": how}, capture_output=True, text=True, timeout=300
        )
        assert ended.returncode == 0, ended.stderr
        assert "one by one" not in ended.stderr
        results = {record.run_id: record.result for record in Store(Path(how)).records()}
        weights[how] = {run_id: result.weights_sha256 for run_id, result in results.items()}
        fingerprints[how] = [dict(result.fingerprint) for result in results.values()]
    assert weights["on"] == weights["off"]
    assert all(weights["on"].values())
    assert {one["started_by"] for one in fingerprints["on"]} == {"nursery"}
    assert {one["started_by"] for one in fingerprints["off"]} == {"subprocess"}
    assert {one["threads"] for one in fingerprints["on"]} == {threads}
