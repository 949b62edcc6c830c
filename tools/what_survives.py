"""What survives: the published claims in one table and one figure, from the pages that `palinode findings` wrote.

`python tools/what_survives.py` writes every page from its pack (findings/records), reads findings/*.json, writes the table into
findings/README.md between its two marks, and draws findings/what-survives.svg. A claim has one row: the first row of its name on
its page, which is the one with the published number. A claim whose experiment has no page yet says so, with the hours that are
planned for it (findings/CAMPAIGN.md).
"""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

from answers import answers, counted, in_plain_words

from palinode import Store
from palinode.base import fsio
from palinode.base.measures import FINAL_OUTCOMES
from palinode.report.findings import between, in_unit, signed, table, write_findings
from palinode.report.theme import svg
from palinode.results.pack import unpack

ROOT = Path(__file__).parent.parent
FINDINGS = ROOT / "findings"
RECORDS = FINDINGS / "records"
PAGE = FINDINGS / "README.md"
FIGURE = FINDINGS / "what-survives.svg"
BEGIN, END = "<!-- tools/what_survives.py writes from here -->", "<!-- to here -->"
Row = dict[str, Any]
COLOURS = {
    "confirmed": "#1f8a80",
    "real but smaller": "#3c9dc4",
    "real but larger": "#5f8f2e",
    "not found here": "#d9902f",
    "the opposite": "#c8372d",
    "cannot tell": "#8c8678",
}


class Asked(NamedTuple):
    """A claim of the table: its name, the page that judges it, and what it asks if its rows have different sentences.

    `measure` chooses the rows with this measure, where a claim has rows with several; empty: the measure of its first row.
    """

    name: str
    page: str
    sentence: str = ""
    measure: str = ""


MASK, EXCHANGE, RECALL = "mask--laptop", "exchange--laptop", "recall--laptop"
CLAIMS = (
    Asked("M1", MASK),
    Asked("M2", MASK),
    Asked("M2", MASK, measure="ratio_slope"),
    *(Asked(f"M{number}", MASK) for number in (3, 4)),
    Asked("M5", MASK, "Early layers of p = .05 models are stronger, middle ones weaker, than those of p = 0 models."),
    *(Asked(f"E{number}", "encdec--laptop") for number in range(1, 6)),
    Asked("R1", RECALL),
    Asked("R1", RECALL, measure="steps_to_learn"),
    *(Asked(f"R{number}", RECALL) for number in (2, 3)),
)
SIZED = {"M": MASK, "E": "encdec--laptop", "R": RECALL}
PUBLISHED_SIZES = "The published ones have 46 to 626 million (M) and about 16 million (E)."
LEGEND = (
    "Confirmed: our interval agrees with the published effect and lies on its side of 0. Real but smaller, or larger: on its side "
    "of 0, without agreeing. Not found here: our interval contains 0 and not the published effect. The opposite: our interval lies "
    "on the other side of 0. Where nothing is published, a claim holds, or does not hold, by its own sentence. Cannot tell: our "
    "runs allow both answers, or the comparison is not valid; the reason stands beside it. The published effects of E are shares "
    "of the published loss, turned into our unit."
)
# A part of a reason that names arms -> the reason in short, for several rows.
SHORT = {
    "score the maximum": "both models end at the maximum",
    "more than guessing": "no rate that was tried taught one of the models",
    "the edge of what was tried": "the best rate lies at the edge of those that were tried",
    "point in opposite directions": "the ratio and the test point in opposite directions",
    "some runs learned": "some runs learned the task and others did not",
}
LINE = "|"  # between the lines of a label of the figure
SHARES_ON_AXIS = [-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50]
QUESTIONS = (
    Asked("X1", EXCHANGE, "Tokens read left to right help the rtl pass, on equal rtl tokens."),
    Asked("X2", EXCHANGE, "Tokens read right to left raise the ltr loss, on equal ltr tokens."),
    Asked("X3", EXCHANGE, "Choosing the direction for each row gives a lower rtl loss than for each batch."),
    Asked("X1", "exchange_rates--laptop", "The same, each model at the rate that is best for its rtl loss."),
    *(Asked(name, "exchange--wikitext", "The same on the bytes of WikiText-2.") for name in ("X1", "X2")),
    *(Asked(name, "encdec--wikitext", "The same on the bytes of WikiText-2.") for name in ("E1", "E2", "E3", "E4")),
    Asked("R1", "recall_steps--laptop", "By steps again: other seeds, sixteen of them, and a count every 50 steps."),
    Asked("M1", "mask--long", "The same with eight times as much text."),
    Asked("A1", "mask--long"),
    Asked("A1", MASK, "The same with the text of mask--laptop."),
    Asked("leak", "leaks--laptop", "Each published defect beside the same model without it."),
    Asked("leak", "selection--laptop", "A rate that is chosen on the test set makes a mixer look better."),
    Asked("D2", "retrieval--laptop"),
)


