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
    "points": [],
    "seeds_needed": None,
    "against": "ltr",
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
    assert "| -0.4000 to +0.1000 in 2 rows |  | 1 holds, 1 cannot tell | 5 |" in summed
    assert "| E1 |  |  |  | not run yet: 2.0 core-hours planned |  | `encdec--laptop` |" in page
    assert "| [mask--laptop](mask--laptop.md) | 1 of 2 | 1 of 2 |  | 2.5 |" in page
    assert tool.written(page, pages, {"encdec--laptop": 2.0}) == page
    assert tool.why({**undecided, "half_width_promised": 0.2}) == ": too few"
    assert tool.why({**undecided, "half_width_promised": 0.05}) == ": too few; half-width 0.1, promised 0.05"
    ceiling, hard = {**undecided, "reasons": ["full"]}, {**undecided, "reasons": ["open"], "seeds_needed": 9}
    assert tool.why_several([ceiling, ceiling, hard]) == " (2: full; 1: open)"
    taught = {**undecided, "reasons": ["no rate taught x more than guessing: the claim is not made"]}
    assert tool.why_several([taught, hard]) == " (1: no rate that was tried taught one of the models; 1: open)"
    assert (
        tool.why_several([{**hard, "reasons": ["open", "9 seeds"]}, {**hard, "seeds_needed": 3}]) == ": open; 9 seeds"
    )
    assert tool.why_several([{**ROW, "reasons": []}]) == ""
    kinds = [{**undecided, "of_one_group": kind} for kind in (True, True, False)]
    groups = tool.claims_table([tool.Asked("M1", "mask--laptop")], {"mask--laptop": {"claims": kinds, **rest}}, {})
    assert " in 2 groups and their mean |" in groups
    beaten = {**ROW, "against": "weak"}
    weak = {"mask--laptop": {"claims": [beaten], "arms": [{"arm": "weak", "verdict": "worse"}], **rest}}
    assert "weak is itself worse than the baseline" in tool.claims_table([tool.Asked("M1", "mask--laptop")], weak, {})
    steps = {**undecided, "name": "R1", "measure": "steps_to_learn", "effect": 0.5}
    ratios = {"recall--laptop": {"claims": [steps, {**steps, "effect": 1.5}], **rest}}
    assert "| ratio of steps 0.50 to 1.50 in 2 rows |" in tool.claims_table(
        [tool.Asked("R1", "recall--laptop")], ratios, {}
    )
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
    assert "has a backward loss 40% above its own forward loss." in backwards
    assert "shows the answer: -80%." in backwards
    assert "neither higher nor lower as far as 5 seeds can tell (-10.0% to +2.0%)." in backwards
    assert "has a backward loss 40% below its own forward loss." in told(mask__laptop=[ROW])[0]
    scaled = {**unclear, "points": [{"scale": "2x64", "mean": 0.07}, {"scale": "6x64", "mean": -0.002}]}
    by_size = told(mask__laptop=[scaled])[0]
    assert "(-10.0% to +2.0%), as a mean; by shape (layers x width): +7.0% with 2x64, -0.2% with 6x64." in by_size
    latent = {**unclear, "name": "M1", "verdict": "cannot tell", "reasons": ["nothing learned"]}
    assert "cannot be asked at our size: nothing learned." in told(mask_latent__laptop=[latent])[0]
    exchanged = {**unclear, "arm": "both-05-row"}
    second = told(
        exchange__laptop=[exchanged, {**exchanged, "arm": "both-25"}],
        exchange__wikitext=[{**exchanged, "effect": 0.1, "verdict": "cannot tell"}],
    )
    assert (
        "Where 5% of the text is read right to left, the backward loss changes by -40.0% to -40.0% on the novels and by +10.0% to "
        "+10.0% on WikiText-2. "
        "Comparisons on both texts: 1; with the same verdict: 0."
    ) in second[0]
    price = {**worse, "name": "X2"}
    nothing = told(exchange__laptop=[{**worse, "name": "X1"}, {**exchanged, "arm": "both-25"}, price])[0]
    assert "** Nothing for reading forwards: " in nothing
    assert "the forward loss is higher in 1 and lower in 0 of 1 comparisons." in nothing
    assert "guess backwards worse in 1 and better in 0 of 2 comparisons" in nothing
    sometimes = told(exchange__laptop=[{**ROW, "name": "X1"}, {**ROW, "name": "X2"}])[0]
    assert "** Sometimes a lower loss for reading forwards" in sometimes
    assert "guess backwards worse in 0 and better in 1 of 1 comparisons" in sometimes
    scores = [{"arm": "rtl-05", "direction": "rtl", "mean": 2.1}, {"arm": "rtl-05", "direction": "ltr", "mean": 4.0}]
    alone = tool.answers({"exchange--laptop": {"claims": [price, unclear], "scores": scores}}, tool.verdict_of)
    assert "in nats for each character: 2.10 after 5%." in alone
    leak, none = (
        {**ROW, "name": "leak"},
        {**ROW, "name": "leak", "claim": "Nothing.", "family_high": 0.1, "verdict": "cannot tell"},
    )
    defects = told(leaks__laptop=[leak, none])[1]
    assert "** No defect shows the answer. - Other defects, in nats" in defects
    assert "without the defect: enough (by 0.400). - Not told apart from nothing: nothing (-0.4000)." in defects
    seen = {
        "claims": [{**leak, "arm": "uncut"}, none],
        "arms": [{"arm": "uncut", "verdict": "LEAK: better"}],
        "scores": [{"arm": "ltr", "direction": "ltr", "mean": 1.6}, {"arm": "ltr", "direction": "rtl", "mean": 4.0}],
    }
    assert tool.in_plain_words({"leaks--laptop": seen}).endswith("such a fault takes away 25% to 25% of the loss.")
    chosen = {"claims": [{**leak, "published_words": None}], "smallest_effect": 0.02}
    defects = tool.answers({"leaks--laptop": seen, "selection--laptop": chosen}, tool.verdict_of)
    assert "sees its answer gains 0.40 to 0.40 of the 1.60 to 1.60 nats for each character" in defects
    assert "adds -0.4000 to -0.4000 to the share of right answers, and 0.02 is the smallest" in defects
    assert "matters. Of 1 comparison: 1 holds." in defects
    sooner = {**ROW, "name": "E1", "effect": 0.05}
    equal_flops = told(encdec_flops__laptop=[sooner])[2]
    assert (
        "** Sometimes: the published combination beats a decoder without dropout in 1 and is beaten in 0 of 1 comparison."
        in equal_flops
    )
    assert "At equal FLOPs the loss of the published combination is 0.050 nats higher" in equal_flops
    nowhere = told(encdec__laptop=[{**worse, "name": "E1"}], encdec_flops__laptop=[{**unclear, "name": "E1"}])[2]
    assert (
        "** Nowhere that was tried: the published combination beats a decoder without dropout in 0 and is beaten in 1 of 2"
        in nowhere
    )
    helps = {**ROW, "name": "E3", "claim": "It helps.", "effect": 0.05}
    parts = told(encdec__laptop=[sooner, helps])[2]
    assert "At equal tokens the loss" in parts
    assert parts.endswith("where less than 0 helps: it helps: +0.0500 (-0.5000 to -0.3000), real but smaller.")
    second = told(encdec__wikitext=[{**helps, "effect": 0.07}])[2]
    assert "Its parts on WikiText-2, in nats, where less than 0 helps: it helps: +0.0700" in second
    vanishing = told(encdec_published__laptop=[{**ROW, "name": "E2", "claim": "It vanishes.", "effect": 0.004}])[2]
    assert "with the published norms, which can vanish: +0.0040 (-0.5000 to -0.3000), real but smaller." in vanishing
    hurt = {"arm": "decoder-dropout", "verdict": "worse", "difference": 0.28}
    plain = {"arm": "encdec", "verdict": "worse", "difference": 0.03, "low": 0.01, "high": 0.05}
    combined = {"scores": [{"arm": "both-05", "mean": 1.8}]}
    with_arms = tool.answers(
        {
            "encdec--laptop": {"claims": [sooner], "arms": [hurt, plain], **combined},
            "encdec_flops--laptop": {"claims": [sooner], **combined},
        },
        tool.verdict_of,
    )
    assert "at equal tokens, FLOPs use the same runs of the combination; only the decoder differs." in with_arms
    assert "the encoder-decoder is +0.0300 nats (+0.0100 to +0.0500) from the decoder: worse." in with_arms
    assert "which says little: dropout makes our decoder worse by 0.280 nats." in with_arms
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
            {**taught, "group": "s4d", "outcome": "worse"},
            {**taught, "group": "h3", "outcome": "better", "family_low": 0.1, "family_high": 0.4},
            {**taught, "group": "hyena", "outcome": "cannot tell"},
            {**mean, "group": "mean of h3, s4d"},
            ranked,
        ]
    )[3]
    assert (
        "Of 3 kinds of models, 1 (h3) give more right answers at the end after training on all tokens, and 1 (s4d) after"
        in labels
    )
    undirected = {
        "claims": [
            {**taught, "name": "R2", "group": "h3", "arm": "h3-full"},
            {**mean, "name": "R2", "group": "mean of h3"},
        ],
        "scores": [{"arm": "h3-full", "mean": 0.515}],
        "levels": [{"without_learning": 0.51}],
        "smallest_effect": 0.02,
    }
    reasons = ["no rate that was tried taught s4d-answer more than guessing, so 1 is chosen"]
    untaught = {
        **taught,
        "group": "s4d",
        "arm": "s4d-all",
        "against": "s4d-answer",
        "outcome": "cannot tell",
        "reasons": reasons,
    }
    page = {"claims": [untaught], "scores": [{"arm": "s4d-all", "mean": 0.93}]}
    told_untaught = tool.answers({"recall--laptop": page}, tool.verdict_of)
    assert (
        "taught s4d at no learning rate that was tried; from all tokens it learns 93% right answers." in told_untaught
    )
    lost = tool.answers({"recall--laptop": undirected}, tool.verdict_of)
    assert "As a share of right answers, mean of h3: +0.1000 (-0.5000 to -0.3000). Of 1 comparison: 1 holds." in lost
    assert "Without a direction, h3 give no more right answers than guessing does (51%)." in lost
    assert "It predicts. Rank correlation +0.50 over 12 kinds: holds." in labels
    assert "recall?** All tokens for h3; the answer alone for s4d; for 1 of 3 kinds of models no difference" in labels
    soon = {
        **taught,
        "measure": "steps_to_learn",
        "family_low": None,
        "group": "h3",
        "effect": 0.5,
        "effect_bound": "<=",
        "cautions": ["steps are known to 250, and so on"],
    }
    soon["p"] = 0.001
    steps = told(recall__laptop=[soon, {**soon, "group": "s4d", "verdict": "cannot tell"}])[3]
    assert "recall?** All tokens for h3; for 1 of 2 kinds of models no difference can be told." in steps
    assert "alone: <=0.50 h3, <=0.50 s4d. A run that never came half-way counts with its last step" in steps
    assert "is then a bound. Of h3, s4d: steps are known to 250, and so on." in steps
    fine = {**soon, "group": "s4d", "effect_bound": "", "cautions": []}
    one_rough = told(recall__laptop=[{**soon, "effect_bound": ""}, fine])[3]
    assert "alone: 0.50 h3, 0.50 s4d. Of h3: steps are known to 250, and so on." in one_rough
    assert "Of 2 kinds of models, 1 (h3) learn sooner when trained on all tokens, and 0 when" in steps
    together = {**soon, "of_one_group": False, "group": "mean of h3, s4d", "effect": 0.5, "p": 0.002}
    assert (
        "Over h3, s4d: all tokens take <=0.50 times the steps (p = 0.002): holds."
        in told(recall__laptop=[soon, together])[3]
    )
    other_way = {**soon, "group": "s4d", "verdict": "does not hold"}
    longer = told(recall__laptop=[soon, together], recall_steps__laptop=[soon, other_way, {**together, "p": 0.5}])[3]
    assert "(p = 0.5): holds, though the kinds differ in which teaches sooner." in longer
    assert longer.count("Over h3, s4d:") == 1, "one mean is told, that of the page with more seeds"
    again = told(recall__laptop=[soon], recall_steps__laptop=[{**soon, "effect": 2.0, "verdict": "does not hold"}])[3]
    assert "<=2.00 h3." in again, "the page with more seeds counts"
    late = told(recall__laptop=[{**soon, "verdict": "does not hold"}])[3]
    assert "recall?** The answer alone for h3." in late
    assert (
        "recall?** For 1 of 1 kinds of models no difference can be told."
        in told(recall__laptop=[{**soon, "verdict": "cannot tell"}])[3]
    )
    not_made = {**soon, "effect": 2.0, "reasons": ["edge: the claim is not made"]}
    assert "<=0.50 h3." in told(recall__laptop=[soon], recall_steps__laptop=[not_made])[3]
    opposed = {**taught, "group": "h3", "outcome": "worse"}
    assert (
        "Sooner with the one and more right answers with the other for h3." in told(recall__laptop=[soon, opposed])[3]
    )
    choices = [{"arm": "both-05-row", "chosen": 0.5}, {"arm": "rtl-05", "chosen": 2}, {"arm": "both-50", "chosen": 0.5}]
    rated = {**worse, "name": "X1", "arm": "both-05-row", "against": "rtl-05"}
    same_rate = {**rated, "arm": "both-50", "against": "both-05-row", "effect": 0.05}
    with_rates = {"exchange--laptop": {"claims": [rated, same_rate], "choices": choices}}
    assert "in 1 comparisons, the backward loss changes by +5.0% to +5.0%." in tool.answers(with_rates, tool.verdict_of)
    best = [{**rated, "effect": 0.02, "family_low": 0.01}, {**same_rate, "effect": 0.03, "family_low": -0.01}]
    with_best = tool.answers({**with_rates, "exchange_rates--laptop": {"claims": best}}, tool.verdict_of)
    assert "worse in 1 and better in 0 of 2 comparisons: the backward loss changes by +2.0% to +3.0%." in with_best
    assert "have the same rate" not in with_best
    masked = {**ROW, "arm": "both-published-mask", "against": "both-published-mask", "effect": -0.9}
    assert "the answer: -80%; with that mask, ours is -90%." in told(mask__laptop=[worse, masked])[0]
    losses = {("as is", "rtl"): 8.6, ("ltr+rtl", "rtl"): 6.6, ("ltr+rtl", "ltr"): 3.5}
    scores = [{"arm": arm, "direction": way, "mean": loss} for (arm, way), loss in losses.items()]
    badly = tool.answers({"retrieval--laptop": {"claims": [], "scores": scores}}, tool.verdict_of)
    assert (
        "lowers the backward loss from 8.60 to 6.60 nats for each token, and the forward loss of the same models is 3.50"
        in badly
    )
    shorts = {"holds": "Yes", "does not hold": "Not here", "cannot tell": "a smaller one cannot be told"}
    for verdict, short in shorts.items():
        page = {"claims": [{**ROW, "name": "D2", "verdict": verdict}], "smallest_effect": 0.02}
        answer = tool.answers({"retrieval--laptop": page}, tool.verdict_of).splitlines()[-1]
        assert f"{short}: nDCG@10 -0.4000 against left to right alone" in answer


