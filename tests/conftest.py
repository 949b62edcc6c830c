"""For every room: a test finds the same today and tomorrow, however busy the machine.

Property tests draw the same examples each time (`make test-nightly` draws new ones), and layers that a test builds with
torch's own initialisation start from one seed: a test that is right nineteen times in twenty has not been read.
"""

import sys

import pytest
from hypothesis import settings

settings.register_profile("palinode", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, derandomize=False)
settings.load_profile("palinode")


def seed_torch() -> None:
    """Seed torch's own generator where torch is loaded at all; tests of rooms without it stay quick."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def one_seed_for_a_module() -> None:
    """Before what a module's tests share is built."""
    seed_torch()


@pytest.fixture(autouse=True)
def one_seed_for_a_test() -> None:
    """Before each test, whichever ran before it."""
    seed_torch()
