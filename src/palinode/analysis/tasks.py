"""Accuracy on a synthetic task, with the levels that chance and simple guessers reach: by run, scale, slice and length.

The accuracy of a run is that of its own pass (`Result.own_pass`). Levels are accuracies on answers, so they are given only if the
evaluation scored answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from palinode.analysis import intervals
from palinode.results.record import ExperimentRecord, ExperimentRun

NON_CAUSAL = "masked"  # the objective that reads without a direction
ANSWERS_ALONE = "bottleneck"  # the objective whose only targets are answers
# For older records. Guessers whose name begins with OLD_LOOKUPS look up what followed the same tokens: they solve the task. The
# guessers in BLIND ignore the order of tokens, so their level holds in either direction.
OLD_LOOKUPS, BLIND = "cache_", ("uniform", "unigram")
_RUN: dict[str, Any] = {
    "arm": pl.String,
    "scale": pl.String,
    "seed": pl.Int64,
    "run_id": pl.String,
    "direction": pl.String,
}
_COUNTS: dict[str, Any] = {"accuracy": pl.Float64, "hits": pl.Int64, "tokens_scored": pl.Int64}
_LEVELS: dict[str, Any] = {
    "chance": pl.Float64,
    "best_trivial": pl.Float64,
    "best_trivial_name": pl.String,
    "best_possible": pl.Float64,
}
ACCURACY_SCHEMA = (
    _RUN | _COUNTS | {"exact_match": pl.Float64, "sequences": pl.Int64} | _LEVELS | {"above_trivial": pl.Boolean}
)
MEANS_SCHEMA: dict[str, Any] = (
    {"arm": pl.String, "scale": pl.String, "difficulty": pl.Float64, "accuracy": pl.Float64}
    | {"interval_low": pl.Float64, "interval_high": pl.Float64, "seeds": pl.Int64, "seeds_above_trivial": pl.Int64}
    | _LEVELS
)
LEVEL_SCHEMA: dict[str, Any] = {"arm": pl.String, "scale": pl.String, "level": pl.String, "value": pl.Float64}
SLICE_SCHEMA = _RUN | {"slice": pl.String, "value": pl.Int64, "sequences": pl.Int64} | _COUNTS
LENGTH_SCHEMA = _RUN | {"length_factor": pl.Int64} | _COUNTS | {"chance": pl.Float64}


@dataclass(frozen=True)
class Levels:
    """The accuracies on answers that a run is compared with; None where a level is not known.

    Attributes:
        chance: of a uniform guess among the valid answers.
        best: the highest accuracy that is possible.
        trivial: name of a guesser that learns nothing -> its accuracy.
        floor_nats: the lowest possible mean loss over all tokens.
        solved_by: the guessers in `trivial` that do what the task tests.
        chance_by_length: length factor -> chance on sequences that are this many times as long.
        reading: what a guesser sees: ltr, rtl, prompt or others; None where it was not recorded.
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
        """(name, accuracy) of the best guesser that does not do what the task tests."""
        known = {name: value for name, value in self.trivial.items() if name not in self.solved_by}
        return max(known.items(), key=lambda item: item[1]) if known else None

    @property
    def asked_for(self) -> tuple[str, float] | None:
        """(name, accuracy) of the best guesser that does what the task tests, if it is above all others."""
        known = {name: value for name, value in self.trivial.items() if name in self.solved_by}
        best = max(known.items(), key=lambda item: item[1], default=None)
        return best if best is not None and best[1] > (self.to_beat or 0.0) else None

    @property
    def to_beat(self) -> float | None:
        """The accuracy without learning: the higher of chance and the best trivial accuracy."""
        known = [level for level in (self.chance, self.best_trivial and self.best_trivial[1]) if level is not None]
        return max(known, default=None)

    def columns(self) -> dict[str, Any]:
        """The levels as columns of a table."""
        name, value = self.best_trivial or (None, None)
        return {"chance": self.chance, "best_trivial": value, "best_trivial_name": name, "best_possible": self.best}


def on_a_task(record: ExperimentRecord) -> bool:
    """Whether any run is on a synthetic task."""
    return any(_task(run) is not None for run in record.runs)


