"""What several tests of the house share."""

import importlib.util
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "what_survives.py"


@pytest.fixture(scope="module")
def tool():
    """The program that writes findings/, as a module."""
    before = list(sys.path)
    sys.path.insert(0, str(TOOL.parent))  # its answers are a module beside it
    spec = importlib.util.spec_from_file_location("what_survives", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module
