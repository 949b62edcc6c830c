"""Parts of audits in the store, each under a hash of everything that it depends on, source code included."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from palinode.base.config import content_hash
from palinode.base.errors import Damaged
from palinode.base.finding import AuditReport, Finding
from palinode.base.seeds import NUMERICS_VERSION
from palinode.results.store import Store

AUDITED_ROOMS = ("base", "objectives", "models", "checks", "audit", "train", "evaluate", "data")


def part_key(part: str, *depends_on: object) -> str:
    """The hash of a part: its name, what it depends on, and the code and the torch version that measure it."""
    return content_hash([part, NUMERICS_VERSION, source_of_rooms(), torch.__version__, list(depends_on)])


def cached_part(store: Store | None, subject: str, key: str, check: Callable[[], tuple[Finding, ...]]) -> AuditReport:
    """The part stored under this key; when it is missing or damaged it is measured, and stored."""
    if store is not None:
        try:
            if (stored := store.audit(key)) is not None:
                return stored
        except Damaged:
            pass
    began = time.perf_counter()
    report = AuditReport(subject=subject, findings=check(), seconds=time.perf_counter() - began)
    if store is not None:
        store.write_audit(key, report)
    return report


@cache
def source_of_rooms() -> str:
    """SHA-256 of the source of every room whose code an audit judges or runs, so that new code is audited anew."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for room in AUDITED_ROOMS for path in (package / room).rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
