"""How many seeds an experiment needs: the noise of a paired difference, and the effects that n seeds can show.

The noise is a standard deviation (sd) that was observed with few degrees of freedom, so the true one is often larger. Plans use
the end of its one-sided 80 % interval, s sqrt(nu / chi2_.20(nu)). In simulations with 3 seeds, plans with the observed sd had less
power than they promised in 59 % of cases; with this one, in 17 %. An effect is shown if the interval of the difference excludes 0,
and all numbers here are for a power of 80 %: 4 of 5 cases.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from scipy import special

from palinode.analysis.family import Estimate, residual_variance
from palinode.analysis.intervals import POWER, power
from palinode.base.config import canonical_json
from palinode.base.measures import Metric
from palinode.results.record import ExperimentRecord

SAFE_SHARE = 0.2  # the planned sd is smaller than the true one in this share of cases
PARAMETERS_WITHIN = 4.0  # runs of models whose parameters differ by at most this factor have about the same noise
LARGEST_EFFECT_SD = 1e6  # 2 seeds in a family of a thousand comparisons show an effect of 10,000 sd
Scores = Mapping[str, Mapping[int, float]]


class Noise(NamedTuple):
    """The noise of a paired difference.

    Attributes:
        deviation: the observed standard deviation of one paired difference, in the unit of the metric.
        degrees: its degrees of freedom.
        source: the experiments that it was observed in.
    """

    deviation: float
    degrees: float
    source: tuple[str, ...]

    @property
    def planned(self) -> float:
        """The standard deviation that plans use: larger than the observed one, because that one is uncertain."""
        return self.deviation * planning_factor(self.degrees)


class Likeness(NamedTuple):
    """What runs must have in common to have about the same noise.

    Attributes:
        data: the key of the data, from `data_key`.
        recipe: the kind of the recipe.
        parameters: the number of parameters of the model; at most PARAMETERS_WITHIN times more or less. None: any number.
    """

    metric: str
    data: str | None = None
    recipe: str | None = None
    parameters: float | None = None


def planning_factor(degrees: float) -> float:
    """The planned standard deviation divided by the observed one: 2.12 / 1.56 / 1.32 with 2 / 4 / 8 degrees of freedom."""
    return math.sqrt(degrees / float(special.chdtri(degrees, 1 - SAFE_SHARE)))


def family_confidence(confidence: float, comparisons: int) -> float:
    """The confidence of each of several intervals, so that all hold together with `confidence` (Bonferroni).

    A family that shares its variance has shorter intervals, so this is a bound for plans.
    """
    return 1 - (1 - confidence) / max(1, comparisons)


def smallest_effect_seen(seeds: int, confidence: float) -> float | None:
    """The smallest effect that this number of paired seeds shows in 4 of 5 cases, in standard deviations of a paired difference.

    For a confidence of 95 %: 11.6 / 3.26 / 1.68 / 1.00 with 2 / 3 / 5 / 10 seeds. None for fewer than 2 seeds.
    """
    if seeds < 2:
        return None
    low, high = 0.0, LARGEST_EFFECT_SD
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, seeds, confidence) >= POWER else (middle, high)
    return high


def pooled(estimates: Iterable[Estimate]) -> Estimate | None:
    """One variance from several, weighted by their degrees of freedom; None without estimates."""
    known = list(estimates)
    degrees = math.fsum(one.degrees for one in known)
    if not degrees:
        return None
    return Estimate(math.fsum(one.variance * one.degrees for one in known) / degrees, degrees)


def noise_in(records: Sequence[ExperimentRecord], like: Likeness) -> Noise | None:
    """The noise in the finished runs of these experiments that are like the planned ones; None if no arm has two seeds of them.

    At every scale the noise is what is left of the scores after the means of the arms and of the seeds are taken away.
    """
    estimates: list[Estimate] = []
    sources: dict[str, None] = {}
    used: set[str] = set()  # experiments may share runs
    for record in records:
        for scale in record.entry.scales:
            scores = _scores(record, scale, like, used)
            if (estimate := residual_variance(scores)) is not None:
                estimates.append(estimate)
                sources[record.entry.full_name] = None
    if (all_runs := pooled(estimates)) is None:
        return None
    return Noise(math.sqrt(all_runs.variance), all_runs.degrees, tuple(sources))


def data_key(data: Mapping[str, Any]) -> str:
    """A text that is equal for the same data: the hashes of the text and of its tokens; for a task, its settings."""
    hashes = {name: data.get(name) for name in ("corpus_sha256", "tokenizer_sha256")}
    return canonical_json(hashes if hashes["corpus_sha256"] else dict(data))


def _scores(record: ExperimentRecord, scale: str, like: Likeness, used: set[str]) -> dict[str, dict[int, float]]:
    """Arm -> seed -> score at one scale, of the runs that are like the planned ones; the ids of these runs are added to `used`."""
    leaking = {arm.name for arm in record.entry.arms if arm.expect_leak}
    scores: dict[str, dict[int, float]] = {}
    for run in record.finished():
        place, score = run.entry, run.result.score(like.metric)
        if place.scale != scale or place.arm in leaking or place.run_id in used or score is None:
            continue
        if run.result.counters.get(f"tokens_scored_{Metric.parse(like.metric).direction}") == 0:
            continue  # it was never trained on what the metric is about: such scores scatter ten times as much
        if _is_like(run.record.spec, run.result.parameters.get("total"), like):
            scores.setdefault(place.arm, {})[place.seed] = score
            used.add(place.run_id)
    return scores


def _is_like(spec: Mapping[str, Any], parameters: int | None, like: Likeness) -> bool:
    recipe, data = spec.get("recipe"), spec.get("data")
    if like.recipe is not None and not (isinstance(recipe, Mapping) and recipe.get("kind") == like.recipe):
        return False
    if like.data is not None and not (isinstance(data, Mapping) and data_key(data) == like.data):
        return False
    if like.parameters is None:
        return True
    return bool(parameters) and 1 / PARAMETERS_WITHIN <= (parameters or 0) / like.parameters <= PARAMETERS_WITHIN