def levels_of(run: ExperimentRun, split: str) -> Levels | None:
    """The levels for a run; None if it is on no task, is not finished, or scored other tokens than answers.

    If only the last token of each answer was scored, chance is the only level that applies.
    """
    stored = run.record.task.get(split) if run.record is not None and run.outcome == "done" else None
    scored = _scored(run)
    if stored is None or scored == "all":
        return None
    found = stored["levels"]
    by_length = _by_length(found.get("chance_by_length"))
    if scored == "last":
        return Levels(chance=_number(found.get("chance")), chance_by_length=by_length)
    trivial = {name: float(value) for name, value in found.get("trivial", {}).items() if _number(value) is not None}
    best = _number(found.get("best"))
    if "reading" not in found and run.result is not None and run.result.own_pass(split) == "rtl":
        trivial, best = {name: trivial[name] for name in BLIND if name in trivial}, None
    return Levels(
        chance=_number(found.get("chance")),
        best=best,
        trivial=trivial,
        floor_nats=_number(found.get("floor_nats_all_tokens")),
        solved_by=_solved_by(found.get("solved_by"), trivial, best),
        chance_by_length=by_length,
        reading=found.get("reading") if isinstance(found.get("reading"), str) else None,
    )


def _solved_by(declared: Any, trivial: Mapping[str, float], best: float | None) -> frozenset[str]:
    """The guessers that do what the task tests, as it declares them; in older records, look-ups and those that are always right."""
    if isinstance(declared, list):
        return frozenset(name for name in declared if isinstance(name, str))
    perfect = 1.0 if best is None else best
    return frozenset(name for name, value in trivial.items() if name.startswith(OLD_LOOKUPS) or value >= perfect)


def _by_length(stored: Any) -> dict[int, float]:
    found = stored.items() if isinstance(stored, Mapping) else ()
    return {int(factor): float(value) for factor, value in found if factor.isdecimal() and _number(value) is not None}


def above_trivial(run: ExperimentRun, split: str, confidence: float) -> bool | None:
    """Whether a run scores higher than without learning: the Wilson interval of its accuracy lies above `Levels.to_beat`.

    None if the levels or the counts are not known.
    """
    levels = levels_of(run, split)
    if levels is None or levels.to_beat is None or run.result is None:
        return None
    scores = run.result.scores.get(split, {}).get(run.result.own_pass(split), {})
    interval = intervals.share_interval(int(scores.get("hits") or 0), int(scores.get("tokens_scored") or 0), confidence)
    return None if interval is None else interval.low > levels.to_beat


def any_above_trivial(runs: Sequence[ExperimentRun], split: str, confidence: float) -> bool | None:
    """Whether any of several runs is above the trivial level; None if that is known of none.

    The confidence is shared among the runs (Bonferroni): of ten runs that score exactly the trivial level, one
    would lie above it at 95 % each in one of five cases.
    """
    shared = 1 - (1 - confidence) / max(1, len(runs))
    known = [beaten for run in runs if (beaten := above_trivial(run, split, shared)) is not None]
    return any(known) if known else None


def levels_at(record: ExperimentRecord, split: str, scale: str) -> tuple[Levels | None, tuple[str, ...]]:
    """(levels at a scale, arms whose levels differ). The levels are those of the baseline, or of the first arm that has some."""
    baseline = record.entry.rule.baseline
    runs = sorted((run for run in record.runs if run.entry.scale == scale), key=lambda run: run.entry.arm != baseline)
    known = [(run.entry.arm, found) for run in runs if (found := levels_of(run, split)) is not None]
    if not known:
        return None, ()
    shown = known[0][1]
    return shown, tuple(dict.fromkeys(arm for arm, found in known if found.columns() != shown.columns()))


def task_accuracy(record: ExperimentRecord, split: str) -> pl.DataFrame:
    """One row per finished run on a task (ACCURACY_SCHEMA)."""
    rows, confidence = [], record.entry.rule.confidence
    for run, who, scores in _finished(record, split):
        stored = run.record.task.get(split, {}) if run.record is not None else {}
        of_pass = stored.get("by_pass", {}).get(who["direction"], {})
        exact = {name: of_pass.get(name) for name in ("exact_match", "sequences")}
        beaten = {"above_trivial": above_trivial(run, split, confidence)}
        rows.append(who | _counts(scores) | exact | (levels_of(run, split) or Levels()).columns() | beaten)
    return pl.DataFrame(rows, schema=ACCURACY_SCHEMA)


