"""The parts of audits in the store. Each part is stored under a hash of everything that it depends on, source code included."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch

from palinode.base.config import content_hash
from palinode.base.errors import Damaged
from palinode.base.finding import AuditReport, Finding
from palinode.base.numerics import NUMERICS_VERSION
from palinode.results.holds import Watch, holder, take
from palinode.results.store import Store

LOOK_AGAIN_SECONDS = 0.5  # how often to look for the audit that another process measures
DATA_ROOMS = ("base", "checks", "audit", "data")  # the audit of a data set runs no other code
AUDITED_ROOMS = (*DATA_ROOMS, "objectives", "models", "train", "evaluate")


def part_key(part: str, *depends_on: object, rooms: tuple[str, ...] = AUDITED_ROOMS) -> str:
    """The hash of a part: its name, its inputs, and the torch version and the code of the rooms that measure the part."""
    return content_hash([part, NUMERICS_VERSION, source_of_rooms(rooms), torch.__version__, list(depends_on)])


Check = Callable[[], tuple[Finding, ...]]


def cached_part(store: Store | None, subject: str, key: str, check: Check) -> AuditReport:
    """The part that is stored under this key. A part that is missing or damaged is measured and stored.

    While another process measures the part, this call waits for the result.
    """
    if store is None:
        return _measured(subject, check)
    watch = Watch()
    while (report := stored_or_measured(store, subject, key, check, watch)) is None:
        time.sleep(LOOK_AGAIN_SECONDS)
    return report


def cached_parts(store: Store, subject: str, parts: Sequence[tuple[str, Check]]) -> list[AuditReport]:
    """The parts under these keys, as `cached_part` gives them. Parts that another process is measuring are waited for last."""
    first = [stored_or_measured(store, subject, key, check, Watch()) for key, check in parts]
    return [
        cached_part(store, subject, *part) if report is None else report
        for part, report in zip(parts, first, strict=True)
    ]


def stored_or_measured(store: Store, subject: str, key: str, check: Check, watch: Watch) -> AuditReport | None:
    """The part as `cached_part` gives it; None while another process measures the part."""
    if (stored := _stored(store, key)) is not None:
        return stored
    directory = store.audit_holds(key)
    owner, stale = holder(directory, watch)
    if owner is not None or (hold := take(directory, stale=stale)) is None:
        return None
    with hold:
        if (stored := _stored(store, key)) is not None:  # another process stored the part after the first look
            return stored
        report = _measured(subject, check)
        hold.check()
        store.write_audit(key, report)
    return report


def _stored(store: Store, key: str) -> AuditReport | None:
    try:
        return store.audit(key)
    except Damaged:
        return None


def _measured(subject: str, check: Check) -> AuditReport:
    began = time.perf_counter()
    return AuditReport(subject=subject, findings=check(), seconds=time.perf_counter() - began)


@cache
def source_of_rooms(rooms: tuple[str, ...]) -> str:
    """SHA-256 of the source of rooms whose code an audit judges or runs. New code gives a new hash, so it is audited again."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for room in rooms for path in (package / room).rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
