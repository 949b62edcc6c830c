"""The findings page of the encoder-decoder, made from a store: claims E1 to E5 in three comparisons, published numbers beside ours.

Run, after the experiments:
    palinode run experiments/encdec.py --size laptop
    palinode run experiments/encdec_parameters.py --size laptop
    palinode run experiments/encdec_flops.py --size laptop
    python findings/encdec.py --store runs --size laptop
Writes findings/encdec-<size>.md and the numbers beside it as JSON. No number on the page is typed by hand; the published ones are
in findings/encdec-published.json, with their source.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from again import again
from cells import between, not_adjusted, plain, signed, table, whole
from encdec_numbers import (
    COMPARISONS,
    DECODER,
    DISTANCES,
    GEOMETRY,
    LAST_SHARE,
    numbers,
    published_row,
    records_of,
)
from ending import ending
from frequencies import token_frequencies
from ours import ours

from palinode.analysis.embeddings import POSITION_COSINE
from palinode.analysis.verdict import rule_of
from palinode.base import fsio
from palinode.results.record import ChoiceEntry, ExperimentRecord
from palinode.results.store import Store

HERE = Path(__file__).parent
PUBLISHED = HERE / "encdec-published.json"
AT_THE_EDGE = "the edge of what was tried"  # a caution that stands with its claim, and in a table of its own


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--store", type=Path, default=Path("runs"))
    arguments.add_argument("--size", default="laptop")
    arguments.add_argument("--out", type=Path, default=HERE)
    given = arguments.parse_args()
    store = Store(given.store)
    records = records_of(store, given.size)
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    found = numbers(records, published, {name: token_frequencies(store, record) for name, record in records.items()})
    page = "\n".join(lines(given.size, records, found, published)) + "\n"
    fsio.write_text(given.out / f"encdec-{given.size}.md", page)
    fsio.write_json(given.out / f"encdec-{given.size}.json", found)


def lines(
    size: str, records: Mapping[str, ExperimentRecord], found: Mapping[str, Any], published: Mapping[str, Any]
) -> Iterator[str]:
    """The page."""
    rule = rule_of(records["encdec"].entry)
    yield f"# encdec, size {size}: an autoregressive encoder-decoder against decoders"
    yield ""
    yield f"Published: {published['source']}."
    yield ""
    yield f"Ours: {ours(records.values()) or 'none yet'}."
    yield ""
    for name, record in records.items():
        finished, seeds = sum(run.outcome == "done" for run in record.runs), ", ".join(map(str, record.entry.seeds))
        yield f"- {COMPARISONS[name]}: {finished} of {len(record.runs)} runs done, seeds {seeds}."
    yield from ["", "## The claims", ""]
    least = f"{rule.smallest_effect:g}"
    yield (
        f"Difference of the validation loss in nats per token, arm less other, paired by seed, {rule.confidence:.0%} t interval. "
        f"A claim holds where the interval lies below 0 and reaches -{least}; it does not hold where the interval lies above 0 or "
        f"inside {least} on both sides; otherwise more seeds are needed. Nothing is told of runs that are not below what the "
        f"frequencies of tokens reach, {plain(found['token_frequencies']['encdec'], 3) or 'not known here'} nats."
    )
    yield from claims_in_short(found, list(records))
    yield from ["", not_adjusted(found["claims"], rule.confidence), "", *last_rates(records)]
    for name in records:
        yield from claim_table(name, [claim for claim in found["claims"] if claim["comparison"] == name])
    yield from published_table(found, published)
    yield from cost_tables(found)
    yield from term_table(found, published)
    yield from geometry_table(records["encdec"], found)
    yield from rate_table(records)
    yield from ["", "## Again", ""]
    for record in records.values():
        yield f"    {again(record.entry.command)}"
    yield f"    python findings/encdec.py --size {size}"


def claims_in_short(found: Mapping[str, Any], comparisons: Sequence[str]) -> Iterator[str]:
    """Every claim once, a column for each comparison."""
    said: dict[tuple[str, ...], dict[str, str]] = {}
    for claim in found["claims"]:
        asked = (f"{claim['name']}. {claim['claim']}", claim["scale"], claim["arm"], claim["against"])
        effect = f"{signed(claim['effect'])} ({between(claim, signed)})" if claim["low"] is not None else ""
        said.setdefault(asked, {})[claim["comparison"]] = ": ".join(filter(None, (claim["verdict"], effect)))
    yield ""
    yield from table(
        ["claim", "scale", "arm", "against", *(COMPARISONS[name] for name in comparisons)],
        [(*asked, *(cells.get(name, "not asked again") for name in comparisons)) for asked, cells in said.items()],
    )


def last_rates(records: Mapping[str, ExperimentRecord]) -> Iterator[str]:
    """Whose settings may be better still beyond what was tried."""
    edges = dict.fromkeys(
        choice.arm for record in records.values() for choice in record.entry.choices if choice.at_the_edge
    )
    if edges:
        yield f"Best at the last rate tried, so perhaps better at another: {', '.join(edges)}. Why none beyond: docs/log.md."


def claim_table(comparison: str, found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from ["", f"### {COMPARISONS[comparison]}", ""]
    heads = "claim, arm, against, parameters, FLOPs, published, difference, interval, pairs, verdict, because"
    yield from table(
        heads.split(", "),
        [
            (
                f"{claim['name']}. {claim['claim']}",
                claim["arm"],
                claim["against"],
                percent(claim["parameters"]),
                percent(claim["train_flops"]),
                signed(claim["published"], 3),
                signed(claim["effect"]),
                between(claim, signed),
                claim["pairs"],
                claim["verdict"],
                "; ".join((claim["outcome"], *claim["reasons"], *at_the_edge(claim))),
            )
            for claim in found
        ],
    )
    if comparison != next(iter(COMPARISONS)):
        yield ""
        yield "Claims among the encoder-decoders are those of the first table where the runs are the same."
    cautions = dict.fromkeys(said for claim in found for said in claim["cautions"] if AT_THE_EDGE not in said)
    if cautions:
        yield from ["", f"To know: {'; '.join(cautions)}."]


def at_the_edge(claim: Mapping[str, Any]) -> Iterator[str]:
    """Which of the two may be better than this at a setting that was not tried."""
    arms = [said.partition(" ")[0] for said in claim["cautions"] if AT_THE_EDGE in said]
    if arms:
        yield f"{' and '.join(arms)} at the edge of the rates tried"


def published_table(found: Mapping[str, Any], published: Mapping[str, Any]) -> Iterator[str]:
    yield from ["", "## The published table beside ours", ""]
    yield (
        "Text, size and vocabulary differ: differences can be compared, losses cannot. Our train loss is the mean over the last "
        f"{LAST_SHARE:.0%} of the steps. Parameters without positions. {' '.join(published['remarks'])}"
    )
    yield ""
    reference = published_row(published, DECODER)
    ours_decoder = {row["scale"]: row["validation"] for row in found["arms"]["encdec"] if row["arm"] == DECODER}
    terms = {(row["arm"], row["scale"]): row["last_value"] for row in found["terms"]}
    rows = []
    for row in found["arms"]["encdec"]:
        theirs: Mapping[str, Any] = published_row(published, row["arm"]) or {}
        rows.append(
            (
                row["arm"],
                theirs.get("run", ""),
                plain(theirs.get("train"), 3),
                plain(row["train"]),
                plain(theirs.get("validation"), 3),
                f"{plain(row['validation'])} ({between(row, plain)})"
                if row["low"] is not None
                else plain(row["validation"]),
                signed(less(theirs.get("validation"), reference["validation"] if reference else None), 3),
                signed(less(row["validation"], ours_decoder.get(row["scale"]))),
                short(theirs.get("term")),
                short(terms.get((row["arm"], row["scale"]))),
                whole(theirs.get("parameters")),
                whole(row["parameters_without_positions"]),
                row["seeds"],
            )
        )
    sides = ("train", "validation", "less the decoder's", "embedding loss", "parameters")
    both = [f"{who} {what}" for what in sides for who in ("published", "our")]
    yield from table(["arm", "published run", *both, "seeds"], rows)


def cost_tables(found: Mapping[str, Any]) -> Iterator[str]:
    yield from ["", "## What each arm cost", "", "Against the decoder of the same comparison."]
    for name, rows in found["arms"].items():
        yield from ["", f"### {COMPARISONS[name]}", ""]
        axes = ("parameters", "tokens_read", "train_flops")
        shown = [
            (row["arm"], plain(row["validation"]), *(percent(row[f"{axis}_ratio"]) for axis in axes), row["seeds"])
            for row in rows
        ]
        yield from table(["arm", "validation loss", "parameters", "tokens read", "training FLOPs", "seeds"], shown)


def term_table(found: Mapping[str, Any], published: Mapping[str, Any]) -> Iterator[str]:
    yield from ["", "## What the embedding loss measured", ""]
    yield (
        "Means over seeds at the last logged step. Affinity is 1 - value / shuffled: 0 where pairs agree no more than strangers, "
        "none where they vanished. Alone on noise: the audit trains the term by itself on unrelated states before any run."
    )
    yield ""
    rows = [
        (
            row["arm"],
            short((published_row(published, row["arm"]) or {}).get("term")),
            short(row["first_value"]),
            short(row["last_value"]),
            short(row["last_shuffled"]),
            short(row["last_gain"]),
            short(row["last_variance"]),
            "none" if row["affinity"] is None else plain(row["affinity"], 3),
            f"{row['runs_collapsed']} of {row['runs_judged']}",
            {"fail": "COLLAPSE", "pass": "holds", "could_not_tell": "could not tell", None: ""}[row["probe"]],
        )
        for row in found["terms"]
    ]
    heads = "arm, published, at first, at the end, shuffled, gain, variance, affinity, runs collapsed, alone on noise"
    yield from table(heads.split(", "), rows)


def geometry_table(record: ExperimentRecord, found: Mapping[str, Any]) -> Iterator[str]:
    yield from ["", "## Token and position vectors", ""]
    slots = {run.record.spec["data"]["window_tokens"] for run in record.runs if run.record is not None}
    by_chance = ", ".join(f"{-1 / (count - 1):.4f} for {count} of them" for count in sorted(slots))
    yield (
        "Means over seeds with their intervals; in brackets what random directions of the same width make. Cosines of two "
        f"positions are taken about the mean of all: n unrelated ones have -1 / (n - 1), {by_chance}."
    )
    yield ""
    numbers_of = {(row["arm"], row["scale"], row["number"], row["distance"]): row for row in found["embeddings"]}
    places = dict.fromkeys((row["arm"], row["scale"]) for row in found["embeddings"])
    distances = [d for d in DISTANCES if any(row["distance"] == d for row in found["embeddings"])]
    asked = [*((number, None) for number in GEOMETRY), *((POSITION_COSINE, distance) for distance in distances)]
    heads = ["token length", "position length", "absolute cosine of both", "positions' variance in the tokens' quarter"]
    heads += [f"cosine of positions {distance} apart" for distance in distances]
    yield from table(
        ["arm", *heads],
        [(arm, *(cell(numbers_of.get((arm, scale, *what))) for what in asked)) for arm, scale in places],
    )


def rate_table(records: Mapping[str, ExperimentRecord]) -> Iterator[str]:
    yield from ["", "## How the settings were chosen", ""]
    chosen: dict[tuple[str, ...], tuple[str, ChoiceEntry]] = {}
    for name, record in records.items():
        for choice in record.entry.choices:
            chosen.setdefault((choice.arm, choice.scale, *choice.runs), (name, choice))
    if not chosen:
        yield "Nothing was tuned."
        return
    edges = [f"{choice.arm} ({name})" for name, choice in chosen.values() if choice.at_the_edge]
    yield f"On the tuning split, as many trials for every arm. Best at the edge of what was tried: {', '.join(edges) or 'none'}."
    yield ""
    heads = ["arm", "experiment", "setting", "tried: loss", "chosen", "at the edge"]
    yield from table(heads, [rate_row(name, choice) for name, choice in chosen.values()])


def rate_row(experiment: str, choice: ChoiceEntry) -> tuple[str, ...]:
    tried = ", ".join(f"{value:g}: {plain(score)}" for value, score in zip(choice.values, choice.scores, strict=True))
    edge = "edge" if choice.at_the_edge else ""
    return choice.arm, experiment, f"`{choice.field}`", tried, f"{choice.chosen:g}", edge


def less(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def percent(ratio: float | None) -> str:
    return "" if ratio is None else f"{100 * (ratio - 1):+.1f} %"


def cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    interval = "" if row["interval_low"] is None else f", {row['interval_low']:.3f} to {row['interval_high']:.3f}"
    chance = "" if row["chance"] is None else f" [{row['chance']:.3f}]"
    return f"{row['mean']:.3f}{interval}{chance}"


if __name__ == "__main__":
    sys.exit(ending(main))
