"""One run from spec to record, to be read from top to bottom: data, model, optimizer, resume, train, evaluate, audit, result.

`run_one` may be killed at any moment. The same call then goes on from the newest undamaged checkpoint and ends with the same bits.
`run_together` trains several runs of one shape in one process with stacked weights. Each run writes the same files as in a separate
process. The runs share the start of Python and torch, which takes seconds, and the calls of every step (`train/stacked.py`). Sums
are taken in another order than in a separate run, so the bits differ. `runs_together` in the fingerprint is the number of stacked
runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from palinode.audit import audit_trained
from palinode.base import fsio
from palinode.base.config import content_hash, encode
from palinode.base.errors import BadInput, Damaged, EnvironmentProblem
from palinode.base.event import Event
from palinode.base.example import SpecialTokens
from palinode.base.finding import AuditReport
from palinode.base.measures import RunOutcome
from palinode.base.user_settings import Keep, kept_of_done_runs
from palinode.data.config import VALIDATION, Split
from palinode.data.source import Source
from palinode.data.task_store import TaskData
from palinode.evaluate.embeddings import check_has_embeddings
from palinode.evaluate.layer_cut import check_can_be_cut
from palinode.evaluate.losses import Evaluation
from palinode.models.base import LanguageModel
from palinode.models.described import described
from palinode.models.retriever import state_width
from palinode.objectives.probability import Probability
from palinode.results.holds import Hold, Watch, holder, take
from palinode.results.record import RESULT_FILE, RETRIEVAL_EVENT, SENTENCES_EVENT, Result, machine_kind
from palinode.results.rows import (
    ATTEMPT_EVENT,
    FROM_THE_START,
    RowsSeal,
    last_attempt,
    metrics_path,
    read_rows,
    up_to_step,
)
from palinode.results.scored import ScoredText
from palinode.results.store import Store
from palinode.run.environment import environment
from palinode.run.measure import (
    EVALUATION_EVENT,
    MEASUREMENTS,
    Measurement,
    Rows,
    Snapshot,
    check_sentences,
)
from palinode.run.retrieval import check_retrieval
from palinode.run.shared_data import prepare_shared
from palinode.run.start import Start, inherited, take_weights
from palinode.spec.longer import stable_step
from palinode.spec.run_spec import RunSettings, RunSpec
from palinode.spec.trained import Trained
from palinode.train.checkpoint import (
    CHECKPOINTS,
    Saved,
    delete_checkpoints,
    is_whole,
    keep_weights,
    load_newest,
    newest_saved,
    save_checkpoint,
    weights_sha256,
)
from palinode.train.device import compiled, fingerprint, resolve_device, use_threads
from palinode.train.loop import Counters, DivergedError, StepReport, Training
from palinode.train.optim import build_optimizers
from palinode.train.product_rate import rates_of_run
from palinode.train.stacked import Places, train_together

TIMED = ("train", "evaluate", "checkpoint", "audit")
OUTSIDE_ROLES = ("embedding", "position", "head")  # roles whose parameters `non_embedding` leaves out
FREE = (
    "seed",
    "labels",
    "start_from",
)  # runs that differ only in these make the same calls on tensors of the same shapes
FREE_OF_RECIPE = ("optimizer", "schedule")
Process = Mapping[str, str | bool]
IN_THE_CALLER: Process = {}  # the process of the caller is no worker: nothing is recorded of how it runs
Scores = Mapping[str, Mapping[str, Mapping[str, float | int | None]]]


def run_one(
    spec: RunSpec,
    store: Store,
    on_event: Callable[[Event], None] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
    hold: Hold | None = None,
) -> Result:
    """Train, evaluate and record one run, or go on with it. The result of a run that has ended is returned unchanged.

    Args:
        on_event: a function that gets every metrics row when it is written, and notes (`{"event": "note", ...}`).
        should_stop: a function that is called before every step. When it returns True, a checkpoint is written and the result is
            `stopped`. The store does not record a stopped result, so the same call goes on later.
        hold: the hold of this process on the run's directory. Without a hold, this call takes one and releases it at its end.

    Raises:
        HoldLostError: another process took over the run. This process has written nothing since.
        EnvironmentProblem: another process works on the run.
    """
    if (ended := store.ended(spec.run_id)) is not None:
        return ended
    attempt = Attempt.begin(spec, store, on_event, hold)
    try:
        return _train_attempts([attempt], should_stop)[0]
    finally:
        if hold is None:
            attempt.hold.release()


def run_together(
    specs: Sequence[RunSpec],
    store: Store,
    on_event: Callable[[Event], None] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
    holds: Mapping[str, Hold] | None = None,
    process: Process = IN_THE_CALLER,
    together: Sequence[str] = (),
) -> list[Result]:
    """Train, evaluate and record runs that have the same `stack_key`, or go on with them. The arguments are those of `run_one`.

    Every event has the `run_id` of its run. When a run diverges, its result is recorded, and the other runs go on.

    Args:
        holds: run id -> the hold of this process on the run's directory. For a run without one, this call takes a hold.
        process: `memory_kept` and `started_by` of a worker, for the fingerprint.
        together: the run ids of a fixed stack in the order of their places (`Places`), also of runs that have ended or work
            elsewhere; empty: the runs that are left are stacked without gaps.
    """
    holds = holds or {}
    results = {spec.run_id: ended for spec in specs if (ended := store.ended(spec.run_id)) is not None}
    left = [spec for spec in specs if spec.run_id not in results]
    attempts: list[Attempt] = []
    try:
        for spec in left:
            emit = _with_run_id(on_event, spec.run_id)
            size = len(together) or len(left)
            attempts.append(Attempt.begin(spec, store, emit, holds.get(spec.run_id), size, process))
        places = Places(len(together), tuple(together.index(spec.run_id) for spec in left)) if together else None
        results |= {result.run_id: result for result in _train_attempts(attempts, should_stop, places)}
    finally:
        for attempt in attempts:
            if attempt.spec.run_id not in holds:
                attempt.hold.release()
    return [results[spec.run_id] for spec in specs]


def trainable_count(model: LanguageModel) -> dict[str, int]:
    """The number of `trainable` parameters, where some are frozen; empty where the run trains all of them."""
    parameters = list(model.parameters())
    moved = sum(one.numel() for one in parameters if one.requires_grad)
    return {} if all(one.requires_grad for one in parameters) else {"trainable": moved}


def _with_run_id(on_event: Callable[[Event], None], run_id: str) -> Callable[[Event], None]:
    return lambda event: on_event({**event, "run_id": run_id})


def _train_attempts(
    attempts: Sequence[Attempt], should_stop: Callable[[], bool], places: Places | None = None
) -> list[Result]:
    """Train these runs until each has ended or stopped, and return their results. The weights of several runs are stacked."""
    for attempt in attempts:
        attempt.resume()
        attempt.begin_with(1)

    def after_step(index: int, report: StepReport) -> None:
        attempts[index].after_step(report)

    trainings = [attempt.training for attempt in attempts]
    ends = train_together(trainings, after_step=after_step, should_stop=should_stop, places=places)
    results = []
    for attempt, end in zip(attempts, ends, strict=True):
        try:
            if isinstance(end, DivergedError):
                raise end
            results.append(attempt.finish() if end else attempt.stop())
        except DivergedError as problem:
            results.append(attempt.record("diverged", reason=str(problem)))
    return results


def stack_key(spec: RunSpec) -> str | None:
    """A key for stacking: runs with the same key may be trained together. The key of a run with a compiled step is None."""
    if spec.recipe.compile:
        return None
    plain = encode(spec)
    recipe = {name: value for name, value in plain["recipe"].items() if name not in FREE_OF_RECIPE}
    return content_hash({name: value for name, value in plain.items() if name not in FREE} | {"recipe": recipe})


def runs_together_before(store: Store, run_id: str) -> int | None:
    """The number of runs that a run was stacked with so far, itself included: 1 for a run alone; None without a checkpoint."""
    saved = newest_saved(store.run_directory(run_id) / CHECKPOINTS)
    return saved.runs_together if saved is not None else None


def build_model(settings: RunSettings, data: Source, seed: int) -> tuple[LanguageModel, SpecialTokens]:
    """The untrained model of a spec. The model's vocabulary has room for the special tokens that every arm carries.

    Raises:
        BadInput: the evaluation needs something that this model cannot do.
    """
    specials = SpecialTokens(data.vocab_size)
    refuse_evaluation(settings, specials)
    model = settings.model.build(specials.vocab_size, settings.data.window_tokens, seed)
    return model.to(resolve_device(settings.device)), specials


def new_training(spec: RunSpec, data: Source) -> Training:
    """The training of a run before its first step.

    Raises:
        BadInput: the evaluation needs something that this model cannot do.
    """
    model, specials = build_model(spec, data, spec.seed)
    return Training(
        model=compiled(model) if spec.recipe.compile else model,
        optimizers=build_optimizers(spec.recipe.optimizer, model, model.parameter_groups()),
        objective=spec.objective,
        recipe=spec.recipe,
        windows=data.training(spec.data.window_tokens, spec.seed),
        labels=spec.labels,
        specials=specials,
        seed=spec.seed,
        device=resolve_device(spec.device),
        objective_state=spec.objective.state(),
    )


def goes_on_from(saved: Saved, training: Training) -> None:
    """Give a training the numbers of a checkpoint whose tensors it already has."""
    training.counters = Counters(**saved.counters)  # type: ignore[arg-type]
    training.objective_state = dict(saved.objective_state)
    training.recipe_state = dict(saved.recipe_state)


def refuse_evaluation(settings: RunSettings, specials: SpecialTokens) -> None:
    """Refuse, before training, an evaluation that needs something that this model cannot do.

    Raises:
        BadInput: the evaluation does not fit the model. The error names the setting.
    """
    evaluation, window_tokens = settings.evaluation, settings.data.window_tokens
    if not (evaluation.layer_cut or evaluation.embeddings or evaluation.length_factors or evaluation.retrieval):
        return
    model = described(settings.model, specials.vocab_size, window_tokens)
    if evaluation.layer_cut:
        model.answer(check_can_be_cut)
    if evaluation.embeddings:
        model.answer(check_has_embeddings)
    if (retrieval := evaluation.retrieval) is not None:
        try:
            model.answer(lambda found: state_width(found.first_blocks(retrieval.depth)))
        except BadInput as refused:
            raise refused.at(field="evaluation.retrieval.depth") from None
    if evaluation.length_factors:
        try:
            model.refuse_longer_rows(max(evaluation.length_factors) * window_tokens)
        except BadInput as refused:
            raise BadInput(refused.message, field="evaluation.length_factors", hint=refused.hint) from None


@dataclass(frozen=True)
class Measured:
    """What a run measured after its last step, as its result stores it (see `results.record.Result`)."""

    scores: Scores = field(default_factory=dict)
    scored: Mapping[str, Mapping[str, ScoredText]] = field(default_factory=dict)
    documents: Mapping[str, int | str] = field(default_factory=dict)
    sentences: Mapping[str, Mapping[str, float | int | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkedOn:
    """The numbers of processes that worked on a run, and how they shared it, each in the order of its first use.

    Attributes:
        now: the number of processes of this attempt.
    """

    processes: tuple[int, ...] = ()
    parallel: tuple[str, ...] = ()
    now: int = 1

    def with_(self, processes: int, parallel: str = "") -> WorkedOn:
        """This record with the processes of one more attempt."""
        counts = self.processes if processes in self.processes else (*self.processes, processes)
        ways = self.parallel if not parallel or parallel in self.parallel else (*self.parallel, parallel)
        return WorkedOn(counts, ways, processes)

    @property
    def is_shared(self) -> bool:
        """Whether more than one process worked on the run at the same time."""
        return bool(self.parallel)

    def fingerprint(self) -> dict[str, str]:
        """`processes` and `parallel`, for a run that was shared; the bits of other runs do not depend on them."""
        if not self.is_shared:
            return {}
        return {"processes": ", ".join(map(str, self.processes)), "parallel": ", ".join(self.parallel)}


@dataclass
class Attempt:
    """The work of one process on a run. An attempt writes files only in the run's directory."""

    trained: Trained
    training: Training
    store: Store
    emit: Callable[[Event], None]
    hold: Hold
    runs_together: int = 1
    process: Process = field(default_factory=dict)
    rows: RowsSeal = field(default_factory=RowsSeal)
    evaluations: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TIMED, 0.0))
    rates: dict[str, float] = field(default_factory=dict)
    keep: Keep = field(default_factory=kept_of_done_runs)
    worked_on: WorkedOn = WorkedOn()
    start: Start | None = None

    def __post_init__(self) -> None:
        self.spec = self.trained.spec
        self.directory = self.store.run_directory(self.spec.run_id)
        self.number = self.hold.number
        self.stable_step = stable_step(self.spec)

    @classmethod
    def begin(
        cls,
        spec: RunSpec,
        store: Store,
        emit: Callable[[Event], None],
        hold: Hold | None = None,
        runs_together: int = 1,
        process: Process = IN_THE_CALLER,
    ) -> Attempt:
        """Prepare data, model and optimizer, and write the spec. Hold the run's directory, unless the caller has a hold.

        Args:
            runs_together: the number of runs whose weights are stacked, this run included; for fixed places, the number of
                places. The result has the largest number of all attempts.
            process: how the worker runs, as in `run_together`.

        Raises:
            BadInput: the run was begun with another numerics version, its evaluation needs something that the model cannot do, or
                the weights that it starts from are missing or do not fit.
            AuditFailed: the run that it starts from failed its audit.
        """
        spec.check_numerics()
        use_threads(spec.threads)
        data = prepare_shared(spec.data, store)
        check_sentences(spec, data.tokenizer)
        training = new_training(spec, data)
        check_retrieval(spec, training.model, training.specials)
        directory = store.write_spec(spec.run_id, encode(spec))
        if not isinstance(spec.data, TaskData):  # a task makes its own tokens
            store.write_tokenizer(spec.run_id, data.tokenizer.to_json())
        trained = Trained(spec, training.model, training.specials, data)
        start = take_weights(spec, store, training.model)
        return cls(trained, training, store, emit, hold or _take(directory), runs_together, process, start=start)

    def resume(self) -> int:
        """Go on from the newest undamaged checkpoint that has all its rows of metrics, or train from the start.

        The result of a failed attempt, and a damaged result, are deleted. This attempt writes a new result.

        Returns:
            the step of the checkpoint; `FROM_THE_START` when there is none.
        """
        self.hold.check()
        fsio.remove_stray_temporaries(self.directory)
        (self.directory / RESULT_FILE).unlink(missing_ok=True)
        self.number = self.hold.number + last_attempt(self.directory)
        rows, damaged = read_rows(self.directory)
        if damaged is not None:
            self._note(f"{damaged} is damaged")
        from_step = self._restore(rows, damaged)
        kept = up_to_step(rows, from_step)
        self.evaluations = sum(row["event"] == EVALUATION_EVENT for row in kept)
        self.rows = RowsSeal.of(kept)
        first = {"event": ATTEMPT_EVENT, "attempt": self.number, "from_step": from_step, "rows": self.rows.stored()}
        self.store.append_metrics(self.spec.run_id, first, self.hold.number)
        return from_step

    def _restore(self, rows: Sequence[Event], damaged: str | None) -> int:
        """Load the newest checkpoint that fits these rows, and delete the checkpoints of later steps.

        Args:
            damaged: the place of a damaged line in the metrics, or None. A checkpoint without a row count is then not used.

        Returns:
            the step of the checkpoint; `FROM_THE_START` when there is none.
        """
        training, root = self.training, self.directory / CHECKPOINTS

        def check(saved: Saved) -> None:
            whole = RowsSeal.of(up_to_step(rows, saved.step)).stored() == saved.rows if saved.rows else damaged is None
            if not whole:
                message = "rows of metrics from before it are missing or changed"
                raise Damaged(message, file=str(root / f"step-{saved.step}"))

        saved, problems = load_newest(root, self.spec.run_id, training.model, training.optimizers, check)
        for problem in problems:
            self._note(f"damaged checkpoint passed over: {problem}")
        delete_checkpoints(root, after_step=saved.step if saved is not None else FROM_THE_START)
        if saved is not None:
            goes_on_from(saved, training)
            self.worked_on = WorkedOn(saved.processes, saved.parallel)
            self.seconds = dict.fromkeys(TIMED, 0.0) | dict(saved.seconds)
            self.runs_together = max(self.runs_together, saved.runs_together)
            self._note(f"going on from step {saved.step}")
        return saved.step if saved is not None else FROM_THE_START

    def after_step(self, report: StepReport) -> None:
        """Log, evaluate and save when this step is due for it. The training row is written before the checkpoint."""
        self.seconds["train"] += report.seconds
        recipe, done = self.spec.recipe, self.training.step
        last = self.training.finished
        if done % recipe.log_every_steps == 0 or last or done == 1:
            self._log_training(report)
        if recipe.evaluate_every_steps and done % recipe.evaluate_every_steps == 0 and not last:
            self.evaluate()
        if (done % recipe.checkpoint_interval_steps == 0 or done == self.stable_step) and not last:
            self.save()

    def evaluate(self) -> None:
        """Score the evaluation split in the middle of training.

        Raises:
            DivergedError: the last update left weights whose loss is not finite.
        """
        split = self.spec.evaluation.split
        with self._timed("evaluate"):
            scores = self.curve_evaluation(split).as_rows()
        self._write({"event": EVALUATION_EVENT, "split": split, "final": False, "scores": scores})
        own = next((scores[name] for name in (*self.spec.objective.groups(), "own") if name in scores), None)
        self.training.note_accuracy(own["accuracy"] if own is not None else None)

    def stop(self) -> Result:
        """Write a checkpoint, from which the next attempt goes on, and return the result `stopped`."""
        self.save()
        return self.result("stopped", reason=f"stopped after step {self.training.step}")

    def finish(self) -> Result:
        """Do all work after the last step: time the products of the model, save, measure, audit, record."""
        self.rates = rates_of_run(self.training, self.seconds["train"], self.worked_on.now)
        self.save()
        measured = self.measure()
        if self.spec.evaluation.split == VALIDATION:  # a trial supports no claim, so it is not audited
            self.audit()
        result = self.record("done", measured=measured)
        if self.keep == "weights":
            keep_weights(self.directory / CHECKPOINTS)
        return result

    def measure(self) -> Measured:
        """Write the rows of every measurement that applies to this run, and the scores of each document.

        Raises:
            DivergedError: a loss is not finite.
        """
        snapshot = self.snapshot()
        sentences: dict[str, Mapping[str, float | int | None]] = {}
        for measurement in MEASUREMENTS:
            if measurement.applies(self.spec):
                with self._timed("evaluate"):
                    for split, columns in self.rows_of(measurement, snapshot):
                        self._write({"event": measurement.event, "split": split, "final": True, **columns})
                        if measurement.event in (SENTENCES_EVENT, RETRIEVAL_EVENT):
                            sentences |= columns["scores"]
        self.hold.check()
        return Measured(
            scores={split: evaluation.as_rows() for split, evaluation in snapshot.evaluations.items()},
            scored={split: details.scored for split, details in snapshot.details.items()},
            documents=self.store.write_documents(self.spec.run_id, snapshot.documents()),
            sentences=sentences,
        )

    def audit(self) -> None:
        """Audit the trained weights and their losses, and store the report. The result does not depend on the report."""
        with self._timed("audit"):
            rows = self.store.record(self.spec.run_id).metrics
            report = self.audited(rows)
            if self.start is not None:
                report = report.with_(findings=(*report.findings, *inherited(self.start, self.store)))
        self.hold.check()
        self.store.write_run_audit(self.spec.run_id, report)

    def save(self) -> None:
        """Write a checkpoint of this step, unless an undamaged one exists. A killed process may have left a part of one."""
        self.hold.check()
        training, root = self.training, self.directory / CHECKPOINTS
        if is_whole(root / f"step-{training.step}"):
            return
        saved = Saved(
            run_id=self.spec.run_id,
            step=training.step,
            counters=asdict(training.counters),
            objective_state=training.objective_state,
            recipe_state=training.recipe_state,
            seconds=self.seconds,
            rows=self.rows.stored(),
            runs_together=self.runs_together,
            processes=self.worked_on.processes if self.worked_on.is_shared else (),
            parallel=self.worked_on.parallel,
            stable=training.step == self.stable_step,
        )
        with self._timed("checkpoint"):
            fsio.sync(metrics_path(self.directory, self.hold.number))
            self.write_checkpoint(root, saved)

    def record(self, outcome: RunOutcome, *, measured: Measured | None = None, reason: str | None = None) -> Result:
        """Write the result, which is the last file of a run, and return it."""
        result = self.result(outcome, measured=measured, reason=reason)
        fsio.sync(metrics_path(self.directory, self.hold.number))
        self.hold.check()
        self.store.write_environment(*self.environment)
        self.store.write_result(result)
        return result

    def result(self, outcome: RunOutcome, *, measured: Measured | None = None, reason: str | None = None) -> Result:
        """The result of the run at this moment. This method writes nothing."""
        training, measured = self.training, measured or Measured()
        by_role = {role: sum(p.numel() for _, p in named) for role, named in training.model.parameter_groups().items()}
        total = sum(by_role.values())
        outside = sum(by_role.get(role, 0) for role in OUTSIDE_ROLES)
        return Result(
            run_id=self.spec.run_id,
            outcome=outcome,
            reason=reason,
            scores=measured.scores,
            scored=measured.scored,
            documents=measured.documents,
            sentences=measured.sentences,
            counters={
                **asdict(training.counters),
                "evaluations": self.evaluations,
                **(self.start.counters() if self.start is not None else {}),
            },
            parameters={**by_role, "total": total, "non_embedding": total - outside, **trainable_count(training.model)},
            seconds={**self.seconds, "total": sum(self.seconds.values())},
            rates=self.rates,
            fingerprint=self.fingerprint(),
            weights_sha256=self.weights_sha256(),
            attempts=self.number,
            rows=self.rows.stored(),
            start=self.start.stored() if self.start is not None else {},
        )

    def fingerprint(self) -> dict[str, str | int | float | bool | None]:
        """What the bits of this run depend on besides its spec, and how its process works."""
        return {
            **fingerprint(self.training.device),
            "environment": self.environment[0],
            "runs_together": self.runs_together,
            **self.worked_on.fingerprint(),
            **self.process,
        }

    def begin_with(self, processes: int, parallel: str = "") -> None:
        """Note the processes that work on the run from now on. The hold tells the kind of machine that this makes."""
        self.worked_on = self.worked_on.with_(processes, parallel)
        self.hold.describe(kind=machine_kind(self.fingerprint()))

    @cached_property
    def environment(self) -> tuple[str, str]:
        """The hash and the list of the packages that this run depends on."""
        return environment(self.spec)

    # --- what the processes of a shared run do together (`run/processes.py`) ----------------------------------------------

    def snapshot(self) -> Snapshot:
        """The run at this step."""
        return Snapshot(self.trained, self.training.counters, self._note)

    def curve_evaluation(self, split: Split) -> Evaluation:
        """The scores of a split at this step."""
        return self.snapshot().curve_evaluation(split)

    def rows_of(self, measurement: Measurement, snapshot: Snapshot) -> Rows:
        """The rows of a measurement at the end of the run."""
        return measurement.rows(snapshot)

    def audited(self, rows: Sequence[Event]) -> AuditReport:
        """The audit of the trained weights, and of the losses in these rows of metrics."""
        return audit_trained(self.trained, rows, self.store)

    def weights_sha256(self) -> str:
        """The hash of the weights of this step."""
        return weights_sha256(self.training.model)

    def write_checkpoint(self, root: Path, saved: Saved) -> None:
        """Write the files of a checkpoint of this step."""
        training = self.training
        save_checkpoint(root, saved, training.model, training.optimizers, self.spec.recipe.keep_checkpoints)

    def _log_training(self, report: StepReport) -> None:
        probability = getattr(self.spec.objective, "p", None)  # the `p` of a user's objective may be any object
        self._write(
            {
                "event": "train",
                "nats_by_group": report.nats_by_group,
                "learning_rate_factor": report.learning_rate_factor,
                "gradient_norm": report.gradient_norm,
                **({"auxiliary": report.auxiliary} if report.auxiliary else {}),
                **({"p": probability.at(self.training.progress())} if isinstance(probability, Probability) else {}),
            }
        )

    def _write(self, row: Event) -> None:
        """Append a metrics row with the columns that every row has, and send it to `emit`. Who lost the run writes no more rows."""
        self.hold.check()
        self.evaluations += row["event"] == EVALUATION_EVENT and row["split"] == self.spec.evaluation.split
        counters = asdict(self.training.counters)
        step = counters.pop("optimizer_steps")
        full = {**row, "attempt": self.number, "step": step, **counters, "seconds": self.seconds["train"]}
        self.store.append_metrics(self.spec.run_id, full, self.hold.number)
        self.rows.add(json.loads(json.dumps(full)))  # the row as it is read back from JSON, where keys are texts
        self.emit(full)

    def _note(self, message: str) -> None:
        self.emit({"event": "note", "message": message})

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started


def _take(directory: Path) -> Hold:
    if (hold := take(directory)) is None:
        owner, _ = holder(directory, Watch())
        raise EnvironmentProblem(f"{owner or 'another process'} is working on this run", file=str(directory))
    return hold
