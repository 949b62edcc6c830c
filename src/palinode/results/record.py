"""The records of runs and experiments, as plain frozen data.

A run directory holds spec.json, rows of metrics (rows.py), audit.json, documents.safetensors (documents.py) and result.json. The
result is written last. A run without a result has the outcome `unfinished`. A run whose files do not decode has the outcome
`damaged`. Every listing shows unfinished and damaged runs too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from palinode.base.config import LATER, Config, canonical_json, content_hash, decode
from palinode.base.decision import FIXED, Claim, Decision, SeedPlan
from palinode.base.errors import BadInput, Damaged, check_known
from palinode.base.finding import AuditReport, Finding
from palinode.base.measures import BESIDE_PASSES, DIRECTIONS, OWN, CostAxis, RecordOutcome, RunOutcome
from palinode.results.documents import DocumentNats, read_documents
from palinode.results.files import decode_stored, is_regular, read_table, whole
from palinode.results.layer_cut import LAYER_CUT_EVENT, LayerCut
from palinode.results.row_shapes import (
    ContextLengthsRow,
    EmbeddingsRow,
    LayerCutRow,
    MetricsRow,
    RetrievalRow,
    ScoresRow,
    TaskRow,
)
from palinode.results.rows import checked_rows, metrics_paths
from palinode.results.scored import ScoredText

Number = float | int | None

CONTEXT_LENGTHS_EVENT = "context_lengths"
EMBEDDINGS_EVENT = "embeddings"
TASK_EVENT = "task"
SENTENCES_EVENT = "sentences"
RETRIEVAL_EVENT = "retrieval"
TASK_PARTS = ("levels", "by_pass", "lengths")
ROW_SHAPES: Mapping[str, type[MetricsRow]] = {
    LAYER_CUT_EVENT: LayerCutRow,
    CONTEXT_LENGTHS_EVENT: ContextLengthsRow,
    EMBEDDINGS_EVENT: EmbeddingsRow,
    TASK_EVENT: TaskRow,
    RETRIEVAL_EVENT: RetrievalRow,
}  # rows of every other event have the shape ScoresRow
SPEC_FILE, AUDIT_FILE, RESULT_FILE = "spec.json", "audit.json", "result.json"
TRIALS_SUFFIX = "-tuning"  # of the name of an experiment of trials (`spec.tuning`)
# Next to spec.json: the path and the hash of the user's code, and the names that each part needs.
CODE_RECORD_FILE = "code.json"
TOKENIZER_FILE = "tokenizer.json"  # the tokenizer of a run on text; runs of older versions have none
NOT_COMPARED = ("memory_kept", "started_by")  # items of a fingerprint that say how a worker ran, and change no bit


class Result(Config):
    """The result of a run, stored in result.json. A run writes the file result.json last.

    Attributes:
        outcome: done, diverged, failed, stopped or oom. A result with an outcome other than `done` has a `reason`.
        scores: split -> direction -> score name -> number, such as scores["validation"]["ltr"]["nats_per_token"].
        counters: the totals window_tokens, tokens_read, tokens_scored, tokens_scored_ltr, tokens_scored_rtl, passes, train_flops,
            optimizer_flops, optimizer_steps, evaluations; of a run with `start_from` also tokens_read_before, the tokens that
            its first weights were trained on.
        parameters: the number of parameters in each group, in the model (`total`), and without embeddings (`non_embedding`); of a
            model with frozen parameters also of those that training may change (`trainable`).
        seconds: the time for train, evaluate, audit, checkpoint, and total.
        rates: `product_flops_per_second` is the machine's own rate on the matrix products of the model, and `product_share` is the
            share of it that training reached (`train/product_rate.py`). Empty for short runs and in results of older versions.
        fingerprint: values that decide, besides the spec, the exact bits of the numbers: torch, python, device, cpu_capability,
            threads, platform, environment. A run that a worker trained also has `memory_kept` and `started_by`, which decide no bit
            (`base/memory.py`, `sweep/nursery.py`). `runs_together` above 1 says that the run was in a stack (`may_differ_by`).
        attempts: the number of processes that worked on this run. The number 1 means that the run was never interrupted.
        rows: the count and the sha256 of the rows of metrics at the end of the run; empty in results of versions without holds.
        scored: split -> pass -> what the sum of nats of the final scores is about; empty in imported results and in results of
            older versions.
        sentences: `pairs`, `last_word`, `retrieval_full` and so on -> score name -> number: the scores that belong to no pass.
        documents: the size (`bytes`) and the `sha256` of documents.safetensors; empty for a run that has no such file.
        start: the `run` and the `step` that the first weights came from, and their hash `weights_sha256`; empty for new weights.
        provenance: `run` (this program trained the run) or `imported` (the numbers come from a publication).
        source: the file, sha256, line and format of an imported run.
    """

    run_id: str
    outcome: RunOutcome
    reason: str | None = None
    scores: Mapping[str, Mapping[str, Mapping[str, Number]]] = Field(default_factory=dict)
    counters: Mapping[str, Number] = Field(default_factory=dict)
    parameters: Mapping[str, int] = Field(default_factory=dict)
    seconds: Mapping[str, Number] = Field(default_factory=dict)
    rates: Mapping[str, Number] = Field(default_factory=dict)
    fingerprint: Mapping[str, str | int | float | bool | None] = Field(default_factory=dict)
    weights_sha256: str | None = None
    attempts: int = Field(default=1, ge=1)
    rows: Mapping[str, int | str] = Field(default_factory=dict)
    scored: Mapping[str, Mapping[str, ScoredText]] = Field(default_factory=dict)
    documents: Mapping[str, int | str] = Field(default_factory=dict)
    sentences: Mapping[str, Mapping[str, Number]] = Field(default_factory=dict)
    start: Mapping[str, int | str] = Field(default_factory=dict)
    provenance: Literal["run", "imported"] = "run"
    source: Mapping[str, str | int] = Field(default_factory=dict)

    @classmethod
    def checked_before(cls, data: Mapping[str, Any]) -> Result:
        """The result of data that `encode` made from a result. Only the digests in `scored` are decoded again.

        Raises:
            BadInput: `scored` has another shape.
        """
        scored = {
            split: {name: decode(ScoredText, one) for name, one in by_pass.items()}
            for split, by_pass in data.get("scored", {}).items()
        }
        return cls.model_construct(**{**data, "scored": scored})

    @property
    def runs_together(self) -> int:
        """The largest number of runs whose weights were stacked with those of this run, itself included; 1 for a run alone."""
        stored = self.fingerprint.get("runs_together")
        return stored if isinstance(stored, int) else 1

    @property
    def may_differ_by(self) -> str:
        """What a stacked run may differ by from the same run alone, in words; empty for a run that was never in a stack."""
        return stacked_words(self.runs_together) if self.runs_together > 1 else ""

    @property
    def compared_fingerprint(self) -> dict[str, str | int | float | bool | None]:
        """The items of the fingerprint that decide the bits."""
        return {item: value for item, value in self.fingerprint.items() if item not in NOT_COMPARED}

    @property
    def kind(self) -> str:
        """The kind of machine that trained the run: a hash of what decides the bits besides the spec. Runs of one kind can have
        equal bits. The number of logical cores decides no bit, and is left out.
        """
        return machine_kind(self.fingerprint)

    def score(self, metric: str) -> float | None:
        """The number at a metric path such as `validation.ltr.nats_per_token`; None when this run has no such number.

        The direction `own` means the direction of `own_pass`.
        """
        split, _, rest = metric.partition(".")
        direction, _, name = rest.partition(".")
        direction = self.own_pass(split) if direction == OWN else direction
        table = self.sentences if direction in BESIDE_PASSES else self.scores.get(split, {})
        value = table.get(direction, {}).get(name)
        return None if value is None else float(value)

    def cost(self, axis: CostAxis) -> float | None:
        """The cost of the run on an axis; None when this cost was not counted."""
        table: Mapping[str, Number] = getattr(self, axis.table)
        value = table.get(axis.stored_key)
        return None if value is None else float(value)

    def own_pass(self, split: str) -> str:
        """The pass in which training scored most targets: ltr, rtl, or the one pass of a run that is trained on neither of them."""
        counted = {way: self.counters.get(f"tokens_scored_{way}") or 0 for way in DIRECTIONS}
        others = [way for way in self.scores.get(split, {}) if way not in counted]
        return others[0] if others and not any(counted.values()) else max(counted, key=lambda way: counted[way])


@dataclass(frozen=True)
class Record:
    """All files of one run. The metrics and the audit are read from disk when they are first used.

    Attributes:
        spec: the resolved spec as plain data; empty when the spec is damaged or not written yet.
        result: the result of the run; None while the run is unfinished, and when `damage` is set.
        damage: the error that was raised when a file of this run was read; None if all files could be read.
        kept: a function that gives the checked rows of one event, or of all events for None, from a cache (`run_cache.py`); None
            if the rows are read from the run's directory.
    """

    run_id: str
    directory: Path
    spec: Mapping[str, Any]
    result: Result | None
    damage: Damaged | None = None
    kept: Callable[[str | None], list[dict[str, Any]]] | None = field(default=None, compare=False, repr=False)

    @property
    def outcome(self) -> RecordOutcome:
        """The outcome that the result states; `unfinished` if there is no result; `damaged` if a file does not decode."""
        if self.damage is not None:
            return "damaged"
        return self.result.outcome if self.result is not None else "unfinished"

    @property
    def reason(self) -> str | None:
        """The reason why the run did not end well; None when the run is done."""
        return str(self.damage) if self.damage is not None else (self.result.reason if self.result else None)

    def with_metrics(self) -> Record:
        """Check the metrics and return the record. If the metrics are damaged, the returned record has `damage` and no result.

        The scores of the result must equal the scores of the last evaluation in the metrics, so that a changed score is noticed.
        """
        if self.damage is None and self.kept is None:
            try:
                self._check_scores(self._rows)  # these rows are read once; the property `metrics` uses them too
            except Damaged as error:
                return replace(self, result=None, damage=error)
        return self

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        seal = self.result.rows if self.result is not None else None
        return checked_rows(self.directory, ended_at_step(self.result), seal)

    def _check_scores(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if self.result is None or self.result.outcome != "done" or self.result.provenance != "run":
            return
        last = {str(row.get("split")): row["scores"] for row in rows if row.get("event") == "eval" and row.get("final")}
        for split, scores in self.result.scores.items():
            if last and canonical_json(last.get(split)) != canonical_json(
                {way: dict(numbers) for way, numbers in scores.items()}
            ):
                message = "holds other scores than the last evaluation in the metrics"
                raise Damaged(message, file=str(self.directory / RESULT_FILE), field=f"scores.{split}")

    @property
    def metrics(self) -> tuple[dict[str, Any], ...]:
        """The rows of metrics in the order of the steps. Where two attempts logged a step, the row of the later attempt counts.

        If the record has `damage`, this property is empty, because a curve must not show only some rows of a file.

        Raises:
            Damaged: a file has lost rows, or a row with a correct checksum does not have the shape that its event needs.
        """
        return self._metrics if self.kept is None else tuple(self.kept(None))

    def rows_of(self, event: str) -> list[dict[str, Any]]:
        """The rows of metrics of one event, such as `eval` or `train`, in the order of the steps.

        Raises:
            Damaged: as for `metrics`.
        """
        return [row for row in self._metrics if row["event"] == event] if self.kept is None else self.kept(event)

    @cached_property
    def _metrics(self) -> tuple[dict[str, Any], ...]:
        latest: dict[tuple[str, str, int], dict[str, Any]] = {}
        for row in () if self.damage is not None else self._rows:
            self._check_shape(row)
            key = (str(row.get("event")), str(row.get("split", "")), whole(row.get("step")))
            if key not in latest or whole(row.get("attempt")) >= whole(latest[key].get("attempt")):
                latest[key] = row
        return tuple(latest[key] for key in sorted(latest, key=lambda key: (key[2], key[0], key[1])))

    @cached_property
    def layer_cut(self) -> dict[str, LayerCut]:
        """Split -> the scores of the model with only its first k blocks, for every k; empty if they were not measured.

        Raises:
            Damaged: a row with a correct checksum does not have the shape that the event `layer_cut` needs.
        """
        path = self.directory
        return {
            split: decode_stored(LayerCut, {name: row[name] for name in LayerCut.model_fields if name in row}, path)
            for split, row in self._rows_by_split(LAYER_CUT_EVENT).items()
        }

    @cached_property
    def context_lengths(self) -> dict[str, dict[int, dict[str, dict[str, Any]]]]:
        """Split -> window length in tokens -> direction -> scores; empty if scores at several window lengths were not measured."""
        return {
            split: {int(length): scores for length, scores in row["scores"].items()}
            for split, row in self._rows_by_split(CONTEXT_LENGTHS_EVENT).items()
        }

    @cached_property
    def task(self) -> dict[str, dict[str, Any]]:
        """Split -> the details of the accuracy on a task: `levels` (chance), `by_pass` (exact matches, slices), `lengths`."""
        return {
            split: {name: row[name] for name in TASK_PARTS} for split, row in self._rows_by_split(TASK_EVENT).items()
        }

    @cached_property
    def embeddings(self) -> dict[str, Any]:
        """Numbers that describe the trained embedding tables of tokens and positions; empty if they were not measured."""
        rows = self.rows_of(EMBEDDINGS_EVENT)
        return dict(rows[-1]["geometry"]) if rows else {}

    @cached_property
    def pairs(self) -> list[dict[str, Any]]:
        """The accuracies on minimal pairs: a row for all pairs, for each field and for each paradigm; empty if not measured.

        A row has `field` and `paradigm` ("" for all of them), `won`, `count`, and the ends `low` and `high` of its interval.
        """
        rows = self.rows_of(SENTENCES_EVENT)
        return list(rows[-1].get("pairs", [])) if rows else []

    @cached_property
    def retrieval(self) -> RetrievalRow | None:
        """The scores of each query of the tested fold; None if they were not measured."""
        rows = self.rows_of(RETRIEVAL_EVENT)
        return RetrievalRow.model_validate(rows[-1]) if rows else None

    def _rows_by_split(self, event: str) -> dict[str, dict[str, Any]]:
        """Split -> the last metrics row of this event."""
        return {str(row.get("split")): row for row in self.rows_of(event)}

    def _check_shape(self, row: Mapping[str, Any]) -> None:
        try:
            ROW_SHAPES.get(str(row.get("event")), ScoresRow).model_validate(row)
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"]))
            message = f"holds a row of the event {row.get('event')!r} whose {place} has another shape"
            raise Damaged(message, file=str(metrics_paths(self.directory)[-1])) from None

    @cached_property
    def audit(self) -> dict[str, Any] | None:
        """The audit of this run (audit.json) as plain data; None when the run has no audit.

        Raises:
            Damaged: the file cannot be read, or is missing although the result counts the seconds of an audit.
        """
        path = self.directory / AUDIT_FILE
        if is_regular(path):
            return read_table(path)
        if self.result is not None and self.result.seconds.get("audit"):
            raise Damaged("is missing, although the run was audited", file=str(path))
        return None

    @property
    def audit_damage(self) -> Damaged | None:
        """The error that is raised when the audit of this run is read; None if it can be read, or if the run has no audit."""
        try:
            self.audit_report()
        except Damaged as error:
            return error
        return None

    @cached_property
    def documents(self) -> dict[tuple[str, str], DocumentNats] | None:
        """(split, pass) -> the scores of each document at the end of the run; None when they were not measured.

        Raises:
            Damaged: the file is missing although the result names its hash, or it is not what was written.
        """
        if self.result is None or not self.result.documents:
            return None
        return read_documents(self.directory, self.result.documents, self.result.scores)

    @property
    def documents_damage(self) -> Damaged | None:
        """The error that is raised when the scores of the documents are read; None if they can be read, or were not measured."""
        try:
            _ = self.documents
        except Damaged as error:
            return error
        return None

    def audit_report(self) -> AuditReport | None:
        """The audit of this run, decoded; None when the run has no audit."""
        return self._audit_report

    @cached_property
    def _audit_report(self) -> AuditReport | None:
        return None if self.audit is None else decode_stored(AuditReport, self.audit, self.directory / AUDIT_FILE)


class ArmEntry(Config):
    """One resolved arm. `diff` lists the fields that differ from the base, each as (dotted path, value before, value after)."""

    name: str
    expect_leak: bool = False
    expect_collapse: bool = False
    note: str = ""
    diff: tuple[tuple[str, Any, Any], ...] = ()


class RunEntry(Config):
    """The run of one arm at one scale with one seed."""

    arm: str
    scale: str
    seed: int
    run_id: str


class ChoiceEntry(Config):
    """The value that trials chose for one arm at one scale.

    Attributes:
        field: the dotted path of the setting that was chosen.
        values: the values that were tried, one for each trial.
        scores: the mean score of each value on the tuning split; None where a trial has no score.
        chosen: the value with the best score, or with the fewest `steps`.
        runs: the run ids of the trials.
        tokens_read: the number of tokens that all trials read together.
        steps: where `stop_at_accuracy` ended trials: the mean number of steps to this accuracy at each value, None where it was not
            reached. Empty where no value reached it, and in older entries.
    """

    arm: str
    scale: str
    field: str
    values: tuple[float, ...]
    scores: tuple[float | None, ...]
    chosen: float
    runs: tuple[str, ...]
    tokens_read: float = 0.0
    steps: Annotated[tuple[float | None, ...], LATER] = ()

    @property
    def at_the_edge(self) -> bool:
        """Whether `chosen` is the smallest or the largest value that was tried. A value outside that range might be better."""
        return self.chosen in (min(self.values), max(self.values))

    @property
    def words(self) -> str:
        """One line: the chosen value, and for each value its score and the steps to the accuracy at which a trial ended."""
        tried = (
            f"{value:g}: {'no score' if score is None else f'{score:.4f}'}" + (f" in {steps:g} steps" if steps else "")
            for value, score, steps in zip_longest(self.values, self.scores, self.steps)
        )
        edge = ", at the edge of what was tried" if self.at_the_edge else ""
        return f"{self.arm} at {self.scale}: {self.field} = {self.chosen:g}{edge} (tuning split: {', '.join(tried)})"


class StackEntry(Config):
    """The number of runs that `--stack auto` chose for one arm at one scale, and the stacks that follow from it.

    Attributes:
        stack: the largest number of runs of a stack; 1 means that each run is trained alone.
        sizes: the numbers of runs whose stacks were measured; empty if none could be measured.
        gains: for each size, the steps a second of the runs of a stack, divided by those of single runs.
        groups: the run ids of each stack in the order of their places; a group of one run is trained alone.
        reason: why the runs are trained alone; empty for stacks.
    """

    arm: str
    scale: str
    stack: int = Field(ge=1)
    sizes: tuple[int, ...] = ()
    gains: tuple[float, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    reason: str = ""

    @property
    def gain(self) -> float | None:
        """The measured gain of the chosen size; None for runs alone."""
        return dict(zip(self.sizes, self.gains, strict=True)).get(self.stack)

    @property
    def words(self) -> str:
        """The choice in words, such as `stacks of up to 4 runs, 1.31 times the steps a second of single runs`."""
        if self.stack == 1 or self.gain is None:
            return f"single runs: {self.reason}"
        return f"stacks of up to {self.stack} runs, {self.gain:.2f} times the steps a second of single runs"


class ExperimentEntry(Config):
    """A resolved experiment, stored in experiments/<name>--<size>.json before its first run starts.

    Attributes:
        created: the time of writing, in ISO 8601.
        command: the command line that wrote this entry.
        code: the path of the experiment file.
        decision: the decision rule as plain data. The rule is fixed before the runs. The property `rule` checks this data.
        audits: arm -> scale -> hash of the cached audit.
        comparison: the hash of the audit that compares the finished runs (C5); empty before that audit.
        choices: the values that trials on the tuning split chose, for each arm and scale; empty without tuning.
        to_choose: the setting that the trials have not chosen yet; empty when nothing is left to choose. Until the choice, the ids
            in `runs` are only plans: a stored run with one of these ids does not belong to this experiment.
        plan: the predicted cost of the runs (hours, tokens, FLOPs, disk).
        claims: the claims that are judged by the finished runs; empty in entries of versions that had no claims.
        stacks: the choices of `--stack auto`; empty where nobody used it, and in entries of versions that did not have it.
        source: the format, file and sha256 of an imported experiment.
        seeds_planned: whether the seeds were a fixed list, or were added one by one until every verdict was decided. With the
            second plan, `seeds` and `runs` hold the seeds of the latest look; a seed that is still being trained is not in them.
        looks_taken: the number of looks that `palinode run` recorded that used some of these runs, and other seeds than `seeds`.
        first_seeds: the number of seeds at the first of these looks; 0 if there was no such look.
        about: the paragraph for readers from outside the field; empty in entries of versions that had none.
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
    stacks: tuple[StackEntry, ...] = ()
    seeds_planned: SeedPlan = FIXED
    looks_taken: int = Field(default=0, ge=0)
    first_seeds: int = Field(default=0, ge=0)
    about: Annotated[str, LATER] = ""

    @property
    def seeds_added_after_a_look(self) -> bool:
        """Whether the seeds were fixed, a verdict was seen, and the seeds were changed after it: the verdict pays for this."""
        return self.seeds_planned == FIXED and self.looks_taken > 0

    @property
    def full_name(self) -> str:
        """`<name>--<size>`: the name of the entry's file and of its report."""
        return f"{self.name}--{self.size}"

    def arm(self, name: str) -> ArmEntry:
        """The arm of this name.

        Raises:
            BadInput: no arm has this name.
        """
        arms = {arm.name: arm for arm in self.arms}
        check_known(name, arms, what="arm", field="arms")
        return arms[name]

    @property
    def rule(self) -> Decision:
        """The decision rule as a `Decision`.

        Raises:
            BadInput: a field of the rule is wrong, or its baseline is not an arm.
        """
        try:
            rule = decode(Decision, dict(self.decision))
        except BadInput as error:
            raise error.inside("decision") from None
        check_known(rule.baseline, (arm.name for arm in self.arms), what="arm", field="decision.baseline")
        return rule


