"""What an audit has measured is kept in the store under a hash of everything that it depends on, the source included."""

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
    """The hash of a part: its name and what it depends on, with the code and the arithmetic that measure it."""
    return content_hash([part, NUMERICS_VERSION, source_of_rooms(), torch.__version__, list(depends_on)])


def cached_part(store: Store | None, subject: str, key: str, check: Callable[[], tuple[Finding, ...]]) -> AuditReport:
    """The stored part under this key, or a new measurement that is stored; a damaged one is measured again."""
    if store is not None:
        try:
            if (held := store.audit(key)) is not None:
                return held
        except Damaged:
            pass
    began = time.perf_counter()
    report = AuditReport(subject=subject, findings=check(), seconds=time.perf_counter() - began)
    if store is not None:
        store.write_audit(key, report)
    return report


@cache
def source_of_rooms() -> str:
    """SHA-256 of the source of every room whose code an audit judges or runs: new code, new audit."""
    package = Path(__file__).parents[1]
    paths = sorted(path for room in AUDITED_ROOMS for path in (package / room).rglob("*.py"))
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
