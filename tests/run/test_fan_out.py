"""Work in several processes: what they said comes back, a failure is told, and none is left when the driver dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_run import tiny_spec

from palinode import Arm, Decision, Experiment
from palinode.experiment.calibrate import calibrate
from palinode.experiment.cells import cells_of
from palinode.experiment.fan_out import JOB_MODULES, fan_out
from palinode.sweep.nursery import Nursery

CHILD = """
import pathlib, sys, time
from palinode.experiment.fan_out import end_with_the_driver, say

def main():
    end_with_the_driver()
    for directory in sys.argv[2:]:
        spec = (pathlib.Path(directory) / "spec.json").read_text()
        say({"word": sys.argv[1], "seed": __import__("json").loads(spec)["seed"]})
        if sys.argv[1] == "fail":
            raise ArithmeticError("as asked")
        while sys.argv[1] == "stay":
            time.sleep(0.05)
    return 0

if __name__ == "__main__":
    sys.exit(main())
"""
DRIVER = """
import sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from tiny_run import tiny_spec
from palinode.experiment.fan_out import fan_out
fan_out("child", ["stay"], [tiny_spec(Path({corpus!r}))], None, [[0]], print)
"""


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory):
    """A module `child` that fan_out's processes can import."""
    folder = tmp_path_factory.mktemp("module")
    (folder / "child.py").write_text(CHILD)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield "child"


@pytest.fixture(scope="module")
def nursery(module):
    """Forks processes that would each import torch."""
    with Nursery((*JOB_MODULES, module)) as forks:
        yield forks


def test_every_process_works_on_its_share(module, corpus, nursery):
    specs = [tiny_spec(corpus, seed=seed) for seed in (1, 2, 3)]
    rows = fan_out(module, ["word"], specs, None, [[0, 2], [1]], on_failure=pytest.fail, nursery=nursery)
    assert sorted((row["word"], row["seed"]) for row in rows) == [("word", 1), ("word", 2), ("word", 3)]


@pytest.mark.parametrize("forked", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_a_failure_is_told_and_what_was_said_before_it_counts(module, corpus, nursery, forked):
    messages, forks = [], nursery if forked else None
    rows = fan_out(module, ["fail"], [tiny_spec(corpus)], None, [[0]], on_failure=messages.append, nursery=forks)
    assert messages == ["ArithmeticError: as asked"]
    assert [row["seed"] for row in rows] == [1]


def test_two_processes_may_measure_one_setting(corpus, nursery):
    """Both measure the only setting. A run in one store would have one holder, and the second process would fail."""
    experiment = Experiment(
        name="one", question="", base=tiny_spec(corpus).settings, arms=(Arm(name="a"),), decision=Decision(baseline="a")
    )
    predicted = calibrate(cells_of(experiment.resolve()), runs=2, workers=2, on_failure=pytest.fail, nursery=nursery)
    assert predicted.measured == 1
    assert predicted.seconds["a", "base"] > 0


@pytest.mark.nightly
def test_no_process_outlives_a_killed_driver(module, corpus):
    script = DRIVER.format(tests=str(Path(__file__).parent), corpus=str(corpus))
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    child = wait_for(lambda: children(driver.pid))
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_for(lambda: is_gone(child))


def children(pid: int) -> int | None:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        pytest.skip("needs Linux's /proc")
    result = path.read_text().split()
    return int(result[0]) if result else None


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_for(condition, seconds: float = 60.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.05)
    return pytest.fail("it did not happen in time")
