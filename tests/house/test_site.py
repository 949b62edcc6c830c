"""The documentation site builds without a warning, its reference is complete, and its walks and its notebooks work.

By day the cells of the notebooks run in this process, with audits that take no time: the audit has tests of its own, and takes
most of the minute of a notebook. By night they run in a kernel, with the audit.
"""

import ast
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import instant_audit
import palinode
from instant_audit import one_nursery, shared_nursery  # noqa: F401 - fixtures
from palinode.experiment import audits
from palinode.run import one

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "palinode"
STOPS = re.findall(r"^\| \d+ \| `([\w/.]+)`: `(\w+)` \|", (ROOT / "docs" / "reading.md").read_text(), re.MULTILINE)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.nightly
@pytest.mark.parametrize("builder", ["html"])
def test_the_site_builds_with_warnings_as_errors(tmp_path, builder):
    """By day nothing is written, which takes a third of the time: every page is read and every reference is looked up."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", builder, "-d", str(tmp_path / "cache")]
    done = subprocess.run([*command, str(ROOT / "docs"), str(tmp_path / "site")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert builder == "dummy" or "class=" in (tmp_path / "site" / "index.html").read_text()


def test_the_reference_has_every_public_name():
    listed = re.findall(r"^\.\. auto\w+:: palinode\.([\w.]+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(set(listed)) == sorted(listed)
    namespaces = {name: getattr(palinode, name).__name__.partition(".")[2] for name in ("p", "rate")}
    assert [name for name in palinode.__all__ if namespaces.get(name, name) not in listed] == []


def test_the_walks_have_stops():
    assert len(STOPS) > 20


@pytest.mark.parametrize(("path", "name"), STOPS, ids=lambda value: str(value))
def test_a_stop_of_a_walk_is_where_the_page_says(path, name):
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert name in defined


def test_there_is_a_notebook():
    assert NOTEBOOKS


# By day the notebook of a trained model; first_idea runs what tests/cli/test_run.py runs.
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[] if path.stem == "trained_model" else [pytest.mark.nightly], id=path.stem)
        for path in NOTEBOOKS
    ],
)
def test_the_cells_of_a_notebook_run_in_order(path, tmp_path, monkeypatch, one_nursery):  # noqa: F811 - the fixture
    monkeypatch.setattr(audits, "audit_arm", instant_audit.audit_arm_at_once)
    monkeypatch.setattr(one, "audit_trained", instant_audit.audit_trained_at_once)
    monkeypatch.setattr(audits, "audit_ahead", lambda *arguments, **options: None)
    monkeypatch.setattr("palinode.report.build.write_figures", lambda figures, directory: [])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    names: dict[str, object] = {"__name__": "__main__"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{path.name}, {cell.id}", "exec"), names)


@pytest.mark.nightly
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PALINODE_CACHE", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    NotebookClient(notebook, timeout=1200, kernel_name="python3").execute()
    errors = [cell for cell in notebook.cells for out in cell.get("outputs", ()) if out["output_type"] == "error"]
    assert errors == []
