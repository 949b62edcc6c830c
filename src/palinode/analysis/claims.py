"""Judges the claims of an experiment by its finished runs.

A judged row says whether the claim holds, does not hold, or cannot be judged, and gives the reasons.

A model that predicts worse than token frequencies alone has learned nothing about the order of tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from scipy import special

from palinode.analysis.claim_measures import MEAN_OF, MEASURES, NOT_RUN, Evidence, Measured, edges, scores_of, sides
from palinode.analysis.intervals import MOST_SEEDS, ends, mean, seeds_needed
from palinode.analysis.published_effect import PublishedWords, agrees, published_words
from palinode.analysis.runs_needed import MOST_COUNTED
from palinode.base.decision import Claim, Decision
from palinode.base.errors import Damaged
from palinode.results.record import ExperimentRecord, ExperimentRun
from palinode.results.store import Store

Judgement = Literal["holds", "does not hold", "cannot tell", "not judged"]
# What a claim expects -> the outcomes of the decision rule with which the claim holds.
HOLDS_WHERE: Mapping[str, frozenset[str]] = {
    "better": frozenset(["better"]),
    "not worse": frozenset(["better", "smaller than matters", "not worse"]),
}
# Measures in the unit of the metric, beside differences, which the rule judges.
IN_UNITS_OF_THE_METRIC = ("selection",)
FROM_A_BOUND = ("within", "not worse")  # such a claim is held against a bound of its own, not against 0
LOSS = "nats_per_token"
EVERY_ROW = "every row"
# What a claim expects where rows stand alone: a wider interval would make agreement with a published score easier.
ALONE = ("published", "shown")
# Names of checks whose findings store the losses of n-gram models, and the name of the loss of single-token frequencies.
TEXT_FLOOR, REFERENCE, ORDER_1 = "C8.text_floor", "C8.reference", "nats_per_token_order_1"
UNDECIDED = "the interval allows both answers"
COUNTS_UNDECIDED = "the numbers of runs that learned do not show a difference"
NOT_SHOWN = "the test does not show an effect"
OTHER_BOUND = "the test only asks whether there is an effect, and the claim asks for more"
NOTHING_MEASURED = "no finished run has the numbers that this claim is about"
ROUNDING = 1e-12  # the rounding error that is allowed in 1 - confidence
# Measures whose effect is 0 if nothing differs: their published number is an effect too, and ours is held against it.
EFFECTS = ("difference", "ratio", "ratio_slope", "ratio_width_less_depth", "layer_cut", "context", "ratio_by_tokens")
WIDEST_SHARE = 0.2  # an accuracy's interval that is wider than this contains nearly every published number


class Needed(NamedTuple):
    """What it would take to judge a claim that our seeds leave open.

    Attributes:
        seeds: the number of seeds, of a rank correlation of groups, that would tell four times in five; None if no number that
            anybody can train would.
        effect: the effect that they are planned for, less the bound of the claim: the published one if our interval contains it;
            else the one that came, or the smallest one that matters where ours is smaller and larger ones are not excluded.
        hours: the hours of training and evaluating the compared arms with so many seeds, one run after the other.
        excluded: the smallest effect that matters, where the interval says that there is none in the direction of the claim.
        floor: half of the interval that remains with any number of seeds on the same text, where it is wider than `effect`.
        more_than: the number of seeds, or of groups, that are too few, where a p value judges and no exact number is known.
    """

    seeds: int | None
    effect: float | None
    hours: float | None
    excluded: float | None = None
    floor: float | None = None
    more_than: int | None = None


@dataclass(frozen=True)
class JudgedClaim:
    """One row of numbers about a claim, and the judgement of the claim by this row.

    Attributes:
        needed: what would judge the claim; None if it is judged, or if more seeds would not change the reasons.
        published: the number that others published for what the row measures; None if nobody published it.
        words: a text that says what was measured.
    """

    claim: Claim
    measured: Measured
    judgement: Judgement
    published: float | None
    words: str
    needed: Needed | None = None

    @property
    def is_left_out(self) -> bool:
        """Whether the arms or the shapes of the row are not run at this size, so that there is nothing to judge."""
        return any(reason.endswith(NOT_RUN) for reason in self.measured.reasons)

    @property
    def of_one_group(self) -> bool:
        """Whether the row is about one of the groups of its claim, and not about all of them."""
        return self.measured.group in self.claim.groups

    @property
    def published_is_outside(self) -> bool:
        """Whether the published number lies outside the interval of our runs. Rows that are only shown are about other runs."""
        ours = self.measured.deciding
        return (
            self.claim.expect != "shown"
            and ours is not None
            and self.published is not None
            and not ours.low <= self.published <= ours.high
        )

    @property
    def published_words(self) -> PublishedWords | None:
        """What our effect says about the published one; None without a published effect, or if ours cannot be judged."""
        ours, effect = self.measured.deciding, self.measured.effect
        if self.claim.measure not in EFFECTS or self.claim.expect == "shown":
            return None
        if self.published is None or self.measured.reasons:
            return None
        return None if ours is None or effect is None else published_words(effect, *ours, self.published)

    @property
    def half_width(self) -> float | None:
        """Half of the width of the row's own interval, which is what a plan promises; None without an interval."""
        ours = self.measured.interval
        return None if ours is None else (ours.high - ours.low) / 2

    @property
    def prediction_is_inside(self) -> bool | None:
        """Whether the predicted effect lies in the row's own interval; None without a prediction, or without an interval."""
        ours, predicted = self.measured.interval, self.claim.predicted
        return None if ours is None or predicted is None else ours.low <= predicted <= ours.high

    @property
    def reasons(self) -> list[str]:
        """The reasons why nothing can be concluded; empty if the claim holds, does not hold, or is not judged."""
        if self.measured.reasons or self.judgement != "cannot tell":
            return list(self.measured.reasons)
        if self.measured.interval is not None and self.measured.p is not None:
            return [COUNTS_UNDECIDED, *self._needed_words()]
        if self.measured.interval is not None or self.measured.p is None:
            return [UNDECIDED, *self._needed_words()]
        return [NOT_SHOWN, *self._needed_words()] if _is_tested(self.claim, self.measured) else [OTHER_BOUND]

    def _needed_words(self) -> list[str]:
        needed = self.needed
        if needed is None:
            return []
        units = "groups" if self.claim.measure == "rank_correlation" else "seeds"
        shown = "such an effect" if needed.effect is None else f"{needed.effect:.2g}"
        smaller = (
            [f"an effect of {needed.excluded:.2g}, the smallest that matters, is excluded"] if needed.excluded else []
        )
        if needed.more_than:
            return [f"more than {needed.more_than:,} {units} would be needed to show {shown}"]
        if needed.seeds is None:
            why = f": the same text leaves about {needed.floor:.2g} to each side" if needed.floor else ""
            return [*smaller, f"no number of {units} would show {shown}{why}"]
        if needed.seeds <= self.measured.count:
            return [*smaller, f"so many {units} show an effect of {shown} four times in five; here they did not"]
        hours = f", {needed.hours:.1f} hours," if needed.hours is not None else ""
        about = "at most about" if needed.effect is None and self.measured.interval is None else "about"
        return [*smaller, f"{about} {needed.seeds:,} {units}{hours} would show {shown} four times in five"]

    @property
    def limits(self) -> list[float]:
        """The values that the claim compares the interval with, where they are not the value of no effect."""
        bound = self.claim.bound
        named = {"above": [bound], "below": [bound], "within": [-bound, bound]}.get(self.claim.expect, [])
        return [value for value in dict.fromkeys(named) if value != self.measured.no_effect]

    def row(self) -> dict[str, Any]:
        """The measured value, the published one and the judgement, as plain data."""
        measured, (low, high) = self.measured, ends(self.measured.interval)
        family_low, family_high = ends(self.measured.deciding)
        return {
            "name": self.claim.name,
            "claim": self.claim.sentence,
            "measure": self.claim.measure,
            "measured": self.words,
            "group": measured.group,
            "of_one_group": self.of_one_group,
            "scale": measured.scale,
            "arm": measured.arm,
            "against": measured.against,
            "effect": measured.effect,
            "effect_bound": measured.bound,
            "low": low,
            "high": high,
            "family_low": family_low,
            "family_high": family_high,
            "p": measured.p,
            "largest_p": measured.alpha,
            "count": measured.count,
            "limits": self.limits,
            "published": self.published,
            "published_as": self.claim.published_at(self.measured.scale),
            "published_of": self.claim.published_of,
            "published_words": self.published_words,
            "predicted": self.claim.predicted,
            "prediction_is_inside": self.prediction_is_inside,
            "half_width": self.half_width,
            "half_width_promised": self.claim.half_width,
            "seeds_needed": self.needed.seeds if self.needed is not None else None,
            "hours_needed": self.needed.hours if self.needed is not None else None,
            "outcome": measured.outcome,
            "verdict": self.judgement,
            "reasons": self.reasons,
            "cautions": list(measured.cautions),
            "points": [point._asdict() for point in measured.points],
        }


