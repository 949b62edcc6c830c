"""What the findings of recall are made of: claims R1 to R3, accuracies beside the published ones, when each arm learned."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import special, stats

from palinode.analysis.compare import Comparison
from palinode.analysis.intervals import Interval, mean, t_interval
from palinode.analysis.tasks import any_above_trivial, levels_at, settings_of, task_lengths, task_means
from palinode.analysis.verdict import Rule, decide, rule_of, verdict
from palinode.results.record import ExperimentRecord, ExperimentRun
from palinode.results.store import Store

RECALL, TEXT = "recall", "recall_text"
SPLIT = "validation"
VISIBILITIES = ("causal", "full")
LABELS = ("all", "answer")
PUBLISHED_WAY = ("causal", "all")
HOLDS, FAILS, CANNOT_TELL = "holds", "does not hold", "cannot tell at this scale"
R1 = "Training on all tokens makes recall easier to learn than training on the answer alone."
R2 = "Recall needs no causality: a model that reads without a direction learns it as well."
R3 = "Accuracy on recall predicts how well a mixer models text."
AT_THE_CEILING = (
    "both know all answers, or all but what does not matter: accuracy at the end cannot tell which learned easier"
)
NOTHING_LEARNED = "neither arm is above what is scored without learning"
NO_PAIRS = "no seed can be compared in every mixer"
NO_TEXT = "the mixers were not trained on text"
LEAST_MIXERS = (
    6  # with fewer, resamples of unrelated mixers say "holds" more often than the confidence allows: 1 in 6 with three
)
ALL_MIXERS, ALL_SCALES = "mean of mixers", "mean of scales"
MOST_MIXERS = 10  # whose resamples are counted one by one: 92,378 multisets
ALL_THE_SAME = "all seeds came there at the same ratio of steps: they measure no spread"
NO_RATIO = "in no seed did both come there: the accuracy at the end tells (above)"
WIDEST = 0.2  # of an accuracy: an interval that is wider agrees with nearly everything


@dataclass(frozen=True)
class Claim:
    """One comparison that a claim rests on.

    Attributes:
        effect: accuracy of `arm` less that of `against`, mean over paired seeds; of R3 the rank correlation. `low` and `high` are
            its interval, None where there is none.
        pairs: seeds finished in both arms; of R3 mixers.
        reasons: why it cannot be told, where that is not the interval alone.
        cautions: what a reader must know beside the outcome.
    """

    name: str
    claim: str
    mixer: str
    visibility: str
    scale: str
    arm: str
    against: str
    effect: float | None
    low: float | None
    high: float | None
    pairs: int
    verdict: str
    reasons: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sooner:
    """How much sooner a mixer learns from all tokens than from the answer alone, of the seeds in which both came half-way.

    Attributes:
        ratio: steps to half-way of `all` over those of `answer`, geometric mean over seeds; below 1 the claim is favoured. `low`
            and `high` are its t interval (of the logarithm), None with fewer than two seeds.
        both, only_all, only_answer: seeds in which both came half-way, or one alone.
    """

    mixer: str
    visibility: str
    scale: str
    ratio: float | None
    low: float | None
    high: float | None
    both: int
    only_all: int
    only_answer: int
    verdict: str
    because: str = ""


def records_of(store: Store, size: str) -> dict[str, ExperimentRecord]:
    """The experiment, and where it was run the one on text."""
    known = {entry.full_name for entry in store.experiments()}
    found = {RECALL: store.experiment(f"{RECALL}--{size}")}
    return found | ({TEXT: store.experiment(f"{TEXT}--{size}")} if f"{TEXT}--{size}" in known else {})


def numbers(records: Mapping[str, ExperimentRecord], published: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the page prints, as plain data."""
    record = records[RECALL]
    claims = [*r1(record), *r2(record), *r3(record, records.get(TEXT))]
    rows = accuracy_rows(record, published)
    return {
        "claims": [asdict(claim) for claim in claims],
        "accuracy": rows,
        "not_run": not_run(published, rows),
        "sooner": [asdict(row) for row in sooner(record)],
        "learned": learned_rows(record),
        "longer": longer_rows(record),
        "text": text_rows(record, records.get(TEXT)),
        "published": published,
    }


