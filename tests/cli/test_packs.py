"""`palinode pack` and `palinode unpack` from the command line."""

import json
import os
from pathlib import Path

import pytest
import quick_audit
from tiny_experiment import TOML

from palinode import Claim
from palinode.base import fsio
from palinode.base.errors import BadInput
from palinode.experiment import audits, plan
from synthetic_store import make_store


def test_an_experiment_goes_into_a_file_and_into_another_store(palinode, here):
    make_store(here / "runs")
    done = palinode("pack", "demo")
    assert done.code == 0
    assert done.out.startswith("demo--laptop.palinode: demo--laptop, 9 runs without weights, ")
    assert palinode("unpack", "demo--laptop.palinode", "--store", "other").out.startswith(
        "demo--laptop: 9 runs added; "
    )
    again = json.loads(palinode("unpack", "demo--laptop.palinode", "--store", "other", "--json").out)
    assert again == {"experiment": "demo--laptop", "runs_added": 0, "runs_present": 9, "store_is_later": False}
    assert palinode("compare", "demo", "--json", "--store", "other").out == palinode("compare", "demo", "--json").out
    assert palinode("ls", "--verify", "--store", "other").code == 0


def test_bad_packs_are_one_line(palinode, here):
    make_store(here / "runs")
    (here / "cut.palinode").write_bytes(b"PK\x03\x04 cut")
    for arguments, code, words in (
        (("unpack", "nothing.palinode"), 2, "nothing.palinode: there is no pack here"),
        (("unpack", "cut.palinode"), 4, "cut.palinode: is no whole pack"),
        (("pack", "dem"), 2, "did you mean"),
        (("pack", "demo", "-o", "."), 2, "--out: is a directory"),
    ):
        done = palinode(*arguments)
        assert done.code == code, done
        assert words in done.err
        assert done.err.count("\n") == 1


def test_a_pack_names_the_experiments_that_its_claims_read_too(palinode, here):
    store = make_store(here / "runs")
    claim = Claim(
        name="R",
        sentence="Alike.",
        measure="rank_correlation",
        arm="both",
        against=("a",),
        experiment="tasks",
        expect="shown",
    )
    store.write_experiment(store.entry("demo").with_(claims=(claim,)))
    assert palinode("pack", "demo").err == "its claims also read tasks--laptop: pack this too\n"
    assert json.loads(palinode("pack", "demo", "--json").out)["claims_read"] == ["tasks--laptop"]


def test_a_pack_names_the_trials_that_have_not_chosen_yet(palinode, here):
    store = make_store(here / "runs")
    assert json.loads(palinode("pack", "demo", "--json").out)["trials_left_out"] is None
    entry = store.entry("demo")
    store.write_experiment(entry.with_(to_choose="recipe.optimizer.learning_rate"))
    trials = f"demo-tuning--{entry.size}"
    assert palinode("pack", "demo").err == f"its trials have not ended and are not in this pack: pack {trials} too\n"
    assert json.loads(palinode("pack", "demo", "--json").out)["trials_left_out"] == trials


@pytest.mark.nightly
def test_a_trained_experiment_and_its_trials_say_the_same_from_a_pack(palinode, here, monkeypatch):
    monkeypatch.setattr(audits, "audit_arm", quick_audit.quick_audit_arm)
    monkeypatch.setattr(audits, "audit_ahead", quick_audit.no_audit_ahead)
    monkeypatch.setattr(plan, "calibrate", quick_audit.quick_calibrate)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767600000")
    tuned = TOML.replace("window_tokens = 16", "window_tokens = 16\ntuning_fraction = 0.1")
    claim = '[[claims]]\nname = "C1"\nsentence = "Better."\nmeasure = "difference"\narm = "both"\nagainst = ["ltr"]\n'
    Path("tiny.toml").write_text(f"{tuned}\n[tuning]\nvalues = [0.001, 0.01]\n\n{claim}")
    assert palinode("run", "tiny.toml").code == 0
    assert palinode("pack", "tiny", "-o", "tiny.palinode").out.startswith("tiny.palinode: tiny--")
    commands = (
        ("compare", "tiny", "--json"),
        ("show", "tiny", "--json"),
        ("report", "tiny", "--out", "page"),
        ("findings", "tiny", "-o", "found"),
    )

    def told():
        said = [palinode(*command) for command in commands]
        written = {path: path.read_bytes() for folder in ("page", "found") for path in Path(folder).rglob("*.*")}
        return [(one.code, one.out, one.err) for one in said], written

    from_the_store = told()
    assert [code for code, _, _ in from_the_store[0]] == [0] * len(commands), from_the_store[0]
    Path("runs").rename("first")
    done = palinode("unpack", "tiny.palinode", "--json")
    assert json.loads(done.out)["runs_added"] == 4 + 4, (
        done.err
    )  # two arms and two seeds, for the runs and for the trials
    assert told() == from_the_store
    assert palinode("ls", "--verify").code == 0
    run_id = next(Path("runs").glob("*/result.json")).parent.name
    refusal = palinode("sample", run_id, "--text", "the cat")
    assert (refusal.code, refusal.err.count("\n")) == (4, 1)
    assert "no checkpoint" in refusal.err


def test_a_pack_goes_through_a_link_and_never_takes_the_place_of_a_pipe(palinode, here):
    make_store(here / "runs")
    os.mkfifo("pipe")
    (here / "target").write_text("old")
    (here / "link").symlink_to("target")
    refused = palinode("pack", "demo", "-o", "pipe")
    assert (refused.code, refused.err) == (2, "pipe: --out: is a pipe or a device; name a file\n")
    assert (here / "pipe").is_fifo()
    assert palinode("pack", "demo", "-o", "link").code == 0
    assert (here / "link").is_symlink()
    assert (here / "target").read_bytes().startswith(b"PK")
    with pytest.raises(BadInput, match="pipe or a device"):
        fsio.write_text(Path("pipe"), "x")
    assert (here / "pipe").is_fifo()