def judged_claims(store: Store, record: ExperimentRecord) -> tuple[JudgedClaim, ...]:
    """The judged rows of all claims of an experiment, in the order of the claims in the experiment's entry.

    Raises:
        BadInput: the decision rule of the experiment cannot be applied.
    """
    if not record.entry.claims:
        return ()

    def other(name: str) -> ExperimentRecord | None:
        full_name = f"{name}--{record.entry.size}"
        known = {entry.full_name for entry in store.experiments()}
        return store.experiment(full_name) if full_name in known else None

    evidence = Evidence(record, record.entry.rule, token_frequencies(store, record), other)
    alone = [(claim, _judged(claim, evidence)) for claim in record.entry.claims]
    judging = [row for _, rows in alone for row in rows if _is_of_a_family(row)]
    together, of_groups = (
        Counter(row.claim.name for row in judging if row.of_one_group is of_one_group) for of_one_group in (False, True)
    )
    tested = Counter(row.claim.name for _, rows in alone for row in rows if row.of_one_group and _by_p_alone(row))
    families = {
        name: replace(
            evidence,
            comparisons=max(1, together[name]),
            group_comparisons=max(1, of_groups[name]),
            group_tests=max(1, tested[name]),
        )
        for name in {*together, *of_groups, *tested}
        if max(together[name], of_groups[name], tested[name]) > 1
    }
    judged = [
        row
        for claim, rows in alone
        for row in (_judged(claim, families[claim.name]) if claim.name in families else rows)
    ]
    judgements: dict[str, set[Judgement]] = {}
    for row in judged:
        judgements.setdefault(row.claim.name, set()).add(row.judgement)
    return tuple(_as_far_as_needed(row, judgements) for row in judged)


