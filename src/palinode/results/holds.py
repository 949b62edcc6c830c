"""A hold reserves the directory of a run or an audit for one process. During the hold, no other process works on the directory.

A directory has the files hold-1.json, hold-2.json, ...; the process that wrote the largest number owns the directory. A process
takes the next number by making one file link. The file system lets only one process make a link of the same name, also on a network
disk. The number counts the attempts on the directory. A process that finds a hold file with a larger number than its own has lost
the directory and writes nothing more.

A directory is free again in three cases: the owner released its hold; the owner ran on this host and has ended; or the hold file
has not changed for longer than two heartbeats by the clock of the process that watches it. Clocks of two hosts are never compared.
On one host, the kernel's lock on the directory shows at once whether a process holds it, even a process that is suspended.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from palinode.base import fsio
from palinode.base.errors import Damaged, EnvironmentProblem

HOLD_FILE = re.compile(r"hold-([1-9][0-9]{0,8})\.json")
HEARTBEAT_SECONDS = 60.0
STALE_SECONDS = 2.5 * HEARTBEAT_SECONDS
# The errors of file systems that cannot lock, such as some Lustre mounts.
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
NOTHING_MORE: Mapping[str, Any] = {}
BOOT_ID, PROCESS_NAMESPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")


class HoldLostError(Exception):
    """Another process took over the directory, because this process sent no heartbeats. This process may write no more files."""


@dataclass(frozen=True)
class StoredHold:
    """The newest hold file of a directory.

    Attributes:
        content: the content of the file; an empty dict when the file is damaged, None when it is empty or cannot be read now.
    """

    number: int
    content: Mapping[str, Any] | None

    @property
    def owner(self) -> str:
        """A text that names the process and the host of this hold."""
        content = self.content or {}
        return f"process {content.get('pid', '?')} on {content.get('host', 'an unknown host')}"

    def has_ended(self, *, can_lock: bool) -> bool:
        """Whether the process of this hold can no longer work. If the file system can lock, the caller must have the lock.

        Args:
            can_lock: whether the file system can lock the directory.
        """
        if self.content is None:
            return False  # another process may be writing this file now
        if self.content.get("released"):
            return True
        if not self.content:
            return can_lock
        pid = self.content.get("pid")
        return self.is_of(this_host()) and isinstance(pid, int) and not fsio.is_alive(pid)

    @property
    def price_per_hour(self) -> tuple[float, str] | None:
        """The price of the process for an hour, and its currency; None where the user gave no price."""
        content = self.content or {}
        price, currency = content.get("price_per_hour"), content.get("currency")
        return (float(price), currency) if isinstance(price, int | float) and isinstance(currency, str) else None

    @property
    def times(self) -> tuple[datetime, datetime] | None:
        """When the hold was taken, and its last heartbeat; None if the hold file does not say it."""
        content = self.content or {}
        try:
            started, until = (datetime.fromisoformat(str(content.get(name))) for name in ("started", "until"))
        except ValueError:
            return None
        return started, until

    def written(self, directory: Path) -> float:
        """The time of the last heartbeat by the clock of the file system, in seconds since 1970."""
        try:
            return _path(directory, self.number).stat().st_mtime
        except OSError:
            return time.time()

    @property
    def cost(self) -> tuple[float, str] | None:
        """What the attempt has cost, from the hold to its last heartbeat, and the currency; None where it is unknown."""
        if self.price_per_hour is None or self.times is None:
            return None
        price, currency = self.price_per_hour
        started, until = self.times
        return price * (until - started).total_seconds() / 3600.0, currency

    def is_of(self, owner: Mapping[str, Any]) -> bool:
        """Whether the hold file names this owner. The owner is a host, or a process of a host."""
        return all((self.content or {}).get(name) == value for name, value in owner.items())


class Hold:
    """A hold that this process has on a directory. `release` ends the hold; the end of a `with` block on the hold does so too.

    Attributes:
        number: the number N in the file name hold-N.json, which is also the number of the attempt.
        lost: whether the heartbeat found a hold file with a larger number.
    """

    def __init__(
        self, directory: Path, number: int, content: dict[str, Any], descriptor: int, heartbeat_seconds: float
    ):
        self.directory = directory
        self.number = number
        self.lost = False
        self._content = content
        self._descriptor = descriptor
        self._ended = threading.Event()
        self._writing = threading.Lock()  # between the heartbeat and `describe`
        self._thread = threading.Thread(target=self._keep, args=(heartbeat_seconds,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.release()

    def check(self) -> None:
        """Check that this process still owns the directory. Call `check` before you write a file that other processes read.

        Raises:
            HoldLostError: another process has taken a larger number.
            EnvironmentProblem: the directory cannot be listed, so nobody can say whose it is.
        """
        newest = newest_hold(self.directory)
        if newest is not None and newest.number > self.number:
            self.lost = True
            raise HoldLostError(f"lost to {newest.owner}")

    def describe(self, **about: str | float) -> None:
        """Add items to the content of the hold file and write it, so that an attempt that is killed at once tells them too.

        A disk that cannot take them now gets them with the next heartbeat.

        Raises:
            HoldLostError: another process has taken a larger number.
        """
        with self._writing:
            self._content = {**self._content, **about}
        with contextlib.suppress(EnvironmentProblem):
            self.check()
            self._write()

    def release(self, failure: str | None = None) -> None:
        """End the hold, so that another process may take the directory. The hold file stays as a record of the attempt.

        Args:
            failure: the outcome of a run that this attempt could not finish (`failed` or `oom`); `failures` counts it.
        """
        self._ended.set()
        self._thread.join()
        of_failure = {"failure": failure} if failure is not None else {}
        with contextlib.suppress(HoldLostError, EnvironmentProblem):  # a hold that is not released becomes stale later
            self.check()
            self._write(released=True, **of_failure)
        os.close(self._descriptor)

    def _keep(self, heartbeat_seconds: float) -> None:
        while not self._ended.wait(heartbeat_seconds):
            try:
                self.check()
                self._write()
            except HoldLostError:
                return
            except EnvironmentProblem:  # a full disk may have room at the next heartbeat
                continue

    def _write(self, *, released: bool = False, **about: str) -> None:
        with self._writing:
            beat = {"beat": self._content["beat"] + 1, "until": _now(), "released": released}
            self._content = {**self._content, **about, **beat}
            fsio.write_table(_path(self.directory, self.number), self._content)


class Watch:
    """Remembers the holds of other hosts, and how long, by the clock of this process, each hold file has not changed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._unchanged_since: dict[Path, tuple[StoredHold, float]] = {}

    def is_stale(self, directory: Path, hold: StoredHold) -> bool:
        """Whether the file of this hold has not changed for longer than two heartbeats (STALE_SECONDS)."""
        last, since = self._unchanged_since.get(directory, (None, 0.0))
        if last != hold:
            self._unchanged_since[directory] = (hold, self._clock())
            return False
        return self._clock() - since > STALE_SECONDS


