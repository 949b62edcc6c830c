"""Accuracy on a synthetic task, and the levels that chance and simple guessers reach: by run, scale, slice and length.

The accuracy of a run is its accuracy in the pass in which training scored most targets (`Result.own_pass`). A level is an accuracy
on answers, so levels are given only if the evaluation scored answers and no other tokens.

Two effects are measured as differences of accuracies: the effect of training on all tokens instead of answers, and the effect of
reading without a direction. Two arms are compared if their specs differ only in `labels`, or only in the objective. Three
differences between specs are ignored: settings that were tuned for each arm, the share of tokens that a masked objective hides in
addition to answers, and the weights with which a mixer reads later tokens. A masked objective that hides only answers trains only
on answers, even if its `labels` are `all`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from palinode.analysis import intervals
from palinode.analysis.compare import Comparison, compare
from palinode.analysis.frames import CELL, RUN_AND_ID, Row, Schema, columns, run_frame
from palinode.results.files import number
from palinode.results.record import TASK_PARTS, ExperimentRecord, ExperimentRun, FinishedRun

NON_CAUSAL = "masked"  # the objective that reads without a direction
ANSWERS_ALONE = "bottleneck"  # the objective whose only targets are answers
# OLD_LOOKUPS and BLIND are used for records of older versions. A guesser whose name begins with OLD_LOOKUPS looks up which token
# followed the same tokens before, and so solves the task. The guessers in BLIND ignore the order of tokens, so their accuracy is
# the same in every direction.
OLD_LOOKUPS, BLIND = "cache_", ("uniform", "unigram")
_RUN = RUN_AND_ID | columns((pl.String, "direction"))
_COUNTS = columns((pl.Float64, "accuracy"), (pl.Int64, "hits tokens_scored"))
_ENDS = columns((pl.Float64, "interval_low interval_high"))
_LEVELS = columns((pl.Float64, "chance best_trivial"), (pl.String, "best_trivial_name"), (pl.Float64, "best_possible"))
ACCURACY_SCHEMA = (
    _RUN
    | _COUNTS
    | columns((pl.Float64, "exact_match"), (pl.Int64, "sequences"))
    | _LEVELS
    | columns((pl.Boolean, "above_trivial"))
)
MEANS_SCHEMA = (
    CELL
    | columns((pl.Float64, "difficulty accuracy"))
    | _ENDS
    | columns((pl.Int64, "seeds seeds_above_trivial"))
    | _LEVELS
)
LEVEL_SCHEMA = CELL | columns((pl.String, "level"), (pl.Float64, "value"))
SLICE_SCHEMA = _RUN | columns((pl.String, "slice"), (pl.Int64, "value sequences")) | _COUNTS
SLICE_MEANS_SCHEMA = (
    CELL | columns((pl.String, "slice"), (pl.Int64, "value")) | _COUNTS | columns((pl.Int64, "seeds")) | _ENDS
)
LENGTH_SCHEMA = _RUN | columns((pl.Int64, "length_factor")) | _COUNTS | columns((pl.Float64, "chance"))
Scores = Mapping[str, Any]  # measure -> number
Stored = Mapping[str, Any]  # the details of accuracy that a run stored; `record.TASK_PARTS` names the fields
What = Literal["labels", "objective"]
# An effect of labels is an accuracy with one label minus an accuracy with a label that comes later in the order all, answer, last.
LABELS = ("all", "answer", "last")
CAUSAL = ("ltr", "rtl")
IGNORED = ("evaluation.directions",)  # a run that reads without a direction does not use this setting
TWO_SIDED = "two_sided"  # a mixer option that adds weights for later tokens; a causal mixer has no use for this option
# The spec path of the share of tokens that a masked objective hides in addition to the answers. The hidden tokens are its targets.
HIDDEN_RATE = "objective.rate"
EFFECT_SCHEMA = (
    columns((pl.String, "what effect_of arm against scale"), (pl.Float64, "mean_difference"))
    | _ENDS
    | columns((pl.Float64, "confidence sign_flip_p"), (pl.Int64, "pairs left_out"), (pl.Boolean, "above_trivial"))
)


@dataclass(frozen=True)
class Levels:
    """The levels of a run: accuracies on answers with which the accuracy of the run is compared. An unknown level is None.

    Attributes:
        chance: the accuracy of a uniform guess among the valid answers.
        best: the highest accuracy that is possible.
        trivial: the accuracies of the guessers that learn nothing: name of a guesser -> its accuracy.
        floor_nats: the lowest possible mean loss over all tokens.
        solved_by: the names of the guessers in `trivial` that do what the task tests, so that a model need not beat them.
        chance_by_length: length factor -> chance on sequences that are this many times as long as in training.
        reading: a name for the set of tokens that a guesser sees: ltr, rtl, prompt or others; None if the run did not store it.
    """

    chance: float | None = None
    best: float | None = None
    trivial: Mapping[str, float] = field(default_factory=dict)
    floor_nats: float | None = None
    solved_by: frozenset[str] = frozenset()
    chance_by_length: Mapping[int, float] = field(default_factory=dict)
    reading: str | None = None

    @property
    def best_trivial(self) -> tuple[str, float] | None:
        """The pair (name, accuracy) of the best guesser that does not do what the task tests."""
        known = {name: value for name, value in self.trivial.items() if name not in self.solved_by}
        return max(known.items(), key=lambda item: item[1]) if known else None

    @property
    def asked_for(self) -> tuple[str, float] | None:
        """The pair (name, accuracy) of the best guesser that does what the task tests; None if it does not beat `to_beat`."""
        known = {name: value for name, value in self.trivial.items() if name in self.solved_by}
        best = max(known.items(), key=lambda item: item[1], default=None)
        return best if best is not None and best[1] > (self.to_beat or 0.0) else None

    @property
    def to_beat(self) -> float | None:
        """The accuracy that needs no learning: the accuracy of chance or of the best trivial guesser, whichever is higher."""
        known = [level for level in (self.chance, self.best_trivial and self.best_trivial[1]) if level is not None]
        return max(known, default=None)

    def columns(self) -> dict[str, Any]:
        """The levels as columns of a table."""
        name, value = self.best_trivial or (None, None)
        return {"chance": self.chance, "best_trivial": value, "best_trivial_name": name, "best_possible": self.best}


def on_a_task(record: ExperimentRecord) -> bool:
    """Whether any run of the experiment gets its data from a synthetic task."""
    return any(_task(run) is not None for run in record.runs)


def levels_of(run: ExperimentRun, split: str) -> Levels | None:
    """The levels for a run; None if the run has no synthetic task, is not finished, or scored other tokens than answers.

    If only the last token of each answer was scored, chance is the only level that applies.
    """
    stored = run.record.task.get(split) if run.record is not None and run.outcome == "done" else None
    scored = _scored(run)
    if stored is None or scored == "all":
        return None
    found = stored["levels"]
    by_length = _by_length(found.get("chance_by_length"))
    if scored == "last":
        return Levels(chance=_finite(found.get("chance")), chance_by_length=by_length)
    trivial = {name: float(value) for name, value in found.get("trivial", {}).items() if _finite(value) is not None}
    best = _finite(found.get("best"))
    if "reading" not in found and run.result is not None and run.result.own_pass(split) == "rtl":
        trivial, best = {name: trivial[name] for name in BLIND if name in trivial}, None
    return Levels(
        chance=_finite(found.get("chance")),
        best=best,
        trivial=trivial,
        floor_nats=_finite(found.get("floor_nats_all_tokens")),
        solved_by=_solved_by(found.get("solved_by"), trivial, best),
        chance_by_length=by_length,
        reading=found.get("reading") if isinstance(found.get("reading"), str) else None,
    )


def _solved_by(declared: Any, trivial: Mapping[str, float], best: float | None) -> frozenset[str]:
    """The names of the guessers that do what the task tests, as the task declares them.

    Records of older versions declare no guessers: then look-up guessers and guessers that are always right are returned.
    """
    if isinstance(declared, list):
        return frozenset(name for name in declared if isinstance(name, str))
    perfect = 1.0 if best is None else best
    return frozenset(name for name, value in trivial.items() if name.startswith(OLD_LOOKUPS) or value >= perfect)


def _by_length(stored: Any) -> dict[int, float]:
    found = stored.items() if isinstance(stored, Mapping) else ()
    return {int(factor): float(value) for factor, value in found if factor.isdecimal() and _finite(value) is not None}


def above_trivial(run: ExperimentRun, split: str, confidence: float) -> bool | None:
    """Whether a run beats all guessers that learn nothing: the Wilson interval of its accuracy lies above `Levels.to_beat`.

    The result is None if the levels or the counts of answers are not known.
    """
    levels = levels_of(run, split)
    if levels is None or levels.to_beat is None or run.result is None:
        return None
    scores = run.result.scores.get(split, {}).get(run.result.own_pass(split), {})
    interval = intervals.share_interval(int(scores.get("hits") or 0), int(scores.get("tokens_scored") or 0), confidence)
    return None if interval is None else interval.low > levels.to_beat


def any_above_trivial(runs: Sequence[ExperimentRun], split: str, confidence: float) -> bool | None:
    """Whether at least one of several runs is above the trivial level; None if this is known for no run.

    The error probability is shared among the runs (Bonferroni). Without this correction, ten runs with exactly the trivial
    accuracy, each tested at 95 %, would in one of five cases include a run that seems to be above the level.
    """
    shared = 1 - (1 - confidence) / max(1, len(runs))
    known = [beaten for run in runs if (beaten := above_trivial(run, split, shared)) is not None]
    return any(known) if known else None


def levels_at(record: ExperimentRecord, split: str, scale: str) -> tuple[Levels | None, tuple[str, ...]]:
    """A pair: the levels of the baseline at a scale, and the arms whose levels differ from the baseline's.

    If the baseline has no levels, the levels of the first arm with levels are taken instead.
    """
    baseline = record.entry.rule.baseline
    runs = sorted((run for run in record.runs if run.entry.scale == scale), key=lambda run: run.entry.arm != baseline)
    known = [(run.entry.arm, found) for run in runs if (found := levels_of(run, split)) is not None]
    if not known:
        return None, ()
    shown = known[0][1]
    return shown, tuple(dict.fromkeys(arm for arm, found in known if found.columns() != shown.columns()))


def learned_from(record: ExperimentRecord, split: str, scale: str) -> float | None:
    """The accuracy from which a run counts as one that learned its task: midway between the best guess and 1.

    All arms of a scale are counted from the same accuracy, so the levels are those of `levels_at`. The result is None if they are
    not known.
    """
    levels, _ = levels_at(record, split, scale)
    return None if levels is None or levels.to_beat is None else (levels.to_beat + 1) / 2


def task_accuracy(record: ExperimentRecord, split: str) -> pl.DataFrame:
    """The accuracies on synthetic tasks: one row per finished run whose data is a task (ACCURACY_SCHEMA)."""

    def row(run: FinishedRun, scores: Scores, stored: Stored) -> Iterator[Row]:
        of_pass = stored["by_pass"].get(run.result.own_pass(split), {})
        exact = {name: of_pass.get(name) for name in ("exact_match", "sequences")}
        beaten = {"above_trivial": above_trivial(run, split, record.entry.rule.confidence)}
        yield _counts(scores) | exact | (levels_of(run, split) or Levels()).columns() | beaten

    return _task_frame(record, split, row, ACCURACY_SCHEMA)


def task_means(record: ExperimentRecord, accuracy: pl.DataFrame) -> pl.DataFrame:
    """The mean accuracies: one row per arm and scale, with the interval and the number of seeds above the trivial level.

    During training, the accuracy on recall tasks jumps. If only some seeds have jumped, the mean accuracy describes none of them.

    Args:
        accuracy: the frame of `task_accuracy` for this record.
    """
    places, rows = difficulty(record)[1], []
    for (arm, scale), cell in accuracy.drop_nulls("accuracy").group_by("arm", "scale", maintain_order=True):
        values, beaten = cell["accuracy"].to_list(), cell["above_trivial"].drop_nulls()
        ends = intervals.ends(intervals.t_interval(values, record.entry.rule.confidence))
        above = None if beaten.is_empty() else int(beaten.sum())
        levels = cell.select(*_LEVELS).row(0)
        rows.append((arm, scale, places[str(scale)], intervals.mean(values), *ends, len(values), above, *levels))
    return pl.DataFrame(rows, schema=MEANS_SCHEMA, orient="row")


def task_levels(record: ExperimentRecord, split: str) -> pl.DataFrame:
    """The levels of tasks: one row per arm, scale and level. A level is chance, best_possible, or the accuracy of a guesser.

    The frame has the columns of LEVEL_SCHEMA.
    """

    def rows_of(run: FinishedRun) -> Iterator[Row]:
        if (levels := levels_of(run, split)) is not None:
            for name, value in {"chance": levels.chance, "best_possible": levels.best, **levels.trivial}.items():
                yield {"level": name, "value": value}

    frame = run_frame(record.finished(), rows_of, LEVEL_SCHEMA)
    return frame.unique(["arm", "scale", "level"], keep="first", maintain_order=True)


def task_slices(record: ExperimentRecord, split: str) -> pl.DataFrame:
    """The accuracy on slices: one row per finished run, slice and value of the slice (SLICE_SCHEMA).

    A slice is a property by which sequences are grouped. A row has the numbers of sequences, of scored answer tokens and of hits.
    """

    def rows_of(run: FinishedRun, _: Scores, stored: Stored) -> Iterator[Row]:
        for name, cells in stored["by_pass"].get(run.result.own_pass(split), {}).get("slices", {}).items():
            for cell in cells:
                yield {"slice": name, "value": cell["value"], "sequences": cell["sequences"]} | _counts(cell)

    return _task_frame(record, split, rows_of, SLICE_SCHEMA)


def slice_means(record: ExperimentRecord, split: str) -> pl.DataFrame:
    """The accuracy on slices over all seeds: one row per arm, scale, slice and value of the slice, with Wilson's interval.

    Every seed scores the same sequences, so the interval counts only as many answers as one seed scored.
    """
    rows, by = [], ("arm", "scale", "slice", "value")
    for key, cell in task_slices(record, split).group_by(*by, maintain_order=True):
        hits, scored, seeds = int(cell["hits"].sum()), int(cell["tokens_scored"].sum()), cell["seed"].n_unique()
        if scored:
            of_a_seed = (round(hits / seeds), round(scored / seeds))
            interval = intervals.share_interval(*of_a_seed, record.entry.rule.confidence)
            rows.append((*key, hits / scored, hits, scored, seeds, *intervals.ends(interval)))
    return pl.DataFrame(rows, schema=SLICE_MEANS_SCHEMA, orient="row").sort(by)


def task_lengths(record: ExperimentRecord, split: str) -> pl.DataFrame:
    """The accuracy on longer sequences: one row per finished run and length factor (LENGTH_SCHEMA).

    A length factor is a multiple of the length in training; factor 1 is the training length. The frame is empty if no run was
    scored at another length. The column `chance` holds the accuracy of a uniform guess at the length of the row, or null if the run
    did not store it.
    """

    def rows_of(run: FinishedRun, scores: Scores, stored: Stored) -> Iterator[Row]:
        levels, own = levels_of(run, split) or Levels(), run.result.own_pass(split)
        chances = {1: levels.chance, **levels.chance_by_length}
        longer = {int(factor): found.get(own, {}) for factor, found in stored["lengths"].items()}
        for factor, found in {1: scores, **longer}.items() if longer else ():
            yield {"length_factor": factor, "chance": chances.get(factor)} | _counts(found)

    return _task_frame(record, split, rows_of, LENGTH_SCHEMA).sort("arm", "scale", "seed", "length_factor")


def difficulty(record: ExperimentRecord) -> tuple[str | None, dict[str, float]]:
    """A pair: the dotted path of the only setting in which the scales differ, and a mapping: scale -> value of this setting.

    If the scales do not differ in exactly one number, the pair is None and a mapping: scale -> index of the scale.
    """
    baseline, scales = record.entry.rule.baseline, record.entry.scales
    specs = {scale: known for scale in scales if (known := settings_of(record, baseline, scale)) is not None}
    places = {scale: float(place) for place, scale in enumerate(scales)}
    if len(specs) < len(scales) or len(scales) < 2:
        return None, places
    paths = dict.fromkeys(path for known in specs.values() for path in known)
    differing = [path for path in paths if len({repr(known.get(path)) for known in specs.values()}) > 1]
    if len(differing) != 1:
        return None, places
    values = {scale: _finite(known.get(differing[0])) for scale, known in specs.items()}
    numbers = {scale: value for scale, value in values.items() if value is not None}
    return (differing[0], numbers) if len(set(numbers.values())) == len(scales) else (None, places)


def settings_of(record: ExperimentRecord, arm: str, scale: str) -> dict[str, Any] | None:
    """The spec of an arm at a scale, as a mapping: dotted path -> value, without seed, version and tuned settings.

    The result is None if the arm has no run at the scale.
    """
    specs = [run.record.spec for run in record.runs_of(arm, scale) if run.record is not None and run.record.spec]
    if not specs:
        return None
    tuned = {choice.field for choice in record.entry.choices}
    return {path: leaf for path, leaf in _leaves(specs[0], "") if path not in tuned | {"seed", "version"}}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def _task_frame(
    record: ExperimentRecord,
    split: str,
    rows_of: Callable[[FinishedRun, Scores, Stored], Iterator[Row]],
    schema: Schema,
) -> pl.DataFrame:
    """The frame with the rows of all finished runs whose data is a synthetic task.

    The function `rows_of` makes the rows of one run. Its arguments are the run, the scores of the run's own pass, and the details
    of accuracy that the run stored.
    """

    def rows(run: FinishedRun) -> Iterator[Row]:
        own = run.result.own_pass(split)
        scores = run.result.scores.get(split, {}).get(own)
        if _task(run) is not None and scores is not None:
            stored = run.record.task.get(split, dict.fromkeys(TASK_PARTS, {}))
            yield from ({"direction": own} | row for row in rows_of(run, scores, stored))

    return run_frame(record.finished(), rows, schema)


def _counts(scores: Mapping[str, Any]) -> dict[str, Any]:
    hits, scored = scores.get("hits"), scores.get("tokens_scored")
    return {"accuracy": hits / scored if hits is not None and scored else None, "hits": hits, "tokens_scored": scored}


def _task(run: ExperimentRun) -> Mapping[str, Any] | None:
    data = run.record.spec.get("data") if run.record is not None else None
    task = data.get("task") if isinstance(data, Mapping) else None
    return task if isinstance(task, Mapping) else None


def _scored(run: ExperimentRun) -> str:
    """The targets that the evaluation scored: all, answer or last. Of an objective that hides answers, only answers are scored."""
    spec = run.record.spec if run.record is not None else {}
    labels = str((spec.get("evaluation") or {}).get("labels", "all"))
    objective = spec.get("objective") or {}
    kind = objective.get("kind")
    hides = kind == ANSWERS_ALONE or (kind == NON_CAUSAL and objective.get("hide_answers", True))
    return "answer" if labels == "all" and hides else labels


def _finite(value: Any) -> float | None:
    known = number(value)
    return known if known is not None and math.isfinite(known) else None


# --- effects of labels and of the objective ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """The accuracy of one arm minus the accuracy of another arm, paired by seed; the arms differ in one setting.

    Attributes:
        what: the setting in which the arms differ: labels or objective.
        contrast: the settings of the two arms with a minus sign between them, such as `all - answer`.
        above_trivial: whether any run of the two arms is above the trivial level (`any_above_trivial`); None if the levels are not
            known. If both arms learned nothing, a difference of 0 says nothing about the setting.
    """

    what: What
    contrast: str
    comparison: Comparison
    above_trivial: bool | None


def task_effects(record: ExperimentRecord, split: str) -> tuple[Effect, ...]:
    """The effects at every scale, one for each pair of arms that differs only in labels or only in the objective.

    There are no effects if no run has a synthetic task as data.
    """
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
    """The frame of effects: one row per effect (EFFECT_SCHEMA)."""
    rows = []
    for effect in found:
        one = effect.comparison
        what = (effect.what, effect.contrast, one.arm, one.baseline, one.scale)
        numbers = (one.mean, *intervals.ends(one.interval), one.confidence, one.sign_flip_p)
        rows.append((*what, *numbers, len(one.pairs), len(one.left_out), effect.above_trivial))
    return pl.DataFrame(rows, schema=EFFECT_SCHEMA, orient="row")


def _pairs(record: ExperimentRecord, scale: str) -> Iterator[tuple[What, str, str, str]]:
    """The pairs of arms to compare, as tuples (what, contrast, arm, other arm) in the order of the arms; see `Effect`."""
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
    """The dotted paths at which two specs differ. The mixer option TWO_SIDED is not compared."""
    return {
        path
        for path in {*one, *other}
        if path.rpartition(".")[2] != TWO_SIDED and _plain(one.get(path)) != _plain(other.get(path))
    }


def _plain(leaf: Any) -> Any:
    """A value of a spec, such as a list of mixers, without the option TWO_SIDED of every mixer in the value."""
    if isinstance(leaf, dict):
        return {name: _plain(value) for name, value in leaf.items() if name != TWO_SIDED}
    return [_plain(value) for value in leaf] if isinstance(leaf, list | tuple) else leaf


def _trained(record: ExperimentRecord, arm: str, scale: str) -> dict[str, Any] | None:
    """The settings of an arm, as a mapping: dotted path -> value. The value of `labels` names the tokens the arm trained on."""
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
