"""The pages of findings/ are made from the packs of findings/records/, byte for byte: nothing on them is typed.

By day the smallest pack that has a page is rebuilt, by night every pack: one of 160 runs takes 8 CPU seconds.
"""

from pathlib import Path

import pytest

FINDINGS = Path(__file__).parents[2] / "findings"
PACKS = sorted((FINDINGS / "records").glob("*.palinode"))
WITH_A_PAGE = [pack for pack in PACKS if (FINDINGS / f"{pack.stem}.md").exists()]
BY_DAY = min(WITH_A_PAGE, key=lambda pack: pack.stat().st_size)


@pytest.mark.parametrize(
    "pack",
    [pytest.param(pack, marks=[] if pack == BY_DAY else [pytest.mark.nightly], id=pack.stem) for pack in PACKS],
)
def test_a_page_is_rebuilt_from_its_pack(tool, pack, tmp_path):
    written = tool.rebuild(pack, tmp_path)
    pages = (FINDINGS / f"{pack.stem}{ending}" for ending in (".md", ".json", ".svg", "-ndcg.svg"))
    assert {path.name for path in written} == {path.name for path in pages if path.exists()}
    for path in written:
        assert path.read_bytes() == (FINDINGS / path.name).read_bytes(), "run: python tools/what_survives.py"


def test_every_page_has_its_pack(tool):
    assert set(tool.read_pages(FINDINGS)) <= {pack.stem for pack in PACKS}
