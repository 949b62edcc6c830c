"""A small corpus and a private cache."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    from tiny_run import TEXT

    monkeypatch.setenv("PALINODE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "birds.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path
