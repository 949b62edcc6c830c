"""One run, from spec to record, readable top to bottom: data, model, optimizer, resume, train, evaluate, audit, result.

`run_one` may be killed at any moment: the same call goes on from the newest undamaged checkpoint and ends with the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from palinode.audit import audit_trained
from palinode.base import fsio
from palinode.base.config import encode
from palinode.base.errors import BadInput
from palinode.base.example import SpecialTokens
from palinode.base.measures import RunOutcome
from palinode.data.config import VALIDATION
from palinode.data.source import Source, prepare
from palinode.evaluate.embeddings import check_has_embeddings
from palinode.evaluate.layer_cut import check_can_be_cut
from palinode.models.base import LanguageModel
from palinode.models.described import described
from palinode.objectives.probability import Probability
from palinode.results.record import METRICS_FILE, Result
from palinode.results.store import Store
from palinode.run.measure import EVALUATION_EVENT, MEASUREMENTS, Snapshot
from palinode.spec.run_spec import RunSettings, RunSpec
from palinode.spec.trained import Trained
from palinode.train.checkpoint import Saved, delete_checkpoints, is_whole, load_newest, save_checkpoint, weights_sha256
from palinode.train.device import compiled, fingerprint, resolve_device, use_threads
from palinode.train.loop import Counters, DivergedError, StepReport, Training, train
from palinode.train.optim import build_optimizers

CHECKPOINTS = "ckpt"
TIMED = ("train", "evaluate", "checkpoint", "audit")
OUTSIDE_ROLES = ("embedding", "position", "head")  # parameters that `non_embedding` leaves out
Event = dict[str, Any]
Scores = Mapping[str, Mapping[str, Mapping[str, float | int | None]]]


def run_one(
    spec: RunSpec,
    store: Store,
    on_event: Callable[[Event], None] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train, evaluate and record one run, or go on with it. A run that has ended already is returned as it is.

    Args:
        on_event: called with every metrics row as it is written, and with notes (`{"event": "note", ...}`).
        should_stop: asked before every step. When it returns True, a checkpoint is written and the result is `stopped`; that
            result is not recorded, so the same call goes on later.
    """
    if (ended := store.ended(spec.run_id)) is not None:
        return ended
    attempt = Attempt.begin(spec, store, on_event)
    attempt.resume()
    try:
        reached_end = train(attempt.training, after_step=attempt.after_step, should_stop=should_stop)
        return attempt.finish() if reached_end else attempt.stop()
    except DivergedError as problem:
        return attempt.record("diverged", reason=str(problem))


def build_model(settings: RunSettings, data: Source, seed: int) -> tuple[LanguageModel, SpecialTokens]:
    """The untrained model of a spec, with room for the special tokens that every arm carries.

    Raises:
        BadInput: its evaluation asks for what this model cannot do.
    """
    specials = SpecialTokens(data.vocab_size)
    refuse_evaluation(settings, specials)
    model = settings.model.build(specials.vocab_size, settings.data.window_tokens, seed)
    return model.to(resolve_device(settings.device)), specials


def refuse_evaluation(settings: RunSettings, specials: SpecialTokens) -> None:
    """Refuse before the training what the evaluation asks for and this model cannot do.

    Raises:
        BadInput: naming the setting.
    """
    evaluation, window_tokens = settings.evaluation, settings.data.window_tokens
    if not (evaluation.layer_cut or evaluation.embeddings or evaluation.length_factors):
        return
    model = described(settings.model, specials.vocab_size, window_tokens)
    if evaluation.layer_cut:
        model.answer(check_can_be_cut)
    if evaluation.embeddings:
        model.answer(check_has_embeddings)
    if evaluation.length_factors:
        try:
            model.refuse_longer_rows(max(evaluation.length_factors) * window_tokens)
        except BadInput as refused:
            raise BadInput(refused.message, field="evaluation.length_factors", hint=refused.hint) from None


