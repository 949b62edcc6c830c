"""Memory that stays in the process: glibc keeps what a step frees for the next step, and the kernel gives it in huge pages.

A training step frees its buffers and takes the same ones again. glibc returns large buffers to the kernel, so that a small step
pays thousands of page faults. `keep_memory` stops this in a process that computes. Huge pages are chosen before a process starts,
by the one who starts it: `with_huge_pages`. Neither changes a number that is computed. Both leave the allocator of a user alone.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"
HUGE_PAGES = "glibc.malloc.hugetlb=1"
KERNEL_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # the numbers that mallopt(3) gives to its parameters
LARGEST_BYTES = 2**31 - 1
LARGEST_MMAP_BYTES = 2**25  # the largest threshold that current versions of glibc accept
TOP_PAD_BYTES = 2**26


def keep_memory() -> bool:
    """Let glibc keep freed memory in this process, and take memory from the kernel in pieces of 64 MiB.

    Only a process that computes and then ends should call this, because its memory is returned at its end.

    Returns:
        whether the memory is kept. It is not where `why_not_kept` gives a reason.
    """
    if why_not_kept() is not None:
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mmap = mallopt(MMAP_THRESHOLD, LARGEST_BYTES) or mallopt(MMAP_THRESHOLD, LARGEST_MMAP_BYTES)
    return bool(mmap and mallopt(TRIM_THRESHOLD, LARGEST_BYTES) and mallopt(TOP_PAD, TOP_PAD_BYTES))


def with_huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that computes: glibc asks the kernel for huge pages, unless the user chose an allocator."""
    tunables = environment.get(TUNABLES, "")
    if users_allocator(environment) is not None or HUGE_PAGES in tunables.split(":"):
        return dict(environment)
    return {**environment, TUNABLES: f"{tunables}:{HUGE_PAGES}" if tunables else HUGE_PAGES}


def why_not_kept(environment: Mapping[str, str] = os.environ) -> str | None:
    """The reason why memory is not kept in a process with this environment; None when it is kept."""
    if not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallopt"):
        return "this system has no glibc"
    return users_allocator(environment)


def why_no_huge_pages(environment: Mapping[str, str] = os.environ) -> str | None:
    """The reason why a process that is started with this environment gets no huge pages; None when it gets them."""
    if (reason := why_not_kept(environment)) is not None:
        return reason
    try:
        never = "[never]" in KERNEL_HUGE_PAGES.read_text(encoding="utf-8")
    except OSError:
        return "this kernel has none"
    return "transparent_hugepage says never" if never else None


def users_allocator(environment: Mapping[str, str]) -> str | None:
    """A text that names the variable with which the user chose or set an allocator; None when no variable does."""
    for name, value in environment.items():
        if value and (name == "LD_PRELOAD" or name.startswith("MALLOC_")):
            return f"{name} is set"
    own = [one for one in environment.get(TUNABLES, "").split(":") if one.startswith("glibc.malloc.")]
    return f"{TUNABLES} names glibc.malloc" if own not in ([], [HUGE_PAGES]) else None