def task_means(record: ExperimentRecord, split: str, accuracy: pl.DataFrame | None = None) -> pl.DataFrame:
    """One row per arm and scale: the mean over seeds with its interval, and how many seeds are above the trivial level.

    Accuracy on recall jumps in training, so a mean over seeds before and after the jump is the accuracy of no seed.
    """
    confidence, places = record.entry.rule.confidence, difficulty(record)[1]
    frame = task_accuracy(record, split) if accuracy is None else accuracy
    rows = []
    for (arm, scale), cell in frame.drop_nulls("accuracy").group_by("arm", "scale", maintain_order=True):
        values = cell["accuracy"].to_list()
        interval = intervals.t_interval(values, confidence)
        levels = cell.row(0, named=True)
        beaten = cell["above_trivial"].drop_nulls()
        rows.append(
            {
                "arm": arm,
                "scale": scale,
                "difficulty": places[str(scale)],
                "accuracy": intervals.mean(values),
                "interval_low": interval.low if interval else None,
                "interval_high": interval.high if interval else None,
                "seeds": len(values),
                "seeds_above_trivial": None if beaten.is_empty() else int(beaten.sum()),
                **{name: levels[name] for name in _LEVELS},
            }
        )
    return pl.DataFrame(rows, schema=MEANS_SCHEMA)