class Attempt:
    """The work of one process on a run. Every file it writes lies in the run's directory."""

    def __init__(
        self,
        trained: Trained,
        training: Training,
        store: Store,
        emit: Callable[[Event], None],
        runs_together: int = 1,
    ):
        self.trained = trained
        self.spec = trained.spec
        self.training = training
        self.store = store
        self.emit = emit
        self.directory = store.run_directory(self.spec.run_id)
        self.number = 1
        self.evaluations = 0
        self.seconds = dict.fromkeys(TIMED, 0.0)
        self.runs_together = runs_together

    @classmethod
    def begin(cls, spec: RunSpec, store: Store, emit: Callable[[Event], None], runs_together: int = 1) -> Attempt:
        """Prepare data, model and optimizer; write the spec.

        Args:
            runs_together: how many runs, this one included, have their weights stacked; the most of all attempts is recorded.
        """
        use_threads(spec.threads)
        data = prepare(spec.data)
        model, specials = build_model(spec, data, spec.seed)
        training = Training(
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
        store.write_spec(spec.run_id, encode(spec))
        return cls(Trained(spec, training.model, specials, data), training, store, emit, runs_together)

    def resume(self) -> None:
        """Go on from the newest undamaged checkpoint; metrics rows that this attempt will write again are dropped.

        When a line of the metrics file is damaged, it may have been a row to keep: then the run is trained from the start.
        """
        fsio.remove_stray_temporaries(self.directory)
        path = self.directory / METRICS_FILE
        rows, damaged = fsio.read_rows(path)
        self.number = 1 + max((int(row["attempt"]) for row in rows), default=0)
        if damaged is not None:
            self._note(f"{METRICS_FILE}, {damaged} is damaged: trained from the start")
            delete_checkpoints(self.directory / CHECKPOINTS)
        self._restore()
        kept = [row for row in rows if row["step"] <= self.training.step and not row.get("final")]
        self.evaluations = sum(row["event"] == EVALUATION_EVENT for row in kept)
        if kept != rows or damaged is not None:
            fsio.rewrite_lines(path, kept)

    def _restore(self) -> None:
        """Load the newest undamaged checkpoint, if there is one."""
        training = self.training
        saved, problems = load_newest(
            self.directory / CHECKPOINTS, self.spec.run_id, training.model, training.optimizers
        )
        for problem in problems:
            self._note(f"damaged checkpoint passed over: {problem}")
        if saved is not None:
            training.counters = Counters(**saved.counters)  # type: ignore[arg-type]
            training.objective_state = dict(saved.objective_state)
            training.recipe_state = dict(saved.recipe_state)
            self.seconds = dict.fromkeys(TIMED, 0.0) | saved.seconds
            self.runs_together = max(self.runs_together, saved.runs_together)
            self._note(f"going on from step {saved.step}")

    def after_step(self, report: StepReport) -> None:
        """Log, evaluate and save where this step is due for it; the training row is written before the checkpoint."""
        self.seconds["train"] += report.seconds
        recipe, done = self.spec.recipe, self.training.step
        last = self.training.finished
        if done % recipe.log_every_steps == 0 or last or done == 1:
            self._log_training(report)
        if recipe.evaluate_every_steps and done % recipe.evaluate_every_steps == 0 and not last:
            self.evaluate()
        if done % recipe.checkpoint_interval_steps == 0 and not last:
            self.save()

    def evaluate(self) -> None:
        """Score the evaluation split in the middle of training.

        Raises:
            DivergedError: the last update left weights whose loss is not finite.
        """
        split = self.spec.evaluation.split
        with self._timed("evaluate"):
            scores = self._snapshot().evaluation(split).as_rows()
        self._write({"event": EVALUATION_EVENT, "split": split, "final": False, "scores": scores})

    def stop(self) -> Result:
        """Write a checkpoint for the next attempt to go on from."""
        self.save()
        return self.result("stopped", reason=f"stopped after step {self.training.step}")

    def finish(self) -> Result:
        """Everything after the last step: save, measure, audit, record."""
        self.save()
        scores = self.measure()
        if self.spec.evaluation.split == VALIDATION:  # nothing is claimed from a trial, so it is not audited
            self.audit()
        return self.record("done", scores=scores)

    def measure(self) -> Scores:
        """Write the rows of every measurement that applies to this run; the scores of its splits.

        Raises:
            DivergedError: a loss is not finite.
        """
        snapshot = self._snapshot()
        for measurement in MEASUREMENTS:
            if measurement.applies(self.spec):
                with self._timed("evaluate"):
                    for split, columns in measurement.rows(snapshot):
                        self._write({"event": measurement.event, "split": split, "final": True, **columns})
        return {split: evaluation.as_rows() for split, evaluation in snapshot.evaluations.items()}

    def audit(self) -> None:
        """Audit the trained weights and their losses. The report is stored; the result does not depend on it."""
        with self._timed("audit"):
            rows = self.store.record(self.spec.run_id).metrics
            report = audit_trained(self.trained, rows, self.store)
        self.store.write_run_audit(self.spec.run_id, report)

    def save(self) -> None:
        """Write a checkpoint of this step, unless an undamaged one is there; after a kill only a part of it may be there."""
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
            runs_together=self.runs_together,
        )
        with self._timed("checkpoint"):
            save_checkpoint(root, saved, training.model, training.optimizers, self.spec.recipe.keep_checkpoints)

    def record(self, outcome: RunOutcome, *, scores: Scores | None = None, reason: str | None = None) -> Result:
        """Write the result: the last file of a run."""
        result = self.result(outcome, scores=scores, reason=reason)
        self.store.write_result(result)
        return result

    def result(self, outcome: RunOutcome, *, scores: Scores | None = None, reason: str | None = None) -> Result:
        """The result as it stands now, not written."""
        training = self.training
        by_role = {role: sum(p.numel() for _, p in named) for role, named in training.model.parameter_groups().items()}
        total = sum(by_role.values())
        outside = sum(by_role.get(role, 0) for role in OUTSIDE_ROLES)
        return Result(
            run_id=self.spec.run_id,
            outcome=outcome,
            reason=reason,
            scores=scores or {},
            counters={**asdict(training.counters), "evaluations": self.evaluations},
            parameters={**by_role, "total": total, "non_embedding": total - outside},
            seconds={**self.seconds, "total": sum(self.seconds.values())},
            fingerprint=fingerprint(training.device) | {"runs_together": self.runs_together},
            weights_sha256=weights_sha256(training.model),
            attempts=self.number,
        )

    def _snapshot(self) -> Snapshot:
        return Snapshot(self.trained, self.training.counters, self._note)

    def _log_training(self, report: StepReport) -> None:
        probability = getattr(self.spec.objective, "p", None)  # a user's `p` may be anything
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
        """Append a metrics row, with the columns that every row has, and pass it on."""
        self.evaluations += row["event"] == EVALUATION_EVENT and row["split"] == self.spec.evaluation.split
        counters = asdict(self.training.counters)
        step = counters.pop("optimizer_steps")
        full = {**row, "attempt": self.number, "step": step, **counters, "seconds": self.seconds["train"]}
        self.store.append_metrics(self.spec.run_id, full)
        self.emit(full)

    def _note(self, message: str) -> None:
        self.emit({"event": "note", "message": message})

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started
