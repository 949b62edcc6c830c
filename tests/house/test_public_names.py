"""`import palinode` is cheap and complete: every public name resolves, nothing heavy is loaded before it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import palinode
from palinode.objectives.probability import PROBABILITIES
from palinode.train.schedule import SCHEDULES

TABLES = {"p": PROBABILITIES, "rate": SCHEDULES}


def test_every_public_name_resolves():
    for name in palinode.__all__:
        assert getattr(palinode, name).__name__.rpartition(".")[2] == name


def test_a_star_import_gives_the_public_names_and_nothing_else():
    names: dict[str, object] = {}
    exec("from palinode import *", names)
    assert sorted(set(names) - {"__builtins__"}) == palinode.__all__


def test_dir_lists_the_public_names_alone():
    assert dir(palinode) == sorted([*palinode.__all__, "__version__"])


@pytest.mark.parametrize("name", TABLES)
def test_a_namespace_holds_the_built_in_schedules_and_nothing_else(name):
    namespace = getattr(palinode, name)
    assert {getattr(namespace, one) for one in namespace.__all__} == set(TABLES[name].values())
    assert [one for one in dir(namespace) if not one.startswith("_")] == sorted(namespace.__all__)


def test_the_older_names_are_the_schedules_of_p():
    assert all(getattr(palinode, name) is getattr(palinode.p, name) for name in palinode.p.__all__)


def test_importing_palinode_loads_no_torch():
    program = "import sys, palinode; dir(palinode); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr


def test_a_type_checker_sees_every_public_name_and_the_package_is_marked_as_typed():
    stub = ast.parse(Path(palinode.__file__).with_suffix(".pyi").read_text())
    names = [alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(names) == palinode.__all__
    assert Path(palinode.__file__).with_name("py.typed").exists()
