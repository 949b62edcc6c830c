"""The measures of claims. A measure is a function that gets a claim and its evidence and returns rows of numbers.

A row holds an effect with its interval over seeds. If nothing can be concluded from a row, the field `reasons` of the row says why.
The module `palinode.analysis.claims` judges from a row whether the claim holds.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from palinode.analysis import runs_needed
from palinode.analysis.audits import arm_audit
from palinode.analysis.censored import LEAST_RUNS, Bound, Time, compare_steps, stratified
from palinode.analysis.curves import auxiliary_curves, evaluation_curves, layer_cuts
from palinode.analysis.deciding import DecidingIntervals
from palinode.analysis.intervals import (
    LEAST_PAIRS,
    Interval,
    mean,
    rank_correlation,
    rank_correlation_p,
    share_interval,
    t_interval,
)
from palinode.analysis.lines import Point, points_over_seeds, slope_per_decade
from palinode.analysis.ratios import direction_ratios, final_scores
from palinode.analysis.reliability import NO_SPREAD, audit_reasons, leaks_elsewhere
from palinode.analysis.sizes import ScaleSize, scale_sizes
from palinode.analysis.tasks import any_above_trivial, learned_from, levels_at
from palinode.analysis.two_valued import learned_counts, two_valued_applies
from palinode.analysis.verdict import Outcome, Verdict, decide, verdict
from palinode.base.decision import Claim, Decision, in_group
from palinode.base.measures import FINAL_OUTCOMES, Metric
from palinode.checks.loss_floor import RATIO_FAIL
from palinode.results.record import ChoiceEntry, ExperimentRecord

NATS = "nats_per_token"
ALL_SCALES, DEEPEST_SCALES, MEAN_OF_SCALES = "all scales", "deepest scales", "mean of scales"
# A layer cut leaves 1 block, 1/4 or 1/2 of the blocks. In a model of fewer than 4 blocks, two of these three cuts are the same.
LEAST_BLOCKS = 4
LEAST_POINTS = 3  # shares of rtl tokens: through two of them a line always fits
NOTHING_LEARNED = "no run is above what is scored without learning"
MEAN_OF = "mean of "  # before the names of the groups of a mean
NOT_RUN = "not run at this size"  # the end of reasons with which a row is left out of a page
NO_CLAIM = ": the claim is not made"
NOT_MADE = NO_CLAIM + "; {} would tell"
AT_THE_EDGE = "{} was tuned to {} = {:g}, the edge of what was tried" + NOT_MADE.format("values beyond it")
NOTHING_TAUGHT = "no {1} that was tried taught {0} more than guessing, so {2:g} is chosen by chance" + NOT_MADE.format(
    "other values or longer trials"
)
AT_THE_CEILING = (
    "both arms score the maximum, or miss it by less than matters: the final score cannot tell which is better; "
    "a harder task would, or how soon they learn"
)
EQUAL_ARMS = frozenset([AT_THE_CEILING, NO_SPREAD])  # the reasons that stand where two arms score the same
SOME_LEARNED = "some runs learned the task and others did not, so the interval of the mean accuracy is not judged: {}"
UNEQUAL_COUNTS = "the arms have different numbers of finished runs, so no test counts those that learned"
OPPOSITE = "the ratio of the mean steps and the log-rank test point in opposite directions; more seeds would tell"
FEW_EVALUATIONS = 4  # a run that came half-way at its third evaluation may have done so at any step behind the second
ONE_GROUP = "one group can be judged, and its own row judges it"
NO_GROUP = "no group can be judged; the row of each group says why"
ALL_EQUAL = "the values of all {} seeds are equal, so nothing says how far another seed would lie"
TOO_GOOD = f"rtl may lie more than {1 - RATIO_FAIL:.0%} below ltr: that is a leak until proven otherwise"
NO_TEST = "no run was scored on the test split: set evaluation.test = true"
NO_FREQUENCIES = "no audit in the store counted the loss of token frequencies"


@dataclass(frozen=True)
class Evidence:
    """The records and numbers on which the claims of an experiment are measured.

    Attributes:
        frequencies_nats: the loss of predicting by token frequencies, in nats per token; None if the store lacks this loss.
        other: a function from the name of another experiment to the record of that experiment at the same size, or to None.
        comparisons: the number of rows that judge one claim: their intervals allow for each other.
        group_comparisons: the number of rows of single groups; they allow for each other, and the mean over groups stands apart.
        group_tests: the same number of the rows that have a p value and no interval.
    """

    record: ExperimentRecord
    rule: Decision
    frequencies_nats: float | None
    other: Callable[[str], ExperimentRecord | None]
    comparisons: int = 1
    group_comparisons: int = 1
    group_tests: int = 1

    def family_confidence(self, *, of_one_group: bool = False) -> float:
        """The confidence of one interval of a claim with several rows (Bonferroni)."""
        return 1 - (1 - self.rule.confidence) / (self.group_comparisons if of_one_group else self.comparisons)

    def alpha_of_a_test(self, *, of_one_group: bool) -> float:
        """The largest p value of a row without an interval that shows an effect (Bonferroni over the groups of its claim)."""
        return (1 - self.rule.confidence) / (self.group_tests if of_one_group else 1)

    def for_claim(self, claim: Claim) -> Evidence:
        """The evidence with the rule that the claim asks for: whether an arm is better, or whether it is not worse."""
        asks_less = claim.expect == "not worse" and self.rule.smallest_effect > 0
        return replace(self, rule=self.rule.with_(claim="not worse")) if asks_less else self

    @property
    def scales(self) -> tuple[str, ...]:
        return self.record.entry.scales

    @property
    def split(self) -> str:
        return self.rule.metric.partition(".")[0]


@dataclass(frozen=True)
class Measured:
    """One row of numbers that a measure returns for a claim.

    Attributes:
        scale: the name of one scale, a context length in tokens, or a text for several scales, such as `all scales`.
        arm, against: the names of the two arms, with the name of the group filled in; `against` is empty if the claim compares
            no arms.
        effect: a mean over seeds, or a rank correlation over groups; None if nothing was measured.
        interval: the interval of this row alone.
        family: the interval that allows for the other rows of the claim, or by the rule for all arms; it judges.
        confidence: the confidence of `family`; None where it is that of the rows of the claim.
        count: the number of seeds in the mean, or the number of groups in the rank correlation.
        outcome: the outcome of the decision rule; None if the measure is not `difference`.
        p: the p value of an exact test that the effect is `no_effect`. A rank correlation and a ratio of steps have a p value and
            no interval; a difference of accuracies has one where runs are counted (`two_valued.two_valued_applies`).
        alpha: the largest p value that shows an effect, where the p value judges.
        count_needed: the number of seeds, or of groups, with which the p value would show the effect that came 4 times in 5; None
            where it does not judge, and where no effect came.
        no_effect: the value of the effect if the compared things do not differ: 0, or 1 for a ratio of steps.
        bound: whether the true effect may only be larger (">=") or smaller ("<=") than `effect`, or either of the two ("~").
        reasons: the reasons why nothing can be concluded from the row; empty where the row can be judged.
        cautions: facts that a reader must know although the row can be judged.
        floor: half of the width of the interval that remains with any number of seeds, on the same documents or queries; None where
            the interval is over seeds alone.
        points: of a slope, the points through which the line goes: the ratio less 1 at each number of parameters or tokens. Of a
            mean over several scales, the ratio less 1 at each of them.
    """

    scale: str
    arm: str
    against: str
    effect: float | None
    interval: Interval | None
    count: int
    group: str = ""
    outcome: Outcome | None = None
    reasons: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    p: float | None = None
    alpha: float | None = None
    count_needed: int | None = None
    no_effect: float = 0.0
    bound: Bound = ""
    family: Interval | None = None
    confidence: float | None = None
    floor: float | None = None
    points: tuple[Point, ...] = ()

    @property
    def deciding(self) -> Interval | None:
        """The interval that judges the row."""
        return self.interval if self.family is None else self.family


Rows = Iterator[Measured]
Measure = Callable[[Claim, Evidence], Rows]
Sides = tuple[str, str, tuple[str, ...]]  # the group, the arm, and the arms that this arm is compared with


def difference(claim: Claim, evidence: Evidence) -> Rows:
    """For every scale and group: the difference of two arms in the rule's metric, paired by seed; then the mean over groups."""
    for scale in evidence.scales:
        rows = [_difference(claim, evidence, scale, *names) for names in sides(claim, evidence.record)]
        yield from (row for row, _ in rows)
        if claim.groups and rows:
            yield _mean_of_groups(claim, evidence, scale, rows)