def r1(record: ExperimentRecord) -> Iterator[Claim]:
    """All less answer for every mixer, visibility and scale, and over all mixers that learned anything."""
    for visibility in VISIBILITIES:
        sides = ((visibility, "all"), (visibility, "answer"))
        yield from compared(record, "R1", R1, visibility, *sides, outcomes={"better": HOLDS}, ceiling_tells=False)


def sooner(record: ExperimentRecord) -> Iterator[Sooner]:
    """R1 by when each arm learned, which accuracy at the end cannot tell once both know everything."""
    confidence = rule_of(record.entry).confidence
    for scale in record.entry.scales:
        bar = half_way(record, scale)
        for mixer, visibility in itertools.product(mixers_of(record) if bar is not None else (), VISIBILITIES):
            steps = [steps_to(record, arm_name(mixer, visibility, labels), scale, bar or 0.0) for labels in LABELS]
            paired = sorted(steps[0].keys() & steps[1].keys())
            came = [{seed for seed in paired if of_one[seed] is not None} for of_one in steps]
            logs = [math.log((steps[0][seed] or 0) / (steps[1][seed] or 0)) for seed in sorted(came[0] & came[1])]
            interval = t_interval(logs, confidence)
            low, high = (None if end is None else math.exp(end) for end in ends(interval))
            ratio = math.exp(mean(logs)) if logs else None
            counts = (len(logs), len(came[0] - came[1]), len(came[1] - came[0]))
            said = told_sooner(low, high, *counts[1:])
            because = ALL_THE_SAME if low is not None and low == high else ""
            if not counts[0] and any(counts):
                because = NO_RATIO
            yield Sooner(mixer, visibility, scale, ratio, low, high, *counts, said, because)


def told_sooner(low: float | None, high: float | None, only_all: int, only_answer: int) -> str:
    """A seed in which the other side alone came half-way speaks against what the interval of the others says.

    Runs are looked at every so many steps, so seeds may well come to one ratio: that is no interval.
    """
    if low == high:
        return CANNOT_TELL
    if high is not None and high < 1 and not only_answer:
        return HOLDS
    return FAILS if low is not None and low > 1 and not only_all else CANNOT_TELL


def r2(record: ExperimentRecord) -> Iterator[Claim]:
    """Without a direction less ltr, trained on the same targets: the claim is that nothing is lost."""
    for labels in reversed(LABELS):
        sides = (("full", labels), ("causal", labels))
        outcomes = {"better": HOLDS, "no difference found": HOLDS}
        yield from compared(record, "R2", R2, f"trained on {labels}", *sides, outcomes=outcomes)


def compared(
    record: ExperimentRecord,
    name: str,
    claim: str,
    where: str,
    one: tuple[str, str],
    other: tuple[str, str],
    *,
    outcomes: Mapping[str, str],
    ceiling_tells: bool = True,
) -> Iterator[Claim]:
    """One way of training against another: for every mixer, then for their mean.

    Args:
        ceiling_tells: whether arms that both know everything say something of the claim.
    """
    rule = rule_of(record.entry)
    for scale in record.entry.scales:
        differences: dict[str, dict[int, float]] = {}
        left_out: list[str] = []  # why each mixer is not in the mean
        for mixer in mixers_of(record):
            arm, against = arm_name(mixer, *one), arm_name(mixer, *other)
            if not {arm, against} <= arm_names(record):
                continue
            said = verdict(record, arm, scale, rule.with_(baseline=against))
            outcome, reasons, pairs = said.outcome, said.reasons, said.comparison.pairs
            if not beat(record, (arm, against), (scale,), rule):
                outcome, reasons = "cannot tell", (*reasons, NOTHING_LEARNED)
            elif not ceiling_tells and at_the_ceiling(said.comparison, rule):
                outcome, reasons = "cannot tell", (*reasons, AT_THE_CEILING)
            elif not reasons:
                differences[mixer] = {pair.seed: pair.difference for pair in pairs}
            if mixer not in differences:
                left_out.append(reasons[-1] if reasons[-1] in (NOTHING_LEARNED, AT_THE_CEILING) else NO_PAIRS)
            judged = CANNOT_TELL if outcome == "cannot tell" else outcomes.get(outcome, FAILS)
            effect = (said.comparison.mean, *ends(said.comparison.interval))
            who = (name, claim, mixer, where, scale, arm, against)
            yield Claim(*who, *effect, len(pairs), judged, reasons, said.cautions)
        told = over_mixers(differences, rule, name, claim, where, scale, one, other, outcomes)
        yield told if told.pairs else replace(told, reasons=why_no_mean(left_out, differences))


