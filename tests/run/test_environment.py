"""The environment of a run names what its numbers depend on, and nothing else that is installed."""

import hashlib
from importlib import metadata

import pytest
from tiny_run import tiny_spec

from palinode.results.holds import newest_hold
from palinode.results.store import Store
from palinode.run.environment import environment
from palinode.run.one import run_one
from palinode.spec.code import run_file

FILE = """
import json
from palinode import LtrObjective
{line}

class Mine(LtrObjective):
    pass
"""


def text_of(path, line):
    path.write_text(FILE.format(line=line))
    mine = run_file(path).user_parts["user:Mine"]
    found, text = environment(tiny_spec(path, objective=mine()))
    assert found == hashlib.sha256(text.encode()).hexdigest()[:16]
    return text.splitlines()


def test_the_environment_of_built_in_parts_is_torch_numpy_and_palinode(tmp_path):
    _, text = environment(tiny_spec(tmp_path))
    names = [line.partition("==")[0] for line in text.splitlines()]
    assert names == ["numpy", "palinode", "torch"]


@pytest.mark.parametrize("line", ["import polars as pl", "from polars import DataFrame", "import polars.io.csv"])
def test_a_package_that_the_users_file_imports_is_in_the_environment(tmp_path, line):
    assert f"polars=={metadata.version('polars')}" in text_of(tmp_path / "mine.py", line)


def test_what_a_neighbour_of_the_users_file_imports_is_in_the_environment(tmp_path):
    (tmp_path / "beside_mine.py").write_text("import scipy\nimport not_installed_anywhere\n")
    lines = text_of(tmp_path / "other.py", "if 0:\n    import beside_mine")
    assert [line.partition("==")[0] for line in lines] == ["numpy", "palinode", "scipy", "torch"]


def test_a_run_names_its_environment_and_the_store_has_the_list_once(corpus, tmp_path):
    store = Store(tmp_path)
    first, second = (run_one(tiny_spec(corpus, 10, None, seed=seed), store) for seed in (1, 2))
    assert first.fingerprint["environment"] == second.fingerprint["environment"]
    [path] = (tmp_path / "environments").iterdir()
    assert path.stem == first.fingerprint["environment"]
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] == path.stem
    assert "environments" not in store.run_ids()
    held = newest_hold(store.run_directory(first.run_id)).content
    assert held["kind"] == first.kind, "an attempt that ends without a result has told its kind of machine"
