"""The five questions of the campaign, each answered in a sentence with its details; all are made from the numbers of the pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from palinode.analysis.claim_measures import NO_CLAIM
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
        helped = "sometimes helped it to read backwards" if _below(gains) else "did not help it to read backwards"
        worse = ", and mostly made it worse at that" if 2 * len(_above(gains)) > len(gains) else ""
        yield f"Reading forwards {helped}{worse}."


def _plain_leaks(pages: Pages) -> Iterator[str]:
    if seen := _leaking(pages):
        shares = [-row["effect"] / loss for row, loss in seen]
        yield (
            "In published code some models could see the letter that they had to guess. Put back on purpose, such a fault takes "
            f"away {min(shares):.0%} to {max(shares):.0%} of the loss."
        )


def _plain_encoder_decoder(pages: Pages) -> Iterator[str]:
    compared = [row for page in EQUAL for row in _rows(pages, page, "E1")[:1]]
    if compared:
        better, worse = len(_below(compared)), len(_above(compared))
        yield (
            "A published model in two parts, one that reads and one that writes, was better than a plain one in "
            f"{better} and worse in {worse} of {len(compared)} fair comparison{'s' * (len(compared) > 1)}."
        )


def _plain_labels(pages: Pages) -> Iterator[str]:
    kinds, more, fewer = _right_answers(pages)
    steps, sooner, later = _steps_to_learn(pages)
    asked, helped, hindered = kinds | steps, more | sooner, fewer | later
    if asked:
        others = "; for the others our runs do not show a difference" if asked - helped - hindered else ""
        yield (
            "To learn to look something up, guessing every word in training, and not the answer alone, was better for "
            f"{len(helped - hindered)} and worse for {len(hindered - helped)} of {len(asked)} kinds of models{others}."
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
    """The rows of R1 by steps. A kind of model on both pages counts by its row on the page with more seeds, if that judges it.

    So does the mean over kinds: one mean is told, not one for each page.
    """
    rows: dict[str, Row] = {}
    for page in BY_STEPS:
        for row in _rows(pages, page, "R1", with_interval=False):
            kind = row["group"] if row["of_one_group"] else ""
            if row["measure"] == "steps_to_learn" and (kind not in rows or _is_not_made(rows[kind])):
                rows[kind] = row
    return list(rows.values())


def _is_not_made(row: Row) -> bool:
    """Whether a claim is not made, because the best rate of an arm is not known to lie between those that were tried."""
    return any(NO_CLAIM in reason for reason in row["reasons"])


def _plain_retrieval(pages: Pages) -> Iterator[str]:
    for row in _rows(pages, RETRIEVAL, "D2")[:1]:
        matters = row["family_high"] >= pages[RETRIEVAL]["smallest_effect"]
        told = "made" if row["verdict"] == "holds" else "may have made" if matters else "did not make"
        yield f"A short training in both directions {told} a model better at finding texts by an amount that matters."


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
        yield from _with_other_rates(pages)
    yield from _learned_backwards(pages)
    for row in _rows(pages, "mask--laptop", "M1")[:1]:
        side = "above" if row["effect"] > 0 else "below"
        yield (
            f"A model that reads one batch in twenty right to left has a backward loss {abs(row['effect']):.0%} {side} its own "
            f"forward loss. Published, through a mask that shows the answer: {row['published']:+.0%}{_with_the_mask(pages)}."
        )
    for row in _rows(pages, "mask--long", "M1")[:1]:
        yield f"With eight times as much text the backward loss of such a model is {_changed(row)} than its own forward loss."
    for row in (*_rows(pages, "mask--long", "A1"), *_rows(pages, "mask--laptop", "A1"))[:1]:
        apart = f"{row['effect']:+.2%} ({row['family_low']:+.2%} to {row['family_high']:+.2%})"
        yield f"Of models that read one way only, the backward loss differs from the forward loss by {apart}."
    for row in _rows(pages, "mask--laptop", "X1")[:1]:
        sizes = [f"{point['mean']:+.1%} with {point['scale']}" for point in row["points"]]
        mean = f"{_changed(row)}{', as a mean' * bool(sizes)}"
        yield (
            "Where one row in twenty is read backwards, reading the rest forwards makes the backward loss "
            f"{mean}{'; by shape (layers x width): ' * bool(sizes)}{', '.join(sizes)}."
        )
    yield from _second_text(pages)
    if costs:
        open_costs = len(costs) - len(_above(costs)) - len(_below(costs))
        yield (
            f"The price: the forward loss changes by {_span([row['effect'] for row in costs])}, over all shares that were tried; "
            f"{open_costs} of {len(costs)} cannot be told from 0."
        )
    for row in _open(pages, "mask_latent--laptop", "M1"):
        yield f"With the published block and recipe this cannot be asked at our size: {'; '.join(row['reasons'])}."


def _with_other_rates(pages: Pages) -> Iterator[str]:
    """What the rate adds: an arm that reads both ways has the one that is best forwards. Where both chose one, nothing.

    A page of its own asks the same with the rate that is best backwards. Without it, the comparisons with one rate are told.
    """
    if best := list(_ratios(pages, "exchange_rates--laptop", ("X1",)).values()):
        yield (
            "In these comparisons a model that reads both ways has the learning rate that is best for its forward loss. "
            f"With the rate that is best for its backward loss it guesses backwards worse in {len(_above(best))} and better in "
            f"{len(_below(best))} of {len(best)} comparisons: the backward loss changes by "
            f"{_span([row['effect'] for row in best])}."
        )
        return
    chosen = {choice["arm"]: choice["chosen"] for choice in pages["exchange--laptop"].get("choices", ())}
    rows = list(_ratios(pages, "exchange--laptop", ("X1",)).values())
    alike = [row["effect"] for row in rows if chosen and chosen.get(row["arm"]) == chosen.get(row["against"])]
    if alike and len(alike) < len(rows):
        yield (
            "A part of this may come from the learning rate: a model that reads both ways has the one that was best for its "
            f"forward loss. Where both have the same rate, in {len(alike)} comparisons, the backward loss changes by "
            f"{_span(alike)}."
        )


def _learned_backwards(pages: Pages) -> Iterator[str]:
    """The backward loss of models that read nothing but a share of the text backwards: what the tokens read backwards buy."""
    alone = [
        (int(row["arm"].split("-")[1]), row["mean"])
        for row in pages.get("exchange--laptop", {}).get("scores", ())
        if row["arm"].startswith("rtl-") and row["direction"] == "rtl"
    ]
    if alone:
        told = ", ".join(f"{mean:.2f} after {share}%" for share, mean in sorted(alone))
        yield f"Backward loss of models that read only a share of the text, and only backwards, in nats for each character: {told}."


def _with_the_mask(pages: Pages) -> str:
    """Our number with the published mask, which shows the answer; empty without this arm."""
    rows = [row for row in _rows(pages, "mask--laptop", "M1") if "published-mask" in row["arm"] == row["against"]]
    return "".join(f"; with that mask, ours is {row['effect']:+.0%}" for row in rows[:1])


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
            f"{max(losses):.2f} nats for each character that it needs without the fault: "
            f"{'; '.join(_claimed(row) for row in seen)}."
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
        yield f"The comparisons at equal {', '.join(shared)} use the same runs of the combination; only the decoder differs."
    arms = {row["arm"]: row for row in pages.get("encdec--laptop", {}).get("arms", ())}
    if plain := arms.get("encdec"):
        apart = f"{signed(plain['difference'])} nats ({signed(plain['low'])} to {signed(plain['high'])})"
        yield f"Without additions the encoder-decoder is {apart} from the decoder: {plain['verdict']}."
    for page, where in (("encdec--laptop", ""), ("encdec--wikitext", " on WikiText-2")):
        parts = [row for name in ("E2", "E3") for row in _rows(pages, page, name)[:1]]
        told = (f"{_uncapital(row)}: {signed(row['effect'])} {_between(row)}, {verdict_of(row)}" for row in parts)
        if parts:
            yield f"Its parts{where}, in nats, where less than 0 helps: {'; '.join(told)}."
    for row in _rows(pages, "encdec_published--laptop", "E2")[:1]:
        ours = f"{signed(row['effect'])} {_between(row)}, {verdict_of(row)}"
        yield f"The embedding loss with the published norms, which can vanish: {ours}."
    dropout = arms.get("decoder-dropout")
    if dropout and dropout["verdict"] == "worse":
        beaten = [
            f" by {-row['effect']:.3f} nats" for row in _rows(pages, "encdec--laptop", "E5")[:1] if row["effect"] < 0
        ]
        yield (
            f"The combination beats a decoder with dropout{''.join(beaten)}, which says little: dropout makes our decoder worse by "
            f"{dropout['difference']:.3f} nats."
        )


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
        last = " A run that never came half-way counts with its last step: the ratio is then a bound." * ("=" in ratios)
        told = f"Steps to half-way, with all tokens as a multiple of those with the answer alone: {ratios}."
        yield f"{told}{last}{_roughness(of_kinds)}"
    for row in _rows_of_steps(pages):
        if not row["of_one_group"]:
            told = f"all tokens take {row['effect_bound']}{row['effect']:.2f} times the steps (p = {row['p']:.2g})"
            split = ", though the kinds differ in which teaches sooner" * bool(sooner and later)
            yield f"Over {row['group'].removeprefix('mean of ')}: {told}: {row['verdict']}{split}."
    if kinds:
        yield (
            f"Of {len(kinds)} kinds of models, {_named(more)} give more right answers at the end after training on all tokens, and "
            f"{_named(fewer)} after training on the answer alone."
        )
    yield from _not_taught(pages)
    yield from _without_a_direction(pages, verdict_of)
    for row in _rows(pages, "recall--laptop", "R3", with_interval=False)[:1]:
        yield f"{row['claim']} Rank correlation {row['effect']:+.2f} over {row['count']} kinds: {verdict_of(row)}."


def _roughness(rows: Sequence[Row]) -> str:
    """What the page says of how finely these steps are known, and of which kinds; empty where they are known well."""
    known: dict[str, list[str]] = {}
    for row in rows:
        for text in (text for text in row["cautions"] if text.startswith("steps are known")):
            known.setdefault(text, []).append(row["group"])
    return "".join(f" Of {', '.join(kinds)}: {text}." for text, kinds in known.items())


def _not_taught(pages: Pages) -> Iterator[str]:
    """The kinds that the answer alone taught at no rate, so that no claim is made, and their right answers after all tokens."""
    page = pages.get("recall--laptop", {})
    means = {row["arm"]: row["mean"] for row in page.get("scores", ())}
    for row in _rows(pages, "recall--laptop", "R1"):
        if any(f"taught {row['against']} more than guessing" in reason for reason in row["reasons"]):
            yield (
                f"The answer alone taught {row['group']} at no learning rate that was tried; from all tokens it learns "
                f"{means.get(row['arm'], 0.0):.0%} right answers. As this rate is chosen by chance, no claim is made of it."
            )


def _without_a_direction(pages: Pages, verdict_of: Callable[[Row], str]) -> Iterator[str]:
    """R2: in which kinds a model without a direction gives as many right answers, and which kinds end at the level of guessing."""
    rows = [row for row in _rows(pages, "recall--laptop", "R2") if row["measure"] == "difference"]
    kinds = [row for row in rows if row["of_one_group"]]
    if not kinds:
        return
    shown = "".join(
        f" As a share of right answers, {row['group']}: {signed(row['effect'])} {_between(row)}."
        for row in rows
        if not row["of_one_group"] and not row["reasons"]
    )
    yield f"{kinds[0]['claim']}{shown} {_several(Counter(verdict_of(row) for row in kinds))}."
    page = pages["recall--laptop"]
    means = {row["arm"]: row["mean"] for row in page.get("scores", ())}
    guessed = max((level["without_learning"] for level in page.get("levels", ())), default=0.0)
    lost = [row["group"] for row in kinds if means.get(row["arm"], 1.0) < guessed + page.get("smallest_effect", 0.0)]
    if lost:
        yield f"Without a direction, {' and '.join(lost)} give no more right answers than guessing does ({guessed:.0%})."


def _best_labels(asked: Collection[str], helped: Collection[str], hindered: Collection[str]) -> str:
    """The short answer: which kinds of models do better with which labels, and of how many nothing can be told."""
    either = {*helped} & {*hindered}
    told = [
        f"{labels} for {', '.join(sorted(kinds))}"
        for labels, kinds in (
            ("all tokens", {*helped} - either),
            ("the answer alone", {*hindered} - either),
            ("sooner with the one and more right answers with the other", either),
        )
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
    yield from _badly_read(pages)
    for row in rows.values():
        effect = f"{row['effect']:+.0%}" if row["measure"] == "ratio" else signed(row["effect"])
        yield f"{row['claim']} {effect}: {verdict_of(row)}."
    levels = (pages.get(RETRIEVAL, {}).get("retrieval") or {}).get("levels", ())
    late = [row for row in levels if row["retriever"].startswith("Late")]
    word = [row for row in levels if not row["retriever"].startswith(("Late", "Mean"))]
    if late and word:
        of_arms = ", ".join(f"{row['ndcg_at_10']:.3f} {row['arm']}" for row in late)
        yield f"nDCG@10 of each arm: {of_arms}. BM25, which counts words and learns nothing, has {word[0]['ndcg_at_10']:.3f}."


def _badly_read(pages: Pages) -> Iterator[str]:
    """How well the models of retrieval read backwards before and after their training."""
    losses = {(row["arm"], row["direction"]): row["mean"] for row in pages.get(RETRIEVAL, {}).get("scores", ())}
    before, after, forwards = (losses.get(key) for key in (("as is", "rtl"), ("ltr+rtl", "rtl"), ("ltr+rtl", "ltr")))
    if before and after and forwards:
        yield (
            f"The training is short: it lowers the backward loss from {before:.2f} to {after:.2f} nats for each token, and the "
            f"forward loss of the same models is {forwards:.2f}."
        )


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
