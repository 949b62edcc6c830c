"""Work on run specs in processes of their own, several at a time: what calibration and audits share.

Each process is `python -m <module> [arguments] <directory>...`; a directory holds a spec and the user's code that it needs.
It prints a JSON line for each directory on standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from palinode.base.config import encode
from palinode.results.store import Store
from palinode.spec.code import Code, keep_code
from palinode.spec.run_spec import RunSpec

Said = dict[str, Any]


def fan_out(
    module: str,
    arguments: Sequence[str],
    specs: Sequence[RunSpec],
    code: Code | None,
    given_out: Sequence[Sequence[int]],
    on_failure: Callable[[str], None],
) -> list[Said]:
    """Start a process for each share of the specs at once; returns what all of them said.

    Args:
        given_out: for each process the indexes of its specs, in the order in which it works on them.
        on_failure: told the last line that a process printed before it failed; what it said before that counts.
    """
    with _directories(specs, code) as directories, _started(module, arguments, directories, given_out) as processes:
        said: list[Said] = []
        for process in processes:
            out, printed = process.communicate()
            said += [json.loads(line) for line in out.splitlines()]
            if process.returncode:
                on_failure(next(reversed(printed.strip().splitlines()), f"exit code {process.returncode}"))
    return said


def end_with_the_driver() -> None:
    """In such a process, first of all: when whoever started it is gone, so that its standard input ends, it ends as well."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def say(said: Said) -> None:
    """In such a process: one thing said. What the user's code prints must go to standard error meanwhile."""
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def _directories(specs: Sequence[RunSpec], code: Code | None) -> Iterator[list[Path]]:
    with tempfile.TemporaryDirectory(prefix="palinode-") as temporary:
        store = Store(Path(temporary))
        directories = [store.write_spec(spec.run_id, encode(spec)) for spec in specs]
        if code is not None:
            for directory in directories:
                keep_code(directory, code)
        yield directories


@contextlib.contextmanager
def _started(
    module: str, arguments: Sequence[str], directories: Sequence[Path], given_out: Sequence[Sequence[int]]
) -> Iterator[list[subprocess.Popen[str]]]:
    """The processes; none outlives the block, nor this process: they read its end from a pipe that it holds open."""
    command = [sys.executable, "-P", "-m", module, *arguments]
    processes: list[subprocess.Popen[str]] = []
    lifeline, held = os.pipe()
    try:
        for share in given_out:
            paths = [str(directories[index]) for index in share]
            processes.append(
                subprocess.Popen(
                    [*command, *paths], stdin=lifeline, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                )
            )
        yield processes
    finally:
        os.close(lifeline)
        os.close(held)
        for process in processes:
            process.kill()
            process.wait()
