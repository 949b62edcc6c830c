"""A worker without torch: its spec.json says what to do, so that a sweep can be tested in a fraction of a second."""

import os
import signal
import sys
import time
from pathlib import Path

from palinode.base import fsio
from palinode.results.record import Result
from palinode.results.store import Store
from palinode.sweep import worker


def work(directories, emit, should_stop, holds, together=()) -> list[Result]:
    return [one(directory, emit, should_stop) for directory in directories]


def one(directory: Path, emit, should_stop) -> Result:
    spec = fsio.read_json(directory / "spec.json")
    fsio.append_line(directory / "attempts.jsonl", {"pid": os.getpid()})
    emit({"event": "train", "run_id": directory.name, "step": 1, "threads": os.environ["OMP_NUM_THREADS"]})
    outcome = {
        "done": lambda: "done",
        "diverged": lambda: "diverged",
        "raise": lambda: {}["no such key"],
        "oom": lambda: (_ for _ in ()).throw(MemoryError("too large")),
        "disk": lambda: fsio.write_text(Path("/proc/nothing/here"), ""),
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
        "exit": lambda: os._exit(7),
        "print": lambda: print("hello\nfrom the run", flush=True) or "done",
        "sleep": lambda: sleep(spec, should_stop),
        "deaf": lambda: time.sleep(60),
    }[spec["do"]]()
    result = Result(run_id=directory.name, outcome=outcome)
    if outcome != "stopped":
        Store(directory.parent).write_result(result)
    return result


def sleep(spec, should_stop):
    end = time.monotonic() + spec["seconds"]
    while time.monotonic() < end:
        if should_stop():
            return "stopped"
        time.sleep(0.01)
    return "done"


def main() -> int:
    return worker.main(work=work)


if __name__ == "__main__":
    sys.exit(main())