def main() -> None:
    for pack in sorted(RECORDS.glob("*.palinode")):
        rebuild(pack, FINDINGS)
    pages, hours = read_pages(FINDINGS), planned_hours(FINDINGS)
    fsio.write_text(PAGE, written(PAGE.read_text(encoding="utf-8"), pages, hours))
    if shares := shares_of_published(pages):
        fsio.write_text(FIGURE, drawn(shares))


def rebuild(pack: Path, directory: Path) -> tuple[Path, ...]:
    """Write the page of one pack, as `palinode unpack` and `palinode findings` do.

    The packs of other experiments that its claims read are unpacked beside it. A pack of which runs are missing has no page, and a
    pack without claims has none.
    """
    with tempfile.TemporaryDirectory() as temporary:
        store = Store(Path(temporary))
        unpack(store, pack)
        record = store.experiment(pack.stem)
        if (
            not record.entry.claims
            or record.entry.to_choose
            or any(run.outcome not in FINAL_OUTCOMES for run in record.runs)
        ):
            return ()
        for other in {claim.experiment for claim in record.entry.claims if claim.experiment}:
            beside = pack.with_name(f"{other}--{record.entry.size}{pack.suffix}")
            if beside.exists():
                unpack(store, beside)
        return write_findings(store, pack.stem, directory)


def read_pages(findings: Path) -> dict[str, Row]:
    """Name of a page -> its numbers."""
    pages = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(findings.glob("*--*.json"))}
    return {name: page for name, page in pages.items() if "claims" in page}


def planned_hours(findings: Path) -> dict[str, float]:
    """Name of an experiment -> the core-hours that are planned for its trials and runs."""
    planned = json.loads((findings / "campaign.json").read_text(encoding="utf-8"))
    return {name: sum(row["seconds"] for row in rows) / 3600 for name, rows in planned.items()}