def take(
    directory: Path,
    *,
    stale: int | None = None,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    about: Mapping[str, Any] = NOTHING_MORE,
) -> Hold | None:
    """Take a directory and return the hold. The result is None while another process holds the directory.

    Args:
        about: more items for the content of the hold file, such as the price of the process.
        stale: the number of a stale hold, as `holder` returns it. The directory is taken over from the process of this hold.

    Raises:
        EnvironmentProblem: the directory cannot be opened or written.
    """
    descriptor, can_lock = _lock(directory)
    if descriptor is None:
        return None
    with contextlib.ExitStack() as unless_taken:
        unless_taken.callback(os.close, descriptor)
        newest = newest_hold(directory)
        if newest is not None and newest.number != stale and not newest.has_ended(can_lock=can_lock):
            return None
        number = newest.number + 1 if newest is not None else 1
        content = {
            **this_host(),
            "worker": secrets.token_hex(8),
            "pid": os.getpid(),
            "started": (now := _now()),
            "until": now,
            "beat": 0,
            **about,
            "released": False,
        }
        if not fsio.create_table(_path(directory, number), content):
            return None  # another process was faster
        unless_taken.pop_all()
    return Hold(directory, number, content, descriptor, heartbeat_seconds)


def holder(directory: Path, watch: Watch) -> tuple[str | None, int | None]:
    """Find the process that holds a directory.

    Returns:
        (text that names the owner, None) while a process holds the directory; (None, number of the hold) when the hold is stale
        and may be taken over; (None, None) when the directory is free.
    """
    try:
        newest = newest_hold(directory)
    except EnvironmentProblem:  # for example ESTALE: another host may be taking the directory at this moment
        return "a process that cannot be read now", None
    descriptor, can_lock = _lock(directory)
    if descriptor is None:
        return newest.owner if newest is not None else "a process on this host", None
    os.close(descriptor)
    if newest is None or newest.has_ended(can_lock=can_lock):
        return None, None
    if watch.is_stale(directory, newest):
        return None, newest.number
    return newest.owner, None


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[bool]:
    """Lock a directory for the block, against processes of this host. The value is whether this process has the lock.

    Raises:
        EnvironmentProblem: the directory cannot be opened.
    """
    descriptor, _ = _lock(directory)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def end_dead(directory: Path, pid: int, failure: str | None = None) -> bool:
    """Release the hold of a process of this host that has ended, so that other hosts need not wait until the hold is stale.

    Args:
        failure: the outcome of the run, if the end of the process is a failure of the run (see `Hold.release`).

    Returns:
        whether the process that has ended was the owner of the directory.
    """
    newest = newest_hold(directory)
    if newest is None or not newest.content or not newest.is_of({**this_host(), "pid": pid}):
        return False
    ended = {"released": True} | ({"failure": failure} if failure is not None else {})
    if any(newest.content.get(name) != value for name, value in ended.items()):
        with contextlib.suppress(EnvironmentProblem):
            fsio.write_table(_path(directory, newest.number), {**newest.content, **ended})
    return True


