"""Minimal pairs from a file, a folder or a zip; the spellings of BLiMP; what is no pair."""

import json
import zipfile

import pytest

from palinode.base.errors import BadInput
from palinode.data.pairs import Pair, lines_sha256, read_pairs


def line(good, bad, **more):
    return json.dumps({"sentence_good": good, "sentence_bad": bad, **more}) + "\n"


FIRST = line("She sleeps.", "She sleep.", UID="agreement", field="syntax/semantics")
SECOND = line("They sleep.", "They sleeps.", UID="agreement_2", field="syntax_semantics")
THIRD = line("I sleep.", "I sleeps.", UID="agreement_3", field="syntax-semantics").strip()
RESULTS = '{"UID":"agreement","ngram":0.439,"gpt2":0.994}\n'  # as in the repository of BLiMP
PAIRS = [
    Pair("syntax_semantics", "agreement", "She sleeps.", "She sleep."),
    Pair("syntax_semantics", "agreement_2", "They sleep.", "They sleeps."),
    Pair("syntax_semantics", "agreement_3", "I sleep.", "I sleeps."),
]


@pytest.fixture
def blimp(tmp_path):
    """The same pairs as a folder, a zip with what macOS adds, and one file; the first two with results that are no pairs."""
    (tmp_path / "folder" / "data").mkdir(parents=True)
    (tmp_path / "folder" / "raw_results" / "summary").mkdir(parents=True)
    for name, text in (("a", FIRST), ("b", SECOND), ("c", THIRD)):
        (tmp_path / "folder" / "data" / f"{name}.jsonl").write_text(text)
    (tmp_path / "folder" / "raw_results" / "summary" / "models_summary.jsonl").write_text(RESULTS)
    (tmp_path / "folder" / ".hidden.jsonl").write_text("no pair")
    (tmp_path / "folder" / "README.md").write_text("no pair")
    with zipfile.ZipFile(tmp_path / "blimp.zip", "w") as archive:
        archive.writestr("blimp/data/b.jsonl", SECOND)
        archive.writestr("blimp/data/a.jsonl", FIRST)
        archive.writestr("blimp/data/", b"")
        archive.writestr("blimp/data/c.jsonl", THIRD)
        archive.writestr("blimp/raw_results/summary/models_summary.jsonl", RESULTS)
        archive.writestr("__MACOSX/blimp/data/._a.jsonl", b"\x00\x05\x16\x07")
        archive.writestr("__MACOSX/blimp/data/a.jsonl", b"\x00\x05\x16\x07")
    (tmp_path / "one.jsonl").write_text(FIRST + "\n" + SECOND + THIRD)
    return tmp_path


def test_a_file_a_folder_and_a_zip_hold_the_same_pairs(blimp):
    for name in ("folder", "blimp.zip", "one.jsonl"):
        assert read_pairs(str(blimp / name)) == PAIRS, name
        assert read_pairs(f"blimp:{blimp / name}") == PAIRS
    assert lines_sha256(str(blimp / "folder")) == lines_sha256(str(blimp / "blimp.zip"))
    (blimp / "folder" / "data" / "a.jsonl").write_text(FIRST.replace("She", "He"))
    assert lines_sha256(str(blimp / "folder")) != lines_sha256(str(blimp / "blimp.zip"))


def test_without_a_uid_the_file_names_the_paradigm(tmp_path):
    (tmp_path / "mine.jsonl").write_text(line("a", "b"))
    assert read_pairs(str(tmp_path / "mine.jsonl")) == [Pair("", "mine", "a", "b")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b"", "x.jsonl: pairs: no .jsonl with sentence_good and sentence_bad"),
        ("x.jsonl", b'{"text": "a"}', "x.jsonl: pairs: line 1 has no sentence_good and sentence_bad"),
        ("x.jsonl", line("a", "b").encode() + b"\xff", "line 2 is not JSON"),
        ("x.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("x.zip", b"PK no zip", "x.zip: pairs: is no zip file that can be read"),
    ],
)
def test_what_holds_no_pairs_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_pairs(str(tmp_path / name))


def test_a_folder_without_pairs_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(BadInput, match="pairs: no .jsonl with sentence_good"):
        read_pairs(str(tmp_path))
    with pytest.raises(BadInput, match="no such file or folder"):
        read_pairs(str(tmp_path / "no.zip"))


def test_a_zip_that_unpacks_to_too_much_is_not_unpacked(tmp_path, monkeypatch, blimp):
    monkeypatch.setattr("palinode.data.pairs.LARGEST_BYTES", 100)
    for name in ("blimp.zip", "folder"):
        with pytest.raises(BadInput, match="bytes of text, and at most 100 are read"):
            read_pairs(str(blimp / name))


@pytest.mark.parametrize("where", [45, 60, 80])
def test_a_damaged_zip_is_one_refusal(tmp_path, where):
    path = tmp_path / "pairs.zip"
    line = '{"sentence_good": "the cat sits", "sentence_bad": "the cat sit"}\n'
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one.jsonl", "".join(line.replace("cat", f"cat{n}") for n in range(200)))
    content = bytearray(path.read_bytes())
    content[where : where + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(BadInput, match="no zip file that can be read"):
        read_pairs(str(path))