def _as_far_as_needed(row: JudgedClaim, judgements: Mapping[str, set[Judgement]]) -> JudgedClaim:
    """The row, or the row as one that cannot be judged where the claim that it needs does not hold."""
    needed = row.claim.needs_claim
    if not needed or judgements[needed] <= {"holds", "not judged"}:
        return row
    told = "does not hold" if "does not hold" in judgements[needed] else "cannot be told"
    reasons = (*row.measured.reasons, f"{needed} {told}, and this claim needs it")
    judgement: Judgement = "not judged" if row.judgement == "not judged" else "cannot tell"
    return replace(row, measured=replace(row.measured, reasons=reasons), judgement=judgement, needed=None)


def _is_of_a_family(row: JudgedClaim) -> bool:
    """Whether the interval of a row says something about its claim, so that the other rows must allow for it."""
    return row.measured.interval is not None and row.claim.expect not in ALONE


def _by_p_alone(row: JudgedClaim) -> bool:
    """Whether the p value of a row judges its claim, and there is no interval."""
    return row.measured.p is not None and row.measured.interval is None and _is_tested(row.claim, row.measured)


def _judged(claim: Claim, evidence: Evidence) -> list[JudgedClaim]:
    """The judged rows of one claim. If the claim expects every row to lie within its bound, a last row judges all rows together."""
    measure, words = MEASURES[claim.measure]
    names = {arm.name for arm in evidence.record.entry.arms}
    missing = [arm for arm in claim.arms() if arm not in names]
    if missing and (not claim.groups or set(missing) == set(claim.arms())):
        reason = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} {NOT_RUN}"
        rows = [Measured("", claim.arm, ", ".join(claim.against), None, None, 0, reasons=(reason,))]
    else:
        rows = list(measure(claim, evidence))
        rows = rows or [
            Measured("", claim.arm, ", ".join(claim.against), None, None, 0, reasons=(_nothing(claim, evidence),))
        ]
    if claim.expect in ALONE:
        rows = [replace(row, family=None) for row in rows]
    if claim.needs_bracket:
        rows = [replace(row, reasons=tuple(dict.fromkeys((*row.reasons, *_edges(row, evidence))))) for row in rows]
    judged = []
    for row in rows:
        in_words = _words(words, claim, row, evidence)
        published = published_here(claim, row, evidence)
        judgement = judge(claim, row, evidence.rule)
        needed = _needed(claim, row, published, evidence) if judgement == "cannot tell" else None
        judged.append(JudgedClaim(claim, row, judgement, published, in_words, needed))
    if claim.expect == "within" and len(judged) > 1:
        judged.append(_of_all(claim, judged))
    return judged


