"""Real engines start a command: Slurm through submitit's local executor, Ray on a cluster of a head without cores and two nodes.

By night the demo runs on both (tests/cli/test_workers.py).
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

SOURCE = str(Path(__file__).parents[2] / "src")
COMMAND = [sys.executable, "-c", "import sys; print('from', sys.argv[1], file=sys.stderr)"]
# In a process of its own: Ray leaves threads and processes behind in the one that started it.
ON_RAY = """
import json, sys, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from palinode.sweep.executors.ray import executor

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
for _ in range(2):
    cluster.add_node(num_cpus=1)
engine = executor({"address": cluster.address}, Path("."))
handles = [engine.start([*json.loads(sys.argv[1]), name]) for name in ("a", "b", "c")]
while any(handle.state() != "ended" for handle in handles):
    time.sleep(0.05)
print(json.dumps([handle.why() for handle in handles]))
ray.shutdown()
cluster.shutdown()  # which also deletes the note of its address
"""


def test_slurm_through_its_local_executor(tmp_path):
    pytest.importorskip("submitit")
    from palinode.sweep.executors.slurm import executor

    handle = executor({"cluster": "local"}, tmp_path).start([*COMMAND, "a job"])
    assert re.fullmatch(r"job \d+", handle.name)
    until = time.monotonic() + 60
    while handle.state() != "ended" and time.monotonic() < until:
        time.sleep(0.05)
    assert (handle.state(), handle.why()) == ("ended", "from a job")


def test_a_cluster_of_ray(tmp_path):
    pytest.importorskip("ray")
    environment = {**os.environ, "PYTHONPATH": SOURCE, "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-W", "ignore", "-c", ON_RAY, json.dumps(COMMAND)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["from a", "from b", "from c"]
