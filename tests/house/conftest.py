"""What several tests of the house share."""

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "what_survives.py"


@pytest.fixture(scope="module")
def tool():
    """The program that writes findings/, as a module."""
    spec = importlib.util.spec_from_file_location("what_survives", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