def written(page: str, pages: Mapping[str, Row], hours: Mapping[str, float]) -> str:
    """The page with its tables written anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    figure = (
        ["", f"![Our effects as shares of the published ones]({FIGURE.name})"] if shares_of_published(pages) else []
    )
    tables = [
        *([f"**In plain words.** {plain}", ""] if (plain := in_plain_words(pages)) else []),
        *sizes_of_models(pages),
        answers(pages, verdict_of),
        "",
        claims_table(CLAIMS, pages, hours),
        *figure,
        "",
        LEGEND,
        "",
        "Another published claim (A1), our own questions, and second texts, by the same rules:",
        "",
        claims_table(QUESTIONS, pages, hours),
        "",
        "What was predicted and promised, and what came, by the interval of each row alone. Hours are those of one core; the plan "
        "was measured on another day. Each page says what was changed after its plan was sealed.",
        "",
        promises_table(pages, hours),
    ]
    return "\n".join([before.rstrip(), "", BEGIN, "", *tables, "", END, "", after.strip(), ""])


def sizes_of_models(pages: Mapping[str, Row]) -> list[str]:
    """A line about the sizes of our models and of the published ones; none without the pages of both."""
    ours = []
    for letter, page in SIZED.items():
        counts = [row["parameters"] for row in pages.get(page, {}).get("scores", ()) if row["parameters"]]
        if not counts:
            return []
        ours.append(f"{min(counts):,.0f} to {max(counts):,.0f} parameters ({letter})")
    return [
        f"Our models are small: {', '.join(ours)}. {PUBLISHED_SIZES} What is found here need not hold for models of those sizes.",
        "",
    ]


def claims_table(claims: Sequence[Asked], pages: Mapping[str, Row], hours: Mapping[str, float]) -> str:
    """A Markdown table of claims, one row each."""
    heads = "claim, published, ours, 95 % interval, verdict, seeds, page"
    return table((cells(asked, pages, hours) for asked in claims), heads)


def cells(asked: Asked, pages: Mapping[str, Row], hours: Mapping[str, float]) -> Sequence[Any]:
    row = row_of(asked, pages)
    if row is None:
        planned = f"not run yet: {hours[asked.page]:.1f} core-hours planned" if asked.page in hours else "not run yet"
        return (". ".join(filter(None, (asked.name, asked.sentence))), "", "", "", planned, "", f"`{asked.page}`")
    page = f"[{asked.page}]({asked.page}.md)"
    if len(rows := rows_of(asked, pages)) > 1 and row["published"] is None:
        effects, counts = [one["effect"] for one in rows], Counter(verdict_of(one) for one in rows)
        alike = {word: [one for one in rows if verdict_of(one) == word] for word in counts}
        several = ", ".join(f"{counted(count, word)}{why_several(alike[word])}" for word, count in counts.items())
        least, most = (in_unit(row["measure"], end(effects)) for end in (min, max))
        groups = sum(bool(one.get("of_one_group")) for one in rows)
        where = f"{groups} groups and their mean" if 0 < groups == len(rows) - 1 else f"{len(rows)} rows"
        ours = f"{_unit(row)}{least} to {most} in {where}"
        return (f"{asked.name}. {asked.sentence or row['claim']}", "", ours, "", several, row["count"], page)
    claim = f"{asked.name}. {asked.sentence or row['claim']}"
    return (
        claim,
        signed(row["published"]),
        f"{_unit(row)}{in_unit(row['measure'], row['effect'])}",
        between(row),
        verdict_of(row) + why(row) + _weak_opponent(row, pages[asked.page]),
        f"{row['count']} kinds" if row["measure"] == "rank_correlation" else row["count"],
        page,
    )


def rows_of(asked: Asked, pages: Mapping[str, Row]) -> list[Row]:
    """The rows of a claim on its page that were judged by an effect in the unit of its first row."""
    rows = [row for row in _of_claim(asked, pages) if row["effect"] is not None]
    return [row for row in rows if row["measure"] == rows[0]["measure"] and row["verdict"] != "not judged"]


def row_of(asked: Asked, pages: Mapping[str, Row]) -> Row | None:
    """The first row of a claim on its page; None without a page, or where the page lacks the claim."""
    return next(iter(_of_claim(asked, pages)), None)


def _of_claim(asked: Asked, pages: Mapping[str, Row]) -> list[Row]:
    rows: Iterable[Row] = pages.get(asked.page, {"claims": ()})["claims"]
    return [row for row in rows if row["name"] == asked.name and asked.measure in ("", row["measure"])]


def verdict_of(row: Row) -> str:
    """What our runs say of a claim: about the published effect where there is one, else about the claim."""
    return str(row["published_words"] or row["verdict"])


def promises_table(pages: Mapping[str, Row], hours: Mapping[str, float]) -> str:
    """For each page: how many promised half-widths and predicted effects came true, and the hours planned and used."""
    rows = []
    for name, page in pages.items():
        promised = [row["kept"] for row in page["promised"] if row["kept"] is not None]
        predicted = [row["inside"] for row in page["promised"] if row["inside"] is not None]
        used = sum(page["hours"].values())
        planned = f"{hours[name]:.1f}" if name in hours else ""
        kept, inside = (f"{sum(told)} of {len(told)}" for told in (promised, predicted))
        rows.append((f"[{name}]({name}.md)", kept, inside, planned, f"{used:.1f}"))
    return table(rows, "page, half-widths kept, predictions in the interval, hours planned, hours used")


def why(row: Row) -> str:
    """The reasons why a row cannot tell, with the seeds and hours that would, and a missed promise; else nothing."""
    if verdict_of(row) != "cannot tell" or not row["reasons"]:
        return ""
    promised, reached = row["half_width_promised"], row["half_width"]
    missed = promised is not None and reached is not None and reached > promised
    return (
        f": {'; '.join([*row['reasons'], *([f'half-width {reached:.3g}, promised {promised:.3g}'] if missed else [])])}"
    )


def why_several(rows: Sequence[Row]) -> str:
    """Why rows cannot be told: each kind of reason with the number of its rows. Of rows that more seeds would tell, the hardest."""
    alike: dict[str, list[Row]] = {}
    for row in (row for row in rows if why(row)):
        short = (word for part, word in SHORT.items() if any(part in reason for reason in row["reasons"]))
        alike.setdefault(next(short, row["reasons"][0]), []).append(row)
    told: list[tuple[int, str]] = []
    for reason, some in sorted(alike.items(), key=lambda item: -len(item[1])):
        hardest = max(some, key=lambda row: row["seeds_needed"] or math.inf)
        words = reason if reason in SHORT.values() else why(hardest).removeprefix(": ")
        told.append((len(some), words))
    if len(told) == 1:
        return f": {told[0][1]}"
    return f" ({'; '.join(f'{count}: {words}' for count, words in told)})" if told else ""


def _weak_opponent(row: Row, page: Row) -> str:
    """A word about a model that is beaten and is itself worse than the baseline of its page; else nothing."""
    verdicts = {one["arm"]: one["verdict"] for one in page.get("arms", ())}
    is_beaten = row["verdict"] == "holds" and verdicts.get(row.get("against")) == "worse"
    return f"; {row['against']} is itself worse than the baseline" if is_beaten else ""


def _unit(row: Row) -> str:
    return "ratio of steps " if row["measure"] == "steps_to_learn" else ""


def shares_of_published(pages: Mapping[str, Row]) -> list[Row]:
    """Each claim with a published effect and an interval of ours, both divided by the published effect."""
    shares = []
    for asked in CLAIMS:
        row = row_of(asked, pages)
        if row is None or not row["published"] or row["low"] is None or row["published_words"] is None:
            continue
        low, high = sorted(row[end] / row["published"] for end in ("family_low", "family_high"))
        weak = _weak_opponent(row, pages[asked.page])
        shares.append(
            {
                "claim": LINE.join(wrap(f"{asked.name}. {row['claim'].rstrip('.')}{weak}", 54)),
                "share": row["effect"] / row["published"],
                "low": low,
                "high": high,
                "verdict": verdict_of(row),
            }
        )
    return shares


def drawn(shares: Sequence[Row]) -> str:
    """The figure as SVG: 0 is no effect, 1 is the published one."""
    domain = [min(-0.5, *(row["low"] for row in shares)), max(1.5, *(row["high"] for row in shares))]
    words = [word for word in COLOURS if any(row["verdict"] == word for row in shares)]
    # A published effect near 0 gives large shares (E4: -16), so equal steps become narrower from 0 outwards.
    x = {
        "type": "quantitative",
        "scale": {"type": "symlog", "domain": domain},
        "title": ["share of the published effect; left of 0 is the opposite", "steps become narrower outwards"],
    }
    x["axis"] = {"values": SHARES_ON_AXIS}
    colour = {
        "field": "verdict",
        "type": "nominal",
        "scale": {"domain": words, "range": [COLOURS[word] for word in words]},
        "legend": {"orient": "bottom", "title": None, "columnPadding": 24, "symbolOpacity": 1},
    }
    y: dict[str, Any] = {"field": "claim", "type": "nominal", "title": None, "sort": None}
    y["axis"] = {"labelExpr": f"split(datum.value, '{LINE}')", "labelLimit": 400, "minExtent": 320}
    known = [{"at": 0, "means": "no effect"}, {"at": 1, "means": "as published"}]
    at = {"data": {"values": known}, "mark": {"type": "rule", "strokeDash": [3, 3]}}
    named = {"data": {"values": known}, "mark": {"type": "text", "angle": 315, "align": "left", "y": -4, "dx": 2}}
    lines = max(row["claim"].count(LINE) + 1 for row in shares)
    chart = {
        "width": 400,
        "height": {"step": 8 + 13 * lines},
        "data": {"values": list(shares)},
        "layer": [
            {**at, "encoding": {"x": {"field": "at", **x}}},
            {**named, "encoding": {"x": {"field": "at", **x}, "text": {"field": "means"}}},
            {
                "mark": {"type": "rule", "strokeWidth": 5, "opacity": 0.4},
                "encoding": {"y": y, "x": {"field": "low", **x}, "x2": {"field": "high"}, "color": colour},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
                "encoding": {"y": y, "x": {"field": "share", **x}, "color": colour},
            },
        ],
    }
    return svg(chart)


if __name__ == "__main__":
    main()
