"""A lease on a run directory: while one process works on a run, no other does, whoever started it.

On one host the lease is a lock of the kernel on the directory: it ends with its process, however that dies, and a stopped
process keeps it. For other hosts that share the store, `lease.json` says who holds it and is written again at every
heartbeat; a lease from another host is taken over only after it was seen unchanged for longer than two heartbeats, by this
host's own clock, so that no two clocks are ever compared.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from palinode.base import fsio
from palinode.base.errors import Damaged, EnvironmentProblem

LEASE_FILE = "lease.json"
HEARTBEAT_SECONDS = 60.0
STALE_SECONDS = 2.5 * HEARTBEAT_SECONDS
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)  # file systems that cannot lock: heartbeats and process ids have to do
Written = dict[str, object]


class Lease:
    """A held lease. `lost` turns true when another host took it over, because this one seemed dead for long."""

    def __init__(self, directory: Path, descriptor: int, heartbeat_seconds: float):
        self.directory = directory
        self.nonce = secrets.token_hex(8)
        self.lost = False
        self._descriptor = descriptor
        self._beat = 0
        self._ended = threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._keep, args=(heartbeat_seconds,), daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the run back."""
        self._ended.set()
        self._thread.join()
        if not self.lost:
            (self.directory / LEASE_FILE).unlink(missing_ok=True)
        os.close(self._descriptor)

    def _keep(self, heartbeat_seconds: float) -> None:
        while not self._ended.wait(heartbeat_seconds):
            if read_lease(self.directory).get("nonce") != self.nonce:
                self.lost = True
                return
            self._write()

    def _write(self) -> None:
        self._beat += 1
        written = {"pid": os.getpid(), "host": this_host(), "nonce": self.nonce, "beat": self._beat}
        fsio.write_json(self.directory / LEASE_FILE, written)


class Watch:
    """What this process has seen of other hosts' leases, and since when (by its own clock)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._seen: dict[Path, tuple[Written, float]] = {}

    def is_stale(self, directory: Path, written: Written) -> bool:
        """Whether this lease has not changed for longer than two heartbeats of watching it."""
        last, since = self._seen.get(directory, ({}, 0.0))
        if last != written:
            self._seen[directory] = (written, self._clock())
            return False
        return self._clock() - since > STALE_SECONDS


def acquire(
    directory: Path, *, stale_nonce: str | None = None, heartbeat_seconds: float = HEARTBEAT_SECONDS
) -> Lease | None:
    """The lease on a run directory, or None while another process holds it.

    Args:
        stale_nonce: the lease of another host that was seen to be stale (`Watch`) and may be taken over.

    Raises:
        EnvironmentProblem: the directory cannot be opened or written.
    """
    descriptor, locked = _lock(directory)
    if descriptor is None:
        return None
    if _held_without_a_lock(read_lease(directory), stale_nonce, locked=locked):
        os.close(descriptor)
        return None
    return Lease(directory, descriptor, heartbeat_seconds)


def holder(directory: Path, watch: Watch) -> tuple[str | None, str | None]:
    """Who holds a run: (words, None) while somebody does, (None, nonce) when a stale lease may be taken over, else (None, None)."""
    written = read_lease(directory)
    descriptor, locked = _lock(directory)
    if descriptor is None:
        return f"process {written.get('pid', '?')} on this host", None
    os.close(descriptor)
    if not _held_without_a_lock(written, None, locked=locked):
        return None, None
    if written.get("host") != this_host() and watch.is_stale(directory, written):
        return None, str(written.get("nonce"))
    return f"process {written.get('pid')} on {str(written.get('host')).partition('/')[0]}", None


def clear_dead(directory: Path, pid: int) -> None:
    """Remove what a process of this host that has ended left behind, so that no other host has to wait it out."""
    written = read_lease(directory)
    if (written.get("pid"), written.get("host")) == (pid, this_host()):
        (directory / LEASE_FILE).unlink(missing_ok=True)


def read_lease(directory: Path) -> Written:
    """What lease.json says; empty when there is none (or it is damaged: then nobody can be named)."""
    if not (directory / LEASE_FILE).exists():
        return {}
    try:
        written = fsio.read_json(directory / LEASE_FILE)
    except Damaged:
        return {}
    return written if isinstance(written, dict) else {}


def this_host() -> str:
    """The name of this host and of this boot of it: after a restart nothing of before is alive."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{platform.node()}/{boot}"


def _lock(directory: Path) -> tuple[int | None, bool]:
    """(descriptor that holds the directory's lock, whether the lock is real); no descriptor when another process has it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise EnvironmentProblem(f"cannot be opened: {error.strerror}", file=str(directory)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None, True
    except OSError as error:
        if error.errno in NO_LOCKS:
            return descriptor, False
        os.close(descriptor)
        raise EnvironmentProblem(f"cannot be locked: {error.strerror}", file=str(directory)) from error
    return descriptor, True


def _held_without_a_lock(written: Written, stale_nonce: str | None, *, locked: bool) -> bool:
    """Whether lease.json alone says that somebody is at work: another host, or (where nothing can be locked) a living process."""
    if not written or written.get("nonce") == stale_nonce:
        return False
    host = str(written.get("host"))
    if host.partition("/")[0] != platform.node():
        return True
    pid = written.get("pid")
    return not locked and host == this_host() and isinstance(pid, int) and _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