def all_holds(directory: Path) -> list[StoredHold]:
    """The holds of all attempts, in their order."""
    try:
        numbers = sorted(int(match[1]) for name in os.listdir(directory) if (match := HOLD_FILE.fullmatch(name)))
    except OSError:
        return []
    return [_stored(directory, number) for number in numbers]


def failures(directory: Path) -> list[StoredHold]:
    """The holds of the attempts that could not finish the run, in the order of the attempts."""
    return [hold for hold in all_holds(directory) if (hold.content or {}).get("failure")]


def newest_hold(directory: Path) -> StoredHold | None:
    """The hold with the largest number; None when the directory was never held.

    Raises:
        EnvironmentProblem: the directory exists and cannot be listed.
    """
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise EnvironmentProblem(f"cannot be listed: {error.strerror}", file=str(directory)) from error
    number = max((int(match[1]) for name in names if (match := HOLD_FILE.fullmatch(name))), default=0)
    return _stored(directory, number) if number else None


def _stored(directory: Path, number: int) -> StoredHold:
    path = _path(directory, number)
    try:
        content = path.read_bytes()
    except OSError:  # for example ESTALE: another host is replacing the file at this moment
        return StoredHold(number, None)
    try:
        return StoredHold(number, fsio.decoded_table(content, str(path)) if content else None)
    except Damaged:
        return StoredHold(number, {})


def this_host() -> dict[str, str]:
    """The texts that identify this host: its name, its boot id (no process survives a restart), its namespace of process ids."""
    boot = namespace = ""
    with contextlib.suppress(OSError):
        boot = BOOT_ID.read_text().strip()
    with contextlib.suppress(OSError):
        namespace = os.readlink(PROCESS_NAMESPACE)
    return {"host": platform.node(), "boot": boot, "namespace": namespace}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _path(directory: Path, number: int) -> Path:
    return directory / f"hold-{number}.json"


def _lock(directory: Path) -> tuple[int | None, bool]:
    """Lock a directory.

    Returns:
        (file descriptor, whether the file system can lock). The descriptor is None if another process has the lock.
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
