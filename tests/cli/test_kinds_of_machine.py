"""Pairs of runs on two kinds of machine: every place where a verdict is read says so, and --one-kind leaves them out."""

import json
from pathlib import Path

import pytest

from palinode.report import build
from palinode.results.store import Store
from synthetic_store import DEMO_ARMS, Synthetic, make_store

SAYS = "2 of 6 pairs were trained on two kinds of machine (seeds 0, 1; they differ in torch)"
LEFT_OUT = "2 of 6 pairs are left out, as asked: trained on two kinds of machine (seeds 0, 1)"


@pytest.fixture
def store(here) -> Store:
    """Two arms; two runs of one of them were trained with another torch."""
    store = make_store(here / "runs", Synthetic(arms=DEMO_ARMS[:2], seeds=tuple(range(6))))
    for run in store.experiment("demo").runs_of("both", "base")[:2]:
        store.write_result(run.result.with_(fingerprint={**run.result.fingerprint, "torch": "2.14.0"}))
    return store


@pytest.mark.parametrize(
    ("options", "says", "pairs"), [((), SAYS, 6), (("--one-kind",), LEFT_OUT, 4)], ids=["all", "one kind"]
)
def test_the_caution_reaches_the_terminal_and_json(palinode, store, options, says, pairs):
    told = palinode("compare", "demo", *options)
    assert f"  Note: {says}" in told.out.splitlines()
    assert f"; {pairs} pairs)" in told.out
    (verdict,) = json.loads(palinode("compare", "demo", "--json", *options).out)
    assert says in verdict["cautions"]
    assert (verdict["pairs"], verdict["left_out"]) == (pairs, 6 - pairs)
    assert isinstance(verdict["by_more_than_matters"], bool)


@pytest.mark.parametrize(("options", "says", "other"), [((), SAYS, LEFT_OUT), (("--one-kind",), LEFT_OUT, SAYS)])
def test_the_caution_reaches_the_page_and_its_tables(palinode, store, monkeypatch, options, says, other):
    monkeypatch.setattr(build, "write_figures", lambda figures, directory: [])
    page = Path(palinode("report", "demo", *options).out.splitlines()[-1])
    for text in (page.read_text(), (page.parent / "tables" / "verdicts.csv").read_text()):
        assert says in text
        assert other not in text