def _difference(
    claim: Claim, evidence: Evidence, scale: str, group: str, arm: str, others: tuple[str, ...]
) -> tuple[Measured, Mapping[int, float]]:
    """A pair: the row of one group, and the differences of this group as a mapping: seed -> difference."""
    rule = evidence.rule
    if (against := _best_of(evidence, scale, others)) is None:
        reason = f"no finished run of {' or '.join(others)} to compare with"
        return Measured(scale, arm, ", ".join(others), None, None, 0, group, reasons=(reason,)), {}
    evidence = evidence.for_claim(claim)
    by_rule = _by_rule(evidence, arm, against, scale, of_one_group=bool(group))
    pairs, reasons, cautions = by_rule.comparison.pairs, by_rule.reasons, by_rule.cautions
    if claim.needs_learning:
        reasons = (*reasons, *unlearned(evidence, [(name, rule.metric) for name in (arm, against)], (scale,)))
    if claim.needs_bracket:
        reasons = (*reasons, *edges(evidence, (arm, against), (scale,)))
    means = [mean([getattr(pair, side) for pair in pairs]) for side in ("arm_value", "baseline_value") if pairs]
    if claim.expect == "better" and rule.better == "higher" and pairs and min(means) >= 1 - rule.smallest_effect:
        reasons = (*reasons, AT_THE_CEILING)
    if len(others) > 1:
        chance = f"{against} is the better of {len(others)} on these same runs, so its mean is too good by chance"
        cautions = (*cautions, chance)
    counts = learned_counts(evidence.record, arm, scale, rule.with_(baseline=against))
    p, needed = None, None
    if counts is not None and two_valued_applies(counts):
        p, cautions = counts.p, (*cautions, f"{scale}: {counts.sentence}")
        needed = runs_needed.of_counts(*counts.shares, by_rule.deciding.alpha)
        reasons = reasons if p is not None else (*reasons, UNEQUAL_COUNTS)
    outcome: Outcome = "cannot tell" if reasons else by_rule.outcome
    alone = t_interval(by_rule.comparison.differences, rule.confidence)
    numbers = (by_rule.comparison.mean, alone, len(pairs))
    ours = by_rule.deciding.interval
    row = Measured(
        scale,
        arm,
        against,
        *numbers,
        group,
        outcome,
        reasons,
        cautions,
        p,
        None if p is None else by_rule.deciding.alpha,
        needed,
        family=ours,
        confidence=1 - by_rule.deciding.alpha,
        floor=by_rule.deciding.floor,
    )
    return row, {pair.seed: pair.difference for pair in pairs}


