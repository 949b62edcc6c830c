"""A lease on a run directory: while one process works on a run, no other process does.

On one host the lease is a lock of the kernel on the directory. It ends with its process, also when that is killed, and a
suspended process keeps it. Other hosts that share the store read `lease.json`, which names the holder and is content again at
every heartbeat. A lease of another host is taken over only after it stayed the same for longer than two heartbeats, by the
clock of this host: two clocks are never compared.
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
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)  # of file systems that cannot lock: heartbeats and process ids decide there
LeaseContent = dict[str, object]


class Lease:
    """A lease that this process holds. `lost` becomes true when another host took it over because the heartbeats stopped."""

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
        """End the lease, so that another process may work on the run."""
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
        content = {"pid": os.getpid(), "host": this_host(), "nonce": self.nonce, "beat": self._beat}
        fsio.write_json(self.directory / LEASE_FILE, content)


class Watch:
    """Remembers the leases of other hosts, and since when each is unchanged, by the clock of this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._unchanged_since: dict[Path, tuple[LeaseContent, float]] = {}

    def is_stale(self, directory: Path, content: LeaseContent) -> bool:
        """Whether this lease stayed the same for longer than two heartbeats."""
        last, since = self._unchanged_since.get(directory, ({}, 0.0))
        if last != content:
            self._unchanged_since[directory] = (content, self._clock())
            return False
        return self._clock() - since > STALE_SECONDS


def acquire(
    directory: Path, *, stale_nonce: str | None = None, heartbeat_seconds: float = HEARTBEAT_SECONDS
) -> Lease | None:
    """Take the lease on a run directory; None while another process holds it.

    Args:
        stale_nonce: the nonce of another host's lease that `Watch` calls stale; it is taken over.

    Raises:
        EnvironmentProblem: the directory cannot be opened or content.
    """
    descriptor, locked = _lock(directory)
    if descriptor is None:
        return None
    if _held_by_file(read_lease(directory), stale_nonce, locked=locked):
        os.close(descriptor)
        return None
    return Lease(directory, descriptor, heartbeat_seconds)


def holder(directory: Path, watch: Watch) -> tuple[str | None, str | None]:
    """The holder of a run's lease.

    Returns:
        (text, None) that names the holder; (None, nonce) of a stale lease, which may be taken over; (None, None) of a free run.
    """
    content = read_lease(directory)
    descriptor, locked = _lock(directory)
    if descriptor is None:
        return f"process {content.get('pid', '?')} on this host", None
    os.close(descriptor)
    if not _held_by_file(content, None, locked=locked):
        return None, None
    if content.get("host") != this_host() and watch.is_stale(directory, content):
        return None, str(content.get("nonce"))
    return f"process {content.get('pid')} on {str(content.get('host')).partition('/')[0]}", None


def clear_dead(directory: Path, pid: int) -> None:
    """Remove the lease.json of a process of this host that has ended, so that other hosts need not wait until it is stale."""
    content = read_lease(directory)
    if (content.get("pid"), content.get("host")) == (pid, this_host()):
        (directory / LEASE_FILE).unlink(missing_ok=True)


def read_lease(directory: Path) -> LeaseContent:
    """The content of lease.json; empty when it is missing or damaged."""
    if not (directory / LEASE_FILE).exists():
        return {}
    try:
        content = fsio.read_json(directory / LEASE_FILE)
    except Damaged:
        return {}
    return content if isinstance(content, dict) else {}


def this_host() -> str:
    """The name of this host and of its current boot: no process survives a restart."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{platform.node()}/{boot}"


def _lock(directory: Path) -> tuple[int | None, bool]:
    """Lock a directory.

    Returns:
        (descriptor that holds the lock, whether the file system can lock); no descriptor while another process has the lock.
    """
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


def _held_by_file(content: LeaseContent, stale_nonce: str | None, *, locked: bool) -> bool:
    """Whether lease.json shows a holder that the lock does not: another host, or a living process where nothing can be locked."""
    if not content or content.get("nonce") == stale_nonce:
        return False
    host = str(content.get("host"))
    if host.partition("/")[0] != platform.node():
        return True
    pid = content.get("pid")
    return not locked and host == this_host() and isinstance(pid, int) and _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
