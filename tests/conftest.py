"""For every room: a test finds the same today and tomorrow, however busy the machine.

torch works with one thread: bits depend on their number, and of small matrices two threads only wait for each other.
Property tests draw the same examples each time (`make test-nightly` draws new ones), and layers that a test builds with
torch's own initialisation start from one seed: a test that is right nineteen times in twenty has not been read.
"""

import gc
import sys

import pytest
from hypothesis import settings

settings.register_profile("palinode", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, derandomize=False)
settings.load_profile("palinode")


def pytest_collection_finish() -> None:
    """What was imported stays to the end, so the garbage collector need not visit these half a million objects."""
    gc.collect()
    gc.freeze()


def set_torch() -> None:
    """One seed and one thread, where torch is loaded at all; tests of rooms without it stay quick."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def same_torch_for_a_module() -> None:
    """Before what a module's tests share is built."""
    set_torch()


@pytest.fixture(autouse=True)
def same_torch_for_a_test() -> None:
    """Before each test, whichever ran before it."""
    set_torch()