def _nothing(claim: Claim, evidence: Evidence) -> str:
    """The reason why a claim has no row of numbers."""
    if claim.measure == "score":
        return f"a scale with a published number is {NOT_RUN}"
    if claim.groups and not any(sides(claim, evidence.record)):
        return f"an arm of every group is {NOT_RUN}"
    return NOTHING_MEASURED


def _needed(claim: Claim, row: Measured, published: float | None, evidence: Evidence) -> Needed | None:
    """What it would take to judge a claim; None where more seeds are not what is missing."""
    if row.reasons or row.effect is None or row.count < 2 or claim.expect == "published":
        return None
    if row.p is not None:
        return _needed_of_a_test(claim, row, evidence)
    if row.interval is None:
        return None
    matters = _matters(claim, evidence)
    excluded = matters if matters and _excludes(claim, row, matters, evidence.rule) else None
    effect = _to_show(claim, row.effect, evidence.rule)
    if published and claim.measure in EFFECTS and row.deciding and row.deciding.low <= published <= row.deciding.high:
        effect = _to_show(claim, published, evidence.rule)
    elif matters and excluded is None and claim.expect not in FROM_A_BOUND:
        effect = max(effect, matters)
    if row.floor is not None and row.floor >= effect:
        return Needed(None, effect, None, excluded, row.floor)
    half, alone = (row.interval.high - row.interval.low) / 2, evidence.rule.confidence
    confidence = row.confidence or evidence.family_confidence(of_one_group=row.group in claim.groups)
    deviation = half * math.sqrt(row.count) / float(special.stdtrit(row.count - 1, (1 + alone) / 2))
    seeds = seeds_needed(effect, deviation, confidence)
    return Needed(seeds, effect, _hours(seeds, claim, row, evidence), excluded)


def _needed_of_a_test(claim: Claim, row: Measured, evidence: Evidence) -> Needed | None:
    """What it would take where a p value judges; None where it asks something else than the claim, or does not judge."""
    judges = row.interval is not None or _is_tested(claim, row)
    if not judges or row.count_needed is None:
        return None
    most = MOST_SEEDS if row.interval is None else MOST_COUNTED
    if row.count_needed > most:
        return Needed(None, None, None, more_than=most)
    of_groups = claim.measure == "rank_correlation"  # the hours of another kind of model are not known
    return Needed(row.count_needed, None, None if of_groups else _hours(row.count_needed, claim, row, evidence))


def _to_show(claim: Claim, effect: float, rule: Decision) -> float:
    """How far an effect lies from what would contradict the claim: the size that the seeds have to show."""
    if claim.expect == "within":
        return min(abs(effect - claim.bound), abs(effect + claim.bound))
    if claim.expect == "not worse":
        return abs((effect if rule.better == "higher" else -effect) + rule.smallest_effect)
    return abs(effect - claim.bound)


