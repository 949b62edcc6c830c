"""What the parts of the battery share: a folder in which the real command is disturbed, and the counts of what went wrong."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import palinode.experiment.run  # noqa: F401 - with torch, so that the copies that run a command need not import it
import palinode.report.page  # noqa: F401
from palinode.base.errors import PalinodeError
from palinode.cli.main import entry
from palinode.results.store import Store

COMMAND = [sys.executable, "-P", "-m", "palinode"]
LONGEST_SECONDS = 1800.0  # a machine may be busy; a command that never ends is an error
NOT_COMPARED = ("attempt", "seconds", "event_seconds")
SMALL = Path(__file__).parent / "small"  # an experiment and its text
RUN_ALONE = ("run", "idea.toml", "--workers", "2")
RUN = (*RUN_ALONE, "--report")
State = dict[str, Any]


class Place:
    """A folder with an experiment, in which the real command is run. The token cache is inside, so that it is disturbed, too."""

    def __init__(self, folder: Path, audited: Path | None = None):
        """Args: audited: a place whose audits and token cache are copied, so that a trial does not measure them again."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if audited is not None:
            shutil.copytree(audited / "runs" / "audits", folder / "runs" / "audits", dirs_exist_ok=True)
            shutil.copytree(audited / "cache", folder / "cache", dirs_exist_ok=True)
        for path in SMALL.iterdir():
            shutil.copyfile(path, folder / path.name)

    @property
    def store(self) -> Store:
        return Store(self.folder / "runs")

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """The variables that keep the token cache inside the folder, and these."""
        cache = str(self.folder / "cache")
        return {"PALINODE_CACHE": cache, "XDG_CACHE_HOME": cache, **more}

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start the command in a session of its own, so that its whole tree can be killed."""
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env={**os.environ, **self.environment(environment)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def call(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """Run the command to its end: exit code, output, error output.

        A copy of this process runs it, in which torch is imported already: that saves two of three seconds of a trial.
        """
        (self.folder / "printed").mkdir(exist_ok=True)
        printed = [self.folder / "printed" / name for name in ("out", "err")]
        pid = os.fork()
        if pid == 0:
            os._exit(self._as_a_command(arguments, environment, printed))
        code = _exit_code(pid, LONGEST_SECONDS)
        out, err = (path.read_text(errors="replace") for path in printed)
        return code, out, err

    def _as_a_command(self, arguments: Sequence[str], environment: Mapping[str, str], printed: Sequence[Path]) -> int:
        """In the copy: become a process like the one that a shell starts, and run the command; its exit code."""
        os.setsid()
        os.chdir(self.folder)
        os.environ.update(self.environment(environment))
        for number, path in enumerate(printed, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            code = entry(list(arguments))
        except BaseException:  # noqa: BLE001 - this copy must end here; a traceback is what the battery counts
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        return code

    def state(self) -> State:
        """What the store says in the end: of each run its weights, scores, counters and rows, and the verdict."""
        runs = {}
        for run in self.store.experiment("battery").runs:
            record = run.record
            if record is None or record.result is None:
                runs[run.entry.run_id] = run.outcome
                continue
            rows = [{key: value for key, value in row.items() if key not in NOT_COMPARED} for row in record.metrics]
            digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
            result = record.result
            scores, counters = (json.dumps(dict(part), default=dict) for part in (result.scores, result.counters))
            runs[run.entry.run_id] = [result.weights_sha256, scores, counters, digest]
        return {"runs": runs, "verdict": self.call("compare", "battery", "--json")[1]}


class Tally(Counter[str]):
    """Counts of a part: tried, lost, doubled, silent (differs without a word), traceback, and what else it counts."""

    def judge(self, place: Place, reference: State, what: str, trials: int = 1) -> None:
        """Compare what a sweep that was disturbed so many times has in the end with the undisturbed one."""
        self["tried"] += trials
        try:
            state = place.state()
        except PalinodeError as error:
            self["lost"] += 1
            print(f"  {what}: {error}", file=sys.stderr)
            return
        for run_id, expected in reference["runs"].items():
            if isinstance(state["runs"].get(run_id), str | None):
                self["lost"] += 1
            elif state["runs"][run_id] != expected:
                self["silent"] += 1
                print(f"  {what}: {run_id} differs", file=sys.stderr)
        self["doubled"] += (
            len(state["runs"]) - len(reference["runs"]) if len(state["runs"]) > len(reference["runs"]) else 0
        )
        self["silent"] += state["verdict"] != reference["verdict"]

    def read(self, err: str, what: str) -> None:
        """Count a traceback in what a command printed."""
        if "Traceback" in err:
            self["traceback"] += 1
            print(f"  {what}: {err[-2000:]}", file=sys.stderr)


def finish(place: Place, tally: Tally, what: str, command: Sequence[str] = RUN) -> None:
    """Run the command until it is through. More than one attempt is needed only where an error was reported in between."""
    for _ in range(3):
        code, _, err = place.call(*command)
        tally.read(err, what)
        if code == 0:
            return
        tally["runs of the command that ended with an error"] += 1
    tally["lost"] += 1
    print(f"  {what}: exit {code}: {err[-500:]}", file=sys.stderr)


def descendants(pid: int) -> list[int]:
    """The processes below a process, from /proc."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def _exit_code(pid: int, seconds: float) -> int:
    """Wait for a child that leads a session; after so many seconds its session is killed, and the code is 124."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 124


def kill_process(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_for_orphans(tree: list[int], seconds: float = 60.0) -> None:
    """Workers whose driver was killed write a checkpoint and end by themselves."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(Path(f"/proc/{pid}").exists() for pid in tree):
        time.sleep(0.05)