@dataclass(frozen=True)
class ExperimentRun:
    """One planned run of an experiment. The record of the run is None when the store has no files of the run."""

    entry: RunEntry
    record: Record | None

    @property
    def outcome(self) -> RecordOutcome:
        """The outcome of the record; `missing` when the run never started."""
        return self.record.outcome if self.record is not None else "missing"

    @property
    def result(self) -> Result | None:
        return self.record.result if self.record is not None else None

    @property
    def goal(self) -> float | None:
        """The accuracy at which the run ends (`stop_at_accuracy`); None where its recipe has none."""
        recipe = self.record.spec.get("recipe") if self.record is not None else None
        return recipe.get("stop_at_accuracy") if isinstance(recipe, dict) else None

    def findings(self) -> tuple[Finding, ...]:
        """The findings in the audit of this run; empty when the run has no audit.

        Raises:
            Damaged: the audit file cannot be read.
        """
        report = self.record.audit_report() if self.record is not None else None
        return report.findings if report is not None else ()


@dataclass(frozen=True)
class FinishedRun(ExperimentRun):
    """A run whose outcome is `done`. A finished run always has a record and a result."""

    record: Record

    @property
    def result(self) -> Result:
        assert self.record.result is not None
        return self.record.result


@dataclass(frozen=True)
class ExperimentRecord:
    """An experiment together with all its runs and audits.

    Attributes:
        runs: one run for each (arm, scale, seed), in the order of the entry; missing and damaged runs are included.
        audits: (arm, scale) -> audit. A pair whose audit is not stored, or cannot be read, is not a key.
        damaged: hash of an audit -> error, for each audit of this experiment that is missing or cannot be read.
        comparison: the audit that compares the finished runs (C5); None before that audit.
        one_kind: whether comparisons leave out pairs of runs that were trained on two kinds of machine (`Result.kind`).
    """

    entry: ExperimentEntry
    runs: tuple[ExperimentRun, ...]
    audits: Mapping[tuple[str, str], AuditReport]
    damaged: Mapping[str, Damaged] = field(default_factory=dict)
    comparison: AuditReport | None = None
    one_kind: bool = False

    def runs_of(self, arm: str, scale: str) -> tuple[ExperimentRun, ...]:
        """The runs of one arm at one scale, in the order of the seeds."""
        return self._by_cell.get((arm, scale), ())

    @cached_property
    def _by_cell(self) -> dict[tuple[str, str], tuple[ExperimentRun, ...]]:
        """(arm, scale) -> the runs. A verdict asks for the runs of a cell some twenty times."""
        cells: dict[tuple[str, str], list[ExperimentRun]] = {}
        for run in self.runs:
            cells.setdefault((run.entry.arm, run.entry.scale), []).append(run)
        return {cell: tuple(runs) for cell, runs in cells.items()}

    def finished(self, arm: str | None = None, scale: str | None = None) -> tuple[FinishedRun, ...]:
        """The runs with the outcome `done`: of one arm at one scale if both arguments are given, otherwise of the experiment."""
        found = self.runs if arm is None or scale is None else self.runs_of(arm, scale)
        return tuple(FinishedRun(run.entry, run.record) for run in found if run.record and run.outcome == "done")