def _matters(claim: Claim, evidence: Evidence) -> float | None:
    """The smallest effect that matters, in the unit of the claim's measure; None if the rule has none, or the unit is another one.

    Of a ratio it is that of the metric as a share of the mean score of the baseline.
    """
    rule, least = evidence.rule, evidence.rule.smallest_effect
    if claim.measure == "difference" or claim.measure in IN_UNITS_OF_THE_METRIC:
        return least or None
    if claim.measure not in EFFECTS or rule.score.measure != LOSS:
        return None
    scores = [
        score
        for scale in evidence.scales
        for score in scores_of(evidence.record, rule.baseline, scale, rule.metric).values()
    ]
    return least / mean(scores) if least and scores else None


def _excludes(claim: Claim, row: Measured, effect: float, rule: Decision) -> bool:
    """Whether the interval of a row excludes so large an effect in the direction of its claim."""
    sign = {"better": 1 if rule.better == "higher" else -1, "above": 1, "below": -1}.get(claim.expect)
    if row.deciding is None or sign is None:
        return False
    low, high = row.deciding
    return (high if sign > 0 else -low) - sign * claim.bound < effect


def published_here(claim: Claim, row: Measured, evidence: Evidence) -> float | None:
    """The published number of a row in our unit.

    A difference of losses depends on what a token is. A published difference is therefore taken as a share of the published loss
    (`Claim.published_of`), and the same share of our loss is compared.
    """
    published = claim.published_at(row.scale)
    if published is None or claim.published_of is None:
        return published
    ours = list(scores_of(evidence.record, row.against, row.scale, evidence.rule.metric).values())
    return published / claim.published_of * mean(ours) if ours else None


def _hours(seeds: int | None, claim: Claim, row: Measured, evidence: Evidence) -> float | None:
    """The hours of so many seeds of the arms of a row, or of the groups of a mean; None where no run of them has ended."""
    within = row.group.removeprefix(MEAN_OF).split(", ") if row.group.startswith(MEAN_OF) else claim.groups
    of_groups = (
        (arm, *others)
        for group, arm, others in sides(claim, evidence.record)
        if group in within and row.group not in claim.groups
    )
    arms = {row.arm, row.against}.union(*of_groups)
    scales = (row.scale,) if row.scale in evidence.record.entry.scales else evidence.record.entry.scales
    seconds: dict[tuple[str, str], list[float]] = {}
    for run in evidence.record.finished():
        if run.entry.scale in scales and run.entry.arm in arms:
            seconds.setdefault((run.entry.arm, run.entry.scale), []).append(run.result.seconds.get("total") or 0.0)
    return math.fsum(map(mean, seconds.values())) / 3600 * seeds if seconds and seeds is not None else None


def _edges(row: Measured, evidence: Evidence) -> tuple[str, ...]:
    """The reasons that an arm of a row was tuned to the smallest or the largest value that was tried, at a scale of the row."""
    scales = evidence.scales
    return edges(evidence, (row.arm, row.against), (row.scale,) if row.scale in scales else scales)


def judge(claim: Claim, row: Measured, rule: Decision) -> Judgement:
    """Judge a claim by one row of numbers."""
    if claim.expect == "shown":
        return "not judged"
    if row.reasons:
        return "cannot tell"
    if claim.expect in HOLDS_WHERE:
        if row.outcome is None or row.outcome == "cannot tell":
            return "cannot tell"
        return "holds" if row.outcome in HOLDS_WHERE[claim.expect] else "does not hold"
    if row.deciding is None:
        return _by_test(claim, row, rule)
    low, high, bound = row.deciding.low, row.deciding.high, claim.bound
    if claim.expect == "published":
        return _agrees(claim.published_at(row.scale), row, rule)
    if (
        claim.measure in IN_UNITS_OF_THE_METRIC
        and bound == 0
        and -rule.smallest_effect < low <= 0 <= high < rule.smallest_effect
    ):
        return "does not hold"  # smaller than matters, as a difference by the rule
    holds, fails = {
        "above": (low > bound, high < bound),
        "below": (high < bound, low > bound),
        "within": (low >= -bound and high <= bound, low > bound or high < -bound),
    }[claim.expect]
    return "holds" if holds else "does not hold" if fails else "cannot tell"