def why_no_mean(left_out: Sequence[str], differences: Mapping[str, Any]) -> tuple[str, ...]:
    """What every mixer has in common that is not in a mean, or that there is no seed for one."""
    known = dict.fromkeys(left_out)
    return (NO_PAIRS,) if differences or not known or NO_PAIRS in known else tuple(known)


def at_the_ceiling(comparison: Comparison, rule: Rule) -> bool:
    """Whether neither arm has more left to learn than the smallest effect that matters, in the mean over seeds."""
    sides = [[getattr(pair, side) for pair in comparison.pairs] for side in ("arm_value", "baseline_value")]
    return all(values and mean(values) >= 1 - rule.smallest_effect for values in sides)


def over_mixers(
    differences: Mapping[str, Mapping[int, float]],
    rule: Rule,
    name: str,
    claim: str,
    where: str,
    scale: str,
    one: tuple[str, str],
    other: tuple[str, str],
    outcomes: Mapping[str, str],
) -> Claim:
    """The mean difference of the mixers that learned anything, seed by seed: these mixers, other seeds."""
    shared = set.intersection(*(set(of_one) for of_one in differences.values())) if differences else set()
    per_seed = [mean([of_one[seed] for of_one in differences.values()]) for seed in sorted(shared)]
    interval = t_interval(per_seed, rule.confidence)
    said = decide(interval, rule)
    outcome = CANNOT_TELL if said == "cannot tell" else outcomes.get(said, FAILS)
    effect, reasons = (mean(per_seed), (f"mean of {', '.join(differences)}",)) if per_seed else (None, ())
    sides = ("-".join(one), "-".join(other))
    return Claim(
        name, claim, ALL_MIXERS, where, scale, *sides, effect, *ends(interval), len(per_seed), outcome, reasons
    )


def r3(record: ExperimentRecord, text: ExperimentRecord | None) -> Iterator[Claim]:
    """Rank correlation over mixers of the accuracy of the published way and of less loss on text."""
    losses, means, rule = text_losses(text), accuracies(record), rule_of(record.entry)
    for scale in (*record.entry.scales, ALL_SCALES):
        scales = record.entry.scales if scale == ALL_SCALES else (scale,)
        if scale == ALL_SCALES and len(record.entry.scales) < 2:
            continue
        rows = [
            (mean([means[mixer, at] for at in scales]), -losses[mixer])
            for mixer in mixers_of(record)
            if mixer in losses and all((mixer, at) in means for at in scales)
        ]
        effect = spearman(rows)
        interval = resampled_mixers(rows, rule.confidence) if len(rows) >= LEAST_MIXERS else None
        learned = beat(record, [arm_name(mixer, *PUBLISHED_WAY) for mixer in losses], scales, rule)
        reasons = () if rows and learned else (NOTHING_LEARNED if rows else NO_TEXT,)
        if 0 < len(rows) < LEAST_MIXERS:
            reasons = (*reasons, f"an interval over mixers wants {LEAST_MIXERS} of them")
        if len(rows) > MOST_MIXERS:
            reasons = (*reasons, f"resamples of more than {MOST_MIXERS} mixers are not counted")
        outcome = CANNOT_TELL
        if interval is not None and not reasons:
            outcome = HOLDS if interval.low > 0 else FAILS if interval.high < 0 else CANNOT_TELL
        sides = ("-".join(PUBLISHED_WAY), "text")
        yield Claim(
            "R3", R3, "rank correlation", "causal", scale, *sides, effect, *ends(interval), len(rows), outcome, reasons
        )


def spearman(rows: Sequence[tuple[float, float]]) -> float | None:
    """Correlation of ranks, ties at their mean rank; None where either side is all the same."""
    if len(rows) < 2:
        return None
    ranks = [stats.rankdata(side) for side in zip(*rows, strict=True)]
    deviations = [side - side.mean() for side in ranks]
    scale = math.sqrt(float((deviations[0] ** 2).sum() * (deviations[1] ** 2).sum()))
    return float((deviations[0] * deviations[1]).sum()) / scale if scale > 0 else None


