"""The figure of a findings page: every row can be seen and told from the others."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palinode.report.claim_chart import claims_chart, words_apart

FINDINGS = Path(__file__).parents[2] / "findings"
PAGES = sorted(path for path in FINDINGS.glob("*--*.json") if "claims" in json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_no_two_rows_of_a_panel_are_drawn_over_each_other(page):
    """Four rows of M5, which differ in how much of a model is cut away, had the label of their arm."""
    chart = claims_chart(json.loads(page.read_text(encoding="utf-8"))["claims"])
    assert chart is not None
    for panel in chart["vconcat"]:
        labels = [value["label"] for value in panel["data"]["values"]]
        assert len(set(labels)) == len(labels)


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=3).map(" ".join), min_size=2, max_size=5))
def test_words_tell_texts_apart_and_leave_out_what_they_share(texts):
    words = words_apart([f"ltr / {text} less 1" for text in texts])
    assert len(set(words)) == len(words)
    assert not any(word.startswith("ltr /") for word in words)
