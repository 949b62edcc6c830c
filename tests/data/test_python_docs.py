"""The embedded corpus: prose only, the same every time, without importing a module, and without repeats across documents."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from palinode.base.errors import EnvironmentProblem
from palinode.data import python_docs as module
from palinode.data.config import SPLITS, DataConfig
from palinode.data.python_docs import gather, python_docs
from palinode.data.store import prepare

LIBRARY = Path(sysconfig.get_path("stdlib"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("python-docs")


@pytest.fixture(scope="module")
def documents(cache):
    return list(python_docs(cache).documents())


def test_it_is_a_corpus_of_a_useful_size(documents):
    size = sum(len(document.text.encode()) for document in documents)
    assert 1_000_000 < size < 4_000_000
    assert len(documents) > 250
    assert all(len(document.text) >= module.SHORTEST_DOCUMENT for document in documents)


def test_topics_come_first_then_modules_both_sorted(documents):
    names = [document.name for document in documents]
    topics = [name for name in names if name.startswith("topic ")]
    assert names == [*sorted(topics), *names[len(topics) :]]
    assert len(topics) > 40
    modules = names[len(topics) :]
    assert all(name.startswith("module ") for name in modules)
    assert "module argparse" in modules
    assert not [name for name in modules if ".test" in name or "pydoc_data" in name]


def test_it_is_prose(documents):
    text = "\n".join(document.text for document in documents)
    assert ">>> " not in text
    assert sum(map(str.isalpha, text)) > 0.7 * len("".join(text.split()))


def test_no_run_of_words_of_one_split_stands_in_another(cache):
    """13 words in a row: at most 1 in 1000 of validation and test occur in train (the bound of the contamination audit)."""
    store = prepare(DataConfig(), cache)
    words = {split: store.tokenizer.decode(store.tokens(split).tolist()).casefold().split() for split in SPLITS}
    in_train = {tuple(words["train"][i : i + 13]) for i in range(len(words["train"]) - 12)}
    for split in ("validation", "test"):
        grams = [tuple(words[split][i : i + 13]) for i in range(len(words[split]) - 12)]
        assert len(grams) > 3000
        assert sum(gram in in_train for gram in grams) <= 0.001 * len(grams)


def test_paragraphs_that_repeat_are_left_out_and_others_kept():
    seen: set[str] = set()
    prose = "A paragraph of eleven words that says something worth reading once."
    text = f"{prose}\n\n>>> print('doctest')\nNot prose.\n\n| --- | --- |\n\nFor example:\n\n    >>> 1 + 1\n    2\n\nOther prose."
    assert list(module._fresh_paragraphs(text, seen)) == [prose, "For example:", "Other prose."]
    edited = prose.replace("\n", " ").upper() + " And three more."
    assert list(module._fresh_paragraphs(f"{edited}\n\nSomething new, not seen before at all.", seen)) == [
        "Something new, not seen before at all."
    ]


def test_source_is_parsed_never_run(tmp_path):
    """A library whose modules would fail, or leave a mark, if they were imported."""
    (tmp_path / "pydoc_data").mkdir()
    (tmp_path / "pydoc_data" / "topics.py").write_text(
        "topics = {'zen': 'Words of a topic. ' * 20}".replace(" * 20", "")
    )
    (tmp_path / "package" / "tests").mkdir(parents=True)
    words = " ".join(f"word{n}" for n in range(80))
    body = f'"""Module {words}."""\nraise SystemExit\nif True:\n    class A:\n        """Class {words[::-1]}."""\n'
    (tmp_path / "package" / "__init__.py").write_text(body)
    (tmp_path / "package" / "tests" / "hidden.py").write_text(f'"""Hidden {words}."""')
    (tmp_path / "package" / "template.py").write_text("this is ${not} python")
    result = list(gather(tmp_path))
    assert [document.name for document in result] == ["module package"]
    assert "Module word0" in result[0].text
    assert "Class " in result[0].text


def test_a_python_without_source_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="no source of its standard library"):
        python_docs(tmp_path)


@pytest.mark.nightly
def test_another_process_gathers_the_same_text(cache, tmp_path):
    program = (
        "import sys; from pathlib import Path\nfrom palinode.data.store import prepare\n"
        "from palinode.data.config import DataConfig\nbefore = set(sys.modules)\n"
        "print(prepare(DataConfig(), Path(sys.argv[1])).sha256, 'turtle' in sys.modules, 'antigravity' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "5", "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert done.stdout.split() == [prepare(DataConfig(), cache).sha256, "False", "False"]
    assert done.stderr == ""


def test_it_is_gathered_once(cache, documents, monkeypatch):
    monkeypatch.setattr(module, "gather", lambda _: pytest.fail("was gathered again"))
    assert len(list(python_docs(cache).documents())) == len(documents)
