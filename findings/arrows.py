"""The findings page of experiments/arrows.py, made from a store: rtl / ltr - 1 over the context length, published beside it.

Run, after the experiment:
    palinode run experiments/arrows.py --size laptop
    python findings/arrows.py --store runs --size laptop
Writes findings/arrows-<size>.md and the numbers beside it as JSON; no number on the page is typed by hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from again import again
from ending import ending
from ours import ours

from palinode.analysis.context import direction_ratios
from palinode.analysis.verdict import rule_of, verdict
from palinode.base import fsio
from palinode.results.record import ExperimentRecord
from palinode.results.store import Store

HERE = Path(__file__).parent
SOURCE = "Arrows of Time (arXiv 2401.17505), English, one model trained for each context; read from its figure"
PUBLISHED = {16: 0.0007, 32: 0.0018, 64: 0.0048, 128: 0.0084, 256: 0.0090, 512: 0.0102}
FEW_PERCENT = 0.05
RTL = "rtl"


@dataclass(frozen=True)
class Gap:
    """How much higher the rtl loss is at one context length.

    Attributes:
        gap: rtl / ltr - 1, mean over paired seeds; `low` and `high` are its interval, None where there are fewer than two.
        published: the same of the paper, None for a length that it does not have.
    """

    context_tokens: int
    gap: float
    low: float | None
    high: float | None
    seeds: int
    published: float | None


@dataclass(frozen=True)
class Judged:
    """A claim: holds, does not hold, or cannot tell at this scale."""

    claim: str
    verdict: str


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--store", type=Path, default=Path("runs"))
    arguments.add_argument("--size", default="laptop")
    arguments.add_argument("--out", type=Path, default=HERE)
    given = arguments.parse_args()
    record = Store(given.store).experiment(f"arrows--{given.size}")
    found = gaps(record)
    claims = judged(found, reasons_against(record))
    fsio.write_text(given.out / f"arrows-{given.size}.md", "\n".join(lines(given.size, record, found, claims)) + "\n")
    numbers = {"gaps": [asdict(gap) for gap in found], "claims": [asdict(claim) for claim in claims], "source": SOURCE}
    fsio.write_json(given.out / f"arrows-{given.size}.json", numbers)


def gaps(record: ExperimentRecord) -> list[Gap]:
    """One for each context length that finished runs of both arms were scored at, shortest first."""
    return [
        Gap(
            context_tokens=row["context_tokens"],
            gap=row["ratio_then_mean"] - 1,
            low=None if row["interval_low"] is None else row["interval_low"] - 1,
            high=None if row["interval_high"] is None else row["interval_high"] - 1,
            seeds=row["seeds"],
            published=PUBLISHED.get(row["context_tokens"]),
        )
        for row in direction_ratios(record, "validation").filter(arm=RTL).iter_rows(named=True)
    ]


def reasons_against(record: ExperimentRecord) -> list[str]:
    """Why nothing can be told of these runs: an audit that failed, runs that are missing."""
    rule = rule_of(record.entry)
    return list(
        dict.fromkeys(reason for scale in record.entry.scales for reason in verdict(record, RTL, scale, rule).reasons)
    )


def judged(found: Sequence[Gap], reasons: Sequence[str]) -> list[Judged]:
    """Whether rtl lies above ltr where the context is longest, and nowhere by more than a few percent."""
    above, within = "cannot tell at this scale", "cannot tell at this scale"
    last = found[-1] if found else None
    if last is not None and last.low is not None and last.high is not None:
        above = "holds" if last.low > 0 else "does not hold" if last.high < 0 else above
    ends = [(gap.low, gap.high) for gap in found if gap.low is not None and gap.high is not None]
    if any(low > FEW_PERCENT or high < -FEW_PERCENT for low, high in ends):
        within = "does not hold"
    elif ends and len(ends) == len(found) and all(low >= -FEW_PERCENT and high <= FEW_PERCENT for low, high in ends):
        within = "holds"
    if reasons:
        above = within = f"cannot tell: {'; '.join(reasons)}"
    where = f" with {last.context_tokens} tokens of context" if last else ""
    return [
        Judged(f"The honest rtl loss lies above the honest ltr loss{where}.", above),
        Judged(f"The two differ by a few percent at most ({FEW_PERCENT:.0%}), at every context length.", within),
    ]


def lines(size: str, record: ExperimentRecord, found: Sequence[Gap], claims: Sequence[Judged]) -> Iterator[str]:
    """The page."""
    entry, done = record.entry, sum(run.outcome == "done" for run in record.runs)
    yield f"# arrows, size {size}: how much harder right to left"
    yield ""
    yield f"{entry.question} {done} of {len(record.runs)} runs done; seeds {', '.join(map(str, entry.seeds))}."
    yield "One model for each direction, trained at the longest context and scored in windows of every length; validation split."
    yield f"Published: {SOURCE}."
    yield ""
    yield f"Ours: {ours([record]) or 'none yet'}."
    yield ""
    yield "| context, tokens | rtl / ltr - 1 | 95 % interval | seeds | published |"
    yield "|--:|--:|--:|--:|--:|"
    for gap in found:
        interval = "" if gap.low is None or gap.high is None else f"{percent(gap.low)} to {percent(gap.high)}"
        published = "" if gap.published is None else percent(gap.published)
        yield f"| {gap.context_tokens} | {percent(gap.gap)} | {interval} | {gap.seeds} | {published} |"
    yield ""
    yield "The rows are the same runs, scored in windows of other lengths. " + " ".join(beside_published(found))
    yield ""
    yield "| claim | verdict |"
    yield "|---|---|"
    for claim in claims:
        yield f"| {claim.claim} | {claim.verdict} |"
    yield ""
    yield audited(record)
    yield ""
    yield "Redo it:"
    yield ""
    yield f"    {again(entry.command)}"
    yield f"    python findings/arrows.py --size {size}"


def beside_published(found: Sequence[Gap]) -> Iterator[str]:
    """At which lengths the published number is none that these runs allow."""
    outside = [
        str(gap.context_tokens)
        for gap in found
        if gap.published is not None and gap.low is not None and gap.high is not None
        if not gap.low <= gap.published <= gap.high
    ]
    if outside:
        yield f"The published number lies outside our interval at {', '.join(outside)} tokens."


def audited(record: ExperimentRecord) -> str:
    """What keeps an rtl loss below the ltr loss from being a leak."""
    outcomes = [
        f"{arm.name}: {'a leak' if record.leaks(arm.name) else outcome_of(record, arm.name)}"
        for arm in record.entry.arms
    ]
    return (
        "An rtl loss below the ltr loss is a leak until proven otherwise. The audits of which target each arm may see, in both "
        f"stacks of masks and at several lengths: {', '.join(outcomes)}."
    )


def outcome_of(record: ExperimentRecord, arm: str) -> str:
    """Of the flow audit of an arm at every scale."""
    outcomes = {
        finding.outcome
        for scale in record.entry.scales
        if (report := record.audits.get((arm, scale))) is not None
        for finding in report.findings
        if finding.check.startswith("C1.")
    }
    return "not audited" if not outcomes else "pass" if outcomes == {"pass"} else ", ".join(sorted(outcomes - {"pass"}))


def percent(share: float) -> str:
    return f"{100 * share:+.2f} %"


if __name__ == "__main__":
    sys.exit(ending(main))