def trials_name(entry: ExperimentEntry) -> str:
    """The full name of the experiment of the trials that choose a setting for this experiment."""
    return f"{entry.name}{TRIALS_SUFFIX}--{entry.size}"


def decided_with(entry: ExperimentEntry) -> str:
    """The full name of the experiment whose decisions wait for the runs of this entry: for trials, the one that they are for."""
    return f"{entry.name.removesuffix(TRIALS_SUFFIX)}--{entry.size}"


def machine_kind(fingerprint: Mapping[str, Any]) -> str:
    """The first 16 hex digits of the SHA-256 of the items of a fingerprint that decide the bits (`Result.kind`)."""
    left_out = (*NOT_COMPARED, "logical_cores")
    return content_hash({item: value for item, value in fingerprint.items() if item not in left_out})[:16]


def differing_items(one: Result, other: Result) -> list[str]:
    """The items in which two kinds of machine differ. An item that a result of an older version lacks is left out."""
    left, right = one.compared_fingerprint, other.compared_fingerprint
    return sorted(item for item in left.keys() & right.keys() - {"logical_cores"} if left[item] != right[item])


def stacked_words(runs_together: int) -> str:
    """What runs of a stack of this size may differ by from the same runs alone."""
    why = f"in a stack of {runs_together} runs, sums are added in another order than in a run alone"
    return f"{why}: gradients agree to 1e-5 of their size, so the bits of weights and scores differ"


def read_run(directory: Path) -> tuple[dict[str, Any], Result | None]:
    """Read the spec of a run (empty while it is not written yet) and the result (None while the run is unfinished).

    Raises:
        Damaged: a file does not decode or belongs to another run, or there is a result and no spec.
    """
    spec_path, path = directory / SPEC_FILE, directory / RESULT_FILE
    has_ended = os.path.lexists(path)
    spec = read_table(spec_path) if has_ended or os.path.lexists(spec_path) else {}
    result = decode_stored(Result, read_table(path), path) if has_ended else None
    if result is not None and result.run_id != directory.name:
        raise Damaged(f"belongs to run {result.run_id!r}", file=str(path), field="run_id")
    return spec, result


def ended_at_step(result: Result | None) -> float:
    """The last step of a run that is done; 0 for any other run. A run always logs its last step, so its metrics must reach it."""
    return (result.counters.get("optimizer_steps") or 0) if result is not None and result.outcome == "done" else 0
