"""`palinode new` writes an experiment that is worth starting from."""

import ast
import shutil
import subprocess
from pathlib import Path

import pytest

from palinode.cli.main import app  # noqa: F401 - the program imports before the test changes directory
from palinode.spec import load


def test_it_resolves_with_an_objective_of_the_users_own(palinode):
    told = palinode("new", "my idea.py")
    assert (told.code, told.err) == (0, "")
    source = load(Path("my idea.py"))
    resolved = source.resolve("smoke")
    assert resolved.name == "my-idea"
    kinds = {run.arm: run.spec.objective.kind_name() for run in resolved.runs}
    assert kinds == {"ltr": "ltr", "further": "user:LookFurther"}
    assert len(source.resolve().runs) == 10
    assert palinode("new", "my idea.py").code == 2


def test_the_objective_has_at_most_30_lines(palinode):
    palinode("new", "idea.py")
    tree = ast.parse(Path("idea.py").read_text())
    (cls,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert cls.end_lineno - cls.lineno + 1 <= 30


@pytest.mark.parametrize("name", ["idea", "idea.toml", "idea.txt"])
def test_only_python_files_are_written(palinode, here, name):
    assert palinode("new", name).code == 2
    assert not Path(name).exists()


def test_it_is_formatted_as_this_project_is(palinode):
    ruff = shutil.which("ruff") or str(Path(__import__("sys").executable).with_name("ruff"))
    palinode("new", "idea.py")
    done = subprocess.run(
        [ruff, "check", "--isolated", "--line-length", "120", "--select", "E,F,W,B,UP", "idea.py"], capture_output=True
    )
    assert done.returncode == 0, done.stdout
