"""The nursery: one process that has imported torch and what workers need, and forks a process for each job of a driver.

A worker that is started computes for three seconds before its first step, nearly all of it imports. A fork has them already. The
driver is the process that runs, plans or audits an experiment. It talks with its nursery over a pair of sockets, one request at a
time: a line of JSON with the module whose `main` is the job, and three descriptors for the standard streams of the job.

The nursery forks twice, and the process in the middle ends at once. So the system gives the new process to the driver, which has
asked for the orphans among its descendants (`PR_SET_CHILD_SUBREAPER`). The driver waits for it as for any child, and the end of the
nursery ends no job. A user's code is loaded in the forked process alone.

Law: no parallel region before a fork. After one, OpenMP has threads that a fork does not copy, and a child that computes with two
threads waits for them for ever. So the nursery counts its threads before each fork, and ends when there is more than one.

The driver starts processes one by one, as `subprocess` does, where `why_none` gives a reason, on a GPU, and after any failure.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from palinode.base.errors import BadInput
from palinode.base.memory import with_huge_pages
from palinode.sweep.process import PYTHON_MODULE, STARTED_BY, Started, Streams, start_subprocess

SWITCH = "PALINODE_NURSERY"
THREADS = Path("/proc/self/task")  # a folder for each thread of the process that reads it
DESCRIPTORS = Path("/proc/self/fd")
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37  # operations of prctl(2)
READY_SECONDS = 300.0  # the longest wait for the imports, on a machine that is busy with other work
FORK_SECONDS = 60.0  # the longest wait for a fork
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

Message = dict[str, Any]


def why_none() -> str | None:
    """The reason why this machine gets no nursery; None when it gets one.

    Raises:
        BadInput: the variable that switches the nursery off has a value that is neither `on` nor `off`.
    """
    value = os.environ.get(SWITCH, "on")
    if value not in ("on", "off"):
        raise BadInput(f"{value!r} is neither 'on' nor 'off'", field=SWITCH)
    if value == "off":
        return f"{SWITCH} is off"
    return None if sys.platform.startswith("linux") and THREADS.is_dir() else f"this system has no {THREADS}"


class Nursery:
    """The driver's side: it starts processes, forked where that is possible. The first use starts the nursery's process.

    Args:
        modules: the modules whose `main` may be a job. The nursery imports each, and calls its `prepare_for_forks` if it has one.
        on_problem: called once with the reason when the nursery cannot be used any more.
    """

    def __init__(self, modules: Sequence[str] = (), on_problem: Callable[[str], None] = lambda text: None):
        self._modules = tuple(modules) if modules and why_none() is None else ()
        self._on_problem = on_problem
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._is_ready = False
        self._ready_by = 0.0  # the time by `time.monotonic` at which this stops waiting for the imports
        self._adopted_before: int | None = (
            None  # whether the driver got orphans before; None while this changed nothing
        )

    def __enter__(self) -> Nursery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process id of the nursery; None while it has no process."""
        return self._process.pid if self._process is not None else None

    def begin(self) -> None:
        """Start the nursery's process, so that its imports go on while the driver does other work."""
        if self._modules and self._process is None:
            self._begin(0.0)

    def is_ready(self) -> bool:
        """Whether `start` need not wait for imports. A caller that has to look for signals meanwhile asks until it is ready."""
        if self._modules and not self._is_ready:
            self._begin(0.0)
        return self._is_ready or not self._modules

    def start(self, command: Sequence[str], environment: Mapping[str, str], streams: Streams) -> Started:
        """Start a process with these standard streams: forked when the command is `python -P -m` and one of the modules.

        Raises:
            EnvironmentProblem: the system cannot start a process.
        """
        own = tuple(command[: len(PYTHON_MODULE)]) == PYTHON_MODULE
        module, *arguments = command[len(PYTHON_MODULE) :] if own else ("",)
        if module in self._modules:
            variables = {**environment, STARTED_BY: "nursery"}
            request = {"module": module, "arguments": arguments, "environment": variables, "folder": _folder()}
            if (pid := self._fork(request, streams)) is not None:
                return Forked(pid)
        return start_subprocess(command, environment, streams)

    def close(self) -> None:
        """End the nursery. Processes that it forked are children of the driver, and are not touched."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._adopted_before is not None:
            _adopt_orphans(self._adopted_before)
        self._process = self._connection = self._adopted_before = None
        self._is_ready = False

    def _begin(self, wait_seconds: float) -> None:
        """Start the nursery unless it is there, and wait until it is ready, at most so long."""
        if self._process is None:
            self._ready_by = time.monotonic() + READY_SECONDS
            self._adopted_before = _adopts_orphans()
            if not _adopt_orphans(1):
                self._give_up("the system does not give orphans to this process")
                return
            self._connection, theirs = socket.socketpair()
            with theirs:
                try:
                    self._process = subprocess.Popen(
                        [*PYTHON_MODULE, "palinode.sweep.nursery", *self._modules],
                        stdin=theirs.fileno(),
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        start_new_session=True,  # Ctrl-C in a terminal reaches only the driver
                        env=with_huge_pages({**os.environ, **ONE_THREAD}),
                    )
                except OSError as error:
                    self._give_up(f"cannot start it: {error.strerror}")
                    return
        answer = self._answer(wait_seconds)
        self._is_ready = answer.get("ready", False)
        if problem := answer.get("problem"):
            self._give_up(problem)
        elif not self._is_ready and time.monotonic() > self._ready_by:
            self._give_up(f"it was not ready after {READY_SECONDS:g} s")

    def _fork(self, request: Message, streams: Streams) -> int | None:
        """The pid of a forked process; None after a failure."""
        if not self._is_ready:
            self._begin(READY_SECONDS)
        if not self._is_ready:
            return None
        assert self._connection is not None
        content = json.dumps(request).encode() + b"\n"
        try:
            sent = socket.send_fds(self._connection, [content], list(streams))
            self._connection.sendall(content[sent:])
            answer = self._answer(FORK_SECONDS)
        except OSError:
            answer = {"problem": "its process has ended"}
        if "pid" in answer:
            return int(answer["pid"])
        self._give_up(answer.get("problem", f"no fork in {FORK_SECONDS:g} s"))
        return None

    def _answer(self, wait_seconds: float) -> Message:
        """The next answer; empty when none comes in time."""
        assert self._connection is not None
        if not select.select([self._connection], [], [], wait_seconds)[0]:
            return {}
        try:
            content = self._connection.recv(4096)  # an answer is short, and was sent in one piece
        except OSError:
            content = b""
        answer: Message = json.loads(content) if content else {"problem": "its process has ended"}
        return answer

    def _give_up(self, problem: str) -> None:
        """Start every later process one by one."""
        if self._modules:
            self._modules = ()
            self._on_problem(f"processes are started one by one, which is slower: no nursery, {problem}")
        self.close()


class Forked:
    """A process that the nursery forked: a child of the driver with the parts of `subprocess.Popen` that the driver uses.

    Attributes:
        returncode: the exit code, or minus the number of the signal that ended the process; None while it runs.
    """

    def __init__(self, pid: int):
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The `returncode` at this moment."""
        return self._waited(os.WNOHANG)

    def wait(self) -> int:
        """Wait for the end of the process, and return its `returncode`."""
        code = self._waited(0)
        assert code is not None
        return code

    def kill(self) -> None:
        """Kill the process, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _waited(self, options: int) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:  # the user's program ignores SIGCHLD; `subprocess` says 0, too
                pid, status = self.pid, 0
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                with contextlib.suppress(
                    ChildProcessError
                ):  # the dead among its own children, which the driver adopted
                    while os.waitpid(-self.pid, os.WNOHANG)[0]:
                        pass
        return self.returncode


def _folder() -> str | None:
    """The working folder of the driver, for its jobs; None when that folder was deleted: they then stay in that of the nursery."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _adopts_orphans() -> int:
    answer = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return answer.value


