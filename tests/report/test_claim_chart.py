"""The figure of a findings page: every row can be seen and told from the others."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palinode.report.claim_chart import LINES, claims_chart, words_apart

FINDINGS = Path(__file__).parents[2] / "findings"
PAGES = sorted(path for path in FINDINGS.glob("*--*.json") if "claims" in json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_no_two_rows_of_a_panel_are_drawn_over_each_other(page):
    """Four rows of M5, which differ in how much of a model is cut away, had the label of their arm."""
    chart = claims_chart(json.loads(page.read_text(encoding="utf-8"))["claims"])
    assert chart is not None
    for panel in (panel for panel in chart["vconcat"] if "data" in panel):
        labels = [value["label"] for value in panel["data"]["values"]]
        assert len(set(labels)) == len(labels)


def test_rows_about_one_arm_are_told_apart_by_the_arm_that_each_is_compared_with():
    page = json.loads((FINDINGS / "mask--laptop.json").read_text(encoding="utf-8"))
    labels = {
        value["label"]
        for panel in claims_chart(page["claims"])["vconcat"]
        for value in panel.get("data", {}).get("values", ())
    }
    assert {"both-05 [over itself]", "both-05 [over rtl]", "ltr [25% refitted]"} <= labels


def test_the_line_of_a_slope_goes_through_its_points():
    """Of three points on a line, the drawn line starts at the first and ends at the last; each point has a mark."""
    points = [{"at": 10.0**power, "mean": 0.3 - 0.1 * power, "low": None, "high": None} for power in (1, 2, 3)]
    row = {"name": "M2", "measure": "ratio_slope", "measured": "", "arm": "both", "group": "", "scale": "all scales"}
    row |= {"claim": "It rises.", "verdict": "holds", "effect": -0.1, "points": points, "published": None}
    row |= dict.fromkeys(("low", "high", "family_low", "family_high"), 0.0)
    flat = {**row, "arm": "flat", "effect": 0.0, "points": [{**point, "mean": 0.5} for point in points]}
    chart = claims_chart([row, flat])
    assert chart is not None
    *_, panel = chart["vconcat"]
    lines = [layer["data"]["values"] for layer in panel["layer"] if layer["mark"]["type"] == "line"]
    assert [end["value"] for end in lines[0]] == pytest.approx([0.2, 0.0])
    assert [end["at"] for end in lines[0]] == pytest.approx([10, 1000])
    assert [end["value"] for end in lines[1]] == pytest.approx([0.5, 0.5])
    marks = [layer["data"]["values"] for layer in panel["layer"] if layer["mark"]["type"] == "point"]
    assert marks == [points, flat["points"]]
    labels = [layer["mark"]["dy"] for layer in panel["layer"] if layer["mark"]["type"] == "text"]
    assert labels == [6.0, -6.0], "the label of the higher line stands above"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_slope_with_points_has_its_panel(page):
    rows = json.loads(page.read_text(encoding="utf-8"))["claims"]
    chart = claims_chart(rows)
    assert chart is not None
    lines = [panel for panel in chart["vconcat"] if "data" not in panel]
    asked = {row["name"] for row in rows if row.get("points") and row["effect"] is not None and row["measure"] in LINES}
    assert {panel["title"]["text"].partition(":")[0] for panel in lines} == asked


def judged(*sentences, effect=0.5):
    row = {"name": "E1", "measure": "difference", "measured": "", "arm": "encdec", "group": "", "scale": "2x64"}
    row |= {
        "against": "decoder",
        "verdict": "holds",
        "effect": effect,
        "published": None,
        "low": effect / 2,
        "high": effect * 2,
    }
    row |= {"family_low": effect / 2, "family_high": None}
    return [{**row, "claim": sentence} for sentence in sentences]


@pytest.mark.parametrize(
    ("sentences", "title"),
    [
        (["It helps."], "E1. It helps"),
        (["It helps: 2%."], "E1. It helps: 2%"),
        (["It helps.", "The same at half of the weight."], "E1. It helps"),
        (["It helps: 2%.", "It helps: 5%."], "E1. It helps"),
        (["It helps.", "It costs."], "E1"),
    ],
)
def test_the_title_of_a_panel_says_what_all_its_rows_claim(sentences, title):
    (panel,) = claims_chart(judged(*sentences))["vconcat"]
    assert panel["title"]["text"] == [title]


def test_a_long_title_has_several_lines_and_small_numbers_are_powers_of_ten():
    (panel,) = claims_chart(judged("Long words " * 20, effect=4e-9))["vconcat"]
    lines = panel["title"]["text"]
    assert len(lines) > 2
    assert max(map(len, lines)) <= 76
    assert " ".join(lines).split() == ["E1.", *["Long", "words"] * 20]
    assert panel["layer"][0]["encoding"]["x"]["axis"]["format"] == "~e"
    (plain,) = claims_chart(judged("It helps."))["vconcat"]
    assert "format" not in plain["layer"][0]["encoding"]["x"]["axis"]


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=3).map(" ".join), min_size=2, max_size=5))
def test_words_tell_texts_apart_and_leave_out_what_they_share(texts):
    words = words_apart([f"ltr / {text} less 1" for text in texts])
    assert len(set(words)) == len(words)
    assert not any(word.startswith("ltr /") for word in words)


def test_a_row_of_a_group_has_the_name_of_its_group_and_a_ratio_of_steps_a_logarithmic_axis():
    (row,) = judged("It learns sooner")
    of_group = {**row, "measure": "steps_to_learn", "arm": "h3-all", "group": "h3", "of_one_group": True}
    mean = {**of_group, "arm": "all", "group": "mean of h3, s4d, hyena", "of_one_group": False, "effect": 2.0}
    ranks = {**mean, "name": "R3", "measure": "rank_correlation", "group": "", "count": 12}
    steps, correlation = claims_chart([of_group, mean, ranks])["vconcat"]
    assert [value["label"] for value in steps["data"]["values"]] == ["h3", "mean of 3 groups"]
    assert [value["label"] for value in correlation["data"]["values"]] == ["12 groups"]
    scale = steps["layer"][-1]["encoding"]["x"]["scale"]
    assert scale["type"] == "log"
    assert scale["domain"][0] < 0.25
    assert scale["domain"][1] > 2.0


def test_rows_of_one_measure_are_told_apart_by_a_few_words_of_their_claims_or_by_a_number():
    def labels(*sentences):
        (panel,) = claims_chart(judged(*sentences))["vconcat"]
        return [value["label"] for value in panel["data"]["values"]]

    assert labels("Sequences of 2048 tokens.", "Sequences of unknown tokens.") == ["encdec [2048]", "encdec [unknown]"]
    long = "Together they help far more than the better of the two alone."
    assert labels(long, "The same, with another norm of all embeddings.") == ["encdec [1]", "encdec [2]"]
    cut = claims_chart([{**judged("It helps")[0], "arm": "x" * 60}])["vconcat"][0]["data"]["values"][0]["label"]
    assert (len(cut), cut[20]) == (40, "…")
