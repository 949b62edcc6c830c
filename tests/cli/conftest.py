import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from palinode.cli.main import entry
from palinode.experiment import fan_out, run
from palinode.experiment.fan_out import JOB_MODULES
from palinode.sweep.nursery import Nursery


@dataclass
class Told:
    """What one command line did."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


class Shared(Nursery):
    """A nursery that several commands use one after the other: it imports torch once for all of them."""

    def __exit__(self, *_) -> None:
        """It ends with the tests."""


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    shared = Shared(JOB_MODULES)
    yield shared
    shared.close()


@pytest.fixture
def here(tmp_path, monkeypatch, cache, nursery) -> Path:
    """An empty project directory with a small text in it; caches lie elsewhere. All commands share one nursery."""
    for module in (fan_out, run):
        monkeypatch.setattr(module, "nursery_for", lambda resolved, on_problem: nursery)
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
