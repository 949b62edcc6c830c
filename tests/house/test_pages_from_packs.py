"""The pages of findings/ are made from the packs of findings/records/, byte for byte: nothing on them is typed."""

from pathlib import Path

import pytest

from palinode import Store
from palinode.report.findings import write_findings
from palinode.results.pack import unpack

FINDINGS = Path(__file__).parents[2] / "findings"
PACKS = sorted((FINDINGS / "records").glob("*.palinode"))


def test_there_are_packs():
    assert PACKS


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.stem)
def test_a_page_is_rebuilt_from_its_pack(pack, tmp_path):
    store = Store(tmp_path / "runs")
    unpack(store, pack)
    for written in write_findings(store, pack.stem, tmp_path / "pages"):
        committed = FINDINGS / written.name
        assert committed.read_bytes() == written.read_bytes(), f"run: palinode unpack, palinode findings {pack.stem}"
