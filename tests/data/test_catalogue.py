"""Corpora by name: add, list, show; a name means one text."""

import pytest
from corpora_for_tests import sentences, texts_of

from palinode.base.errors import BadInput, Damaged
from palinode.data import catalogue
from palinode.data.catalogue import find_corpus
from palinode.data.config import SPLITS, DataConfig
from palinode.data.corpus import Document
from palinode.data.store import prepare
from palinode.data.text_store import DOCUMENTS, read_text_store, verify_text_store, write_text_store


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "texts"
    root.mkdir()
    for number, text in enumerate(sentences(20)):
        (root / f"{number:02}.txt").write_text(text)
    return root


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_an_added_corpus_is_found_by_name_when_its_files_are_gone(folder, cache):
    entry = catalogue.add(folder, "birds", cache)
    assert (entry.name, entry.state, entry.documents) == ("birds", "here", 20)
    assert entry.characters == sum(map(len, sentences(20)))
    direct = prepare(DataConfig(corpus=str(folder), window_tokens=4), cache)
    for path in folder.iterdir():
        path.unlink()
    named = prepare(DataConfig(corpus="birds", window_tokens=4), cache)
    assert texts_of(named) == texts_of(direct)
    assert named.sha256 == direct.sha256


def test_adding_twice_changes_nothing_and_another_text_is_refused(folder, cache):
    catalogue.add(folder, "birds", cache)
    assert catalogue.add(folder, "birds", cache).documents == 20
    (folder / "00.txt").write_text("Another text.")
    with pytest.raises(BadInput, match="name: 'birds' is already the name of another corpus"):
        catalogue.add(folder, "birds", cache)


@pytest.mark.parametrize(
    "name", ["", "..", "a/b", "-x", ".x", "a b", "x" * 65, "python-docs", "wikitext-2", "a\0", "ä"]
)
def test_bad_names_are_refused(folder, cache, name):
    with pytest.raises(BadInput, match="^name: "):
        catalogue.add(folder, name, cache)
    assert not cache.exists()


def test_token_files_are_used_by_path(tmp_path, cache):
    (tmp_path / "a.bin").write_bytes(b"\0\0" * 50)
    with pytest.raises(BadInput, match=r"a\.bin: token files are not copied"):
        catalogue.add(tmp_path / "a.bin", "ids", cache)


def test_the_list_shows_what_is_here_and_what_can_be_fetched(folder, cache):
    catalogue.add(folder, "birds", cache)
    states = {entry.name: entry.state for entry in catalogue.entries(cache)}
    fetched = ("wikitext-2", "wikitext-103", "tinystories", "fineweb-edu", "eltec-eng")
    assert states == {"python-docs": "embedded", "birds": "here"} | dict.fromkeys(fetched, "can be fetched")


def test_show_gives_the_manifest_and_verifies_on_request(folder, cache):
    directory = catalogue.add(folder, "birds", cache).directory
    assert catalogue.show("birds", cache)["documents"] == 20
    content = bytearray((directory / DOCUMENTS).read_bytes())
    content[len(content) // 2] ^= 1
    (directory / DOCUMENTS).write_bytes(content)
    catalogue.show("birds", cache)
    with pytest.raises(Damaged, match=r"documents\.jsonl: is not what was written"):
        catalogue.show("birds", cache, verify=True)
    (directory / DOCUMENTS).write_bytes(content[:-1])
    assert {entry.name: entry.state for entry in catalogue.entries(cache)}["birds"] == "damaged"
    with pytest.raises(Damaged, match="bytes"):
        find_corpus("birds", cache)


def test_show_of_an_unknown_name_gets_the_nearest(folder, cache):
    catalogue.add(folder, "birds", cache)
    with pytest.raises(BadInput, match=r"name: no corpus named 'bird' is here \(did you mean 'birds'\?\)"):
        catalogue.show("bird", cache)
    with pytest.raises(BadInput, match="palinode data get tinystories"):
        catalogue.show("tinystories", cache)


def test_a_misspelt_corpus_gets_the_nearest_added_name(folder, cache):
    catalogue.add(folder, "birds", cache)
    with pytest.raises(BadInput, match="did you mean 'birds'"):
        find_corpus("brids", cache)


def test_documents_of_many_pieces_keep_their_pieces(tmp_path):
    """Large documents are rows in a row: the text comes back whole, in pieces, next to documents of one piece."""
    parts = ["one ", "two\n", '"three"']
    documents = [
        Document.of("small", "before", "train"),
        Document("large", lambda: iter(parts), "test"),
        Document.of("none", "", "train"),
        Document("other", lambda: iter(["x", "y"]), "train"),
        Document.of("last", "after", "validation"),
    ]
    manifest = write_text_store(tmp_path, documents, {"source": "here"})
    result = list(read_text_store(tmp_path, "name").documents())
    assert [(each.name, each.text, each.split) for each in result] == [
        (each.name, each.text, each.split) for each in documents
    ]
    assert list(result[1].pieces()) == list(result[1].pieces()) == parts
    assert manifest["documents"] == 5
    assert manifest["has_splits"]
    assert verify_text_store(tmp_path) == manifest


def test_nothing_is_kept_of_a_corpus_without_text(tmp_path):
    with pytest.raises(BadInput, match="here: holds no text"):
        write_text_store(tmp_path, [Document.of("a", "")], {"source": "here"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"name": "a"}', '{"name": "a", "text": 5, "split": null}', '{"name":1,"text":"","split":"x"}']
)
def test_a_damaged_row_is_named(tmp_path, line):
    import hashlib
    import json

    write_text_store(tmp_path, [Document.of("a", "text")], {})
    content = (line + "\n").encode()
    (tmp_path / DOCUMENTS).write_bytes(content)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest |= {"file_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Damaged, match="line 1 is not a document"):
        list(read_text_store(tmp_path, "name").documents())


def test_an_added_corpus_with_its_own_splits_keeps_them(tmp_path, cache):
    for word in ("train", "valid", "test"):
        (tmp_path / f"wiki.{word}.tokens").write_text(f" \n = Title = \n \n About {word} . \n")
    catalogue.add(tmp_path, "wiki", cache)
    texts = texts_of(prepare(DataConfig(corpus="wiki", window_tokens=4, split="given"), cache))
    assert [texts[split].split()[-2] for split in SPLITS] == ["train", "valid", "test"]
