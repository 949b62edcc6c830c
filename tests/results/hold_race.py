"""Four hosts that share a network disk whose locks end at the host: the lock of each host is a file of its own.

All hosts ask for each run at the same moment: `python hold_race.py <folder> hold|lease`. Prints how many hosts held each run.
"""

import fcntl
import json
import multiprocessing
import os
import sys
from pathlib import Path

from palinode.base import fsio
from palinode.results import holds

RUNS, HOSTS = 300, 4


def host(number, root, protocol, barrier, counts):
    name = f"host-{number}"

    def lock(directory):
        descriptor = os.open(root / f"lock-{name}-{directory.name}", os.O_RDWR | os.O_CREAT)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor, True

    def lease(directory):  # the form before holds: read who holds the run, then write that it is this host
        if (directory / "lease.json").exists():
            return False
        fsio.write_json(directory / "lease.json", {"host": name})
        return True

    holds.this_host = lambda: {"host": name, "boot": name, "namespace": name}
    holds._lock = lock
    for run in range(RUNS):
        directory = root / f"run-{run}"
        barrier.wait()
        got = lease(directory) if protocol == "lease" else holds.take(directory) is not None
        with counts.get_lock():
            counts[run] += got


def main() -> None:
    root, protocol = Path(sys.argv[1]), sys.argv[2]
    for run in range(RUNS):
        (root / f"run-{run}").mkdir()
    fork = multiprocessing.get_context("fork")
    barrier, counts = fork.Barrier(HOSTS), fork.Array("i", RUNS)
    hosts = [fork.Process(target=host, args=(number, root, protocol, barrier, counts)) for number in range(HOSTS)]
    for process in hosts:
        process.start()
    for process in hosts:
        process.join()
        assert process.exitcode == 0
    print(json.dumps(list(counts)))


if __name__ == "__main__":
    main()
