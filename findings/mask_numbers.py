"""What the findings of the mask experiments are made of: claims M1 to M5, and whether right to left was learned at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean

import polars as pl

from palinode.analysis.intervals import Interval, t_interval
from palinode.analysis.layer_cuts import layer_cuts
from palinode.analysis.ratios import final_scores
from palinode.analysis.sizes import ScaleSize, scale_sizes
from palinode.analysis.verdict import rule_of, verdict
from palinode.checks.loss_floor import RATIO_FAIL
from palinode.results.record import ExperimentRecord

ARM = "both-05"
CONFIDENCE = 0.95
CANNOT_TELL = "cannot tell at this scale"
UNLEARNED = "the rtl pass is not below the loss of token frequencies at every size: nothing of it was learned yet"
NO_BAR = "the loss of token frequencies is not in the store"
ALMOST_PERFECT = 0.02  # rtl within 2 % of ltr: twice what Arrows of Time finds between models of either direction
TOO_GOOD = f"rtl may lie more than {1 - RATIO_FAIL:.0%} below ltr: a leak until proven otherwise"
HEADS = {"refitted": "heads refitted", "trained": "the head as trained, as published"}
LEAST_BLOCKS = 4  # of fewer, one block, a quarter and half of them are not three things
Scores = Mapping[tuple[str, str, str], Mapping[int, float]]  # (arm, scale, direction) -> seed -> nats per token


@dataclass(frozen=True)
class Claim:
    """One published claim, and what these runs say of it.

    Attributes:
        effect: what was measured, None where nothing was; `low` and `high` are its interval over seeds, None for fewer than two.
        verdict: holds, does not hold, or cannot tell at this scale.
        because: why it cannot be told, where that is not the interval.
    """

    name: str
    claim: str
    measured: str
    effect: float | None
    low: float | None
    high: float | None
    seeds: int
    verdict: str
    because: str = ""


def claims(record: ExperimentRecord, bar: float | None) -> list[Claim]:
    """M1 to M5 on the finished runs of one experiment. What rests on the rtl loss is judged where rtl was learned at all."""
    scores, sizes = final_scores(record, "validation", "nats_per_token"), scale_sizes(record)
    found = [m1(scores), m2(scores, sizes), m3(scores, sizes), *m4(record), *m5(record)]
    unlearned = why_unlearned(scores, sizes, bar)
    found = [untold(claim, unlearned) if claim.name in ("M1", "M4") and unlearned else claim for claim in found]
    unbelieved = "; ".join(reasons_against(record))
    return [untold(claim, unbelieved) for claim in found] if unbelieved else found


def reasons_against(record: ExperimentRecord) -> list[str]:
    """Why nothing can be told of the p = .05 arm: an audit that failed, runs that are missing."""
    rule = rule_of(record.entry)
    return list(
        dict.fromkeys(reason for scale in record.entry.scales for reason in verdict(record, ARM, scale, rule).reasons)
    )


def why_unlearned(scores: Scores, sizes: Mapping[str, ScaleSize], bar: float | None) -> str:
    """Why the rtl loss says nothing of what p = .05 can learn; empty where it does."""
    if bar is None:
        return NO_BAR
    rtl = [mean(of.values()) for scale in sizes if (of := scores.get((ARM, scale, "rtl")))]
    return "" if rtl and max(rtl) < bar else UNLEARNED


def untold(claim: Claim, because: str) -> Claim:
    return replace(claim, verdict=CANNOT_TELL, because=because)


def m1(scores: Scores) -> Claim:
    """The published rtl loss lies 77 % below the ltr loss, as a leak does; an honest one lies above it."""
    gaps = per_seed(
        lambda seed: mean_over_scales(scores, lambda of: of(ARM, "rtl", seed) / of(ARM, "ltr", seed) - 1), scores
    )
    found = judged(
        "M1",
        "Reading one batch in twenty right to left is enough to learn the backward task almost perfectly.",
        "rtl / ltr - 1 of the p = .05 arm, mean over all sizes",
        gaps,
        holds=lambda low, high: high <= ALMOST_PERFECT,
        fails=lambda low, high: low > ALMOST_PERFECT,
    )
    return untold(found, TOO_GOOD) if found.low is not None and found.low < RATIO_FAIL - 1 else found


def m2(scores: Scores, sizes: Mapping[str, ScaleSize]) -> Claim:
    """Ratio 1 against the logarithm of the parameters: a slope above 0 means catching up."""
    slopes = per_seed(lambda seed: slope_of_ratio_1(scores, sizes, seed), scores)
    return judged(
        "M2",
        "With size, models that also read right to left catch up left to right (ratio 1 rises towards 1).",
        "change of ratio 1 for ten times the parameters",
        slopes,
        holds=lambda low, high: low > 0,
        fails=lambda low, high: high < 0,
    )


def m3(scores: Scores, sizes: Mapping[str, ScaleSize]) -> Claim:
    """How far ratio 1 moves from the narrowest to the widest, less how far from the shallowest to the deepest."""
    differences = per_seed(lambda seed: width_less_depth(scores, sizes, seed), scores)
    return judged(
        "M3",
        "The effect depends more on width than on depth.",
        "how far ratio 1 moves over the widths less how far it moves over the depths",
        differences,
        holds=lambda low, high: low > 0,
        fails=lambda low, high: high < 0,
    )


def m4(record: ExperimentRecord) -> Iterator[Claim]:
    """Ratio 2 with one block left less ratio 2 of the whole model, deepest models."""
    for head, with_head in HEADS.items():
        yield cut_claim(
            record,
            "M4",
            "Ratio 2 falls as layers are cut: the later layers do the backward task.",
            f"ltr / rtl of {ARM} with one block left less that of the whole model, {with_head}, deepest sizes",
            lambda cut: cut(ARM, "ltr", 1) / cut(ARM, "rtl", 1) - cut(ARM, "ltr", None) / cut(ARM, "rtl", None),
            head,
            holds=below_0,
            fails=above_0,
        )


def m5(record: ExperimentRecord) -> Iterator[Claim]:
    """Ratio 1 with some of the blocks left, deepest models: above 1 the p = .05 model is the stronger one."""
    for what, share, left, holds, fails in (
        (
            "Early layers of p = .05 models are stronger than those of p = 0 models.",
            0.25,
            "a quarter",
            above_0,
            below_0,
        ),
        ("Middle layers of p = .05 models are weaker than those of p = 0 models.", 0.5, "half", below_0, above_0),
    ):
        for head, with_head in HEADS.items():
            yield cut_claim(
                record,
                "M5",
                what,
                f"ratio 1 of {ARM} with {left} of the blocks left, less 1, {with_head}, deepest sizes",
                partial(ratio_1_less_1, share),
                head,
                holds=holds,
                fails=fails,
            )


def ratio_1_less_1(share: float, cut: Callable[[str, str, float | None], float]) -> float:
    return cut("ltr", "ltr", share) / cut(ARM, "ltr", share) - 1


def above_0(low: float, high: float) -> bool:
    return low > 0


def below_0(low: float, high: float) -> bool:
    return high < 0


def per_seed(measure: Callable[[int], float | None], scores: Scores) -> list[float]:
    """The measure of every seed that has all it needs."""
    seeds = sorted({seed for values in scores.values() for seed in values})
    return [value for seed in seeds if (value := measure(seed)) is not None and math.isfinite(value)]


def mean_over_scales(scores: Scores, measure: Callable[[Callable[[str, str, int], float]], float]) -> float | None:
    """The mean of a measure over all sizes; None while a run is missing."""
    values = []
    for scale in dict.fromkeys(scale for _, scale, _ in scores):
        try:
            values.append(measure(partial(score_at, scores, scale)))
        except KeyError:
            return None
    return sum(values) / len(values) if values else None


def score_at(scores: Scores, scale: str, arm: str, way: str, seed: int) -> float:
    return scores[arm, scale, way][seed]


def ratio_1(scores: Scores, scale: str, seed: int) -> float | None:
    above, below = (scores.get((arm, scale, "ltr"), {}).get(seed) for arm in ("ltr", ARM))
    return above / below if above is not None and below is not None else None


def slope_of_ratio_1(scores: Scores, sizes: Mapping[str, ScaleSize], seed: int) -> float | None:
    """Least squares over the sizes."""
    points = [
        (math.log10(size.parameters), ratio_1(scores, scale, seed)) for scale, size in sizes.items() if size.parameters
    ]
    if any(ratio is None for _, ratio in points) or len(points) < 2:
        return None
    xs, ys = [x for x, _ in points], [float(y) for _, y in points if y is not None]
    middle_x, middle_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - middle_x) ** 2 for x in xs)
    return sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True)) / spread


def width_less_depth(scores: Scores, sizes: Mapping[str, ScaleSize], seed: int) -> float | None:
    """|ratio 1 at the widest - at the narrowest|, mean over depths, less the same of depth over widths."""
    ratios: dict[tuple[int, int], float] = {}
    for scale, size in sizes.items():
        ratio = ratio_1(scores, scale, seed)
        if ratio is not None and size.depth is not None and size.width is not None:
            ratios[size.depth, size.width] = ratio
    depths, widths = sorted({depth for depth, _ in ratios}), sorted({width for _, width in ratios})
    if len(ratios) != len(sizes) or len(ratios) != len(depths) * len(widths) or min(len(depths), len(widths)) < 2:
        return None
    by_width = [abs(ratios[depth, widths[-1]] - ratios[depth, widths[0]]) for depth in depths]
    by_depth = [abs(ratios[depths[-1], width] - ratios[depths[0], width]) for width in widths]
    return math.fsum(by_width) / len(by_width) - math.fsum(by_depth) / len(by_depth)


def cut_claim(
    record: ExperimentRecord,
    name: str,
    claim: str,
    measured: str,
    measure: Callable[[Callable[[str, str, float | None], float]], float],
    head: str,
    *,
    holds: Callable[[float, float], bool],
    fails: Callable[[float, float], bool],
) -> Claim:
    """A claim about layer cuts: the measure of each seed, averaged over the deepest sizes, of LEAST_BLOCKS blocks at least."""
    cuts = layer_cuts(record, "validation").filter(head=head)
    sizes = scale_sizes(record)
    deepest = max((size.depth or 0 for size in sizes.values()), default=0)
    scales = [scale for scale, size in sizes.items() if size.depth == deepest and deepest >= LEAST_BLOCKS]
    values = []
    for seed in sorted(set(cuts["seed"])):
        one = cuts.filter(seed=seed)
        found = [measured_on_cuts(one, scale, deepest, measure) for scale in scales]
        if found and None not in found:
            values.append(math.fsum(value for value in found if value is not None) / len(found))
    return judged(name, claim, measured, values, holds=holds, fails=fails)


def measured_on_cuts(
    cuts: pl.DataFrame, scale: str, deepest: int, measure: Callable[[Callable[[str, str, float | None], float]], float]
) -> float | None:
    """The measure at one size; None while a run is missing."""
    nats = {
        (row["arm"], row["direction"], row["blocks"]): row["nats_per_token"]
        for row in cuts.filter(scale=scale).iter_rows(named=True)
    }
    try:
        return measure(lambda arm, way, left: nats[arm, way, blocks_left(left, deepest)])
    except KeyError:
        return None


def blocks_left(left: float | None, deepest: int) -> int:
    """1 is one block, a fraction that share of the model, None the whole."""
    return deepest if left is None else 1 if left == 1 else max(1, round(left * deepest))


def judged(
    name: str,
    claim: str,
    measured: str,
    values: Sequence[float],
    *,
    holds: Callable[[float, float], bool],
    fails: Callable[[float, float], bool],
) -> Claim:
    """The mean over seeds, its t interval, and what the interval allows to say."""
    interval: Interval | None = t_interval(list(values), CONFIDENCE)
    verdict = CANNOT_TELL
    if interval is not None:
        inside = (interval.low, interval.high)
        verdict = "holds" if holds(*inside) else "does not hold" if fails(*inside) else verdict
    effect = math.fsum(values) / len(values) if values else None
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return Claim(name, claim, measured, effect, low, high, len(values), verdict)
