"""The five questions of the campaign, each answered in a sentence with its details; all are made from the numbers of the pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from palinode.report.findings import signed

Row = dict[str, Any]
Pages = Mapping[str, Row]
RETRIEVAL = "retrieval--laptop"
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


def _item(question: str, short: str = "Not run yet.", *details: str) -> str:
    return "\n".join((f"- **{question}** {short}", *(f"  - {detail}" for detail in details)))


def _backwards(pages: Pages) -> Iterator[str]:
    gains, costs = (list(_ratios(pages, "exchange--laptop", (name,)).values()) for name in ("X1", "X2"))
    if gains:
        lower, higher, total = (len(rows) for rows in (_below(gains), _above(gains), gains))
        yield (
            f"{'Nothing that was seen' if not lower else 'Sometimes a better backward pass'}: text read left to right beside text "
            f"read right to left makes the backward loss lower in {lower} and higher in {higher} of {total} comparisons, and the "
            f"loss left to right is higher in {len(_above(costs))} of {len(costs)}."
        )
    for row in _rows(pages, "mask--laptop", "M1")[:1]:
        published = f"Published, through a mask that shows the answer: {row['published']:+.0%}."
        yield (
            "A model that reads one batch in twenty right to left is worse at it than a model that reads right to left only: its "
            f"loss is {_changed(row)}. {published}"
            if row["effect"] > 0
            else f"One batch in twenty read right to left gives a backward loss that is {_changed(row)}. {published}"
        )
    for row in _rows(pages, "mask--laptop", "X1")[:1]:
        yield (
            "Next to the same text read right to left, text read left to right makes the backward loss "
            f"{_changed(row)}."
        )
    yield from _second_text(pages)
    if costs:
        yield f"The price left to right is {_span([row['effect'] for row in costs])}, over all shares that were tried."


def _second_text(pages: Pages) -> Iterator[str]:
    """What the exchange rate is on the two texts, for the arms that both pages have, and whether their verdicts agree."""
    novels, other = (_ratios(pages, page, ("X1", "X2", "X3")) for page in ("exchange--laptop", "exchange--wikitext"))
    both = sorted(novels.keys() & other.keys())
    if gains := [row for row in both if row[0] == "X1"]:
        shares = sorted({int(arm.split("-")[1]) for _, arm in gains})
        spans = (_span([one[row]["effect"] for row in gains]) for one in (novels, other))
        agree = sum(novels[row]["verdict"] == other[row]["verdict"] for row in both)
        yield (
            f"Where {' or '.join(f'{share}%' for share in shares)} of the text is read right to left, it is {next(spans)} on the "
            f"novels and {next(spans)} on WikiText-2. Comparisons on both texts: {len(both)}; with the same verdict: {agree}."
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
    rows = _rows(pages, "leaks--laptop", "leak")
    unclear = [row for row in rows if row["family_low"] <= 0 <= row["family_high"]]
    clear = [row for row in rows if row not in unclear]
    if rows:
        largest = max(abs(row["effect"]) for row in rows)
        yield f"Up to {largest:.2f} nats for each character; {len(clear)} of {len(rows)} are told apart from nothing."
    for some, heading in (
        (clear, "In nats for each character, against the same model without the defect:"),
        (unclear, "Not told apart from nothing:"),
    ):
        if some:
            yield f"{heading} {'; '.join(_claimed(row) for row in some)}."
    chosen = _rows(pages, "selection--laptop", "leak")
    if chosen:
        effects = [row["effect"] for row in chosen]
        yield (
            f"A rate that is chosen on the test set adds {signed(min(effects))} to {signed(max(effects))} to the share of right "
            f"answers. {_several(Counter(verdict_of(row) for row in chosen))}."
        )


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
            f"{'Nowhere that was tried' if not better else 'Sometimes'}: the published combination beats a decoder in {better} and "
            f"is beaten in {worse} of {len(compared)} comparison{'s' * (len(compared) > 1)}."
        )
    for page, equal in EQUAL.items():
        for row in _rows(pages, page, "E1")[:1]:
            side = "lower" if row["effect"] < 0 else "higher"
            yield (
                f"At equal {equal} the loss of the published combination is {abs(row['effect']):.3f} nats {side} than that of the "
                f"decoder {_between(row)}: {verdict_of(row)}."
            )
    parts = [row for name in ("E2", "E3", "E5") for row in _rows(pages, "encdec--laptop", name)[:1]]
    told = (f"{_uncapital(row)}: {signed(row['effect'])} {_between(row)}, {verdict_of(row)}" for row in parts)
    if parts:
        yield f"Its parts, in nats, below 0 where the claim is right: {'; '.join(told)}."
    for row in _rows(pages, "encdec_published--laptop", "E2")[:1]:
        ours = f"{signed(row['effect'])} {_between(row)}, {verdict_of(row)}"
        yield f"The embedding loss with the published norms, which can vanish: {ours}."
    for row in pages.get("encdec--laptop", {}).get("arms", ()):
        if row["arm"] == "decoder-dropout" and row["verdict"] == "worse":
            yield f"Dropout makes that decoder itself worse, by {row['difference']:.3f} nats, so E5 alone says little."


def _labels(pages: Pages, verdict_of: Callable[[Row], str]) -> Iterator[str]:
    differences = [
        row for name in ("R1", "R2") for row in _rows(pages, "recall--laptop", name) if row["measure"] == "difference"
    ]
    kinds = [row for row in differences if row["name"] == "R1" and row["of_one_group"]]
    if kinds:
        yield (
            f"Of {len(kinds)} kinds of models, {len(_above(kinds))} give more right answers after training on all tokens, and "
            f"{len(_below(kinds))} after training on the answer alone."
        )
    for claim in dict.fromkeys(row["claim"] for row in differences):
        rows = [row for row in differences if row["claim"] == claim]
        overall = (f"{signed(row['effect'])} {_between(row)}" for row in rows if not row["of_one_group"])
        shown = "".join(f" As a share of right answers, over all kinds: {mean}." for mean in overall)
        yield f"{claim}{shown} {_several(Counter(verdict_of(row) for row in rows if row['of_one_group']))}."
    for row in _rows(pages, "recall--laptop", "R3", with_interval=False)[:1]:
        yield f"{row['claim']} Rank correlation {row['effect']:+.2f} over {row['count']} kinds: {verdict_of(row)}."


def _retrieval(pages: Pages, verdict_of: Callable[[Row], str]) -> Iterator[str]:
    rows = {name: row for name in ("D2", "D1", "D3", "D4") for row in _rows(pages, RETRIEVAL, name)[:1]}
    if "D2" in rows:
        asked = rows.pop("D2")
        short = {"holds": "Yes", "does not hold": "Not here"}.get(asked["verdict"], "This cannot be told")
        yield f"{short}: nDCG@10 {signed(asked['effect'])} against left to right alone {_between(asked)}."
    for row in rows.values():
        effect = f"{row['effect']:+.0%} of the loss" if row["measure"] == "ratio" else signed(row["effect"])
        yield f"{row['claim']} {effect}: {verdict_of(row)}."
    levels = (pages.get(RETRIEVAL, {}).get("retrieval") or {}).get("levels", ())
    shown = [
        f"{row['ndcg_at_10']:.3f} {row['arm']}"
        if row["retriever"].startswith("Late")
        else f"{row['ndcg_at_10']:.3f} BM25"
        for row in levels
        if not row["retriever"].startswith("Mean")
    ]
    if shown:
        yield f"nDCG@10 of each arm, beside BM25 for the same queries: {', '.join(shown)}."


def _several(counts: Mapping[str, int]) -> str:
    words = [f"{count} {word}" for word, count in counts.items()]
    total = sum(counts.values())
    return f"Of {total} comparison{'s' if total > 1 else ''}: {', '.join(words)}"


def _between(row: Row) -> str:
    return f"({signed(row['family_low'])} to {signed(row['family_high'])})"


def _rows(pages: Pages, page: str, name: str, *, with_interval: bool = True) -> Sequence[Row]:
    """The rows of a claim on a page that have an effect, and an interval if one is asked for; none without the page."""
    rows: Sequence[Row] = pages.get(page, {"claims": ()})["claims"]
    measured = [row for row in rows if row["name"] == name and row["effect"] is not None]
    return [row for row in measured if not with_interval or row["family_low"] is not None]