def _by_test(claim: Claim, row: Measured, rule: Decision) -> Judgement:
    """Judge a claim by the p value of a row that has no interval."""
    largest = (1 - rule.confidence if row.alpha is None else row.alpha) + ROUNDING
    if not _is_tested(claim, row) or row.effect is None or row.p is None or row.p > largest:
        return "cannot tell"
    above = row.effect > row.no_effect
    return "holds" if above == (claim.expect == "above") else "does not hold"


def _is_tested(claim: Claim, row: Measured) -> bool:
    """Whether a p value can judge a claim: the claim asks on which side of `no_effect` the effect lies."""
    return claim.expect in ("above", "below") and claim.bound == row.no_effect


def _agrees(published: float | None, row: Measured, rule: Decision) -> Judgement:
    """Whether our effect agrees with the published number, which has no interval."""
    if published is None or row.effect is None or row.interval is None:
        return "cannot tell"
    low, high = row.interval
    if rule.metric.endswith(".accuracy") and min(high, 1.0) - max(low, 0.0) > WIDEST_SHARE:
        return "cannot tell"
    return "holds" if agrees(row.effect, low, high, published) else "does not hold"


def _of_all(claim: Claim, rows: Sequence[JudgedClaim]) -> JudgedClaim:
    """The judgement of a claim by all of its rows: the claim holds if all rows hold, and does not hold if one row does not."""
    judgements = {row.judgement for row in rows}
    judgement: Judgement = "does not hold" if "does not hold" in judgements else "cannot tell"
    reasons = tuple(dict.fromkeys(reason for row in rows for reason in row.measured.reasons))
    measured = Measured(EVERY_ROW, claim.arm, rows[0].measured.against, None, None, 0, reasons=reasons)
    return JudgedClaim(claim, measured, "holds" if judgements == {"holds"} else judgement, None, rows[0].words)


def _words(template: str, claim: Claim, row: Measured, evidence: Evidence) -> str:
    """The text that says what a row measures."""
    over, under = (
        f"{way} loss of {arm}" for arm, way in zip((claim.arm, *claim.against[:1], ""), claim.directions, strict=False)
    )
    blocks = "one block" if claim.blocks_left == 1 else f"{claim.blocks_left:.0%} of the blocks"
    return template.format(
        claim=claim,
        row=row,
        metric=evidence.rule.metric,
        ratio=f"{over} / {under}".replace("{}", "P"),
        scales=", mean over all scales" if len(evidence.scales) > 1 else "",
        blocks=blocks,
        less="that of the whole model" if claim.less_whole else "1",
    )


def token_frequencies(store: Store, record: ExperimentRecord) -> float | None:
    """The validation loss, in nats per token, of a model that predicts by the token frequencies of the train split.

    Returns:
        The loss, read from an audit; None if no audit in the store computed this loss for the data of this experiment.
    """
    found = _frequencies(store, record)
    return None if found is None else found[1]


def frequencies_audit(store: Store, record: ExperimentRecord) -> str | None:
    """The hash of the audit that `token_frequencies` reads; None if there is none. The entry of an experiment does not name it."""
    found = _frequencies(store, record)
    return None if found is None else found[0]


def _frequencies(store: Store, record: ExperimentRecord) -> tuple[str, float] | None:
    """The hash of the first audit that computed the loss by token frequencies for the data of the experiment, and this loss."""
    counted = next((numbers for run in record.runs if (numbers := _ngrams(run))), None)
    if counted is None:
        return None
    order = f"nats_per_token_order_{counted['ngram_order']:.0f}"
    for audit_hash in store.audits():
        try:
            report = store.audit(audit_hash)
        except Damaged:
            continue  # of another experiment: an experiment's own damaged audits stand on its page
        for finding in report.findings if report else ():
            numbers = finding.numbers if finding.check == REFERENCE else {}
            same_data = numbers.get("train_tokens") == counted["ngram_train_tokens"]
            if same_data and numbers.get(order) == counted["ngram_nats"]:
                return audit_hash, float(numbers[ORDER_1] or 0.0)
    return None


def _ngrams(run: ExperimentRun) -> Mapping[str, Any] | None:
    """The numbers of the finding that compares the losses of a run with an n-gram loss; None without this finding."""
    return next((f.numbers for f in run.findings() if f.check == TEXT_FLOOR and "ngram_nats" in f.numbers), None)
