"""doctor and data: what is on this machine."""

import json
import sys
from pathlib import Path


def test_doctor_finds_this_machine_fit(palinode):
    output = palinode("doctor", "--json")
    result = {line["what"]: line for line in json.loads(output.out)}
    assert output.code == 0
    assert result["torch"]["state"] == "ok"
    assert result["store"]["state"] in ("ok", "note")
    assert {"palinode", "cores", "freed memory", "GPU", "cache"} <= set(result)
    assert "torch" in palinode("doctor").out


def test_doctor_names_the_variable_that_chooses_an_allocator(palinode, monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    line = next(line for line in palinode("doctor").out.splitlines() if "freed memory" in line)
    assert line.startswith("note")
    assert "MALLOC_ARENA_MAX is set" in line or "no glibc" in line


def test_doctor_names_a_store_that_cannot_be(palinode, here):
    output = palinode("doctor", "--store", "text.txt/runs", "--json")
    assert output.code == 5
    assert [line["what"] for line in json.loads(output.out) if line["state"] == "problem"] == ["store"]
    assert not Path("runs").exists()


def test_a_corpus_can_be_added_listed_shown_and_used(palinode, monkeypatch, tmp_path):
    monkeypatch.setenv("PALINODE_CACHE", str(tmp_path / "own-cache"))
    output = palinode("data", "add", "text.txt", "--name", "mine")
    assert output.code == 0, output.err
    assert output.out.startswith("mine: 1 documents, ")
    assert palinode("data", "add", "text.txt", "--name", "mine").code == 0
    listed = {entry["name"]: entry["state"] for entry in json.loads(palinode("data", "ls", "--json").out)}
    assert listed["mine"] == "here"
    assert listed["python-docs"] == "embedded"
    assert listed["wikitext-2"] == "can be fetched"
    assert "mine" in palinode("data", "ls").out
    shown = json.loads(palinode("data", "show", "mine", "--verify", "--json").out)
    assert shown["documents"] == 1
    Path("text.txt").write_text("another text")
    output = palinode("data", "add", "text.txt", "--name", "mine")
    assert output.code == 2
    assert "mine" in output.err


def test_get_without_a_network_or_copy_is_one_line(palinode, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for module in filter(None, map(sys.modules.get, ("huggingface_hub.constants", "datasets.config"))):
        monkeypatch.setattr(
            module, "HF_HUB_OFFLINE", True
        )  # a test before this one has imported it, without the variable
    output = palinode("data", "get", "wikitext-2")
    assert output.code == 5
    assert len(output.err.splitlines()) == 1
    assert palinode("data", "get", "wikitext-2", "--from", "nowhere").code == 2
