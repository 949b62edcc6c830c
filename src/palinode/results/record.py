"""What a run and an experiment left behind, as plain frozen data.

A run directory holds spec.json, metrics.jsonl, audit.json and, written last, result.json. A run without a result is
unfinished, a run whose files do not decode is damaged: both are outcomes that every listing shows, never gaps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from palinode.base.claim import Claim
from palinode.base.config import Config, decode
from palinode.base.decision import Decision
from palinode.base.errors import BadInput, Damaged, nearest
from palinode.base.finding import AuditReport
from palinode.base.measures import DIRECTIONS, OWN, CostAxis, RecordOutcome, RunOutcome
from palinode.results.files import decode_stored, is_regular, read_metrics, read_table, whole
from palinode.results.layer_cut import LAYER_CUT_EVENT, LayerCut, is_layer_cut_row
from palinode.results.row_shapes import is_geometry, is_placed, is_scores

Number = float | int | None

CONTEXT_LENGTHS_EVENT = "context_lengths"
EMBEDDINGS_EVENT = "embeddings"
TASK_EVENT = "task"
TASK_PARTS = ("levels", "by_pass", "lengths")
SPEC_FILE, METRICS_FILE, AUDIT_FILE, RESULT_FILE = "spec.json", "metrics.jsonl", "audit.json", "result.json"


class Result(Config):
    """How a run ended (result.json, written last).

    Attributes:
        outcome: done, diverged, failed, stopped or oom. Anything but done has a `reason`.
        scores: split -> direction -> score name -> number, such as scores["validation"]["ltr"]["nats_per_token"].
        counters: window_tokens, tokens_read, tokens_scored, tokens_scored_ltr, tokens_scored_rtl, passes, train_flops,
            optimizer_steps, evaluations.
        parameters: count by group, and `total`, `non_embedding`.
        seconds: train, evaluate, audit, checkpoint, total.
        fingerprint: what the bits depend on besides the spec: torch, python, device, cpu_capability, threads, platform.
        attempts: how many processes worked on this run (1 = never interrupted).
        provenance: `run` (trained here) or `imported` (read from numbers that someone published).
        source: of an imported run: file, sha256, line, format.
    """

    run_id: str
    outcome: RunOutcome
    reason: str | None = None
    scores: Mapping[str, Mapping[str, Mapping[str, Number]]] = Field(default_factory=dict)
    counters: Mapping[str, Number] = Field(default_factory=dict)
    parameters: Mapping[str, int] = Field(default_factory=dict)
    seconds: Mapping[str, Number] = Field(default_factory=dict)
    fingerprint: Mapping[str, str | int | float | bool | None] = Field(default_factory=dict)
    weights_sha256: str | None = None
    attempts: int = Field(default=1, ge=1)
    provenance: Literal["run", "imported"] = "run"
    source: Mapping[str, str | int] = Field(default_factory=dict)

    def score(self, metric: str) -> float | None:
        """The number at a metric path such as `validation.ltr.nats_per_token`; None when this run has none.

        The direction `own` is that of `own_pass`.
        """
        split, _, rest = metric.partition(".")
        direction, _, name = rest.partition(".")
        measured = self.scores.get(split, {})
        direction = self.own_pass(split) if direction == OWN else direction
        value = measured.get(direction, {}).get(name)
        return None if value is None else float(value)

    def cost(self, axis: CostAxis) -> float | None:
        """What the run spent on an axis; None where it was not counted."""
        tables: Mapping[str, Mapping[str, Number]] = {
            "counters": self.counters,
            "parameters": self.parameters,
            "seconds": self.seconds,
        }
        value = tables[axis.table].get(axis.stored_key)
        return None if value is None else float(value)

    def own_pass(self, split: str) -> str:
        """The pass in which most targets were scored in training; of a run that read in no direction, its own."""
        counted = {way: self.counters.get(f"tokens_scored_{way}") or 0 for way in DIRECTIONS}
        others = [way for way in self.scores.get(split, {}) if way not in counted]
        return others[0] if others and not any(counted.values()) else max(counted, key=lambda way: counted[way])


@dataclass(frozen=True)
class Record:
    """Everything one run left behind; metrics and audit are read from disk on first use.

    Attributes:
        spec: the resolved spec as plain data (empty when it is damaged or not written yet).
        result: None while the run is unfinished, or when `damage` says why it cannot be read or believed.
        damage: what is wrong with a file of this run.
    """

    run_id: str
    directory: Path
    spec: Mapping[str, Any]
    result: Result | None
    damage: Damaged | None = None

    @property
    def outcome(self) -> RecordOutcome:
        """The result's outcome; `unfinished` without a result; `damaged` when a file does not decode."""
        if self.damage is not None:
            return "damaged"
        return self.result.outcome if self.result is not None else "unfinished"

    @property
    def reason(self) -> str | None:
        """Why the run did not end well, when it did not."""
        return str(self.damage) if self.damage is not None else (self.result.reason if self.result else None)

    def with_metrics(self) -> Record:
        """This record after its metrics were read too: it carries their damage, where they have any."""
        if self.damage is None:
            try:
                self._rows  # noqa: B018 - read now, and kept for `metrics`
            except Damaged as error:
                return replace(self, result=None, damage=error)
        return self

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return read_metrics(self.directory / METRICS_FILE, ended_at_step(self.result))

    @cached_property
    def metrics(self) -> tuple[dict[str, Any], ...]:
        """The rows of metrics.jsonl by step; of two rows for the same step the later attempt's counts.

        None of a record that carries its `damage`: no curve is drawn with some rows of a file that lost others.

        Raises:
            Damaged: the file lost rows, or a row whose checksum holds does not have the shape of a metrics row.
        """
        latest: dict[tuple[str, str, int], dict[str, Any]] = {}
        for row in () if self.damage is not None else self._rows:
            if not _is_metrics_row(row):
                raise Damaged("holds a row that is not a metrics row", file=str(self.directory / METRICS_FILE))
            key = (str(row.get("event")), str(row.get("split", "")), whole(row.get("step")))
            if key not in latest or whole(row.get("attempt")) >= whole(latest[key].get("attempt")):
                latest[key] = row
        return tuple(latest[key] for key in sorted(latest, key=lambda key: (key[2], key[0], key[1])))

    @cached_property
    def layer_cut(self) -> dict[str, LayerCut]:
        """Split -> what the model scored with its first k blocks alone; empty when it was not measured.

        Raises:
            Damaged: a row whose checksum holds does not have the shape of these scores.
        """
        rows = [row for row in self.metrics if row["event"] == LAYER_CUT_EVENT]
        return {str(row.get("split")): self._layer_cut(row) for row in rows}

    @cached_property
    def context_lengths(self) -> dict[str, dict[int, dict[str, dict[str, Any]]]]:
        """Split -> window length -> direction -> scores; empty when it was not measured."""
        rows = [row for row in self.metrics if row["event"] == CONTEXT_LENGTHS_EVENT]
        return {str(row.get("split")): {int(length): found for length, found in row["scores"].items()} for row in rows}

    @cached_property
    def task(self) -> dict[str, dict[str, Any]]:
        """Split -> what stands beside the accuracy on a task: `levels`, `by_pass` (exact matches, slices) and `lengths`."""
        rows = [row for row in self.metrics if row["event"] == TASK_EVENT]
        return {str(row.get("split")): {name: row[name] for name in TASK_PARTS} for row in rows}

    @cached_property
    def embeddings(self) -> dict[str, Any]:
        """How the trained tables of tokens and positions lie to each other; empty when it was not measured."""
        rows = [row for row in self.metrics if row["event"] == EMBEDDINGS_EVENT]
        return dict(rows[-1].get("geometry", {})) if rows else {}

    def _layer_cut(self, row: Mapping[str, Any]) -> LayerCut:
        parts = {name: row[name] for name in LayerCut.model_fields if name in row}
        return decode_stored(LayerCut, parts, self.directory / METRICS_FILE)

    @cached_property
    def audit(self) -> dict[str, Any] | None:
        """The run's own audit (audit.json) as plain data; None when it has none.

        Raises:
            Damaged: naming the file.
        """
        path = self.directory / AUDIT_FILE
        return read_table(path) if is_regular(path) else None

    def audit_report(self) -> AuditReport | None:
        """The run's own audit, decoded."""
        return None if self.audit is None else decode_stored(AuditReport, self.audit, self.directory / AUDIT_FILE)


