"""findings/README.md and its figure say what the committed pages say."""

import pytest

ROW = {
    "name": "M1",
    "arm": "both-05",
    "claim": "Enough.",
    "effect": -0.4,
    "effect_bound": None,
    "low": -0.5,
    "high": -0.3,
    "family_low": -0.5,
    "family_high": -0.3,
    "measure": "ratio",
    "p": None,
    "count": 5,
    "published": -0.8,
    "published_words": "real but smaller",
    "verdict": "holds",
    "reasons": [],
    "half_width_promised": None,
    "half_width": 0.1,
}


def test_the_page_is_made_from_the_pages_of_experiments(tool):
    pages, page = tool.read_pages(tool.FINDINGS), tool.PAGE.read_text(encoding="utf-8")
    assert page == tool.written(page, pages, tool.planned_hours(tool.FINDINGS)), "run: python tools/what_survives.py"
    shares = tool.shares_of_published(pages)
    assert tool.FIGURE.exists() == bool(shares)
    if shares:
        assert tool.FIGURE.read_text(encoding="utf-8") == tool.drawn(shares)


def test_a_claim_is_told_by_its_first_row_and_drawn_as_a_share_of_the_published_effect(tool):
    undecided = {**ROW, "published_words": None, "published": None, "verdict": "cannot tell", "reasons": ["too few"]}
    promised = [{"kept": True, "inside": None}, {"kept": False, "inside": True}, {"kept": None, "inside": False}]
    rest = {"promised": promised, "hours": {"runs": 2.0, "trials": 0.5}}
    pages = {"mask--laptop": {"claims": [ROW, {**ROW, "effect": 9.0}, {**undecided, "name": "M2"}], **rest}}
    page = tool.written(tool.PAGE.read_text(encoding="utf-8"), pages, {"encdec--laptop": 2.0})
    first = next(line for line in page.splitlines() if line.startswith("| M1"))
    assert first.startswith("| M1. Enough. | -0.8000 | -0.4000 | -0.5000 to -0.3000 | real but smaller | 5 |")
    assert "| M2. Enough. |  | -0.4000 | -0.5000 to -0.3000 | cannot tell: too few | 5 |" in page
    several = {**ROW, "name": "X1", "published": None, "published_words": None}
    asked = {"exchange--laptop": {"claims": [several, {**several, "effect": 0.1, "verdict": "cannot tell"}], **rest}}
    summed = tool.written(tool.PAGE.read_text(encoding="utf-8"), asked, {})
    assert "| -0.4000 to +0.1000 in 2 rows |  | 1 confirmed, 1 cannot tell | 5 |" in summed
    assert "| E1 |  |  |  | not run yet: 2.0 core-hours planned |  | `encdec--laptop` |" in page
    assert "| [mask--laptop](mask--laptop.md) | 1 of 2 | 1 of 2 |  | 2.5 |" in page
    assert tool.written(page, pages, {"encdec--laptop": 2.0}) == page
    assert tool.why({**undecided, "half_width_promised": 0.2}) == ": too few"
    assert tool.why({**undecided, "half_width_promised": 0.05}) == ": too few; half-width 0.1, promised 0.05"
    (share,) = tool.shares_of_published(pages)
    assert (share["share"], share["low"], share["high"]) == pytest.approx((0.5, 0.375, 0.625))
    assert tool.drawn([share]).startswith("<svg")


