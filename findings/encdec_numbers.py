"""What the findings of the encoder-decoder are made of: claims E1 to E5, losses, costs, auxiliary terms, tables of embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from palinode.analysis.audits import arm_audit
from palinode.analysis.curves import MEASURED, auxiliary_curves, training_curves
from palinode.analysis.embeddings import (
    ABSOLUTE_COSINE,
    POSITION_COSINE,
    POSITION_NORM,
    SHARE,
    TOKEN_NORM,
    embedding_means,
)
from palinode.analysis.intervals import mean, t_interval
from palinode.analysis.parity import costs
from palinode.analysis.verdict import Verdict, rule_of, verdict
from palinode.base.affinity import affinity
from palinode.results.record import ExperimentRecord, ExperimentRun
from palinode.results.store import Store

COMPARISONS = {
    "encdec": "Equal tokens, shapes as published",
    "encdec_parameters": "Equal parameters",
    "encdec_flops": "Equal training FLOPs",
}
DECODER, PLAIN, COMBINED = "decoder", "encdec", "encdec-mse8-sub"
SINGLES = ("encdec-mse", "encdec-sub")  # what the combined arm combines
AT_ITS_WEIGHT = ("encdec-mse8", "encdec-sub")  # the same with the weight that the embedding loss has there
BETTER_SINGLE = "the better of them"
BETTER_AT_ITS_WEIGHT = "the better of them at its weight"
BETTER_OF = {BETTER_SINGLE: SINGLES, BETTER_AT_ITS_WEIGHT: AT_ITS_WEIGHT}
QUESTIONS = (  # name, claim, arm, against
    ("E1", "The combined encoder-decoder has a lower loss than the decoder.", COMBINED, DECODER),
    ("E1", "The same against the smaller decoder.", COMBINED, "decoder-smaller"),
    ("E2", "The embedding loss helps: mean squared error.", "encdec-mse", PLAIN),
    ("E2", "The embedding loss helps: cosine.", "encdec-cosine", PLAIN),
    ("E3", "Subtracting the next position helps.", "encdec-sub", PLAIN),
    ("E4", "Together they help more than the better of the two alone.", COMBINED, BETTER_SINGLE),
    ("E4", "The same, with the embedding loss weighed alike.", COMBINED, BETTER_AT_ITS_WEIGHT),
    ("E5", "The combined encoder-decoder beats dropout.", COMBINED, "decoder-dropout"),
)
CANNOT_TELL = "cannot tell at this scale"
SAID = {"better": "holds", "worse": "does not hold", "no difference found": "does not hold", "cannot tell": CANNOT_TELL}
LAST_SHARE = 0.1  # of the logged steps: over which the training loss is averaged
GEOMETRY = (TOKEN_NORM, POSITION_NORM, ABSOLUTE_COSINE, SHARE)
DISTANCES = (1, 4, 16, 64)


@dataclass(frozen=True)
class Claim:
    """One published claim in one comparison.

    Attributes:
        effect: validation loss of `arm` less that of `against`, mean over paired seeds; below 0 the claim is favoured. `low` and
            `high` are its t interval, None where there are fewer than two pairs.
        published: the same difference of the published losses (one seed); None where a run was not published.
        parameters, train_flops: of `arm` over those of `against`.
        outcome: of the decision rule that was fixed before the runs; `reasons`: why it could not be applied.
    """

    name: str
    claim: str
    comparison: str
    arm: str
    against: str
    scale: str
    effect: float | None
    low: float | None
    high: float | None
    pairs: int
    published: float | None
    parameters: float | None
    train_flops: float | None
    verdict: str
    outcome: str
    reasons: tuple[str, ...]
    cautions: tuple[str, ...]


def records_of(store: Store, size: str) -> dict[str, ExperimentRecord]:
    """The comparisons that were run; the first must be."""
    known = {entry.full_name for entry in store.experiments()}
    first, *others = COMPARISONS
    return {first: store.experiment(f"{first}--{size}")} | {
        name: store.experiment(f"{name}--{size}") for name in others if f"{name}--{size}" in known
    }


def numbers(
    records: Mapping[str, ExperimentRecord], published: Mapping[str, Any], bars: Mapping[str, float | None]
) -> dict[str, Any]:
    """Everything that the page prints, as plain data.

    Args:
        bars: for each comparison the loss of token frequencies, None where it is not known.
    """
    first = records["encdec"]
    return {
        "token_frequencies": dict(bars),
        "claims": [asdict(claim) for claim in claims(records, published, bars)],
        "arms": {name: arm_rows(record) for name, record in records.items()},
        "terms": term_rows(first),
        "embeddings": geometry_rows(first),
        "published": published,
    }


def claims(
    records: Mapping[str, ExperimentRecord], published: Mapping[str, Any], bars: Mapping[str, float | None]
) -> list[Claim]:
    """E1 to E5 in every comparison that has both arms. Two arms whose runs were compared before are not compared again."""
    found, seen = [], set()
    for comparison, record in records.items():
        for scale in record.entry.scales:
            for name, text, arm, asked in QUESTIONS:
                against = better_of(record, scale, BETTER_OF[asked]) if asked in BETTER_OF else asked
                arms = {entry.name for entry in record.entry.arms}
                if against is None or not {arm, against} <= arms:
                    continue
                runs = frozenset(run.entry.run_id for side in (arm, against) for run in record.runs_of(side, scale))
                if (name, runs) not in seen:
                    seen.add((name, runs))
                    claim = judged(record, comparison, scale, name, text, arm, against, published)
                    if asked in BETTER_OF:
                        claim = of_a_combination(record, claim, BETTER_OF[asked], published)
                    reasons = why_unlearned(record, scale, (arm, against), bars[comparison])
                    found.append(replace(claim, verdict=CANNOT_TELL, reasons=reasons) if reasons else claim)
    return found


def why_unlearned(record: ExperimentRecord, scale: str, arms: Sequence[str], bar: float | None) -> tuple[str, ...]:
    """Which of the arms have a run that learned nothing of the order of tokens: a difference to it is not one of the idea."""
    if bar is None:
        return ()
    above = {arm: sum(loss >= bar for loss in finals(record, arm, scale)) for arm in arms}
    return tuple(
        f"{count} of the runs of {arm} {'is' if count == 1 else 'are'} not below the loss of token frequencies, {bar:.3f}"
        for arm, count in above.items()
        if count
    )


def judged(
    record: ExperimentRecord,
    comparison: str,
    scale: str,
    name: str,
    text: str,
    arm: str,
    against: str,
    published: Mapping[str, Any],
) -> Claim:
    """The decision rule of the experiment, with another baseline where the claim has one."""
    said: Verdict = verdict(record, arm, scale, rule_of(record.entry).with_(baseline=against))
    interval = said.comparison.interval
    ratios = {cost.axis: cost.ratio for cost in costs(record, against) if (cost.arm, cost.scale) == (arm, scale)}
    losses = [row["validation"] for side in (arm, against) if (row := published_row(published, side)) is not None]
    return Claim(
        name=name,
        claim=text,
        comparison=comparison,
        arm=arm,
        against=against,
        scale=scale,
        effect=said.comparison.mean,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        pairs=len(said.comparison.pairs),
        published=losses[0] - losses[1] if len(losses) == 2 else None,
        parameters=ratios["parameters"],
        train_flops=ratios["train_flops"],
        verdict=SAID[said.outcome],
        outcome=said.outcome,
        reasons=said.reasons,
        cautions=said.cautions,
    )


def of_a_combination(
    record: ExperimentRecord, claim: Claim, singles: Sequence[str], published: Mapping[str, Any]
) -> Claim:
    """E4 beside the better of the published singles, which need not be ours, and with what it cannot tell apart."""
    rows = {arm: published_row(published, arm) for arm in (claim.arm, *singles)}
    losses = {arm: row["validation"] for arm, row in rows.items() if row is not None}
    theirs = losses[claim.arm] - min(losses[arm] for arm in singles) if len(losses) == len(rows) else None
    known = {arm: term_weight(record, arm, claim.scale) for arm in (claim.arm, *singles)}
    weights = {arm: weight for arm, weight in known.items() if weight is not None}
    cautions = [f"E4: {claim.against} is the better of two on these same runs, so it is the lower of two noisy means"]
    if len(set(weights.values())) > 1:
        told = ", ".join(f"{arm} {weight:g}" for arm, weight in weights.items())
        cautions.append(
            f"E4: the embedding loss is not weighed alike ({told}), and what is lost may be the price of that"
        )
    return replace(claim, published=theirs, cautions=(*claim.cautions, *cautions))


def term_weight(record: ExperimentRecord, arm: str, scale: str) -> float | None:
    """The coefficient of an arm's embedding loss, None without one."""
    for run in record.runs_of(arm, scale):
        if run.record is not None and (loss := run.record.spec["model"].get("embedding_loss")) is not None:
            return float(loss["coefficient"])
    return None


