"""A small corpus and a private cache. Trained runs are audited at once, unless a test asks for the real audit."""

import sys
from pathlib import Path

import pytest

from instant_audit import real_audit, trained_runs_are_audited_at_once  # noqa: F401 - fixtures

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    from tiny_run import TEXT

    folder = tmp_path_factory.mktemp("corpus")
    path = folder / "birds.txt"
    path.write_text(TEXT, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PALINODE_CACHE", str(folder / "cache"))
        yield path