def edges(evidence: Evidence, arms: Collection[str], scales: Collection[str]) -> tuple[str, ...]:
    """The reasons that the best value of arms is not known to lie between those that were tried, at one of these scales.

    An arm was tuned to the smallest or the largest value, or no value taught it anything, so that its choice is chance.
    """
    asked = [choice for choice in evidence.record.entry.choices if choice.scale in scales and choice.arm in arms]
    return tuple(
        (AT_THE_EDGE if choice.at_the_edge else NOTHING_TAUGHT).format(choice.arm, choice.field, choice.chosen)
        for choice in asked
        if choice.at_the_edge or _taught_nothing(evidence, choice)
    )


def _taught_nothing(evidence: Evidence, choice: ChoiceEntry) -> bool:
    """Whether the best trial of a synthetic task does not beat guessing, by the Wilson interval of its accuracy.

    The levels and the number of answers are those of runs on the validation split. The interval allows for the number of values.
    """
    rule, scores = evidence.rule, [score for score in choice.scores if score is not None]
    if rule.score.measure != "accuracy" or not scores:
        return False
    levels, _ = levels_at(evidence.record, evidence.split, choice.scale)
    answers = [
        int(of_pass.get("tokens_scored") or 0)
        for run in evidence.record.finished(choice.arm, choice.scale)
        for of_pass in run.result.scores.get(evidence.split, {}).values()
    ]
    if levels is None or levels.to_beat is None or not answers or not max(answers):
        return False
    confidence = 1 - (1 - rule.confidence) / len(scores)
    interval = share_interval(round(max(scores) * max(answers)), max(answers), confidence)
    return interval is not None and interval.low <= levels.to_beat


def _by_rule(evidence: Evidence, arm: str, against: str, scale: str, *, of_one_group: bool) -> Verdict:
    """The verdict on a comparison. It allows for all comparisons of the rule if it is one of them, in either direction.

    Every other comparison allows for the rows of its claim.
    """
    record, rule = evidence.record, evidence.rule
    if rule.family != "none" and rule.baseline in (arm, against):
        intervals = DecidingIntervals.of(record, rule)
        if against == rule.baseline:
            return verdict(record, arm, scale, rule, intervals)
        if (against, scale) in intervals.family:
            intervals = intervals.of_baseline_less(against)
            return verdict(record, arm, scale, intervals.rule, intervals)
    confidence = evidence.family_confidence(of_one_group=of_one_group)
    return verdict(record, arm, scale, rule.with_(baseline=against, confidence=confidence))


def _mean_of_groups(
    claim: Claim, evidence: Evidence, scale: str, rows: Sequence[tuple[Measured, Mapping[int, float]]]
) -> Measured:
    """The row with the mean difference over the groups that can be judged. Each seed gives one value: its mean over the groups.

    Groups whose arms are equal count as well: a mean over those that differ would be too large.
    """
    counting = [(row, differences) for row, differences in rows if not {*row.reasons} - EQUAL_ARMS]
    judged = {row.group: differences for row, differences in counting if any(not one.reasons for one, _ in counting)}
    seeds = sorted(set.intersection(*map(set, judged.values()))) if judged else []
    values = [mean([of_group[seed] for of_group in judged.values()]) for seed in seeds]
    interval, family = (t_interval(values, at) for at in (evidence.rule.confidence, evidence.family_confidence()))
    of_groups = {row.reasons for row, _ in rows}
    reasons = () if values else (*of_groups,)[0] if len(of_groups) == 1 else (NO_GROUP,)
    if len(judged) == 1 < len(rows):
        reasons = (ONE_GROUP,)
    if counted := [row.group for row, _ in rows if row.group in judged and row.p is not None]:
        reasons = (*reasons, SOME_LEARNED.format(", ".join(counted)))
    arm, against = (name.replace("{}-", "") for name in (claim.arm, claim.against[0]))
    effect, group = (mean(values) if values else None), f"{MEAN_OF}{', '.join(judged) or 'no group'}"
    outcome: Outcome = "cannot tell" if reasons else decide(family, evidence.for_claim(claim).rule)
    return Measured(scale, arm, against, effect, interval, len(values), group, outcome, reasons, family=family)


def _best_of(evidence: Evidence, scale: str, arms: Sequence[str]) -> str | None:
    """The only arm, or of several arms the one with the best mean score; None if one of several arms has no score yet."""
    if len(arms) == 1:
        return arms[0]
    scores = {arm: _mean_score(evidence.record, arm, scale) for arm in arms}
    known = {arm: value for arm, value in scores.items() if value is not None}
    return max(known, key=lambda arm: known[arm]) if len(known) == len(arms) else None


def score(claim: Claim, evidence: Evidence) -> Rows:
    """The mean score of one arm over seeds, in the metric of the decision rule, at every scale that has a published number."""
    for scale in evidence.scales:
        if claim.published_at(scale) is not None:
            values = list(scores_of(evidence.record, claim.arm, scale, evidence.rule.metric).values())
            row = over_seeds(evidence, scale, claim.arm, "", values)
            counts = learned_counts(evidence.record, claim.arm, scale, evidence.rule.with_(baseline=claim.arm))
            some = (SOME_LEARNED.format(claim.arm),) if two_valued_applies(counts) else ()
            yield replace(row, reasons=(*unreliable(evidence.record, [claim.arm], [scale]), *row.reasons, *some))