class ArmEntry(Config):
    """One arm as it was resolved: its diff against the base is (dotted path, before, after) per changed leaf."""

    name: str
    expect_leak: bool = False
    expect_collapse: bool = False
    note: str = ""
    diff: tuple[tuple[str, Any, Any], ...] = ()


class RunEntry(Config):
    """Which run is this arm at this scale with this seed."""

    arm: str
    scale: str
    seed: int
    run_id: str


class ChoiceEntry(Config):
    """What the trials of one arm at one scale chose.

    Attributes:
        field: dotted path of the setting.
        values, scores: what was tried, and the mean score of each on the tuning split; None where a trial has none.
        chosen: the value with the best score.
        runs: the trials.
        tokens_read: by all of them together.
    """

    arm: str
    scale: str
    field: str
    values: tuple[float, ...]
    scores: tuple[float | None, ...]
    chosen: float
    runs: tuple[str, ...]
    tokens_read: float = 0.0

    @property
    def at_the_edge(self) -> bool:
        """Whether a value further out might have been better still."""
        return self.chosen in (min(self.values), max(self.values))


class ExperimentEntry(Config):
    """A resolved experiment (experiments/<name>--<size>.json), written before its first run.

    Attributes:
        created: ISO 8601 time.
        command: the command line that wrote this entry; `code`: the experiment file.
        decision: the rule fixed before the runs, as plain data; `rule` is the same, checked.
        audits: arm -> scale -> hash of the cached audit.
        comparison: hash of the audit of the finished runs against one another (C5); empty before that.
        choices: what was chosen by trials on the tuning split, for each arm and scale; empty where nothing was tuned.
        to_choose: the setting that trials are still to choose: until then `runs` stand for what is planned, and nothing that the
            store holds under their ids belongs to this experiment. Empty where nothing is left to choose.
        plan: what was predicted before the runs (hours, tokens, FLOPs, disk).
        claims: the sentences that the runs are judged on; empty in entries written before claims existed.
        source: of an experiment that was imported, not run: format, file, sha256.
    """

    name: str
    size: str
    question: str = ""
    created: str = ""
    command: tuple[str, ...] = ()
    code: str | None = None
    decision: Mapping[str, Any] = Field(default_factory=dict)
    arms: tuple[ArmEntry, ...] = ()
    scales: tuple[str, ...] = ("base",)
    seeds: tuple[int, ...] = ()
    runs: tuple[RunEntry, ...] = ()
    audits: Mapping[str, Mapping[str, str]] = Field(default_factory=dict)
    comparison: str = ""
    choices: tuple[ChoiceEntry, ...] = ()
    to_choose: str = ""
    plan: Mapping[str, Any] = Field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    source: Mapping[str, str] = Field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """`<name>--<size>`: what the entry's file and its report are called."""
        return f"{self.name}--{self.size}"

    def arm(self, name: str) -> ArmEntry:
        """The arm of this name.

        Raises:
            BadInput: there is none.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise BadInput(
            f"no arm named {name!r}", field="arms", hint=f"valid: {', '.join(arm.name for arm in self.arms)}"
        )

    @property
    def rule(self) -> Decision:
        """The decision, checked against the arms.

        Raises:
            BadInput: a field of it is wrong, or its baseline is not an arm.
        """
        try:
            rule = decode(Decision, dict(self.decision))
        except BadInput as error:
            raise error.inside("decision") from None
        if rule.baseline not in (names := [arm.name for arm in self.arms]):
            hint = nearest(rule.baseline, names)
            raise BadInput(f"no arm is named {rule.baseline!r}", field="decision.baseline", hint=hint)
        return rule


@dataclass(frozen=True)
class ExperimentRun:
    """One cell of an experiment and what the store holds of it; `record` is None when nothing was written."""

    entry: RunEntry
    record: Record | None

    @property
    def outcome(self) -> RecordOutcome:
        """The record's outcome, or `missing` when the run never started."""
        return self.record.outcome if self.record is not None else "missing"

    @property
    def result(self) -> Result | None:
        return self.record.result if self.record is not None else None


