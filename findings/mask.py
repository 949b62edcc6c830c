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
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev

from again import again
from cells import between, signed, table, whole
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
        "every slot see its own target (`both-05-published-mask` has that mask, and is stamped LEAK)."
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
        yield from ["", honest_in_short(record)]
        yield from verdict_table(record)
        yield from loss_table(record)
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
    yield from table(["arm", "size", "parameters", "tokens read", "of them rtl", "ltr", "rtl", "seeds"], rows)


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


if __name__ == "__main__":
    sys.exit(ending(main))
