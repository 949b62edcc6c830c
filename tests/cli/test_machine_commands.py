"""doctor and data: what is on this machine."""

import json
from pathlib import Path


def test_doctor_finds_this_machine_fit(palinode):
    told = palinode("doctor", "--json")
    found = {line["what"]: line for line in json.loads(told.out)}
    assert told.code == 0
    assert found["torch"]["state"] == "ok"
    assert found["store"]["state"] in ("ok", "note")
    assert {"palinode", "cores", "GPU", "cache"} <= set(found)
    assert "torch" in palinode("doctor").out


def test_doctor_names_a_store_that_cannot_be(palinode, here):
    told = palinode("doctor", "--store", "text.txt/runs", "--json")
    assert told.code == 5
    assert [line["what"] for line in json.loads(told.out) if line["state"] == "problem"] == ["store"]
    assert not Path("runs").exists()


def test_a_corpus_can_be_added_listed_shown_and_used(palinode, monkeypatch, tmp_path):
    monkeypatch.setenv("PALINODE_CACHE", str(tmp_path / "own-cache"))
    told = palinode("data", "add", "text.txt", "--name", "mine")
    assert told.code == 0, told.err
    assert told.out.startswith("mine: 1 documents, ")
    assert palinode("data", "add", "text.txt", "--name", "mine").code == 0
    listed = {entry["name"]: entry["state"] for entry in json.loads(palinode("data", "ls", "--json").out)}
    assert listed["mine"] == "here"
    assert listed["python-docs"] == "embedded"
    assert listed["wikitext-2"] == "can be fetched"
    assert "mine" in palinode("data", "ls").out
    shown = json.loads(palinode("data", "show", "mine", "--verify", "--json").out)
    assert shown["documents"] == 1
    Path("text.txt").write_text("another text")
    told = palinode("data", "add", "text.txt", "--name", "mine")
    assert told.code == 2
    assert "mine" in told.err


def test_get_without_a_network_or_copy_is_one_line(palinode, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    told = palinode("data", "get", "wikitext-2")
    assert told.code == 5
    assert len(told.err.splitlines()) == 1
    assert palinode("data", "get", "wikitext-2", "--from", "nowhere").code == 2
