"""The findings page of recall, made from a store: claims R1 to R3, our accuracies beside the published ones.

Run, after the experiments:
    palinode run experiments/recall.py --size laptop
    palinode run experiments/recall_text.py --size laptop
    python findings/recall.py --store runs --size laptop
Writes findings/recall-<size>.md and the numbers beside it as JSON. No number on the page is typed by hand; the published ones are
in findings/recall-published.json, with their sources.
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
from ending import ending
from ours import ours
from recall_numbers import ALL_MIXERS, PUBLISHED_WAY, R1, R2, R3, RECALL, WIDEST, numbers, records_of

from palinode.analysis.verdict import rule_of
from palinode.base import fsio
from palinode.results.record import ExperimentRecord
from palinode.results.store import Store

HERE = Path(__file__).parent
AT_THE_EDGE, COULD_NOT_TELL = "the edge of what was tried", " could not tell on "  # of cautions
PUBLISHED = HERE / "recall-published.json"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--store", type=Path, default=Path("runs"))
    arguments.add_argument("--size", default="laptop")
    arguments.add_argument("--out", type=Path, default=HERE)
    given = arguments.parse_args()
    records = records_of(Store(given.store), given.size)
    found = numbers(records, json.loads(PUBLISHED.read_text(encoding="utf-8")))
    page = "\n".join(lines(given.size, records, found)) + "\n"
    fsio.write_text(given.out / f"recall-{given.size}.md", page)
    fsio.write_json(given.out / f"recall-{given.size}.json", found)


def lines(size: str, records: Mapping[str, ExperimentRecord], found: Mapping[str, Any]) -> Iterator[str]:
    """The page."""
    yield f"# recall, size {size}: mixers, labels and visibility on associative recall"
    yield ""
    for record in records.values():
        finished, seeds = sum(run.outcome == "done" for run in record.runs), ", ".join(map(str, record.entry.seeds))
        what = f": {said}" if (said := ours([record])) else ""
        yield f"- `{record.entry.name}`: {finished} of {len(record.runs)} runs done, seeds {seeds}{what}."
    yield from claims_in_short(found)
    intervals = [row for kind in ("claims", "sooner") for row in found[kind]]
    yield from ["", not_adjusted(intervals, rule_of(records[RECALL].entry).confidence)]
    yield from claim_tables(records[RECALL], found)
    yield from correlation(records[RECALL], found)
    yield from published_table(found)
    yield from accuracy_table(found)
    yield from learned_table(found)
    yield from longer_table(found)
    yield from rate_table(records)
    yield from ["", "## Again", ""]
    for record in records.values():
        yield f"    {again(record.entry.command)}"
    yield f"    python findings/recall.py --size {size}"


def claims_in_short(found: Mapping[str, Any]) -> Iterator[str]:
    """Every claim once for each way it was asked, over all mixers."""
    yield from ["", "## The claims", ""]
    rows = [claim for claim in found["claims"] if claim["mixer"] == ALL_MIXERS or claim["name"] == "R3"]
    heads = ["claim", "asked", "scale", "effect", "interval", "n", "verdict", "because"]
    yield from table(heads, [short_row(claim) for claim in rows])
    yield ""
    yield (
        "R1 and R2 are means over the mixers named, seed by seed: those in which either arm is above what is scored without "
        "learning, and of R1 those that are not both at the ceiling. Which they are is known only after the runs; the tables below "
        "have every mixer."
    )


def short_row(claim: Mapping[str, Any]) -> tuple[Any, ...]:
    because = "; ".join(claim["reasons"])
    n = f"{claim['pairs']} {'mixers' if claim['name'] == 'R3' else 'seeds'}"
    asked = f"{claim['arm']} less {claim['against']}" if claim["name"] != "R3" else "rank correlation over mixers"
    where = (claim["scale"], signed(claim["effect"]), between(claim, signed), n, claim["verdict"], because)
    return (f"{claim['name']}. {claim['claim']}", asked, *where)


def claim_tables(record: ExperimentRecord, found: Mapping[str, Any]) -> Iterator[str]:
    """R1 and R2 mixer by mixer."""
    rule = rule_of(record.entry)
    least = f"{rule.smallest_effect:g}"
    said = {
        "R1": f"{R1} Accuracy on the answer of the arm trained on all tokens less that of the arm trained on the answer alone.",
        "R2": f"{R2} Accuracy without a direction less ltr. Trained on `all`, ltr scores every token, and without a direction the "
        "hidden ones and the answer; mixers that read both ways have weights for what comes after.",
    }
    rules = {
        "R1": f"Holds where the interval lies above 0 and reaches {least}; does not hold where it lies below 0 or inside "
        f"{least} on both sides; where both are at the ceiling, the next table asks instead which came there sooner.",
        "R2": f"Holds where the interval lies above 0 and reaches {least}, or inside {least} on both sides; does not hold where it "
        f"lies below 0 and reaches -{least}.",
    }
    for name, text in said.items():
        yield from ["", f"## {name}, mixer by mixer", ""]
        yield (
            f"{text} Paired by seed, {rule.confidence:.0%} t interval. {rules[name]} Otherwise more seeds are needed; where "
            "neither arm is above what is scored without learning, nothing is said."
        )
        yield ""
        rows = [claim for claim in found["claims"] if claim["name"] == name and claim["mixer"] != ALL_MIXERS]
        heads = ["mixer", "asked", "scale", "difference", "interval", "pairs", "verdict", "because"]
        yield from table(heads, [mixer_row(claim) for claim in rows])
        if cautions := to_know(rows):
            yield from ["", f"To know: {'; '.join(cautions)}."]
        if name == "R1":
            yield from sooner_table(record, found)


def to_know(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    """The cautions of many claims, each once: of rates at the edge that there are any, what could not be told with all its arms."""
    said = dict.fromkeys(caution for claim in claims for caution in claim["cautions"])
    edges = [caution for caution in said if AT_THE_EDGE in caution]
    untold: dict[str, dict[str, None]] = {}
    for caution in said:
        checks, on, arms = caution.partition(COULD_NOT_TELL)
        if on:
            untold.setdefault(checks, {}).update(dict.fromkeys(arms.split(" and ")))
    others = [caution for caution in said if caution not in edges and COULD_NOT_TELL not in caution]
    told = [f"{checks}{COULD_NOT_TELL}{', '.join(arms)}" for checks, arms in untold.items()]
    last = (
        ["some arms were best at the last rate tried, so perhaps better at another (the last table)"] if edges else []
    )
    return [*others, *told, *last]


def looked(record: ExperimentRecord) -> str:
    """How finely the step is known at which a run came half-way."""
    recipes = (run.record.spec["recipe"] for run in record.runs if run.record is not None)
    every = sorted({steps for recipe in recipes if (steps := recipe.get("evaluate_every_steps"))})
    return f"Runs were looked at every {' or '.join(map(str, every))} steps." if every else ""


def sooner_table(record: ExperimentRecord, found: Mapping[str, Any]) -> Iterator[str]:
    yield from ["", "## R1, by when they learned it", ""]
    yield (
        "Steps to half-way (as below) of the arm trained on all tokens over those of the arm trained on the answer alone: the "
        "geometric mean over the seeds in which both came so far, and the t interval of its logarithm. Holds below 1 where no seed "
        "learned it from the answer alone only, does not hold above 1 where none learned it from all tokens only. "
        f"{looked(record)}"
    )
    yield ""
    heads = "mixer, visibility, scale, all / answer, interval, seeds, only all, only answer, verdict, because"
    counts = ("both", "only_all", "only_answer")
    rows = [
        (
            *(row[name] for name in ("mixer", "visibility", "scale")),
            plain(row["ratio"], 2),
            between(row, lambda value: plain(value, 2)),
            *(row[name] for name in counts),
            row["verdict"],
            row["because"],
        )
        for row in found["sooner"]
    ]
    yield from table(heads.split(", "), rows)


def mixer_row(claim: Mapping[str, Any]) -> tuple[Any, ...]:
    effect = (signed(claim["effect"]), between(claim, signed), claim["pairs"])
    return (
        claim["mixer"],
        claim["visibility"],
        claim["scale"],
        *effect,
        claim["verdict"],
        "; ".join(claim["reasons"]),
    )


def correlation(record: ExperimentRecord, found: Mapping[str, Any]) -> Iterator[str]:
    yield from ["", "## R3: recall and text", ""]
    yield (
        f"{R3} Spearman's correlation over mixers between the accuracy of `{'-'.join(PUBLISHED_WAY)}` and less loss on text, both "
        "means over seeds; ties share their mean rank. The interval holds the middle of all resamples of the mixers, each counted "
        "as often as it comes; seeds are not resampled. Resamples that are the same on a side are left out."
    )
    yield ""
    if not found["text"]:
        yield f"The mixers were not trained on text: `palinode run experiments/recall_text.py --size {record.entry.size}`."
        return
    heads = ["mixer", "loss on text, nats per token", *(f"accuracy at {scale}" for scale in record.entry.scales)]
    rows = sorted(found["text"], key=lambda row: float(row["loss"]))
    yield from table(
        heads, [(row["mixer"], plain(row["loss"], 4), *map(plain, row["accuracy"].values())) for row in rows]
    )


def published_table(found: Mapping[str, Any]) -> Iterator[str]:
    yield from ["", "## The published accuracies beside ours", ""]
    sources = "; ".join(found["published"]["sources"].values())
    yield (
        f"Ours: `{'-'.join(PUBLISHED_WAY)}`. They agree where the published accuracy lies inside our interval, or nearer to it "
        "than the smallest effect; sequences of another length, or of one that was not published, cannot tell, nor can an "
        f"interval wider than {percent(WIDEST)}. Published: "
        f"{sources}. {' '.join(found['published']['remarks'])}"
    )
    yield ""
    rows = [
        (
            row["mixer"],
            row["vocabulary"],
            row["length"],
            percent(row["accuracy"]),
            between(row, cut),
            row["seeds"],
            percent(row["chance"]),
            percent(row["best_trivial"]),
            f"{theirs['model']}: {percent(theirs['accuracy'])}",
            "" if theirs["length"] is None else theirs["length"],
            {True: "yes", False: "no", None: "cannot tell"}[theirs["agrees"]],
        )
        for row in found["accuracy"]
        for theirs in row["published"]
    ]
    rows += [
        (
            row["mixer"],
            row["vocabulary"],
            *("", "not run", "", "", "", ""),
            f"{row['model']}: {percent(row['accuracy'])}",
            "" if row["length"] is None else row["length"],
            "",
        )
        for row in found["not_run"]
    ]
    heads = (
        "mixer, vocabulary, length, ours, interval, seeds, chance, best without learning, published, its length, agree"
    )
    yield from table(heads.split(", "), rows)


def accuracy_table(found: Mapping[str, Any]) -> Iterator[str]:
    yield from ["", "## Every arm", ""]
    yield (
        "Accuracy on the answer; in brackets how many seeds, each asked by itself, are above what is scored without learning (the "
        "claims above ask all runs of a comparison together). Intervals are cut at 0 and 100 %. Where some seeds learned it and "
        "others did not, the mean is that of no seed."
    )
    yield ""
    levels = {row["scale"]: row for row in found["accuracy"] if row["chance"] is not None}
    for scale, row in levels.items():
        best = (
            f", {percent(row['best_trivial'])} for {row['best_trivial_name']}"
            if row["best_trivial"] is not None
            else ""
        )
        yield f"- {scale}: {percent(row['chance'])} by chance{best}."
    yield ""
    heads = ["arm", "scale", "accuracy", "interval", "seeds"]
    yield from table(
        heads,
        [
            (row["arm"], row["scale"], percent(row["accuracy"]), between(row, cut), learned_of(row))
            for row in found["accuracy"]
        ],
    )


def learned_of(row: Mapping[str, Any]) -> str:
    above = row["seeds_above_trivial"]
    return str(row["seeds"]) if above is None else f"{row['seeds']} ({above})"


def learned_table(found: Mapping[str, Any]) -> Iterator[str]:
    yield from ["", "## When they learned it", ""]
    yield (
        "The first evaluation at which a run is half-way between what is scored without learning and 1; the mean of the seeds that "
        "came so far."
    )
    yield ""
    heads = ["arm", "scale", "half-way", "seeds that came there", "step"]
    rows = [
        (row["arm"], row["scale"], percent(row["bar"]), f"{row['learned']} of {row['seeds']}", whole(row["step"]))
        for row in found["learned"]
    ]
    yield from table(heads, rows)


def longer_table(found: Mapping[str, Any]) -> Iterator[str]:
    rows = found["longer"]
    if not rows:
        return
    factors = sorted({int(factor) for row in rows for factor in row["accuracy"]})
    yield from ["", "## Longer than in training", ""]
    yield "Accuracy on sequences so many times as long, of mixers that no length is too long for; the mean over seeds."
    yield ""
    heads = ["arm", "scale", *(f"{factor} times" for factor in factors)]
    yield from table(
        heads, [(row["arm"], row["scale"], *(percent(row["accuracy"].get(str(f))) for f in factors)) for row in rows]
    )


def rate_table(records: Mapping[str, ExperimentRecord]) -> Iterator[str]:
    yield from ["", "## How the settings were chosen", ""]
    choices = [(name, choice) for name, record in records.items() for choice in record.entry.choices]
    if not choices:
        yield "Nothing was tuned."
        return
    yield "On the tuning split, as many trials for every arm."
    yield ""
    heads = ["experiment", "arm", "scale", "setting", "tried: score", "chosen", "at the edge"]
    rows = []
    for name, choice in choices:
        scored = zip(choice.values, choice.scores, strict=True)
        tried = ", ".join(f"{value:g}: {plain(score)}" for value, score in scored)
        edge = "edge" if choice.at_the_edge else ""
        rows.append((name, choice.arm, choice.scale, f"`{choice.field}`", tried, f"{choice.chosen:g}", edge))
    yield from table(heads, rows)


def cut(value: float) -> str:
    """The end of an interval of an accuracy, which lies nowhere below 0 or above 1."""
    return percent(min(1.0, max(0.0, value)))


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


if __name__ == "__main__":
    sys.exit(ending(main))
