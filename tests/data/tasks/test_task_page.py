"""docs/tasks.md is what its script writes, and shows every task."""

import importlib.util
import sys
from pathlib import Path

import pytest

from palinode.data.tasks import TASKS

SCRIPT = Path(__file__).parents[3] / "docs" / "tasks.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("docs_tasks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.nightly  # it counts every task's answers again, which takes 17 s
def test_the_page_is_what_its_script_writes(script):
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run: python docs/tasks.py"


def test_every_task_has_an_example(script):
    """A new task needs its entry in docs/tasks.py."""
    assert list(script.SMALL) == list(TASKS)