def of_ratios(summary: Callable[[Mapping[str, float], Mapping[str, ScaleSize]], float | None]) -> Measure:
    """A measure of the ratio of two losses. For each seed, `summary` turns the ratios of all scales into one number.

    A seed is left out if its ratio is missing at one of the scales.
    """

    def measured(claim: Claim, evidence: Evidence) -> Rows:
        losses, sizes = final_scores(evidence.record, evidence.split, NATS), scale_sizes(evidence.record)
        names = ((claim.arm, claim.directions[0]), (claim.against[0], claim.directions[1]))
        values = []
        less_1: dict[str, list[float]] = {scale: [] for scale in sizes}  # scale -> the ratio less 1 of each seed
        for seed in evidence.record.entry.seeds:
            sides_of = {at: [losses.get((arm, at, way), {}).get(seed) for arm, way in names] for at in sizes}
            ratios = {at: above / below for at, (above, below) in sides_of.items() if above and below}
            if len(ratios) == len(sizes) and (value := summary(ratios, sizes)) is not None:
                values.append(value)
                for scale, ratio in ratios.items():
                    less_1[scale].append(ratio - 1)
        row = over_seeds(evidence, ALL_SCALES, claim.arm, claim.against[0], values)
        low = row.interval.low if row.interval is not None else 0.0
        leak = claim.measure == "ratio" and claim.directions == ("rtl", "ltr") and low < RATIO_FAIL - 1
        reasons = (*row.reasons, *_ratio_reasons(claim, evidence), *((TOO_GOOD,) if leak else ()))
        if summary(dict.fromkeys(sizes, 1.0), sizes) is None and all(
            size.parameters and size.depth and size.width for size in sizes.values()
        ):
            reasons = (f"what the claim compares, models of several shapes, is {NOT_RUN}",)
        by_size = {scale: (size.parameters, less_1[scale]) for scale, size in sizes.items() if size.parameters}
        pointed = summary is slope or (summary is mean_less_1 and len(by_size) > 1)
        points = points_over_seeds([*by_size.values()], evidence.rule.confidence, [*by_size]) if pointed else ()
        yield replace(row, reasons=reasons, points=points)

    return measured


def mean_less_1(ratios: Mapping[str, float], sizes: Mapping[str, ScaleSize]) -> float:
    """The mean of the ratio over all scales, minus 1."""
    return mean(list(ratios.values())) - 1


def slope(ratios: Mapping[str, float], sizes: Mapping[str, ScaleSize]) -> float | None:
    """The change of the ratio when a model has ten times the parameters, by least squares; None without two different sizes."""
    return slope_per_decade([(size.parameters, ratios[scale]) for scale, size in sizes.items() if size.parameters])


def width_less_depth(ratios: Mapping[str, float], sizes: Mapping[str, ScaleSize]) -> float | None:
    """The effect of width on the ratio minus the effect of depth on the ratio.

    The effect of width is |ratio of the widest model - ratio of the narrowest model|, as a mean over the depths that have models of
    two widths. The effect of depth is |ratio of the deepest model - ratio of the shallowest model|, as a mean over the widths that
    have models of two depths. The result is None unless the scales form a full grid of at least two depths and two widths, or three
    scales of which two share a depth and two a width.
    """
    grid = {(size.depth, size.width): ratios[scale] for scale, size in sizes.items() if size.depth and size.width}
    depths, widths = sorted({depth for depth, _ in grid}), sorted({width for _, width in grid})
    is_grid = len(grid) == len(depths) * len(widths) and min(len(depths), len(widths)) >= 2
    is_corner = len(grid) == 3 and len(depths) == len(widths) == 2
    if len(grid) != len(sizes) or not (is_grid or is_corner):
        return None
    by_width = [
        abs(grid[depth, widths[-1]] - grid[depth, widths[0]])
        for depth in depths
        if {(depth, widths[0]), (depth, widths[-1])} <= grid.keys()
    ]
    by_depth = [
        abs(grid[depths[-1], width] - grid[depths[0], width])
        for width in widths
        if {(depths[0], width), (depths[-1], width)} <= grid.keys()
    ]
    return mean(by_width) - mean(by_depth)


def ratio_by_tokens(claim: Claim, evidence: Evidence) -> Rows:
    """The change of (ratio - 1) when the arm reads ten times as many tokens right to left: over the groups, at every scale.

    Each seed gives one slope, by least squares over log10 of the tokens that the arm's runs scored right to left (mean over seeds).
    """
    reasons = _ratio_reasons(claim, evidence)
    for scale in evidence.scales:
        ratios = _ratios_by_tokens(claim, evidence, scale)
        seeds = sorted(set.intersection(*(set(here) for _, here in ratios))) if ratios else []
        lines = ([(at, here[seed]) for at, here in ratios] for seed in seeds if len(ratios) >= LEAST_POINTS)
        values = [value for line in lines if (value := slope_per_decade(line)) is not None]
        row = over_seeds(evidence, scale, claim.arm, claim.against[0], values)
        of_seeds = [(at, [here[seed] for seed in seeds]) for at, here in ratios]
        points = points_over_seeds(of_seeds, evidence.rule.confidence)
        yield replace(row, reasons=(*row.reasons, *reasons), points=points)