def test_each_question_is_answered_by_the_numbers_of_its_pages(tool):
    def told(**pages):
        rows = {page.replace("__", "--"): {"claims": rows} for page, rows in pages.items()}
        return tool.answers(rows, tool.verdict_of).replace("\n  ", " ").splitlines()

    assert [line.endswith("** Not run yet.") for line in told()] == [True] * 5
    worse = {**ROW, "effect": 0.4, "family_low": 0.3, "family_high": 0.5}
    unclear = {**ROW, "name": "X1", "family_low": -0.1, "family_high": 0.02}
    backwards = told(mask__laptop=[worse, unclear])[0]
    assert "its loss is 40.0% higher (+30.0% to +50.0%)." in backwards
    assert "shows the answer: -80%." in backwards
    assert "neither higher nor lower as far as 5 seeds can tell (-10.0% to +2.0%)." in backwards
    assert "a backward loss that is 40.0% lower (-50.0% to -30.0%)." in told(mask__laptop=[ROW])[0]
    exchanged = {**unclear, "arm": "both-05-row"}
    second = told(
        exchange__laptop=[exchanged, {**exchanged, "arm": "both-25"}],
        exchange__wikitext=[{**exchanged, "effect": 0.1, "verdict": "cannot tell"}],
    )
    assert (
        "Where 5% of the text is read right to left, it is -40.0% to -40.0% on the novels and +10.0% to +10.0% on WikiText-2. "
        "Comparisons on both texts: 1; with the same verdict: 0."
    ) in second[0]
    price = {**worse, "name": "X2"}
    nothing = told(exchange__laptop=[{**worse, "name": "X1"}, {**exchanged, "arm": "both-25"}, price])[0]
    assert "** Nothing that was seen: text read left to right" in nothing
    assert "lower in 0 and higher in 1 of 2 comparisons, and the loss left to right is higher in 1 of 1." in nothing
    sometimes = told(exchange__laptop=[{**ROW, "name": "X1"}, price])[0]
    assert "** Sometimes a better backward pass" in sometimes
    assert "lower in 1 and higher in 0 of 1 comparisons" in sometimes
    leak, none = (
        {**ROW, "name": "leak"},
        {**ROW, "name": "leak", "claim": "Nothing.", "family_high": 0.1, "verdict": "cannot tell"},
    )
    defects = told(leaks__laptop=[leak, none], selection__laptop=[{**leak, "published_words": None}])[1]
    assert "** Up to 0.40 nats for each character; 1 of 2 are told apart from nothing. - In nats" in defects
    assert "without the defect: enough (by 0.400). - Not told apart from nothing: nothing (-0.4000)." in defects
    assert "adds -0.4000 to -0.4000 to the share of right answers. Of 1 comparison: 1 confirmed." in defects
    sooner = {**ROW, "name": "E1", "effect": 0.05}
    equal_flops = told(encdec_flops__laptop=[sooner])[2]
    assert (
        "** Sometimes: the published combination beats a decoder in 1 and is beaten in 0 of 1 comparison."
        in equal_flops
    )
    assert "At equal FLOPs the loss of the published combination is 0.050 nats higher" in equal_flops
    nowhere = told(encdec__laptop=[{**worse, "name": "E1"}], encdec_flops__laptop=[{**unclear, "name": "E1"}])[2]
    assert (
        "** Nowhere that was tried: the published combination beats a decoder in 0 and is beaten in 1 of 2" in nowhere
    )
    helps = {**ROW, "name": "E3", "claim": "It helps.", "effect": 0.05}
    parts = told(encdec__laptop=[sooner, helps])[2]
    assert "At equal tokens the loss" in parts
    assert parts.endswith("where the claim is right: it helps: +0.0500 (-0.5000 to -0.3000), real but smaller.")
    vanishing = told(encdec_published__laptop=[{**ROW, "name": "E2", "claim": "It vanishes.", "effect": 0.004}])[2]
    assert "with the published norms, which can vanish: +0.0040 (-0.5000 to -0.3000), real but smaller." in vanishing
    hurt = {"arm": "decoder-dropout", "verdict": "worse", "difference": 0.28}
    with_arms = tool.answers({"encdec--laptop": {"claims": [sooner], "arms": [hurt]}}, tool.verdict_of)
    assert "Dropout makes that decoder itself worse, by 0.280 nats" in with_arms
    taught = {**ROW, "name": "R1", "measure": "difference", "published_words": None, "of_one_group": True}
    mean = {**taught, "effect": 0.1, "of_one_group": False}
    ranked = {
        **taught,
        "name": "R3",
        "claim": "It predicts.",
        "effect": 0.5,
        "count": 12,
        "family_low": None,
        "p": 0.01,
    }
    labels = told(
        recall__laptop=[
            taught,
            {**taught, "verdict": "cannot tell", "family_low": 0.1, "family_high": 0.4},
            mean,
            ranked,
        ]
    )[3]
    assert (
        "Of 2 kinds of models, 1 give more right answers after training on all tokens, and 1 after training" in labels
    )
    assert (
        "Enough. As a share of right answers, over all kinds: +0.1000 (-0.5000 to -0.3000). Of 2 comparisons: 1"
        in labels
    )
    assert "It predicts. Rank correlation +0.50 over 12 kinds: confirmed." in labels
    for verdict, short in (("holds", "Yes"), ("does not hold", "Not here"), ("cannot tell", "This cannot be told")):
        answer = told(retrieval__laptop=[{**ROW, "name": "D2", "verdict": verdict}])[4]
        assert f"{short}: nDCG@10 -0.4000 against left to right alone" in answer