def better_of(record: ExperimentRecord, scale: str, arms: Sequence[str]) -> str | None:
    """The arm with the lower mean loss; None before all have one."""
    losses = {arm: finals(record, arm, scale) for arm in arms}
    return min(losses, key=lambda arm: mean(losses[arm])) if all(losses.values()) else None


def arm_rows(record: ExperimentRecord) -> list[dict[str, Any]]:
    """Losses and costs of every arm; the training loss is what was logged over the last tenth of the steps."""
    training, rule = training_curves(record), rule_of(record.entry)
    of_costs = {(cost.arm, cost.scale, cost.axis): cost for cost in costs(record, rule.baseline)}
    rows = []
    for scale in record.entry.scales:
        for arm in (entry.name for entry in record.entry.arms):
            losses = finals(record, arm, scale)
            interval = t_interval(losses, rule.confidence)
            logged = training.filter(arm=arm, scale=scale, group="ltr").select("step", "nats_per_token").drop_nulls()
            last = max(logged["step"].to_list(), default=0)
            late = [nats for step, nats in logged.iter_rows() if step > (1 - LAST_SHARE) * last]
            counted = [
                run.result.parameters["total"] - run.result.parameters.get("position", 0)
                for run in done(record, arm, scale)
                if run.result is not None and "total" in run.result.parameters
            ]
            row: dict[str, Any] = {
                "arm": arm,
                "scale": scale,
                "seeds": len(losses),
                "train": mean(late) if late else None,
            }
            row |= {"validation": mean(losses) if losses else None}
            row |= {"low": interval.low if interval else None, "high": interval.high if interval else None}
            row |= {"parameters_without_positions": counted[0] if counted else None}
            for axis in ("parameters", "tokens_read", "train_flops"):
                row[f"{axis}_ratio"] = of_costs[arm, scale, axis].ratio
            rows.append(row)
    return rows


