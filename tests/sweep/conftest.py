"""Fake workers are forked, as `palinode run` forks real ones: a started one computes for half a second before its first line."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from palinode.sweep.nursery import Nursery


@pytest.fixture(scope="module")
def forks() -> Iterator[Nursery]:
    """A nursery of `fake_worker`."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
        with Nursery(("fake_worker",), pytest.fail) as nursery:
            yield nursery
