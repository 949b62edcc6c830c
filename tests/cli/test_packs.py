"""`palinode pack` and `palinode unpack` from the command line."""

import json

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
    assert again == {"experiment": "demo--laptop", "runs_added": 0, "runs_present": 9}
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