def resampled_mixers(rows: Sequence[tuple[float, float]], confidence: float) -> Interval | None:
    """Percentiles of the correlation over every resample of the mixers, each counted as often as it comes.

    Resamples in which a side is all the same have no correlation and are left out. None below 3 mixers, and above MOST_MIXERS.
    """
    count = len(rows)
    if not 3 <= count <= MOST_MIXERS:
        return None
    chosen = np.asarray(list(itertools.combinations_with_replacement(range(count), count)))
    ranks = [stats.rankdata(np.asarray(side)[chosen], axis=1) for side in zip(*rows, strict=True)]
    deviations = [side - side.mean(axis=1, keepdims=True) for side in ranks]
    scale = np.sqrt((deviations[0] ** 2).sum(axis=1) * (deviations[1] ** 2).sum(axis=1))
    known = scale > 0
    if not known.any():
        return None
    values = (deviations[0] * deviations[1]).sum(axis=1)[known] / scale[known]
    times = (chosen[known][:, :, None] == np.arange(count)).sum(axis=1)
    weights = math.factorial(count) / special.factorial(times).prod(axis=1)
    order = np.argsort(values)
    shares = np.cumsum(weights[order]) / weights.sum()
    low, high = (int(np.searchsorted(shares, share - 1e-12)) for share in ((1 - confidence) / 2, (1 + confidence) / 2))
    return Interval(float(values[order][low]), float(values[order][min(high, len(values) - 1)]))


