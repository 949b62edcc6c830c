"""How often is a verdict wrong, and what does it see? Simulations of the decision rule with the product's own functions.

1. Families: grids of comparisons without any true difference, by `family_intervals`, for four patterns of variance.
2. Looks: seeds are added until the verdict is decided, by `look_alpha`; against a fixed number of seeds.
3. Seeds that were added after a look: plain t intervals against `mixture_interval`.
4. A/A: experiments whose arms do not differ, as records of finished runs, through `verdicts`.

All noise is normal, and every number comes from a named seed. The program writes results/verdict_statistics.json and, from it and
from results/training_a_a.json, docs/statistics.md. It takes about fifteen minutes.
Run: python benchmarks/verdict_statistics.py [--page]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palinode.analysis.family import Scores, family_intervals, t_quantile
from palinode.analysis.looks import look_alpha, mixture_interval
from palinode.analysis.verdict import verdicts
from palinode.base import fsio
from palinode.base.finding import AuditReport, Finding
from palinode.results.record import ArmEntry, ExperimentEntry, ExperimentRecord, ExperimentRun, Record, Result, RunEntry

RESULTS = Path(__file__).parent / "results"
RESULT, TRAINING = RESULTS / "verdict_statistics.json", RESULTS / "training_a_a.json"
PAGE = Path(__file__).parent.parent / "docs" / "statistics.md"
SEED = 20261128
CONFIDENCE = 0.95
GRIDS, PATHS = 1000, 4000
SHAPES = ((4, 6), (8, 2), (3, 3), (2, 2), (1, 6))  # arms without the baseline, scales
PATTERNS = ("equal", "varying", "falling", "one noisy arm")
EFFECT_SD = 2.0  # the true difference whose power is told, in standard deviations of a paired difference
MOST, FIRST = 20, 3
A_A_EXPERIMENTS = 4000
A_A_SHAPES = ((1, 1), (3, 1), (3, 4))

Row = dict[str, Any]
Array = NDArray[np.float64]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="only write the page from the stored results")
    if not parser.parse_args().page:
        result = {
            "confidence": CONFIDENCE,
            "grids": GRIDS,
            "paths": PATHS,
            "families": [
                family_row(shape, pairs, pattern)
                for shape in SHAPES
                for pairs in (3, 5)
                for pattern in (PATTERNS if shape == SHAPES[0] else PATTERNS[:1])
            ],
            "looks": [looks_row(effect) for effect in (0.0, 1.0, 2.0)],
            "added": added_rows(),
            "a_a": [a_a_row(arms, scales) for arms, scales in A_A_SHAPES],
        }
        fsio.write_json(RESULT, result)
    fsio.write_text(PAGE, page(json.loads(RESULT.read_text()), json.loads(TRAINING.read_text())))
    return 0


# --- 1. families ------------------------------------------------------------------------------------------------------


def deviations(pattern: str, arms: int, scales: int, rng: np.random.Generator) -> Array:
    """(1 + arms, scales) standard deviations of the noise of a run, the baseline first."""
    deviation = np.ones((1 + arms, scales))
    if pattern == "varying":
        deviation *= np.exp(0.3 * rng.standard_normal(scales))
    if pattern == "falling":
        deviation *= np.geomspace(3.3, 1.0, scales)
    if pattern == "one noisy arm":
        deviation[1] *= 3.0
    return deviation


def grid(deviation: Array, pairs: int, rng: np.random.Generator, effect: float = 0.0) -> dict[str, Scores]:
    """The scores of one grid: scale -> arm -> seed -> score. Only the last arm at the last scale has a true effect."""
    arms, scales = deviation.shape
    seeds = rng.standard_normal((1, scales, pairs))  # a seed moves all arms alike
    scores = seeds + deviation[:, :, None] * rng.standard_normal((arms, scales, pairs))
    scores[-1, -1] += effect * np.hypot(deviation[0, -1], deviation[-1, -1])
    return {
        f"s{scale}": {f"a{arm}": dict(enumerate(map(float, scores[arm, scale]))) for arm in range(arms)}
        for scale in range(scales)
    }


def family_row(shape: tuple[int, int], pairs: int, pattern: str, grids: int = GRIDS) -> Row:
    """The errors of grids without a true difference, and the power and half-width of one cell with an effect of 2 sd."""
    arms, scales = shape
    rng = np.random.default_rng([SEED, arms, scales, pairs, PATTERNS.index(pattern)])
    parameters: Mapping[str, int | None] = {f"s{scale}": 10 ** (5 + scale) for scale in range(scales)}
    wrong = plain_wrong = covered = cells = power = plain_power = 0
    widths, plain_widths = list[float](), list[float]()
    plain_t = float(t_quantile(pairs - 1, (1 - CONFIDENCE) / (arms * scales)))
    for _ in range(grids):
        deviation = deviations(pattern, arms, scales, rng)
        found = family_intervals(grid(deviation, pairs, rng), "a0", CONFIDENCE, parameters)
        excludes = [not one.interval.low <= 0 <= one.interval.high for one in found.values() if one.interval]
        inside = [one.single.low <= 0 <= one.single.high for one in found.values() if one.single]
        wrong += any(excludes)
        covered += sum(inside)
        cells += len(inside)
        scores = grid(deviation, pairs, rng, EFFECT_SD)
        target = (f"a{arms}", f"s{scales - 1}")
        cell = family_intervals(scores, "a0", CONFIDENCE, parameters)[target]
        true_sd = float(np.hypot(deviation[0, -1], deviation[-1, -1]))
        differences = np.array([scores[target[1]][target[0]][k] - scores[target[1]]["a0"][k] for k in range(pairs)])
        half = plain_t * float(differences.std(ddof=1)) / np.sqrt(pairs)
        assert cell.interval is not None
        power += cell.interval.low > 0
        plain_power += differences.mean() - half > 0
        widths.append((cell.interval.high - cell.interval.low) / 2 / true_sd)
        plain_widths.append(half / true_sd)
        plain_wrong += any(not one.single.low <= 0 <= one.single.high for one in found.values() if one.single)
    return {
        "arms": arms,
        "scales": scales,
        "pairs": pairs,
        "pattern": pattern,
        "family_error": wrong / grids,
        "error_without_family": plain_wrong / grids,
        "single_coverage": covered / cells,
        "half_width_sd": float(np.median(widths)),
        "plain_half_width_sd": float(np.median(plain_widths)),
        "power": power / grids,
        "plain_power": plain_power / grids,
    }


# --- 2. looks and 3. added seeds --------------------------------------------------------------------------------------


def looks_row(effect: float, most: int = MOST, paths: int = PATHS) -> Row:
    """Outcomes and seeds of `until decided` with a smallest effect of 1 sd, and the fixed number of seeds that does as well."""
    rng = np.random.default_rng([SEED, int(10 * effect), most])
    values = effect + rng.standard_normal((paths, most))
    alpha = look_alpha(1 - CONFIDENCE, most)
    outcome, seeds = np.full(paths, "cannot tell", dtype=object), np.full(paths, most)
    open_paths = np.ones(paths, dtype=bool)
    for count in range(FIRST, most + 1):
        decided = decided_at(values[:, :count], alpha)
        now = open_paths & (decided != "cannot tell")
        outcome[now], seeds[now] = decided[now], count
        open_paths &= ~now
    right = "better" if effect >= 1 else "smaller than matters"
    share = float((outcome == right).mean())
    return {
        "effect_sd": effect,
        "right": share,
        "better_or_worse": float(np.isin(outcome, ("better", "worse")).mean()),
        "smaller": float((outcome == "smaller than matters").mean()),
        "mean_seeds": float(seeds.mean()),
        "fixed_seeds_for_that": fixed_seeds(effect, share, right, rng),
    }


def decided_at(values: Array, alpha: float) -> NDArray[Any]:
    """The outcome of each path by the rule with a smallest effect of 1 sd."""
    count = values.shape[1]
    half = t_quantile(count - 1, alpha) * values.std(axis=1, ddof=1) / np.sqrt(count)
    low, high = values.mean(axis=1) - half, values.mean(axis=1) + half
    outcome = np.full(len(values), "cannot tell", dtype=object)
    outcome[high < 0], outcome[low > 0] = "worse", "better"
    outcome[(low > -1) & (high < 1)] = "smaller than matters"
    return outcome


def fixed_seeds(effect: float, share: float, right: str, rng: np.random.Generator) -> int | None:
    """The least fixed number of seeds that is right as often with plain t intervals; None above 60."""
    for count in range(FIRST, 61):
        values = effect + rng.standard_normal((PATHS, count))
        if float((decided_at(values, 1 - CONFIDENCE) == right).mean()) >= share:
            return count
    return None


def added_rows(planned: int = FIRST, most: int = MOST, paths: int = PATHS) -> Row:
    """How often some look at 3 planned seeds, grown to 20, excludes the true difference 0."""
    rng = np.random.default_rng([SEED, planned, most, 7])
    plain = paid = 0
    for _ in range(paths):
        values = [float(value) for value in rng.standard_normal(most)]
        first = excludes_zero(values[:planned])
        plain += any(excludes_zero(values[:count]) for count in range(planned, most + 1))
        paid += first or any(mixture_excludes_zero(values[:count]) for count in range(planned + 1, most + 1))
    return {"planned": planned, "most": most, "plain_error": plain / paths, "mixture_error": paid / paths}


def excludes_zero(values: list[float]) -> bool:
    array = np.array(values)
    half = t_quantile(len(array) - 1, 1 - CONFIDENCE) * array.std(ddof=1) / np.sqrt(len(array))
    return bool(abs(array.mean()) > half)


def mixture_excludes_zero(values: list[float]) -> bool:
    interval = mixture_interval(values, 1 - CONFIDENCE)
    return interval is not None and not interval.low <= 0 <= interval.high


# --- 4. A/A -----------------------------------------------------------------------------------------------------------


def a_a_row(arms: int, scales: int, experiments: int = A_A_EXPERIMENTS) -> Row:
    """Experiments without a true difference: how often some verdict says better or worse, and the coverage of the intervals."""
    rng = np.random.default_rng([SEED, arms, scales, 11])
    wrong = covered = intervals = 0
    for _ in range(experiments):
        found = verdicts(record_of(grid(np.ones((1 + arms, scales)), 3, rng)))
        wrong += any(one.outcome in ("better", "worse") for one in found)
        singles = [one.deciding.single for one in found if one.deciding.single]
        covered += sum(one.low <= 0 <= one.high for one in singles)
        intervals += len(singles)
    return {
        "arms": arms,
        "scales": scales,
        "experiments": experiments,
        "wrong": wrong / experiments,
        "single_coverage": covered / intervals,
    }


def record_of(scores: Mapping[str, Scores]) -> ExperimentRecord:
    """The record of an experiment whose runs ended with these losses, all audits passed."""
    arms, scales = list(next(iter(scores.values()))), list(scores)
    runs = []
    for scale in scales:
        for arm in arms:
            for seed, nats in scores[scale][arm].items():
                run_id = f"{scale}-{arm}-{seed}"
                evaluated = {"validation": {"ltr": {"nats_per_token": nats}}}
                counters = {"tokens_read": 1000, "evaluations": 1}
                result = Result(run_id=run_id, outcome="done", scores=evaluated, counters=counters)
                entry = RunEntry(arm=arm, scale=scale, seed=seed, run_id=run_id)
                runs.append(ExperimentRun(entry, Record(run_id, Path(run_id), {}, result)))
    rule = {"baseline": arms[0], "smallest_effect": 0.5}
    entry = ExperimentEntry(
        name="a-a",
        size="simulated",
        decision=rule,
        arms=tuple(ArmEntry(name=arm) for arm in arms),
        scales=tuple(scales),
    )
    passed = AuditReport(subject="a", findings=(Finding(check="C1.perturbation", outcome="pass", law="", message=""),))
    return ExperimentRecord(entry, tuple(runs), {(arm, scale): passed for arm in arms for scale in scales})


# --- the page ---------------------------------------------------------------------------------------------------------


def page(result: Row, training: Row) -> str:
    """The text of docs/statistics.md."""
    return "\n".join(["# How often a verdict is wrong", "", *sections(result, training)]) + "\n"


def sections(result: Row, training: Row) -> Iterator[str]:
    yield (
        "`python benchmarks/verdict_statistics.py` makes this page. Every number is a share of simulated experiments with\n"
        "normal noise, judged by the product's own functions. sd is the standard deviation of a paired difference."
    )
    yield from ("", "## All comparisons of an experiment are one family", "")
    yield (
        f"{result['grids']:,} grids each, without any true difference. *Wrong*: the share of grids in which some interval\n"
        "excludes 0; it should be at most 5 %. *Alone*: the same share if each comparison is judged alone. *Covers*: the\n"
        f"share of single intervals that contain the true difference. *Half-width* and *power* (to see {EFFECT_SD:g} sd) are of\n"
        "one comparison; in brackets those of plain t intervals with Bonferroni's correction."
    )
    yield ""
    yield "| arms x scales | pairs | variance | wrong | alone | covers | half-width, sd | power |"
    yield "|---|--:|---|--:|--:|--:|--:|--:|"
    for row in result["families"]:
        yield (
            f"| {row['arms']} x {row['scales']} | {row['pairs']} | {row['pattern']} | {row['family_error']:.1%} | "
            f"{row['error_without_family']:.0%} | {row['single_coverage']:.1%} | {row['half_width_sd']:.2f} "
            f"({row['plain_half_width_sd']:.1f}) | {row['power']:.0%} ({row['plain_power']:.0%}) |"
        )
    yield from ("", '## `seeds = "until decided"`', "")
    yield (
        f"{result['paths']:,} paths each, looks after {FIRST} to {MOST} pairs, smallest effect 1 sd. *Fixed*: the fixed number of\n"
        "pairs whose plain t interval is right as often."
    )
    yield ""
    yield "| true difference | right | better or worse | smaller than matters | mean pairs | fixed |"
    yield "|---|--:|--:|--:|--:|--:|"
    for row in result["looks"]:
        fixed = row["fixed_seeds_for_that"]
        yield (
            f"| {row['effect_sd']:g} sd | {row['right']:.0%} | {row['better_or_worse']:.1%} | {row['smaller']:.1%} | "
            f"{row['mean_seeds']:.1f} | {'more than 60' if fixed is None else fixed} |"
        )
    added = result["added"]
    yield from ("", "## Seeds that are added after a look", "")
    yield (
        f"{added['planned']} pairs are planned; then one is added at a time, up to {added['most']}, until the interval\n"
        f"excludes 0 although nothing differs. Plain t intervals are wrong in {added['plain_error']:.1%} of cases. The verdict\n"
        f"keeps its plain first look and takes the t mixture from then on: {added['mixture_error']:.1%}."
    )
    yield from ("", "## Arms that do not differ", "")
    yield (
        "Experiments with three seeds as records of finished runs, judged by `verdicts`. *Wrong*: the share of experiments in\n"
        "which some verdict says better or worse (target: at most 6.5 %). *Covers*: single intervals (target: 93 to 97 %)."
    )
    yield ""
    yield "| arms x scales | experiments | wrong | covers |"
    yield "|---|--:|--:|--:|"
    for row in result["a_a"]:
        yield (
            f"| {row['arms']} x {row['scales']} | {row['experiments']:,} | {row['wrong']:.1%} | {row['single_coverage']:.1%} |"
        )
    yield ""
    yield (
        f"On real training (`benchmarks/training_a_a.py`): {training['complete_pairs']} pairs of identical arms with different\n"
        f"seeds, {training['seeds_of_an_arm']} seeds an arm, {training['steps']} steps a run. The verdict says better or worse\n"
        f"in {training['better_or_worse']} of {training['complete_pairs']} (target: at most {training['target_most']})."
    )


if __name__ == "__main__":
    sys.exit(main())
