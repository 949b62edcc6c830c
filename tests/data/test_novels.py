"""The novels: the table of checksums, mirrors of the release and of its texts, and what is refused."""

import hashlib
import urllib.error
import urllib.request

import pytest

from palinode.base.errors import BadInput, EnvironmentProblem
from palinode.data import catalogue, novels
from palinode.data.catalogue import find_corpus

TEI = """<?xml version="1.0" encoding="UTF-8"?>
<TEI xmlns="http://www.tei-c.org/ns/1.0"><teiHeader><p>not of the book</p></teiHeader>
 <text><front><div><pb n="1"/><p>A <hi>NOVEL</hi>;</p><p/></div></front>
  <body><div><head>CHAPTER I.</head><p>It was a
   <pb n="2"/>long—very long &amp; dark night, <foreign>enfin</foreign>.</p>
   <quote><l>O night,</l><l>O rain.</l></quote></div></body></text></TEI>
"""
TEXT = "A NOVEL;\n\nCHAPTER I.\n\nIt was a long—very long & dark night, enfin.\n\nO night,\n\nO rain."


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror of a release with two books."""
    made = []
    (tmp_path / "mirror" / "level1").mkdir(parents=True)
    for name, tei, text in (("ENG1", TEI, TEXT), ("ENG2", TEI.replace("rain", "snow"), TEXT.replace("rain", "snow"))):
        content = tei.encode()
        (tmp_path / "mirror" / "level1" / f"{name}.xml").write_bytes(content)
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        made.append(novels.Novel(name, blob, hashlib.sha256(f"{text}\n".encode()).hexdigest()))
    monkeypatch.setattr(novels, "novels", lambda: tuple(made))
    return tmp_path / "mirror"


def texts(folder):
    (folder / "txt").mkdir(parents=True)
    for name, text in (("ENG1", TEXT), ("ENG2", TEXT.replace("rain", "snow"))):
        (folder / "txt" / f"{name}.txt").write_text(f"{text}\n")
    return folder


def test_the_table_has_99_books_with_both_hashes():
    books = novels.novels()
    assert len({book.name for book in books}) == 99
    assert {(len(book.git_blob), len(book.sha256)) for book in books} == {(40, 64)}


def test_the_text_of_a_book_is_its_blocks():
    assert novels.tei_text(TEI.encode()) == TEXT


def test_a_mirror_of_the_release_and_one_of_its_texts_give_the_same_corpus(mirror, tmp_path):
    of_release = catalogue.get(novels.NOVELS, tmp_path / "one", mirror)
    of_texts = catalogue.get(novels.NOVELS, tmp_path / "two", texts(tmp_path / "texts"))
    assert (of_release.documents, of_release.licence) == (2, novels.LICENCE)
    found = [list(find_corpus(novels.NOVELS, tmp_path / cache).documents()) for cache in ("one", "two")]
    assert [[one.text for one in documents] for documents in found] == [[TEXT, TEXT.replace("rain", "snow")]] * 2
    shown = [catalogue.show(novels.NOVELS, tmp_path / cache, verify=True)["sha256"] for cache in ("one", "two")]
    assert shown[0] == shown[1]
    assert of_texts.characters == of_release.characters


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("level1/ENG2.xml", TEI, "git hash differs"),
        ("level1/ENG2.xml", None, "lacks this book"),
        ("ENG2.txt", "another", "SHA-256 differs"),
    ],
)
def test_another_book_is_refused_by_its_file(mirror, tmp_path, path, content, message):
    if content is None:
        (mirror / path).unlink()
    else:
        (mirror / path).write_text(content)
    with pytest.raises(BadInput, match=message) as refused:
        catalogue.get(novels.NOVELS, tmp_path / "cache", mirror)
    assert refused.value.file.endswith(path)
    assert novels.NOVELS not in catalogue.names(tmp_path / "cache")


def test_a_corpus_that_is_not_here_names_the_command(tmp_path, monkeypatch):
    with pytest.raises(EnvironmentProblem, match="not on this machine") as missing:
        find_corpus(novels.NOVELS, tmp_path)
    assert missing.value.hint == "`palinode data get eltec-eng`"
    assert novels.NOVELS in {entry.name for entry in catalogue.entries(tmp_path) if entry.state == "can be fetched"}
    with pytest.raises(BadInput, match="is fetched whole"):
        catalogue.get(novels.NOVELS, tmp_path, max_characters=10)

    def no_network(*arguments, **options):
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(EnvironmentProblem, match="Network is unreachable"):
        catalogue.get(novels.NOVELS, tmp_path)