@dataclass(frozen=True)
class ExperimentRecord:
    """An experiment with everything its runs and audits left behind.

    Attributes:
        runs: one per (arm, scale, seed), in the entry's order, the missing and the damaged included.
        audits: (arm, scale) -> its audit; absent where none was stored.
        damaged: audits of this experiment that do not decode.
        comparison: the audit of the finished runs against one another (C5); None before that.
    """

    entry: ExperimentEntry
    runs: tuple[ExperimentRun, ...]
    audits: Mapping[tuple[str, str], AuditReport]
    damaged: tuple[Damaged, ...] = ()
    comparison: AuditReport | None = None

    def runs_of(self, arm: str, scale: str) -> tuple[ExperimentRun, ...]:
        """The runs of one arm at one scale, in the order of the seeds."""
        return tuple(run for run in self.runs if (run.entry.arm, run.entry.scale) == (arm, scale))

    def leaks(self, arm: str) -> bool:
        """Whether an audit of this arm, at any scale, shows it seeing what it may not."""
        return any(report.leaks for (audited, _), report in self.audits.items() if audited == arm)


def read_run(directory: Path) -> tuple[dict[str, Any], Result | None]:
    """The spec of a run (empty while it is not written yet) and its result (None while it is unfinished).

    Raises:
        Damaged: naming the file that does not decode, or is of another run; a run with a result has a spec.
    """
    spec_path, path = directory / SPEC_FILE, directory / RESULT_FILE
    has_ended = os.path.lexists(path)
    spec = read_table(spec_path) if has_ended or os.path.lexists(spec_path) else {}
    result = decode_stored(Result, read_table(path), path) if has_ended else None
    if result is not None and result.run_id != directory.name:
        raise Damaged(f"belongs to run {result.run_id!r}", file=str(path), field="run_id")
    return spec, result


def ended_at_step(result: Result | None) -> float:
    """The last step of a run that is done, which its metrics reach too (the last step is always logged); 0 of any other."""
    return (result.counters.get("optimizer_steps") or 0) if result is not None and result.outcome == "done" else 0


def _is_metrics_row(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("event"), str) or not isinstance(row.get("step", 0), int):
        return False
    if row["event"] == LAYER_CUT_EVENT:
        return is_layer_cut_row(row)
    if row["event"] == CONTEXT_LENGTHS_EVENT:
        return all(length.isdigit() and is_scores(found) for length, found in dict(row.get("scores", {})).items())
    if row["event"] == TASK_EVENT:
        return all(isinstance(row.get(name), dict) for name in TASK_PARTS) and is_placed(row)
    if row["event"] == EMBEDDINGS_EVENT:
        return is_geometry(row.get("geometry"))
    scores, groups = row.get("scores", {}), row.get("nats_by_group", {})
    return isinstance(groups, dict) and is_scores(scores) and is_scores(row.get("auxiliary", {}))