def _ratios_by_tokens(claim: Claim, evidence: Evidence, scale: str) -> list[tuple[float, dict[int, float]]]:
    """For every group: the mean number of tokens that the arm's runs scored right to left, and seed -> the ratio less 1."""
    losses = final_scores(evidence.record, evidence.split, NATS)
    ratios = []
    for _, arm, (other, *_) in sides(claim, evidence.record):
        counted = [run.result.counters.get("tokens_scored_rtl") or 0 for run in evidence.record.finished(arm, scale)]
        above, below = (
            losses.get((name, scale, way), {}) for name, way in zip((arm, other), claim.directions, strict=True)
        )
        here = {seed: above[seed] / below[seed] - 1 for seed in above if below.get(seed)}
        if here and mean(counted) > 0:
            ratios.append((mean(counted), here))
    return ratios


def layer_cut(claim: Claim, evidence: Evidence) -> Rows:
    """The loss ratio of models that keep only their first blocks, minus the loss ratio of the whole models (or minus 1).

    Each seed gives one difference: the mean over the scales with the deepest models.
    """
    sizes = scale_sizes(evidence.record)
    depth = max((size.depth or 0 for size in sizes.values()), default=0)
    left = 1 if claim.blocks_left == 1 else max(1, round(claim.blocks_left * depth))
    scales = [scale for scale, size in sizes.items() if size.depth == depth]
    losses = {
        (row["arm"], row["direction"], row["scale"], row["blocks"], row["seed"]): row[NATS]
        for row in layer_cuts(evidence.record, evidence.split).filter(head=claim.head).iter_rows(named=True)
    }
    names = ((claim.arm, claim.directions[0]), (claim.against[0], claim.directions[1]))

    def ratio(scale: str, blocks: int, seed: int) -> float:
        above, below = (losses[*name, scale, blocks, seed] for name in names)
        return float(above / below)

    values = []
    for seed in evidence.record.entry.seeds if depth >= LEAST_BLOCKS else ():
        try:
            less = [ratio(scale, depth, seed) if claim.less_whole else 1.0 for scale in scales]
            values.append(mean([ratio(at, left, seed) - whole for at, whole in zip(scales, less, strict=True)]))
        except KeyError:
            continue
    row = over_seeds(evidence, DEEPEST_SCALES, claim.arm, claim.against[0], values)
    shallow = (f"a model of at least {LEAST_BLOCKS} blocks is {NOT_RUN}",) if depth < LEAST_BLOCKS else ()
    yield replace(row, reasons=shallow or (*row.reasons, *_ratio_reasons(claim, evidence)))


def _ratio_reasons(claim: Claim, evidence: Evidence) -> tuple[str, ...]:
    """The reasons why a ratio cannot be judged: the runs of an arm are not reliable at some scale, or an arm learned nothing."""
    names = {arm.name for arm in evidence.record.entry.arms}
    arms = [arm for arm in claim.arms() if arm != evidence.rule.baseline and arm in names]
    by_rule = (
        reason
        for arm in arms
        for scale in evidence.scales
        for reason in verdict(evidence.record, arm, scale, evidence.rule).reasons
    )
    paths = [f"{evidence.split}.{direction}.{NATS}" for direction in claim.directions]
    asked = list(zip((claim.arm, *claim.against), paths, strict=True)) if claim.needs_learning else []
    return tuple(dict.fromkeys((*by_rule, *unlearned(evidence, asked, evidence.scales))))


def context(claim: Claim, evidence: Evidence) -> Rows:
    """The value (rtl loss / ltr loss - 1) at every context length in tokens, or only at the longest context length."""
    alone, wide = (
        direction_ratios(evidence.record, evidence.split, at).filter(arm=claim.arm)
        for at in (evidence.rule.confidence, evidence.family_confidence())
    )
    reasons = _ratio_reasons(claim, evidence)
    for scale in evidence.scales:
        rows = list(zip(*(frame.filter(scale=scale).iter_rows(named=True) for frame in (alone, wide)), strict=True))
        for row, in_family in rows[-1:] if claim.longest else rows:
            interval, family = (
                None if one["interval_low"] is None else Interval(one["interval_low"] - 1, one["interval_high"] - 1)
                for one in (row, in_family)
            )
            numbers = (row["ratio_then_mean"] - 1, interval, row["seeds"])
            group = scale if len(evidence.scales) > 1 else ""
            at, against = str(row["context_tokens"]), row["against"]
            yield Measured(at, claim.arm, against, *numbers, group, reasons=reasons, family=family)
    if alone.is_empty():
        reason = (*reasons, "no finished run was scored at several context lengths")
        yield Measured(ALL_SCALES, claim.arm, evidence.rule.baseline, None, None, 0, reasons=reason)


