import random
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from instant_audit import (  # noqa: F401 - fixtures
    one_nursery,
    own_nurseries,
    real_audit,
    shared_nursery,
    trained_runs_are_audited_at_once,
)
from palinode.cli.main import entry


@dataclass
class Told:
    """What one command line did."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def here(tmp_path, monkeypatch, cache, one_nursery) -> Path:  # noqa: F811 - the fixture
    """An empty project directory with a small text in it; caches lie elsewhere. All commands share one nursery."""
    monkeypatch.setenv("PALINODE_CACHE", str(cache))
    monkeypatch.delenv("PALINODE_STORE", raising=False)
    monkeypatch.delenv("PALINODE_DATA", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    words = "the cat sat on the mat and the dog ran to the man who had a hat on his head"
    drawn = random.Random(1)  # no two documents alike: duplicates would be dropped
    Path("text.txt").write_text("\n\n".join(" ".join(drawn.choices(words.split(), k=12)) for _ in range(200)))
    return project


@pytest.fixture
def palinode(here, capsys):
    """Runs a command line in this process, through the same entry as the program."""

    def call(*arguments: str) -> Told:
        capsys.readouterr()
        code = entry(arguments)
        output = capsys.readouterr()
        return Told(code, output.out, output.err)

    return call