def term_rows(record: ExperimentRecord) -> list[dict[str, Any]]:
    """Every auxiliary term at the end of its runs, mean over seeds, and what the audit says of it."""
    curves = auxiliary_curves(record)
    rows = []
    for arm in (entry.name for entry in record.entry.arms):
        mine = curves.filter(arm=arm).sort("step")
        for scale, term in dict.fromkeys(mine.select("scale", "term").iter_rows()):
            runs = [run for _, run in mine.filter(scale=scale, term=term).group_by("seed", maintain_order=True)]
            row: dict[str, Any] = {"arm": arm, "scale": scale, "term": term, "seeds": len(runs)}
            for when, place in (("first", 0), ("last", -1)):
                for name in MEASURED:
                    values = [value for run in runs if (value := run[name][place]) is not None]
                    row[f"{when}_{name}"] = mean(values) if values else None
            value, shuffled = row["last_value"], row["last_shuffled"]
            row["affinity"] = None if value is None or shuffled is None else affinity(value, shuffled)
            findings = [item.finding for item in arm_audit(record, arm, scale).findings]
            outcomes = [finding.outcome for finding in findings if finding.check == "C7.collapse"]
            row["probe"] = next((finding.outcome for finding in findings if finding.check == "C7.probe"), None)
            row["runs_judged"], row["runs_collapsed"] = len(outcomes), outcomes.count("fail")
            if row["runs_collapsed"]:
                row["affinity"] = None  # of two numbers that both vanished
            rows.append(row)
    return rows


def geometry_rows(record: ExperimentRecord) -> list[dict[str, Any]]:
    """What the tables look like: every number with its interval, and the cosine of positions at a few distances."""
    means = embedding_means(record)
    return [
        row
        for row in means.iter_rows(named=True)
        if row["number"] in GEOMETRY or (row["number"] == POSITION_COSINE and row["distance"] in DISTANCES)
    ]


def finals(record: ExperimentRecord, arm: str, scale: str) -> list[float]:
    metric = rule_of(record.entry).metric
    scores = [run.result.score(metric) for run in done(record, arm, scale) if run.result is not None]
    return [score for score in scores if score is not None]


def done(record: ExperimentRecord, arm: str, scale: str) -> list[ExperimentRun]:
    return [run for run in record.runs_of(arm, scale) if run.outcome == "done"]


def published_row(published: Mapping[str, Any], arm: str) -> Mapping[str, Any] | None:
    return next((row for row in published["rows"] if arm in row["arms"]), None)