def steps_to_learn(claim: Claim, evidence: Evidence) -> Rows:
    """The number of steps after which the claim's arm reaches half-way accuracy, divided by the same number for another arm.

    Half-way accuracy is the middle between the accuracy without learning and 1. The effect is the ratio of the geometric means over
    the seeds that are finished in both arms; a run that never came half-way counts with its last step. The p value is that of the
    log-rank test over labellings of the runs (`censored.log_rank_p`).
    """
    curves = evaluation_curves(evidence.record).filter(split=evidence.split, trained=True).drop_nulls("accuracy")
    for scale in evidence.scales:
        half_way = learned_from(evidence.record, evidence.split, scale)
        if half_way is None:
            continue
        step, at_half_way = pl.col("step"), pl.col("accuracy") >= half_way
        ends = curves.filter(scale=scale).group_by("arm", "seed")
        times = {
            (arm, seed): Time(last if first is None else first, first is not None)
            for arm, seed, first, last in ends.agg(
                step.filter(at_half_way).min().alias("first"), step.max().alias("last")
            ).iter_rows()
        }
        rows = []
        for group, arm, (other, *_) in sides(claim, evidence.record):
            finished = [{run.entry.seed for run in evidence.record.finished(name, scale)} for name in (arm, other)]
            seeds = sorted(s for s in set.intersection(*finished) if {(arm, s), (other, s)} <= times.keys())
            of_arms = [[times[name, seed] for seed in seeds] for name in (arm, other)]
            row = _steps(scale, group, arm, other, of_arms)
            reasons = (*unreliable(evidence.record, (arm, other), [scale]), *row.reasons)
            if claim.needs_bracket:
                reasons = (*reasons, *edges(evidence, (arm, other), (scale,)))
            cautions = (*row.cautions, *_rough(curves.filter(scale=scale, arm=arm), of_arms))
            alpha = evidence.alpha_of_a_test(of_one_group=bool(group))
            needed = None if row.p is None else runs_needed.of_p(row.p, row.count, alpha)
            row = replace(row, reasons=reasons, cautions=cautions, alpha=alpha, count_needed=needed)
            rows.append((row, of_arms))
        yield from (row for row, _ in rows)
        if claim.groups and rows:
            yield _steps_of_groups(claim, evidence, scale, rows)


def _steps_of_groups(
    claim: Claim, evidence: Evidence, scale: str, rows: Sequence[tuple[Measured, Sequence[Sequence[Time]]]]
) -> Measured:
    """The row over the groups that can be judged: the geometric mean of their ratios, and the stratified log-rank test.

    A group whose ratio and test point in opposite directions counts as well: leaving it out would be a choice by the outcome.
    """
    judged = [(row, times) for row, times in rows if row.effect is not None and not {*row.reasons} - {OPPOSITE}]
    arm, against = (name.replace("{}-", "") for name in (claim.arm, claim.against[0]))
    group = f"{MEAN_OF}{', '.join(row.group for row, _ in judged) or 'no group'}"
    alpha = evidence.alpha_of_a_test(of_one_group=False)
    if not judged:
        of_groups = {row.reasons for row, _ in rows}
        reasons = (*of_groups,)[0] if len(of_groups) == 1 else (NO_GROUP,)
        return Measured(scale, arm, against, None, None, 0, group, reasons=reasons, alpha=alpha, no_effect=1.0)
    ratio = math.exp(mean([math.log(row.effect or 1.0) for row, _ in judged]))
    p, sooner = stratified([(ours, theirs) for _, (ours, theirs) in judged])
    bounds = {row.bound for row, _ in judged} - {""}
    bound: Bound = "" if not bounds else next(iter(bounds)) if len(bounds) == 1 else "~"
    reasons = (OPPOSITE,) if (ratio - 1) * sooner > 0 else ()
    if len(judged) == 1 < len(rows):
        reasons = (ONE_GROUP,)
    count = min(row.count for row, _ in judged)
    shown = (scale, arm, against, ratio, None, count, group, None, reasons)
    needed = runs_needed.of_p(p, count, alpha)
    return Measured(*shown, p=p, alpha=alpha, count_needed=needed, no_effect=1.0, bound=bound)


def _rough(curves: pl.DataFrame, of_arms: Sequence[Sequence[Time]]) -> tuple[str, ...]:
    """The caution that runs learned within a few evaluations, so that a ratio of their steps is rough."""
    steps = curves["step"].unique().sort()
    first = steps[0] if len(steps) else None
    reached = [time.steps for times in of_arms for time in times if time.reached]
    if first is None or not reached or min(reached) >= FEW_EVALUATIONS * first:
        return ()
    return (f"steps are known to {first:,}, and runs learned within a few times that: the ratio is rough",)


def _steps(scale: str, group: str, arm: str, other: str, times: Sequence[Sequence[Time]]) -> Measured:
    """The row of one ratio of steps, with the reasons why it cannot be judged."""
    compared, count = compare_steps(*times), len(times[0])
    reasons: tuple[str, ...] = ()
    if compared.ratio is None:
        reasons = ("no run of either arm came half-way",)
    elif compared.p is None:
        reasons = (f"the log-rank test needs {LEAST_RUNS} seeds that are finished in both arms, there are {count}",)
    elif (compared.ratio - 1) * compared.sooner > 0:
        reasons = (OPPOSITE,)
    never = [
        f"{name} never came half-way in {missed} of {count} seeds at {scale}"
        for name, of_arm in zip((arm, other), times, strict=True)
        if (missed := sum(not time.reached for time in of_arm))
    ]
    bound: Bound = "" if compared.ratio is None else compared.bound
    shown = (scale, arm, other, compared.ratio, None, count, group, None, reasons, tuple(never))
    return Measured(*shown, p=compared.p, no_effect=1.0, bound=bound)