def task_levels(record: ExperimentRecord, split: str) -> pl.DataFrame:
    """One row per arm, scale and level: chance, best_possible and every trivial accuracy (LEVEL_SCHEMA)."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for run in record.runs:
        levels = levels_of(run, split)
        if levels is None:
            continue
        for name, value in {"chance": levels.chance, "best_possible": levels.best, **levels.trivial}.items():
            who = {"arm": run.entry.arm, "scale": run.entry.scale, "level": name}
            rows.setdefault((run.entry.arm, run.entry.scale, name), who | {"value": value})
    return pl.DataFrame(list(rows.values()), schema=LEVEL_SCHEMA)


def task_slices(record: ExperimentRecord, split: str) -> pl.DataFrame:
    """One row per finished run, slice and value of that slice: sequences, scored answer tokens, hits (SLICE_SCHEMA)."""
    rows = []
    for run, who, _ in _finished(record, split):
        stored = run.record.task.get(split, {}) if run.record is not None else {}
        for name, cells in stored.get("by_pass", {}).get(who["direction"], {}).get("slices", {}).items():
            for cell in cells:
                where = {"slice": name, "value": cell["value"], "sequences": cell["sequences"]}
                rows.append(who | where | _counts(cell))
    return pl.DataFrame(rows, schema=SLICE_SCHEMA)


def slice_means(record: ExperimentRecord, split: str) -> pl.DataFrame:
    """One row per arm, scale, slice and value: the accuracy over all seeds, with Wilson's interval.

    Every seed scores the same sequences, so the interval uses the number of sequences of one seed.
    """
    confidence = record.entry.rule.confidence
    rows = []
    for key, cell in task_slices(record, split).group_by("arm", "scale", "slice", "value", maintain_order=True):
        hits, scored, seeds = int(cell["hits"].sum()), int(cell["tokens_scored"].sum()), cell["seed"].n_unique()
        if not scored:
            continue
        interval = intervals.share_interval(round(hits / seeds), round(scored / seeds), confidence)
        numbers = {"accuracy": hits / scored, "hits": hits, "tokens_scored": scored, "seeds": seeds}
        ends = {
            "interval_low": interval.low if interval else None,
            "interval_high": interval.high if interval else None,
        }
        rows.append(dict(zip(("arm", "scale", "slice", "value"), key, strict=True)) | numbers | ends)
    names = {"slice": pl.String, "value": pl.Int64, **_COUNTS, "seeds": pl.Int64}
    ends_schema = {"interval_low": pl.Float64, "interval_high": pl.Float64}
    return pl.DataFrame(rows, schema={"arm": pl.String, "scale": pl.String} | names | ends_schema).sort(
        "arm", "scale", "slice", "value"
    )


def task_lengths(record: ExperimentRecord, split: str) -> pl.DataFrame:
    """One row per finished run and length factor, as a multiple of the length in training (LENGTH_SCHEMA).

    Factor 1 is the score at the training length. Empty if no run was scored at another length. `chance` is chance at this length,
    null where it was not recorded.
    """
    rows = []
    for run, who, scores in _finished(record, split):
        stored = run.record.task.get(split, {}) if run.record is not None else {}
        levels = levels_of(run, split) or Levels()
        chances = {1: levels.chance, **levels.chance_by_length}
        longer = {int(factor): found.get(who["direction"], {}) for factor, found in stored.get("lengths", {}).items()}
        if longer:
            every = {1: scores, **longer}
            rows += [
                who | {"length_factor": n, "chance": chances.get(n)} | _counts(found) for n, found in every.items()
            ]
    return pl.DataFrame(rows, schema=LENGTH_SCHEMA).sort("arm", "scale", "seed", "length_factor")


def difficulty(record: ExperimentRecord) -> tuple[str | None, dict[str, float]]:
    """(dotted path of the only number in which scales differ, scale -> its value), or (None, scale -> its index)."""
    baseline, scales = record.entry.rule.baseline, record.entry.scales
    specs = {scale: known for scale in scales if (known := settings_of(record, baseline, scale)) is not None}
    places = {scale: float(place) for place, scale in enumerate(scales)}
    if len(specs) < len(scales) or len(scales) < 2:
        return None, places
    paths = dict.fromkeys(path for known in specs.values() for path in known)
    differing = [path for path in paths if len({repr(known.get(path)) for known in specs.values()}) > 1]
    if len(differing) != 1:
        return None, places
    values = {scale: _number(known.get(differing[0])) for scale, known in specs.items()}
    numbers = {scale: value for scale, value in values.items() if value is not None}
    return (differing[0], numbers) if len(set(numbers.values())) == len(scales) else (None, places)


def settings_of(record: ExperimentRecord, arm: str, scale: str) -> dict[str, Any] | None:
    """The spec of an arm at a scale as dotted path -> value, without the seed and the tuned settings; None without a run."""
    spec = next(
        (run.record.spec for run in record.runs_of(arm, scale) if run.record is not None and run.record.spec), None
    )
    if spec is None:
        return None
    tuned = {choice.field for choice in record.entry.choices}
    return {path: leaf for path, leaf in _leaves(spec, "") if path not in tuned | {"seed", "version"}}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def _finished(
    record: ExperimentRecord, split: str
) -> Iterator[tuple[ExperimentRun, dict[str, Any], Mapping[str, Any]]]:
    """Finished runs on a task: (run, its columns with the direction of its own pass, the scores of that pass)."""
    for run in record.runs:
        if run.outcome == "done" and run.result is not None and _task(run) is not None:
            own = run.result.own_pass(split)
            scores = run.result.scores.get(split, {}).get(own)
            if scores is not None:
                yield run, {**run.entry.model_dump(), "direction": own}, scores


def _counts(scores: Mapping[str, Any]) -> dict[str, Any]:
    hits, scored = scores.get("hits"), scores.get("tokens_scored")
    return {"accuracy": hits / scored if hits is not None and scored else None, "hits": hits, "tokens_scored": scored}


def _task(run: ExperimentRun) -> Mapping[str, Any] | None:
    data = run.record.spec.get("data") if run.record is not None else None
    task = data.get("task") if isinstance(data, Mapping) else None
    return task if isinstance(task, Mapping) else None


def _scored(run: ExperimentRun) -> str:
    """Which targets the evaluation scored: all, answer or last. An objective that hides only answers scores only answers."""
    spec = run.record.spec if run.record is not None else {}
    labels = str((spec.get("evaluation") or {}).get("labels", "all"))
    objective = spec.get("objective") or {}
    kind = objective.get("kind")
    hides = kind == ANSWERS_ALONE or (kind == NON_CAUSAL and objective.get("hide_answers", True))
    return "answer" if labels == "all" and hides else labels


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)