def test_the_plain_paragraph_follows_the_intervals(tool):
    def plain(**pages):
        return tool.in_plain_words({page.replace("__", "--"): content for page, content in pages.items()})

    assert plain() == ""
    higher, lower = {**ROW, "family_low": 0.1, "family_high": 0.3}, ROW
    price = plain(exchange__laptop={"claims": [{**higher, "name": "X2"}, {**higher, "name": "X1"}]})
    assert "did not make it better at reading forwards, and often made it a little worse." in price
    assert "Reading forwards did not help it to read backwards, and mostly made it worse at that." in price
    gain = plain(exchange__laptop={"claims": [{**lower, "name": "X2"}, {**lower, "name": "X1"}]})
    assert "sometimes made it better at reading forwards, and never clearly made it a little worse." in gain
    assert "Reading forwards sometimes helped it" in gain
    split = plain(encdec__laptop={"claims": [{**higher, "name": "E1"}]})
    assert "better than a plain one in 0 and worse in 1 of 1 fair comparison." in split
    kind = {**higher, "name": "R1", "measure": "difference", "of_one_group": True, "outcome": "better"}
    sooner = {**kind, "measure": "steps_to_learn", "family_low": None, "group": "hyena", "verdict": "holds"}
    worse = {**kind, "group": "s4d", "outcome": "worse"}
    labels = plain(recall__laptop={"claims": [{**kind, "group": "h3"}, worse, sooner]})
    assert "was better for 2 and worse for 1 of 3 kinds of models." in labels
    same = plain(recall__laptop={"claims": [worse, {**kind, "group": "h3", "outcome": "cannot tell"}]})
    assert "worse for 1 of 2 kinds of models; for the others our runs do not show a difference." in same
    for row, verdict, word in (
        (higher, "holds", "made"),
        (higher, "cannot tell", "may have made"),
        (lower, "cannot tell", "did not make"),
    ):
        page = {"claims": [{**row, "name": "D2", "verdict": verdict}], "smallest_effect": 0.02}
        assert f"A short training in both directions {word} a model better" in plain(retrieval__laptop=page)
