"""Work on run specs in separate processes, several at a time. Calibration and audits both use this module.

Each process is `python -m <module> [arguments] <directory>...`; a directory holds a spec and the user's code that the spec needs.
A process prints a JSON line for each directory on standard output.
"""

from __future__ import annotations

import contextlib
import functools
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
from palinode.base.memory import with_huge_pages
from palinode.results.store import Store
from palinode.spec.code import Code, keep_code
from palinode.spec.run_spec import RunSpec

Message = dict[str, Any]


def fan_out(
    module: str,
    arguments: Sequence[str],
    specs: Sequence[RunSpec],
    code: Code | None,
    given_out: Sequence[Sequence[int]],
    on_failure: Callable[[str], None],
) -> list[Message]:
    """Start a process for each share of the specs, all at once; return the messages of all processes.

    Args:
        given_out: for each process the indexes of its specs, in the order of the work.
        on_failure: called with the last line that a process printed before it failed. Earlier messages of the process count.
    """
    messages: list[Message] = []
    with tempfile.TemporaryDirectory(prefix="palinode-") as temporary:
        directories = [str(Store(Path(temporary)).write_spec(spec.run_id, encode(spec))) for spec in specs]
        for directory in directories:
            keep_code(Path(directory), code)
        shares = [[directories[index] for index in share] for share in given_out]
        with _started([sys.executable, "-P", "-m", module, *arguments], shares) as processes:
            for process in processes:
                out, printed = process.communicate()
                messages += [json.loads(line) for line in out.splitlines()]
                if process.returncode:
                    on_failure(next(reversed(printed.strip().splitlines()), f"exit code {process.returncode}"))
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


@contextlib.contextmanager
def _started(command: Sequence[str], shares: Sequence[Sequence[str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """Yield a process for each share. Every process ends with the block, or when this process ends and a pipe closes."""
    processes: list[subprocess.Popen[str]] = []
    lifeline, held = os.pipe()
    start = functools.partial(
        subprocess.Popen,
        stdin=lifeline,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=with_huge_pages(os.environ),
    )
    try:
        for share in shares:
            processes.append(start([*command, *share]))
        yield processes
    finally:
        os.close(lifeline)
        os.close(held)
        for process in processes:
            process.kill()
            process.wait()
