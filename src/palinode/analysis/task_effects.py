"""Two effects on the accuracy on a task: of training on all tokens instead of answers, and of reading without a direction.

Two arms are compared if their specs differ only in `labels`, or only in the objective. Three differences are ignored: settings that
were tuned for each arm, the share of further tokens that a masked objective hides, and the weights with which a mixer reads later
tokens. A masked objective that hides only answers trains on answers, whatever its labels are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from palinode.analysis.compare import Comparison, compare
from palinode.analysis.tasks import NON_CAUSAL, any_above_trivial, on_a_task, settings_of
from palinode.results.record import ExperimentRecord

What = Literal["labels", "objective"]
LABELS = ("all", "answer", "last")  # an effect is the earlier of two minus the later
CAUSAL = ("ltr", "rtl")
IGNORED = ("evaluation.directions",)  # a run without a direction does not use it
TWO_SIDED = "two_sided"  # option of a mixer: weights for later tokens, unused in the causal form
HIDDEN_RATE = (
    "objective.rate"  # the share of tokens hidden besides the answers; without a direction these are the labels
)
EFFECT_SCHEMA: dict[str, Any] = (
    {"what": pl.String, "effect_of": pl.String, "arm": pl.String, "against": pl.String, "scale": pl.String}
    | dict.fromkeys(("mean_difference", "interval_low", "interval_high", "confidence", "sign_flip_p"), pl.Float64)
    | {"pairs": pl.Int64, "left_out": pl.Int64, "above_trivial": pl.Boolean}
)


@dataclass(frozen=True)
class Effect:
    """The accuracy of one arm minus that of another, paired by seed; the arms differ in one thing.

    Attributes:
        what: the thing: labels or objective.
        contrast: which arm minus which, such as `all - answer`.
        above_trivial: whether any run of either arm is above the trivial level (`any_above_trivial`); None if the levels are not
            known. If both arms learned nothing, no difference between them means nothing.
    """

    what: What
    contrast: str
    comparison: Comparison
    above_trivial: bool | None


def task_effects(record: ExperimentRecord, split: str) -> tuple[Effect, ...]:
    """Every pair of arms, at every scale, that differs only in labels or only in the objective; empty if no run is on a task."""
    if not on_a_task(record):
        return ()
    confidence = record.entry.rule.confidence
    found = []
    for scale in record.entry.scales:
        for what, contrast, arm, against in _pairs(record, scale):
            comparison = compare(record, arm, against, scale, f"{split}.own.accuracy", confidence)
            found.append(Effect(what, contrast, comparison, _above_trivial(record, comparison, split)))
    return tuple(found)


def effect_table(found: tuple[Effect, ...]) -> pl.DataFrame:
    """One row per effect (EFFECT_SCHEMA)."""
    rows = []
    for effect in found:
        comparison = effect.comparison
        interval = comparison.interval
        rows.append(
            {
                "what": effect.what,
                "effect_of": effect.contrast,
                "arm": comparison.arm,
                "against": comparison.baseline,
                "scale": comparison.scale,
                "mean_difference": comparison.mean,
                "interval_low": interval.low if interval else None,
                "interval_high": interval.high if interval else None,
                "confidence": comparison.confidence,
                "sign_flip_p": comparison.sign_flip_p,
                "pairs": len(comparison.pairs),
                "left_out": len(comparison.left_out),
                "above_trivial": effect.above_trivial,
            }
        )
    return pl.DataFrame(rows, schema=EFFECT_SCHEMA)


def _pairs(record: ExperimentRecord, scale: str) -> Iterator[tuple[What, str, str, str]]:
    """(what, which arm minus which, arm, the arm it is compared with), in the order of the arms."""
    known = {arm.name: _trained(record, arm.name, scale) for arm in record.entry.arms}
    specs = [(arm, spec) for arm, spec in known.items() if spec is not None]
    for place, (first, one) in enumerate(specs):
        for second, other in specs[place + 1 :]:
            differing = {path for path in {*one, *other} if one.get(path) != other.get(path)}
            kinds = {first: one.get("objective.kind"), second: other.get("objective.kind")}
            labels = {first: one["labels"], second: other["labels"]}
            masked = [arm for arm, kind in kinds.items() if kind == NON_CAUSAL]
            causal = [arm for arm, kind in kinds.items() if kind in CAUSAL]
            may_differ = {"labels", HIDDEN_RATE} if len(masked) == 2 else {"labels"}
            if "labels" in differing and differing <= may_differ and set(labels.values()) <= set(LABELS):
                order = sorted(labels, key=lambda arm: LABELS.index(labels[arm]))
                yield "labels", " - ".join(labels[arm] for arm in order), order[0], order[1]
            elif masked and causal and all(path.startswith("objective.") for path in _without_sides(one, other)):
                yield "objective", "non-causal - causal", masked[0], causal[0]


def _without_sides(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """Paths at which two specs differ, apart from the weights of mixers for later tokens."""
    return {
        path
        for path in {*one, *other}
        if path.rpartition(".")[2] != TWO_SIDED and _plain(one.get(path)) != _plain(other.get(path))
    }


def _plain(leaf: Any) -> Any:
    """A value without the option TWO_SIDED of the mixers in it (a list of mixers is one value)."""
    if isinstance(leaf, dict):
        return {name: _plain(value) for name, value in leaf.items() if name != TWO_SIDED}
    return [_plain(value) for value in leaf] if isinstance(leaf, list | tuple) else leaf


def _trained(record: ExperimentRecord, arm: str, scale: str) -> dict[str, Any] | None:
    """The settings of an arm as dotted path -> value; `labels` says what it trained on."""
    spec = settings_of(record, arm, scale)
    if spec is None:
        return None
    labels = spec.get("labels", "all")
    hides_answers_alone = (
        spec.get("objective.kind") == NON_CAUSAL
        and spec.get("objective.hide_answers", True)
        and not spec.get("objective.rate", 0.0)
    )
    kept = {path: leaf for path, leaf in spec.items() if path not in IGNORED}
    return kept | {"labels": "answer" if hides_answers_alone and labels == "all" else labels}


def _above_trivial(record: ExperimentRecord, comparison: Comparison, split: str) -> bool | None:
    runs = [run for arm in (comparison.arm, comparison.baseline) for run in record.runs_of(arm, comparison.scale)]
    return any_above_trivial(runs, split, comparison.confidence)
