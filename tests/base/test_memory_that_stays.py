"""Memory that stays in the process: fewer page faults, and the user's own choice of allocator is left alone."""

import os
import subprocess
import sys

import pytest

from palinode.base import memory
from palinode.base.memory import HUGE_PAGES, why_no_huge_pages, why_not_kept, with_huge_pages

ON_GLIBC = pytest.mark.skipif(why_not_kept({}) is not None, reason="only glibc has the function that keeps memory")
FAULTS = """
import resource
from palinode.base.memory import keep_memory
kept = keep_memory()
def take():
    for _ in range(20):
        bytes(range(1, 9)) * (1 << 20)
take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
take()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
CHOICES = [
    ({"MALLOC_TRIM_THRESHOLD_": "1"}, "MALLOC_TRIM_THRESHOLD_ is set"),
    ({"LD_PRELOAD": "libjemalloc.so"}, "LD_PRELOAD is set"),
    ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, "GLIBC_TUNABLES names glibc.malloc"),
    ({"GLIBC_TUNABLES": f"{HUGE_PAGES}:glibc.malloc.trim_threshold=1"}, "GLIBC_TUNABLES names glibc.malloc"),
]


@ON_GLIBC
def test_what_a_process_frees_is_taken_again_without_page_faults():
    kept, faults = counted(with_huge_pages(os.environ))
    assert kept == "True"
    returned, more_faults = counted({**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"})
    assert returned == "False"
    assert faults < 50 < 10_000 < more_faults


def counted(environment: dict[str, str]) -> tuple[str, int]:
    command = [sys.executable, "-c", FAULTS]
    kept, faults = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, timeout=60
    ).stdout.split()
    return kept, int(faults)


@pytest.mark.parametrize(("environment", "reason"), CHOICES)
def test_a_choice_of_the_user_stays(environment, reason):
    assert with_huge_pages(environment) == environment
    assert memory.users_allocator(environment) == reason


def test_other_tunables_are_joined_and_nothing_is_added_twice():
    other = {"GLIBC_TUNABLES": "glibc.rtld.nns=5"}
    joined = with_huge_pages(other)
    assert joined == {"GLIBC_TUNABLES": f"glibc.rtld.nns=5:{HUGE_PAGES}"}
    assert with_huge_pages(joined) == joined
    assert memory.users_allocator(joined) is None
    assert other == {"GLIBC_TUNABLES": "glibc.rtld.nns=5"}


@ON_GLIBC
def test_a_kernel_without_huge_pages_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "KERNEL_HUGE_PAGES", tmp_path / "enabled")
    assert "has none" in why_no_huge_pages({})
    (tmp_path / "enabled").write_text("always madvise [never]\n")
    assert "says never" in why_no_huge_pages({})
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    assert why_no_huge_pages({}) is None
