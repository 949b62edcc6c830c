"""Makes each process of a tree one of another host: Python imports this file at its start when PYTHONPATH names this folder.

The host has its own name, boot and namespace of process ids, and its locks end at the host, as on a network disk that does not
share locks. Heartbeats are short, so that a host that has died is noticed in seconds instead of minutes.
"""

import fcntl
import os
from pathlib import Path

from palinode.results import holds

NAME, LOCKS = os.environ["BATTERY_HOST"], Path(os.environ["BATTERY_LOCKS"])
HEARTBEAT_SECONDS = float(os.environ.get("BATTERY_HEARTBEAT", "1"))
STALE_SECONDS = 5 * HEARTBEAT_SECONDS  # a busy machine may delay a heartbeat


def this_host() -> dict[str, str]:
    return {"host": NAME, "boot": NAME, "namespace": NAME}


def lock(directory: Path) -> tuple[int | None, bool]:
    descriptor = os.open(LOCKS / f"{NAME}-{directory.name}", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None, True
    return descriptor, True


holds.this_host, holds._lock = this_host, lock
holds.STALE_SECONDS = STALE_SECONDS
assert holds.take.__kwdefaults__ is not None
holds.take.__kwdefaults__["heartbeat_seconds"] = HEARTBEAT_SECONDS