def over_groups(claim: Claim, evidence: Evidence) -> Rows:
    """The rank correlation, over groups, of the score of `arm` in this experiment and the score of `against` in another experiment.

    Losses are negated, so that a higher score is better in both experiments. Accuracies of runs that ended at their goal are equal
    (`_mean_score`). The p value comes from permuting the groups. A claim
    that needs a bracket leaves out the groups that were tuned to an edge of what was tried, in either experiment.
    """
    other = evidence.other(claim.experiment)
    one, two = (in_group(name, "GROUP") for name in (claim.arm, f"{claim.experiment} {claim.against[0]}"))
    if other is None:
        reason = f"the store has no experiment {claim.experiment} of size {evidence.record.entry.size}"
        names = {arm.name for arm in evidence.record.entry.arms}
        here = sum(in_group(claim.arm, group) in names for group in claim.groups)
        if here < LEAST_PAIRS <= len(claim.groups):
            reason = f"what the claim compares, {LEAST_PAIRS} groups at least, is {NOT_RUN}"
        yield Measured(ALL_SCALES, one, two, None, None, 0, reasons=(reason,))
        return
    for scale in (*evidence.scales, *((MEAN_OF_SCALES,) if len(evidence.scales) > 1 else ())):
        scales = evidence.scales if scale == MEAN_OF_SCALES else (scale,)
        pairs, arms, partners, left_out = [], [], [], []
        for group in claim.groups:
            arm, partner = (in_group(name, group) for name in (claim.arm, claim.against[0]))
            theirs = replace(evidence, record=other, rule=other.entry.rule)
            at_edges = edges(evidence, (arm,), scales) + edges(theirs, (partner,), other.entry.scales)
            if claim.needs_bracket and at_edges:
                left_out.append(group)
                continue
            ours = [value for at in scales if (value := _mean_score(evidence.record, arm, at)) is not None]
            partner_score = _mean_score(other, partner, other.entry.scales[0])
            if len(ours) == len(scales) and partner_score is not None:
                pairs.append((mean(ours), partner_score))
                arms.append((arm, evidence.rule.metric))
                partners.append(partner)
        p = rank_correlation_p(pairs)
        reasons = unreliable(evidence.record, [arm for arm, _ in arms], scales)
        reasons += unreliable(other, partners, other.entry.scales[:1])
        reasons += unlearned(evidence, arms, scales) if claim.needs_learning else ()
        if p is None:
            few = f"a rank correlation needs {LEAST_PAIRS} groups, there are {len(pairs)}"
            reasons += (few,) if len(pairs) < LEAST_PAIRS else ("all scores of one experiment are equal",)
        cautions: tuple[str, ...] = ()
        if left_out:
            cautions = (f"left out, tuned to the edge of what was tried: {', '.join(left_out)}",)
        tied = max(Counter(ours for ours, _ in pairs).values(), default=0)
        if tied > 1:
            cautions += (f"{tied} of {len(pairs)} groups have the same score in this experiment and share a rank",)
        effect, alpha = rank_correlation(pairs), evidence.alpha_of_a_test(of_one_group=False)
        needed = None if p is None else runs_needed.of_p(p, len(pairs), alpha)
        shown = (scale, one, two, effect, None, len(pairs))
        yield Measured(*shown, reasons=reasons, cautions=cautions, p=p, alpha=alpha, count_needed=needed)


def _mean_score(record: ExperimentRecord, arm: str, scale: str) -> float | None:
    """The mean over seeds of the decision rule's metric, negated if lower is better; None if no finished run has this metric.

    A run that `stop_at_accuracy` ended counts with this accuracy. How far it lies above is chance, and would decide ranks.
    """
    rule = record.entry.decision
    scores = scores_of(record, arm, scale, str(rule["metric"]))
    if Metric.parse(str(rule["metric"])).measure == "accuracy":
        goals = {run.entry.seed: run.goal or 1.0 for run in record.finished(arm, scale)}
        scores = {seed: min(value, goals[seed]) for seed, value in scores.items()}
    values = list(scores.values())
    return (mean(values) if rule["better"] == "higher" else -mean(values)) if values else None


def term(claim: Claim, evidence: Evidence) -> Rows:
    """A row for each scale and auxiliary term of an arm: the mean over seeds of the term's value at the last logged step.

    A row cannot be judged if an audit found that the term collapsed in a run.
    """
    curves = auxiliary_curves(evidence.record).filter(arm=claim.arm).drop_nulls("value").sort("step")
    for scale, name in dict.fromkeys(curves.select("scale", "term").iter_rows()):
        last = curves.filter(scale=scale, term=name).group_by("seed", maintain_order=True).last()
        row = over_seeds(evidence, scale, claim.arm, "", last["value"].to_list())
        row = replace(row, reasons=(*unreliable(evidence.record, [claim.arm], [scale]), *row.reasons))
        audits = [item.finding for item in arm_audit(evidence.record, claim.arm, scale).findings]
        outcomes = [finding.outcome for finding in audits if finding.check == "C7.collapse"]
        if failed := outcomes.count("fail"):
            row = replace(row, reasons=(*row.reasons, f"the term collapsed in {failed} of {len(outcomes)} runs"))
        yield replace(row, group=name)


def sides(claim: Claim, record: ExperimentRecord) -> Iterator[Sides]:
    """The arms of every group, as tuples (group, arm, other arms). A group is left out if the record lacks one of its arms."""
    names = {arm.name for arm in record.entry.arms}
    for group in claim.groups or ("",):
        arm, *others = (in_group(name, group) for name in (claim.arm, *claim.against))
        if {arm, *others} <= names:
            yield group, arm, tuple(others)


