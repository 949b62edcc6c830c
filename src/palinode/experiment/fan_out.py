"""Work on run specs in separate processes, several at a time. Calibration and audits both use this module.

Each process is `python -m <module> [arguments] <directory>...`; a directory holds a spec and the user's code that the spec needs.
A process prints a JSON line for each directory on standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from palinode.base.config import encode
from palinode.base.memory import with_huge_pages
from palinode.results.store import Store
from palinode.spec.code import Code, keep_code
from palinode.spec.experiment import ResolvedExperiment
from palinode.spec.run_spec import RunSpec
from palinode.sweep.nursery import Nursery
from palinode.sweep.process import PYTHON_MODULE, Start, Started, Streams
from palinode.train.device import resolve_device

JOB_MODULES = (
    "palinode.sweep.worker",
    "palinode.experiment.calibrate",
    "palinode.experiment.audits",
    "palinode.experiment.stacks",
)
Message = dict[str, Any]


def nursery_for(resolved: ResolvedExperiment, on_problem: Callable[[str], None]) -> Nursery:
    """The nursery of a command on this experiment, whose imports begin now. A GPU cannot be used after a fork, so its processes are
    started.

    Args:
        on_problem: called with a line of text when the nursery cannot be used.
    """
    devices = {run.spec.device for run in resolved.runs}
    on_gpu = "cuda" in devices or any(resolve_device(device).type == "cuda" for device in devices)
    nursery = Nursery(() if on_gpu else JOB_MODULES, on_problem)
    nursery.begin()
    return nursery


def fan_out(
    module: str,
    arguments: Sequence[str],
    specs: Sequence[RunSpec],
    code: Code | None,
    given_out: Sequence[Sequence[int]],
    on_failure: Callable[[str], None],
    nursery: Nursery | None = None,
) -> list[Message]:
    """Start a process for each share of the specs, all at once; return the messages of all processes.

    Args:
        given_out: for each process the indexes of its specs, in the order of the work.
        on_failure: called with the last line that a process printed before it failed. Earlier messages of the process count.
        nursery: forks the processes; without a nursery they are started.
    """
    messages: list[Message] = []
    with tempfile.TemporaryDirectory(prefix="palinode-") as temporary:
        directories = [str(Store(Path(temporary)).write_spec(spec.run_id, encode(spec))) for spec in specs]
        for directory in directories:
            keep_code(Path(directory), code)
        shares = [[directories[index] for index in share] for share in given_out]
        commands = [[*PYTHON_MODULE, module, *arguments, *share] for share in shares]
        start = (nursery or Nursery()).start
        with _started(commands, start, Path(temporary)) as processes:
            for number, process in enumerate(processes):
                exit_code = process.wait()
                out, printed = (path.read_text(errors="replace") for path in _printed(Path(temporary), number))
                messages += [json.loads(line) for line in out.splitlines(keepends=True) if line.endswith("\n")]
                if exit_code:
                    on_failure(next(reversed(printed.strip().splitlines()), f"exit code {exit_code}"))
    return messages


def end_with_the_driver() -> None:
    """End this process when the process that started it has ended, which closes standard input. Each process calls this first."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def say(message: Message) -> None:
    """Send one message from a started process. Text that the user's code prints must go to standard error."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _printed(folder: Path, number: int) -> tuple[Path, Path]:
    """The files for standard output and standard error of a process."""
    return folder / f"out-{number}", folder / f"err-{number}"


@contextlib.contextmanager
def _started(commands: Sequence[Sequence[str]], start: Start, folder: Path) -> Iterator[list[Started]]:
    """Yield a process for each command. Every process ends with the block, or when this process ends and a pipe closes."""
    processes: list[Started] = []
    lifeline, held = os.pipe()
    try:
        for number, command in enumerate(commands):
            out, err = _printed(folder, number)
            with out.open("wb") as stdout, err.open("wb") as stderr:
                streams = Streams(lifeline, stdout.fileno(), stderr.fileno())
                processes.append(start(command, with_huge_pages(os.environ), streams))
        yield processes
    finally:
        os.close(lifeline)
        os.close(held)
        for process in processes:
            process.kill()
            process.wait()
