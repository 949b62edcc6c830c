"""The pages of findings/ are made from the packs of findings/records/, byte for byte: nothing on them is typed.

By day the smallest pack that has a page is rebuilt, by night every pack: one of 160 runs takes 8 CPU seconds.
"""

import json
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


@pytest.mark.parametrize("name", [pack.stem for pack in WITH_A_PAGE])
def test_a_page_says_why_an_arm_cannot_be_told(name):
    page = json.loads((FINDINGS / f"{name}.json").read_text())
    unsaid = [row["arm"] for row in page["arms"] if row["verdict"].endswith("cannot tell") and not row["reasons"]]
    assert not unsaid


def test_a_comparison_has_one_interval_on_its_page():
    seen = set()
    for pack in WITH_A_PAGE:
        page = json.loads((FINDINGS / f"{pack.stem}.json").read_text())
        baseline = page["rule"].partition("every arm against ")[2].partition(",")[0]
        by_rule = {
            (*sides, row["scale"]): (sign, sorted((sign * row["low"], sign * row["high"])))
            for row in page["arms"]
            if row["low"] is not None and not row["verdict"].startswith("LEAK")
            for sides, sign in (((row["arm"], baseline), 1), ((baseline, row["arm"]), -1))
        }
        for row in page["claims"]:
            place = (row["arm"], row["against"], row["scale"])
            if row["measure"] == "difference" and row["verdict"] != "not judged" and place in by_rule:
                sign, ends = by_rule[place]
                assert [row["family_low"], row["family_high"]] == pytest.approx(ends)
                seen.add(sign)
    assert seen == {1, -1}, "the pages have comparisons in both directions"


def test_every_page_has_its_pack(tool):
    assert set(tool.read_pages(FINDINGS)) <= {pack.stem for pack in PACKS}
