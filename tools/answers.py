"""The five questions of the campaign, each answered in a sentence with its details; all are made from the numbers of the pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from palinode.report.findings import signed

Row = dict[str, Any]
Pages = Mapping[str, Row]
RETRIEVAL = "retrieval--laptop"
BY_STEPS = ("recall_steps--laptop", "recall--laptop")  # pages that count the steps to learn; the first has more seeds
PLURAL = {"holds": "hold", "does not hold": "do not hold"}
# Page -> what two models of encdec are equal in there.
EQUAL = {
    "encdec--laptop": "tokens",
    "encdec--wikitext": "tokens of WikiText-2",
    "encdec_parameters--laptop": "parameters",
    "encdec_flops--laptop": "FLOPs",
}


def answers(pages: Pages, verdict_of: Callable[[Row], str]) -> str:
    """The section as Markdown: for each question an item with a short answer, and the details below it.

    Args:
        pages: name of a page -> its JSON.
        verdict_of: gives the word for what our runs say of a row.
    """
    told = {
        "What does reading backwards buy?": _backwards(pages),
        "What was each defect worth?": _defects(pages, verdict_of),
        "When does an encoder-decoder help?": _encoder_decoder(pages, verdict_of),
        "Which labels teach recall?": _labels(pages, verdict_of),
        "Do both directions help retrieval?": _retrieval(pages, verdict_of),
    }
    return "\n".join(_item(question, *sentences) for question, sentences in told.items())


def in_plain_words(pages: Pages) -> str:
    """A paragraph for a reader from outside the field, without a number where none is needed; empty without any page."""
    told = (*_plain_directions(pages), *_plain_leaks(pages), *_plain_encoder_decoder(pages))
    return " ".join((*told, *_plain_labels(pages), *_plain_retrieval(pages)))


def _plain_directions(pages: Pages) -> Iterator[str]:
    gains, costs = (list(_ratios(pages, "exchange--laptop", (name,)).values()) for name in ("X1", "X2"))
    if costs:
        worse = "often" if 2 * len(_above(costs)) >= len(costs) else "sometimes" if _above(costs) else "never clearly"
        better = "sometimes made it better" if _below(costs) else "did not make it better"
        yield f"Letting a language model read backwards as well {better} at reading forwards, and {worse} made it a little worse."
    if gains:
        helped = "sometimes helped" if _below(gains) else "did not help"
        yield f"Reading forwards {helped} it to read backwards."


def _plain_leaks(pages: Pages) -> Iterator[str]:
    if seen := _leaking(pages):
        shares = [-row["effect"] / loss for row, loss in seen]
        yield (
            "Where a published model looked far better, it could see the letter that it had to guess: put back on purpose, such a "
            f"fault takes away {min(shares):.0%} to {max(shares):.0%} of the loss."
        )


def _plain_encoder_decoder(pages: Pages) -> Iterator[str]:
    compared = [row for page in EQUAL for row in _rows(pages, page, "E1")[:1]]
    if compared:
        better, worse = len(_below(compared)), len(_above(compared))
        yield (
            "A model that is split into a part that reads and a part that writes was better than a plain one in "
            f"{better} and worse in {worse} of {len(compared)} fair comparison{'s' * (len(compared) > 1)}."
        )


def _plain_labels(pages: Pages) -> Iterator[str]:
    kinds, more, fewer = _right_answers(pages)
    steps, sooner, later = _steps_to_learn(pages)
    asked, helped, hindered = kinds | steps, more | sooner, fewer | later
    if asked:
        others = "; for the others our runs do not show a difference" if asked - (helped ^ hindered) else ""
        yield (
            f"Guessing every word in training, and not the answer alone, helped {len(helped - hindered)} of {len(asked)} kinds of "
            f"models to learn to look something up, and hindered {len(hindered - helped)}{others}."
        )


def _right_answers(pages: Pages) -> tuple[set[str], set[str], set[str]]:
    """The kinds of models whose right answers are compared; those with more, and those with fewer, after training on all tokens."""
    rows = [
        row for row in _rows(pages, "recall--laptop", "R1") if row["measure"] == "difference" and row["of_one_group"]
    ]
    told = {word: {row["group"] for row in rows if row["outcome"] == word} for word in ("better", "worse")}
    return {row["group"] for row in rows}, told["better"], told["worse"]


def _steps_to_learn(pages: Pages) -> tuple[set[str], set[str], set[str]]:
    """The kinds of models whose steps to learn are compared; those that learn sooner, and later, when trained on all tokens."""
    rows = [row for row in _rows_of_steps(pages) if row["of_one_group"]]
    of_word = {word: {row["group"] for row in rows if row["verdict"] == word} for word in ("holds", "does not hold")}
    return {row["group"] for row in rows}, of_word["holds"], of_word["does not hold"]


def _rows_of_steps(pages: Pages) -> list[Row]:
    """The rows of R1 by steps. A kind of model that is on both pages counts by its row on the page with more seeds."""
    of_pages = [_rows(pages, page, "R1", with_interval=False) for page in BY_STEPS]
    rows = {row["group"]: row for some in reversed(of_pages) for row in some if row["measure"] == "steps_to_learn"}
    return list(rows.values())


def _plain_retrieval(pages: Pages) -> Iterator[str]:
    for row in _rows(pages, RETRIEVAL, "D2")[:1]:
        matters = row["family_high"] >= pages[RETRIEVAL]["smallest_effect"]
        told = "made" if row["verdict"] == "holds" else "may have made" if matters else "did not make"
        yield f"Reading in both directions first {told} a model better at finding texts by an amount that matters."


def _item(question: str, short: str = "Not run yet.", *details: str) -> str:
    return "\n".join((f"- **{question}** {short}", *(f"  - {detail}" for detail in details)))


def _backwards(pages: Pages) -> Iterator[str]:
    gains, costs = (list(_ratios(pages, "exchange--laptop", (name,)).values()) for name in ("X1", "X2"))
    if gains:
        dearer, cheaper = len(_above(costs)), len(_below(costs))
        worse, better, total = len(_above(gains)), len(_below(gains)), len(gains)
        yield (
            f"{'Nothing' if not cheaper else 'Sometimes a lower loss'} for reading forwards: next to models that read forwards "
            f"only, the forward loss is higher in {dearer} and lower in {cheaper} of {len(costs)} comparisons. The other way "
            f"round, models that read forwards as well guess backwards worse in {worse} and better in {better} of {total} "
            "comparisons with models that read as much backwards and nothing forwards."
        )
    yield from _learned_backwards(pages)
    for row in _rows(pages, "mask--laptop", "M1")[:1]:
        side = "above" if row["effect"] > 0 else "below"
        yield (
            f"A model that reads one batch in twenty right to left has a backward loss {abs(row['effect']):.0%} {side} its own "
            f"forward loss. Published, through a mask that shows the answer: {row['published']:+.0%}."
        )
    for row in _rows(pages, "mask--laptop", "X1")[:1]:
        sizes = [f"{point['mean']:+.1%} with {point['scale']}" for point in row["points"]]
        mean = f"{_changed(row)}{', as a mean' * bool(sizes)}"
        yield (
            "By shape (layers x width), one row in twenty: next to the same text read right to left, text read left to right makes "
            f"the backward loss {mean}{': ' * bool(sizes)}{', '.join(sizes)}."
        )
    yield from _second_text(pages)
    if costs:
        yield f"The price of the forward loss is {_span([row['effect'] for row in costs])}, over all shares that were tried."
    for row in _open(pages, "mask_latent--laptop", "M1"):
        yield f"With the published block and recipe this cannot be asked at our size: {'; '.join(row['reasons'])}."


def _learned_backwards(pages: Pages) -> Iterator[str]:
    """The backward loss of models that read nothing but a share of the text backwards: what the tokens read backwards buy."""
    alone = [
        (int(row["arm"].split("-")[1]), row["mean"])
        for row in pages.get("exchange--laptop", {}).get("scores", ())
        if row["arm"].startswith("rtl-") and row["direction"] == "rtl"
    ]
    if alone:
        told = ", ".join(f"{mean:.2f} after {share}%" for share, mean in sorted(alone))
        yield f"What tokens read backwards buy is the backward loss itself, in nats for each character: {told} of the text."


def _second_text(pages: Pages) -> Iterator[str]:
    """What the exchange rate is on the two texts, for the arms that both pages have, and whether their verdicts agree."""
    novels, other = (_ratios(pages, page, ("X1", "X2", "X3")) for page in ("exchange--laptop", "exchange--wikitext"))
    both = sorted(novels.keys() & other.keys())
    if gains := [row for row in both if row[0] == "X1"]:
        shares = sorted({int(arm.split("-")[1]) for _, arm in gains})
        spans = (_span([one[row]["effect"] for row in gains]) for one in (novels, other))
        agree = sum(novels[row]["verdict"] == other[row]["verdict"] for row in both)
        yield (
            f"Where {' or '.join(f'{share}%' for share in shares)} of the text is read right to left, the backward loss changes by "
            f"{next(spans)} on the novels and by {next(spans)} on WikiText-2. Comparisons on both texts: {len(both)}; with the "
            f"same verdict: {agree}."
        )


def _ratios(pages: Pages, page: str, names: Sequence[str]) -> dict[tuple[str, str], Row]:
    """Claim and arm -> the row of a page that compares two losses of this arm."""
    return {(name, row["arm"]): row for name in names for row in _rows(pages, page, name) if row["measure"] == "ratio"}


def _below(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["family_high"] < 0]


def _above(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["family_low"] > 0]


def _span(effects: Sequence[float]) -> str:
    return f"{min(effects):+.1%} to {max(effects):+.1%}"


def _changed(row: Row) -> str:
    """A ratio less 1 as text: by how much a loss is higher or lower, with the interval that judges it."""
    low, high = row["family_low"], row["family_high"]
    between = f"({low:+.1%} to {high:+.1%})"
    if low <= 0 <= high:
        return f"neither higher nor lower as far as {row['count']} seeds can tell {between}"
    return f"{abs(row['effect']):.1%} {'higher' if row['effect'] > 0 else 'lower'} {between}"


def _defects(pages: Pages, verdict_of: Callable[[Row], str]) -> Iterator[str]:
    rows, leaking = _rows(pages, "leaks--laptop", "leak"), _leaking(pages)
    seen = [row for row, _ in leaking]
    other = [row for row in rows if row not in seen]
    if seen:
        gains, losses = [-row["effect"] for row in seen], [loss for _, loss in leaking]
        yield (
            f"A model that sees its answer gains {min(gains):.2f} to {max(gains):.2f} of the {min(losses):.2f} to "
            f"{max(losses):.2f} nats for each character that the same honest models "
            f"need: {'; '.join(_claimed(row) for row in seen)}."
        )
    elif rows:
        yield "No defect shows the answer."
    for some, heading in (
        (_apart(other), "Other defects, in nats for each character, against the same model without the defect:"),
        ([row for row in other if row not in _apart(other)], "Not told apart from nothing:"),
    ):
        if some:
            yield f"{heading} {'; '.join(_claimed(row) for row in some)}."
    chosen = _rows(pages, "selection--laptop", "leak", with_interval=False)
    if chosen:
        effects = [row["effect"] for row in chosen]
        matters = pages["selection--laptop"]["smallest_effect"]
        yield (
            f"A rate that is chosen on the test set adds {signed(min(effects))} to {signed(max(effects))} to the share of right "
            f"answers, and {matters:g} is the smallest amount that matters. {_several(Counter(verdict_of(row) for row in chosen))}."
        )


def _leaking(pages: Pages) -> list[tuple[Row, float]]:
    """The rows about arms that see their answer, each with the loss of the same model that does not."""
    page = pages.get("leaks--laptop", {})
    arms = {row["arm"] for row in page.get("arms", ()) if row["verdict"].startswith("LEAK")}
    losses = {row["arm"]: row["mean"] for row in page.get("scores", ()) if row["direction"] == _way(row["arm"])}
    return [(row, losses[row["against"]]) for row in _rows(pages, "leaks--laptop", "leak") if row["arm"] in arms]


def _way(arm: str) -> str:
    """The direction in which an arm of `leaks` is scored."""
    return "rtl" if arm == "rtl" else "ltr"


def _apart(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not row["family_low"] <= 0 <= row["family_high"]]


def _claimed(row: Row) -> str:
    """A claim as a part of a sentence. Where it holds, the words give the direction, and the number is the size alone."""
    size = f"by {abs(row['effect']):.3f}" if row["verdict"] == "holds" else signed(row["effect"])
    return f"{_uncapital(row)} ({size})"


def _uncapital(row: Row) -> str:
    """The claim of a row without its first capital letter and its full stop."""
    claim = row["claim"].rstrip(".")
    return f"{claim[0].lower()}{claim[1:]}"


def _encoder_decoder(pages: Pages, verdict_of: Callable[[Row], str]) -> Iterator[str]:
    compared = [row for page in EQUAL for row in _rows(pages, page, "E1")[:1]]
    if compared:
        better, worse = (len(rows) for rows in (_below(compared), _above(compared)))
        yield (
            f"{'Nowhere that was tried' if not better else 'Sometimes'}: the published combination beats a decoder without dropout "
            f"in {better} and is beaten in {worse} of {len(compared)} comparison{'s' * (len(compared) > 1)}."
        )
    for page, equal in EQUAL.items():
        for row in _rows(pages, page, "E1")[:1]:
            side = "lower" if row["effect"] < 0 else "higher"
            yield (
                f"At equal {equal} the loss of the published combination is {abs(row['effect']):.3f} nats {side} than that of the "
                f"decoder {_between(row)}: {verdict_of(row)}."
            )
    if len(shared := _pages_of_one_combination(pages, [row["arm"] for row in compared[:1]])) > 1:
        yield f"These comparisons have the same runs of the combination: those at equal {', '.join(shared)}."
    arms = {row["arm"]: row for row in pages.get("encdec--laptop", {}).get("arms", ())}
    if plain := arms.get("encdec"):
        apart = f"{signed(plain['difference'])} nats ({signed(plain['low'])} to {signed(plain['high'])})"
        yield f"Without additions the encoder-decoder is {apart} from the decoder: {plain['verdict']}."
    parts = [row for name in ("E2", "E3", "E5") for row in _rows(pages, "encdec--laptop", name)[:1]]
    told = (f"{_uncapital(row)}: {signed(row['effect'])} {_between(row)}, {verdict_of(row)}" for row in parts)
    if parts:
        yield f"Its parts, in nats, below 0 where the claim is right: {'; '.join(told)}."
    for row in _rows(pages, "encdec_published--laptop", "E2")[:1]:
        ours = f"{signed(row['effect'])} {_between(row)}, {verdict_of(row)}"
        yield f"The embedding loss with the published norms, which can vanish: {ours}."
    dropout = arms.get("decoder-dropout")
    if dropout and dropout["verdict"] == "worse":
        yield f"Dropout makes that decoder itself worse, by {dropout['difference']:.3f} nats, so E5 alone says little."


def _pages_of_one_combination(pages: Pages, arms: Sequence[str]) -> list[str]:
    """What is equal on the pages whose score of this arm is the same number: runs with equal settings are the same runs."""
    means = {
        EQUAL[page]: row["mean"]
        for page in EQUAL
        for row in pages.get(page, {}).get("scores", ())
        if row["arm"] in arms
    }
    return [equal for equal, mean in means.items() if mean == next(iter(means.values()))]


def _labels(pages: Pages, verdict_of: Callable[[Row], str]) -> Iterator[str]:
    differences = [
        row for name in ("R1", "R2") for row in _rows(pages, "recall--laptop", name) if row["measure"] == "difference"
    ]
    steps, sooner, later = _steps_to_learn(pages)
    kinds, more, fewer = _right_answers(pages)
    if steps or kinds:
        yield _best_labels(steps | kinds, sooner | more, later | fewer)
    if steps:
        yield (
            f"Of {len(steps)} kinds of models, {_named(sooner)} learn sooner when trained on all tokens, and {_named(later)} when "
            "trained on the answer alone. Each has the learning rate that its own trials chose."
        )
    of_kinds = [row for row in _rows_of_steps(pages) if row["of_one_group"]]
    if of_kinds:
        ratios = ", ".join(f"{row['effect_bound']}{row['effect']:.2f} {row['group']}" for row in of_kinds)
        yield f"Steps to half-way, with all tokens as a multiple of those with the answer alone: {ratios}."
    for row in _rows_of_steps(pages):
        if not row["of_one_group"]:
            told = f"all tokens take {row['effect_bound']}{row['effect']:.2f} times the steps (p = {row['p']:.2g})"
            yield f"Over {row['group'].removeprefix('mean of ')}: {told}: {row['verdict']}."
    if kinds:
        yield (
            f"Of {len(kinds)} kinds of models, {_named(more)} give more right answers at the end after training on all tokens, and "
            f"{_named(fewer)} after training on the answer alone."
        )
    for claim in dict.fromkeys(row["claim"] for row in differences):
        rows = [row for row in differences if row["claim"] == claim]
        overall = [row for row in rows if not row["of_one_group"] and not row["reasons"]]
        shown = "".join(
            f" As a share of right answers, {row['group']}: {signed(row['effect'])} {_between(row)}." for row in overall
        )
        yield f"{claim}{shown} {_several(Counter(verdict_of(row) for row in rows if row['of_one_group']))}."
    for row in _rows(pages, "recall--laptop", "R3", with_interval=False)[:1]:
        yield f"{row['claim']} Rank correlation {row['effect']:+.2f} over {row['count']} kinds: {verdict_of(row)}."


def _best_labels(asked: Collection[str], helped: Collection[str], hindered: Collection[str]) -> str:
    """The short answer: which kinds of models do better with which labels, and of how many nothing can be told."""
    told = [
        f"{labels} for {', '.join(sorted(kinds))}"
        for labels, kinds in (("all tokens", helped), ("the answer alone", hindered))
        if kinds
    ]
    open_kinds = set(asked) - set(helped) - set(hindered)
    if open_kinds:
        told.append(f"for {len(open_kinds)} of {len(asked)} kinds of models no difference can be told")
    answer = "; ".join(told)
    return f"{answer[0].upper()}{answer[1:]}."


def _retrieval(pages: Pages, verdict_of: Callable[[Row], str]) -> Iterator[str]:
    rows = {name: row for name in ("D2", "D1", "D3", "D4") for row in _rows(pages, RETRIEVAL, name)[:1]}
    if "D2" in rows:
        asked, matters = rows.pop("D2"), pages[RETRIEVAL]["smallest_effect"]
        short = {"holds": "Yes", "does not hold": "Not here"}.get(asked["verdict"], "This cannot be told")
        if asked["verdict"] == "cannot tell" and asked["family_high"] < matters:
            short = f"Not by {matters:g} or more, the smallest gain that matters; a smaller one cannot be told"
        yield f"{short}: nDCG@10 {signed(asked['effect'])} against left to right alone {_between(asked)}."
    for row in rows.values():
        effect = f"{row['effect']:+.0%}" if row["measure"] == "ratio" else signed(row["effect"])
        yield f"{row['claim']} {effect}: {verdict_of(row)}."
    levels = (pages.get(RETRIEVAL, {}).get("retrieval") or {}).get("levels", ())
    late = [row for row in levels if row["retriever"].startswith("Late")]
    word = [row for row in levels if not row["retriever"].startswith(("Late", "Mean"))]
    if late and word:
        of_arms = ", ".join(f"{row['ndcg_at_10']:.3f} {row['arm']}" for row in late)
        yield f"nDCG@10 of each arm: {of_arms}. BM25, which counts words and learns nothing, has {word[0]['ndcg_at_10']:.3f}."


def _named(kinds: Collection[str]) -> str:
    """How many kinds of models, and which."""
    return f"{len(kinds)} ({', '.join(sorted(kinds))})" if kinds else "0"


def _several(counts: Mapping[str, int]) -> str:
    words = [counted(count, word) for word, count in counts.items()]
    total = sum(counts.values())
    return f"Of {total} comparison{'s' if total > 1 else ''}: {', '.join(words)}"


def counted(count: int, verdict: str) -> str:
    """A verdict behind the number of rows that have it."""
    return f"{count} {PLURAL.get(verdict, verdict) if count > 1 else verdict}"


def _between(row: Row) -> str:
    return f"({signed(row['family_low'])} to {signed(row['family_high'])})"


def _open(pages: Pages, page: str, name: str) -> list[Row]:
    """The rows of a claim on a page that cannot be told, with their reasons."""
    rows = pages.get(page, {"claims": ()})["claims"]
    return [row for row in rows if row["name"] == name and row["verdict"] == "cannot tell" and row["reasons"]]


def _rows(pages: Pages, page: str, name: str, *, with_interval: bool = True) -> Sequence[Row]:
    """The rows of a claim on a page that have an effect, and an interval if one is asked for; none without the page."""
    rows: Sequence[Row] = pages.get(page, {"claims": ()})["claims"]
    measured = [row for row in rows if row["name"] == name and row["effect"] is not None]
    return [row for row in measured if not with_interval or row["family_low"] is not None]