def selection(claim: Claim, evidence: Evidence) -> Rows:
    """For every scale: what a choice on the test split adds to the test score.

    Each seed has a run of every setting (`claim.groups`). One run is chosen by the score of the rule's split, and one by the test
    score. The value of a seed is the test score of the second run less that of the first.
    """
    arms = [arm for _, arm, _ in sides(claim, evidence.record)]
    for scale in evidence.scales:
        own, test = (
            {
                arm: scores_of(evidence.record, arm, scale, str(evidence.rule.score._replace(split=split)))
                for arm in arms
            }
            for split in (evidence.split, "test")
        )
        seeds = sorted(set.intersection(*(set(scores) for scores in (*own.values(), *test.values()))))
        values = [
            test[_best_arm(test, seed, evidence.rule)][seed] - test[_best_arm(own, seed, evidence.rule)][seed]
            for seed in seeds
        ]
        row = over_seeds(evidence, scale, in_group(claim.arm, "SETTING"), "", values)
        tested = (*unreliable(evidence.record, arms, [scale]), *row.reasons) if any(test.values()) else (NO_TEST,)
        yield replace(row, reasons=tested)


def _best_arm(scores: Mapping[str, Mapping[int, float]], seed: int, rule: Decision) -> str:
    """The arm with the best score of a seed; of equal arms the first."""
    best = max if rule.better == "higher" else min
    return best(scores, key=lambda arm: scores[arm][seed])


def over_seeds(evidence: Evidence, scale: str, arm: str, against: str, values: Sequence[float]) -> Measured:
    """The row with the mean and the t intervals of `values`. There is one value per seed. Equal values have no interval."""
    count, equal = len(values), len(set(values)) == 1
    levels = (evidence.rule.confidence, evidence.family_confidence())
    interval, family = (None if equal else t_interval(values, at) for at in levels)
    few = f"an interval needs 2 seeds with all scores of this measure, there {'is 1' if count else 'are none'}"
    effect = mean(values) if values else None
    reasons = (few,) if count < 2 else (ALL_EQUAL.format(count),) if equal else ()
    return Measured(scale, arm, against, effect, interval, count, reasons=reasons, family=family)


def unlearned(evidence: Evidence, asked: Sequence[tuple[str, str]], scales: Sequence[str]) -> tuple[str, ...]:
    """The reasons why scores cannot be judged because arms learned nothing; empty if they can be judged (`Claim.needs_learning`).

    Args:
        asked: pairs (arm, metric): the arms that must have learned something, and the metric of each arm.
    """
    if not asked:
        return ()
    if evidence.rule.better == "higher":
        runs = [run for arm, _ in asked for scale in scales for run in evidence.record.runs_of(arm, scale)]
        return () if any_above_trivial(runs, evidence.split, evidence.rule.confidence) else (NOTHING_LEARNED,)
    least = evidence.frequencies_nats
    if least is None:
        return (NO_FREQUENCIES,)
    reasons = []
    for arm, metric in dict.fromkeys(asked):
        losses = [loss for scale in scales for loss in scores_of(evidence.record, arm, scale, metric).values()]
        if above := sum(loss >= least for loss in losses):
            what = f"{above} of {len(losses)} {metric.split('.')[1]} losses of {arm}"
            reasons.append(f"{what} are not below the {least:.3f} nats of token frequencies")
    return tuple(reasons)


def unreliable(record: ExperimentRecord, arms: Iterable[str], scales: Iterable[str]) -> tuple[str, ...]:
    """The reasons why scores of arms are no evidence: an audit that failed or is missing, a leak at another scale, lost runs."""
    reasons: dict[str, None] = {}
    for arm, scale in itertools.product(dict.fromkeys(arms), tuple(scales)):
        here, runs = arm_audit(record, arm, scale), record.runs_of(arm, scale)
        lost = sum(run.outcome not in FINAL_OUTCOMES for run in runs)
        told = [f"{lost} of {len(runs)} runs of {arm} at {scale} have not ended"] if lost else []
        reasons |= dict.fromkeys([*audit_reasons(here, scale), *leaks_elsewhere(here, arm_audit(record, arm)), *told])
    return tuple(reasons)


def scores_of(record: ExperimentRecord, arm: str, scale: str, metric: str) -> dict[int, float]:
    """The scores of the finished runs of one arm at one scale, as a mapping: seed -> score."""
    scores = {run.entry.seed: run.result.score(metric) for run in record.finished(arm, scale)}
    return {seed: value for seed, value in scores.items() if value is not None}


# Name of a measure -> (its function, a text that says what is measured). Braces in the text hold fields of the claim or the row.
MEASURES: Mapping[str, tuple[Measure, str]] = {
    "difference": (difference, "{row.arm} less {row.against}, {metric}"),
    "score": (score, "{row.arm}, {metric}"),
    "ratio": (of_ratios(mean_less_1), "{ratio} - 1{scales}"),
    "ratio_by_tokens": (ratio_by_tokens, "change of {ratio} for ten times the rtl tokens"),
    "ratio_slope": (of_ratios(slope), "change of {ratio} for ten times the parameters"),
    "ratio_width_less_depth": (
        of_ratios(width_less_depth),
        "change of {ratio} over the widths less that over the depths",
    ),
    "layer_cut": (layer_cut, "{ratio} with {blocks} left less {less}, head {claim.head}"),
    "context": (context, "rtl / ltr - 1 in windows of that many tokens"),
    "steps_to_learn": (steps_to_learn, "steps to half-way, {row.arm} over {row.against}"),
    "rank_correlation": (over_groups, "rank correlation over groups of {row.arm} with {row.against}"),
    "selection": (selection, "test score of {row.arm} chosen by it, less the one chosen by {metric}"),
    "term": (term, "auxiliary term {row.group} of {row.arm} at the end"),
}
