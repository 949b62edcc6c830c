"""The findings page of the mask experiments, made from a store: claims M1 to M5, each with its effect, its interval and a verdict.

Run, after the two experiments:
    palinode run experiments/mask.py --size laptop
    palinode run experiments/mask_total.py --size laptop
    python findings/mask.py --store runs --size laptop
(of `long` there is the first alone). Writes findings/mask-<size>.md and the numbers beside it as JSON; no number on the page is
typed by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev

from again import again
from cells import between, not_adjusted, signed, table, whole
from ending import ending
from frequencies import token_frequencies
from mask_numbers import ARM, CONFIDENCE, Claim, claims
from ours import ours

from palinode.analysis.ratios import final_scores
from palinode.analysis.sizes import scale_sizes
from palinode.analysis.verdict import verdicts
from palinode.base import fsio
from palinode.results.record import ExperimentRecord
from palinode.results.store import Store

HERE = Path(__file__).parent
RATES = HERE.parent / "benchmarks" / "results" / "mask_rates.json"
PUBLISHED_MASK = "both-05-published-mask"
PUBLISHED_RATIO_1 = "Published: about .93 where it was lowest, about 1 at 626 million parameters."
SOURCE = "snimu/mask on hlb-gpt 0.4.1, WikiText-103, 46 to 626 million parameters"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--store", type=Path, default=Path("runs"))
    arguments.add_argument("--size", default="laptop")
    given = arguments.parse_args()
    store = Store(given.store)
    known = {entry.full_name for entry in store.experiments()}
    names = [name for name in ("mask", "mask_total") if f"{name}--{given.size}" in known or name == "mask"]
    records = {name: store.experiment(f"{name}--{given.size}") for name in names}
    bars = {name: token_frequencies(store, record) for name, record in records.items()}
    found = {name: claims(record, bars[name]) for name, record in records.items()}
    page = "\n".join(lines(given.size, records, found, bars)) + "\n"
    fsio.write_text(HERE / f"mask-{given.size}.md", page)
    numbers = {name: [asdict(claim) for claim in of_one] for name, of_one in found.items()}
    fsio.write_json(HERE / f"mask-{given.size}.json", {"token_frequencies": bars, **numbers})


def lines(
    size: str,
    records: Mapping[str, ExperimentRecord],
    found: Mapping[str, Sequence[Claim]],
    bars: Mapping[str, float | None],
) -> Iterator[str]:
    """The page."""
    yield f"# mask, size {size}: right to left beside left to right"
    yield ""
    yield (
        f"Published: {SOURCE}. There the right-to-left loss lay far below the left-to-right loss, as the mask of that pass let "
        f"slots see their own targets (`{PUBLISHED_MASK}` has that mask, and is stamped LEAK)."
    )
    yield ""
    yield f"Ours: {ours(records.values()) or 'none yet'}."
    yield ""
    yield (
        f"Validation loss in nats per token; differences are paired by seed, with {CONFIDENCE:.0%} t intervals over seeds. "
        f"Ratio 1 is the loss of `ltr` by that of `{ARM}`, both left to right; ratio 2 is ltr by rtl of one model. A claim "
        "holds, or does not, where the whole interval says so. How far rtl lies from ltr where each has a model of its own: "
        f"`arrows-{size}.md`."
    )
    for name, record in records.items():
        entry, done = record.entry, sum(run.outcome == "done" for run in record.runs)
        yield from ["", f"## {entry.question}", ""]
        yield f"{done} of {len(record.runs)} runs done; seeds {', '.join(map(str, entry.seeds))}; {entry.created[:10]}."
        if (bar := bars[name]) is not None:
            yield f"Token frequencies alone reach {bar:.3f} nats: above that, nothing of the order of tokens is learned."
        yield from claim_table(found[name])
        yield from ["", *level_of_ratio_1(record), "", honest_in_short(record)]
        yield from verdict_table(record)
        yield from loss_table(record)
        yield from published_mask(record)
    yield from rates()
    yield from ["", "## Again", ""]
    for record in records.values():
        yield f"    {again(record.entry.command)}"
    yield f"    python findings/mask.py --size {size}"


def claim_table(found: Sequence[Claim]) -> Iterator[str]:
    """M1 to M5."""
    yield ""
    heads = ["claim", "measured", "effect", "95 % interval", "seeds", "verdict", "because"]
    rows = []
    for claim in found:
        effect = (signed(claim.effect), between(asdict(claim), signed), claim.seeds)
        rows.append((f"{claim.name}. {claim.claim}", claim.measured, *effect, claim.verdict, claim.because))
    yield from table(heads, rows)


def loss_table(record: ExperimentRecord) -> Iterator[str]:
    """What every arm came to at every size, and what it read: means over the seeds that are done."""
    scores, sizes = final_scores(record, "validation", "nats_per_token"), scale_sizes(record)
    read: dict[tuple[str, str], list[list[float]]] = {}
    for run in record.runs:
        if run.result is not None and run.outcome == "done":
            counted = [float(run.result.counters[name] or 0) for name in ("tokens_read", "tokens_scored_rtl")]
            read.setdefault((run.entry.arm, run.entry.scale), []).append(counted)
    rows = []
    for (arm, scale), tokens in read.items():
        losses = (spread(list(scores.get((arm, scale, way), {}).values())) for way in ("ltr", "rtl"))
        means = (whole(mean(column)) for column in zip(*tokens, strict=True))
        rows.append((arm, scale, whole(sizes[scale].parameters), *means, *losses, len(tokens)))
    yield ""
    yield "Losses: mean ± standard deviation over seeds."
    yield ""
    yield from table(["arm", "size", "parameters", "tokens read", "of them rtl", "ltr", "rtl", "seeds"], rows)


def level_of_ratio_1(record: ExperimentRecord) -> Iterator[str]:
    """Where ratio 1 is lowest and where highest: M2 says how it moves, not where it is."""
    scores = final_scores(record, "validation", "nats_per_token")
    found = {}
    for scale in scale_sizes(record):
        paired = [scores.get((arm, scale, "ltr"), {}) for arm in ("ltr", ARM)]
        ratios = [paired[0][seed] / paired[1][seed] for seed in paired[0].keys() & paired[1].keys()]
        if ratios:
            found[scale] = mean(ratios)
    if found:
        low, high = min(found, key=lambda scale: found[scale]), max(found, key=lambda scale: found[scale])
        yield f"Ratio 1 lies between {found[low]:.4f} ({low}) and {found[high]:.4f} ({high}). {PUBLISHED_RATIO_1}"


def published_mask(record: ExperimentRecord) -> Iterator[str]:
    """What the leak did to the losses here, which is not what it did in the published runs."""
    scores = final_scores(record, "validation", "nats_per_token")
    means = {
        way: [
            mean(of.values())
            for (arm, _, of_way), of in scores.items()
            if (arm, of_way) == (PUBLISHED_MASK, way) and of
        ]
        for way in ("ltr", "rtl")
    }
    if all(means.values()):
        rtl, ltr = (f"{min(means[way]):.3f} to {max(means[way]):.3f}" for way in ("rtl", "ltr"))
        below = (
            ""
            if min(means["rtl"]) < min(means["ltr"])
            else "So short a training does not find the leak that the audit shows."
        )
        yield from ["", f"Through the published mask rtl ends at {rtl} nats, ltr at {ltr}. {below}".rstrip()]


def rates() -> Iterator[str]:
    """What half and twice the rate of all arms do to the arm that reads ltr only."""
    measured = json.loads(RATES.read_text(encoding="utf-8"))
    yield from ["", "## How the rate was chosen", ""]
    yield (
        "All arms train at one rate, the first of each size here; nothing was tuned for an arm. The arm that reads ltr only, "
        f"seeds {', '.join(map(str, measured['seeds']))}, `python benchmarks/mask_rates.py`: which rate is best turns with the "
        "width, so a trend over the width (M2, M3) may be one of the rate."
    )
    yield ""
    rows = [
        (row["scale"], f"{row['learning_rate']:g}", f"{row['nats_per_token']:.4f}", f"{row['difference']['mean']:+.4f}")
        for row in measured["rows"]
    ]
    yield from table(["size", "rate", "ltr loss", "less that at the first rate"], rows)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    if len(values) < 2:
        return "".join(f"{value:.3f}" for value in values)
    return f"{mean(values):.3f} ± {stdev(values):.3f}"


def honest_in_short(record: ExperimentRecord) -> str:
    """What all arms without a leak have in common, in one sentence."""
    compared = [verdict.comparison for verdict in verdicts(record) if verdict.leak == "none"]
    means = [one.mean for one in compared if one.mean is not None]
    intervals = [one.interval for one in compared if one.interval is not None]
    if not means or not intervals:
        return "No honest arm can be compared yet."
    worse, better = sum(one.low > 0 for one in intervals), sum(one.high < 0 for one in intervals)
    return (
        f"Honest arms against the baseline: {signed(min(means))} to {signed(max(means))} nats; of {len(intervals)} intervals "
        f"{worse} lie above 0 (worse) and {better} below."
    )


def verdict_table(record: ExperimentRecord) -> Iterator[str]:
    """What the decision rule says of every arm at every size."""
    rows = []
    for verdict in verdicts(record):
        compared, interval = verdict.comparison, verdict.comparison.interval
        inside = "" if interval is None else f"{signed(interval.low)} to {signed(interval.high)}"
        stamp = "" if verdict.leak == "none" else "LEAK: "
        row = (verdict.arm, verdict.scale, signed(compared.mean), inside, len(compared.pairs), stamp + verdict.outcome)
        rows.append(row)
    yield ""
    yield from table(["arm", "size", "difference in ltr loss, nats", "95 % interval", "pairs", "verdict"], rows)
    said = verdicts(record)
    told = dict.fromkeys(f"{one.arm}: {text}" for one in said for text in (*one.reasons, *one.cautions))
    intervals = [{"low": one.comparison.interval and one.comparison.interval.low} for one in said]
    yield from ["", not_adjusted(intervals, CONFIDENCE), *([f"To know: {'; '.join(told)}."] if told else [])]


if __name__ == "__main__":
    sys.exit(ending(main))