def _adopt_orphans(yes: int) -> bool:
    """Whether the system gives the orphans among the descendants of this process to it from now on (`yes` is 1), or not (0)."""
    return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, yes, 0, 0, 0) == 0)


# --- the process of the nursery -----------------------------------------------------------------------------------


def main() -> int:
    """Import the modules of the command line, then fork until the driver ends. A forked process returns the code of its job."""
    connection = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    try:
        for name in sys.argv[1:]:
            prepare = getattr(importlib.import_module(name), "prepare_for_forks", None)
            if prepare is not None:
                prepare()
    except Exception as error:  # noqa: BLE001 - the driver is told, and goes on without a nursery
        _say(connection, {"problem": f"{type(error).__name__}: {error}"[:1000]})
        return 1
    gc.collect()
    gc.freeze()  # a collection in a forked process would write to, and so copy, every page with an object
    _say(connection, {"ready": True})
    while (received := _receive(connection)) is not None:
        request, streams = received
        if (threads := len(os.listdir(THREADS))) > 1:
            _say(connection, {"problem": f"it has {threads} threads, and a fork copies one"})
            return 1
        try:
            pid = _fork(connection, streams)
        except OSError as error:
            _say(connection, {"problem": f"cannot fork: {error.strerror}"})
            return 1
        if pid is None:
            return _run(request)
        _say(connection, {"pid": pid} if pid else {"problem": "cannot fork"})
    os._exit(0)  # nothing is left to write, and to take torch apart takes long


def _receive(connection: socket.socket) -> tuple[Message, list[int]] | None:
    """The next request with its descriptors; None when the driver has ended."""
    content, streams = b"", list[int]()
    while not content.endswith(b"\n"):
        part, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, len(Streams._fields))
        if not part:
            return None
        content += part
        streams += descriptors
    return json.loads(content), streams


def _fork(connection: socket.socket, streams: Sequence[int]) -> int | None:
    """Fork a process with these standard streams. The result is None in that process, and its pid in the nursery (0: none)."""
    reading, writing = os.pipe()
    between = os.fork()
    if between:
        for descriptor in (writing, *streams):
            os.close(descriptor)
        os.waitpid(between, 0)
        pid = os.read(reading, 32)
        os.close(reading)
        return int(pid or 0)
    try:
        if os.fork():
            os._exit(0)
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        connection.detach()  # its descriptor is closed below; the object must not close a later one with that number
        os.write(writing, str(os.getpid()).encode())
        os.closerange(len(streams), max(map(int, os.listdir(DESCRIPTORS))) + 1)
    except BaseException:  # noqa: BLE001 - a copy of the nursery must not go on as one
        os._exit(1)
    return None


def _run(request: Message) -> int:
    """In the forked process: do the job as a process that was started would."""
    os.environ.clear()
    os.environ.update(request["environment"])
    if request["folder"] is not None:
        os.chdir(request["folder"])
    sys.argv = [request["module"], *request["arguments"]]
    if (random := sys.modules.get("numpy.random")) is not None:
        random.seed()  # else the global generator would give every fork the same numbers
    return int(importlib.import_module(request["module"]).main() or 0)


def _say(connection: socket.socket, message: Message) -> None:
    with contextlib.suppress(OSError):  # the driver has ended
        connection.sendall(json.dumps(message).encode())


if __name__ == "__main__":
    sys.exit(main())
