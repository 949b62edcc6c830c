"""Hugging Face sets, from a local folder in the hub's layout; and one clear line where there is no network."""

import os
import subprocess
import sys

import polars
import pytest
from corpora_for_tests import sentences, texts_of

from palinode.base.errors import BadInput, EnvironmentProblem
from palinode.data import catalogue, hub
from palinode.data.config import SPLITS, DataConfig
from palinode.data.store import prepare

CARD = """---
configs:
- config_name: {name}
  data_files:
{files}---
# A data set
"""


@pytest.fixture(autouse=True)
def offline_home(tmp_path_factory, monkeypatch):
    """The libraries' own caches stay inside the test."""
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def repository(root, configuration, rows_by_split):
    """A folder as the hub serves a data set: a card that lists parquet files, each split cut into two of them."""
    files = ""
    for split, rows in rows_by_split.items():
        half = len(rows) // 2
        files += f"  - split: {split}\n    path: {configuration}/{split}-*\n"
        for number, part in enumerate((rows[:half], rows[half:])):
            path = root / configuration / f"{split}-{number:05}-of-00002.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            polars.DataFrame({"text": part}).write_parquet(path)
    (root / "README.md").write_text(CARD.format(name=configuration, files=files))
    return root


def wikitext_rows(titles):
    """Rows as the hub has them: a blank line is an empty row, other lines keep their ends."""
    rows = []
    for title in titles:
        rows += [
            "",
            f" = {title} = \n",
            "",
            f" Text of {title} . \n",
            "",
            " = = Section = = \n",
            "",
            f" More {title} . \n",
        ]
    return rows


@pytest.fixture
def wikitext(tmp_path):
    splits = {"train": "ABC", "validation": "DE", "test": "F"}
    rows = {split: wikitext_rows(titles) for split, titles in splits.items()}
    return repository(tmp_path / "wikitext", "wikitext-2-raw-v1", rows)


def test_wikitext_comes_as_articles_in_its_own_splits(wikitext, cache):
    entry = catalogue.get("wikitext-2", cache, source=wikitext)
    assert (entry.state, entry.documents) == ("here", 6)
    store = prepare(DataConfig(corpus="wikitext-2", window_tokens=4, split="given"), cache)
    texts = texts_of(store)
    assert [store.manifest["splits"][split]["documents"] for split in SPLITS] == [3, 2, 1]
    assert texts["test"] == "\n = F = \n\n Text of F . \n\n = = Section = = \n\n More F . \n"
    assert texts["train"].count(" = = Section = = ") == 3
    shown = catalogue.show("wikitext-2", cache, verify=True)
    assert shown["licence"] == "CC BY-SA 3.0 and GFDL"
    assert shown["revision"] == "local copy wikitext"


def test_a_set_with_a_train_split_only_is_split_by_document(tmp_path, cache):
    source = repository(tmp_path / "fineweb", "sample-10BT", {"train": sentences(40)})
    catalogue.get("fineweb-edu", cache, source=source)
    store = prepare(DataConfig(corpus="fineweb-edu", window_tokens=4), cache)
    assert [store.manifest["splits"][split]["documents"] for split in SPLITS] == [36, 2, 2]


def test_a_limit_stops_the_train_split_at_a_whole_document(tmp_path, cache):
    source = repository(tmp_path / "fineweb", "sample-10BT", {"train": sentences(40)})
    limit = sum(map(len, sentences(7))) - 5
    entry = catalogue.get("fineweb-edu", cache, source=source, max_characters=limit)
    assert entry.documents == 7
    assert catalogue.show("fineweb-edu", cache)["limit_characters"] == str(limit)


def test_it_is_fetched_once(wikitext, cache, monkeypatch):
    catalogue.get("wikitext-2", cache, source=wikitext)
    monkeypatch.setattr(hub, "hub_documents", lambda *_: pytest.fail("was fetched again"))
    assert catalogue.get("wikitext-2", cache).documents == 6


def test_an_unknown_set_gets_the_nearest(cache):
    with pytest.raises(BadInput, match="did you mean 'wikitext-2'"):
        catalogue.get("wikitext2", cache)


def test_a_local_copy_of_something_else_is_named(tmp_path, cache, wikitext):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="empty: is not a local copy of wikitext-2"):
        catalogue.get("wikitext-2", cache, source=tmp_path / "empty")
    with pytest.raises(BadInput, match="wikitext: is not a local copy of wikitext-103"):
        catalogue.get("wikitext-103", cache, source=wikitext)
    with pytest.raises(BadInput, match="missing: is not a local copy"):
        catalogue.get("wikitext-2", cache, source=tmp_path / "missing")
    assert catalogue.names(cache) == []


def test_rows_without_text_are_named(tmp_path, cache):
    source = tmp_path / "other"
    path = source / "sample-10BT" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    polars.DataFrame({"body": ["a"]}).write_parquet(path)
    card = CARD.format(name="sample-10BT", files="  - split: train\n    path: sample-10BT/train-*\n")
    (source / "README.md").write_text(card)
    with pytest.raises(BadInput, match=r"other: text: row 0 has no text in column 'text' \(columns: body\)"):
        catalogue.get("fineweb-edu", cache, source=source)


def test_every_revision_is_a_commit():
    for wanted in hub.HUB_SETS.values():
        assert len(wanted.revision) == 40
        assert int(wanted.revision, 16)


def test_offline_is_one_line(cache):
    """In a process of its own, since the libraries read HF_HUB_OFFLINE when they are imported."""
    program = (
        "import sys; from pathlib import Path; from palinode.base.errors import EnvironmentProblem\n"
        "from palinode.data import catalogue\n"
        "try:\n    catalogue.get('tinystories', Path(sys.argv[1]))\n"
        "except EnvironmentProblem as error:\n    print(error.exit_code, error)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(cache)], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.startswith("5 data.corpus: cannot fetch tinystories: ")
    assert "palinode data get tinystories" in done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert catalogue.names(cache) == []


def test_without_the_library_the_extra_is_named(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'palinode\[hf\]'"):
        catalogue.get("tinystories", cache)