def accuracy_rows(record: ExperimentRecord, published: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every arm at every scale, with what was published of its mixer at that vocabulary where it is the published way."""
    nearly = rule_of(record.entry).smallest_effect
    rows = []
    for row in task_means(record, SPLIT).iter_rows(named=True):
        mixer, visibility, labels = parts(row["arm"])
        settings = settings_of(record, row["arm"], row["scale"]) or {}
        task = {name: settings.get(f"data.task.{name}") for name in ("vocabulary", "length")}
        low, high = row["interval_low"], row["interval_high"]
        theirs = published_of(published, mixer, task["vocabulary"]) if (visibility, labels) == PUBLISHED_WAY else []
        known = {"mixer": mixer, "visibility": visibility, "labels": labels, **task}
        kept = (
            "arm",
            "scale",
            "accuracy",
            "seeds",
            "seeds_above_trivial",
            "chance",
            "best_trivial",
            "best_trivial_name",
        )
        found = [{**one, "agrees": agrees(one, task["length"], low, high, nearly)} for one in theirs]
        rows.append({**{name: row[name] for name in kept}, **known, "low": low, "high": high, "published": found})
    return rows


def published_of(published: Mapping[str, Any], mixer: str, vocabulary: Any) -> list[dict[str, Any]]:
    """What was published of a mixer at a vocabulary."""
    return [
        {"model": row["model"], "length": row["length"], "accuracy": row["accuracy"][str(vocabulary)]}
        for row in published["rows"]
        if row["mixer"] == mixer and str(vocabulary) in row["accuracy"]
    ]


def agrees(theirs: Mapping[str, Any], length: Any, low: float | None, high: float | None, nearly: float) -> bool | None:
    """Whether a published accuracy lies in our interval, or nearer to it than matters.

    None where the lengths are not the same, and where the interval, of what an accuracy can be, is wider than WIDEST.
    """
    if low is None or high is None or theirs["length"] != length or min(high, 1.0) - max(low, 0.0) > WIDEST:
        return None
    return bool(low - nearly <= theirs["accuracy"] <= high + nearly)


def not_run(published: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Published accuracies beside which no run of ours stands."""
    ours = {(row["mixer"], str(row["vocabulary"])) for row in rows if row["published"]}
    return [
        {
            **{name: row[name] for name in ("model", "mixer", "length")},
            "vocabulary": int(vocabulary),
            "accuracy": accuracy,
        }
        for row in published["rows"]
        for vocabulary, accuracy in row["accuracy"].items()
        if (row["mixer"], vocabulary) not in ours
    ]


def learned_rows(record: ExperimentRecord) -> list[dict[str, Any]]:
    """When each arm learned: the first evaluation half-way between what is scored without learning and 1."""
    rows = []
    for scale in record.entry.scales:
        if (bar := half_way(record, scale)) is None:
            continue
        for arm in (entry.name for entry in record.entry.arms):
            steps = steps_to(record, arm, scale, bar)
            came = [step for step in steps.values() if step is not None]
            row = {"arm": arm, "scale": scale, "bar": bar, "seeds": len(steps), "learned": len(came)}
            rows.append({**row, "step": mean(came) if came else None})
    return rows


def half_way(record: ExperimentRecord, scale: str) -> float | None:
    """The accuracy half-way between what is scored without learning and 1."""
    levels, _ = levels_at(record, SPLIT, scale)
    return None if levels is None or levels.to_beat is None else (levels.to_beat + 1) / 2


def steps_to(record: ExperimentRecord, arm: str, scale: str, bar: float) -> dict[int, float | None]:
    """Seed -> the first evaluated step at the bar, None where it never came there; of the runs that are done."""
    runs = [run for run in record.runs if (run.entry.arm, run.entry.scale, run.outcome) == (arm, scale, "done")]
    return {run.entry.seed: first_step(run, bar) for run in runs}


def first_step(run: ExperimentRun, bar: float) -> float | None:
    """The first evaluated step at which a run's accuracy reaches the bar."""
    if run.record is None or run.result is None:
        return None
    own = run.result.own_pass(SPLIT)
    for row in run.record.metrics:
        if row["event"] == "eval" and row.get("split") == SPLIT:
            accuracy = row["scores"].get(own, {}).get("accuracy")
            if accuracy is not None and accuracy >= bar:
                return float(row["step"])
    return None


def longer_rows(record: ExperimentRecord) -> list[dict[str, Any]]:
    """Accuracy on sequences longer than in training: the mean over seeds at each length, of arms that were scored there."""
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in task_lengths(record, SPLIT).drop_nulls("accuracy").iter_rows(named=True):
        found.setdefault((row["arm"], row["scale"]), {}).setdefault(row["length_factor"], []).append(row["accuracy"])
    return [
        {"arm": arm, "scale": scale, "accuracy": {str(factor): mean(values) for factor, values in sorted(by.items())}}
        for (arm, scale), by in found.items()
    ]


def text_rows(record: ExperimentRecord, text: ExperimentRecord | None) -> list[dict[str, Any]]:
    """Accuracy and loss on text of every mixer that has both."""
    losses, means = text_losses(text), accuracies(record)
    return [
        {
            "mixer": mixer,
            "loss": losses[mixer],
            "accuracy": {scale: means.get((mixer, scale)) for scale in record.entry.scales},
        }
        for mixer in mixers_of(record)
        if mixer in losses
    ]


def text_losses(text: ExperimentRecord | None) -> dict[str, float]:
    """Mixer -> mean loss over the seeds that finished."""
    if text is None:
        return {}
    metric = rule_of(text.entry).metric
    found = {}
    for arm in (entry.name for entry in text.entry.arms):
        runs = [run for run in text.runs_of(arm, text.entry.scales[0]) if run.outcome == "done"]
        scores = [score for run in runs if run.result and (score := run.result.score(metric)) is not None]
        if scores:
            found[arm] = mean(scores)
    return found


def accuracies(record: ExperimentRecord) -> dict[tuple[str, str], float]:
    """(mixer, scale) -> mean accuracy of the published way."""
    rows = task_means(record, SPLIT).iter_rows(named=True)
    named = {(row["arm"], row["scale"]): row["accuracy"] for row in rows}
    return {
        (mixer, scale): named[arm_name(mixer, *PUBLISHED_WAY), scale]
        for mixer in mixers_of(record)
        for scale in record.entry.scales
        if (arm_name(mixer, *PUBLISHED_WAY), scale) in named
    }


def beat(record: ExperimentRecord, arms: Sequence[str], scales: Sequence[str], rule: Rule) -> bool:
    """Whether any run of these arms is above what is scored without learning, at a confidence that they share."""
    runs = [run for arm in arms for scale in scales for run in record.runs_of(arm, scale)]
    return bool(any_above_trivial(runs, SPLIT, rule.confidence))


def ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval.low, interval.high)


def arm_name(mixer: str, visibility: str, labels: str) -> str:
    return f"{mixer}-{visibility}-{labels}"


def parts(arm: str) -> tuple[str, str, str]:
    """(mixer, visibility, labels) of an arm's name."""
    mixer, visibility, labels = arm.rsplit("-", 2)
    return mixer, visibility, labels


def arm_names(record: ExperimentRecord) -> set[str]:
    return {entry.name for entry in record.entry.arms}


def mixers_of(record: ExperimentRecord) -> list[str]:
    return list(dict.fromkeys(parts(entry.name)[0] for entry in record.entry.arms))
