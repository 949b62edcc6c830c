"""One run, from spec to record, readable top to bottom: data, model, optimizer, resume, train, evaluate, audit, result.

`run_one` may be killed at any moment; the same call goes on from the newest good checkpoint and ends with the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from palinode.audit import audit_trained
from palinode.base import fsio
from palinode.base.config import encode
from palinode.base.errors import BadInput
from palinode.base.example import SpecialTokens
from palinode.base.measures import RunOutcome
from palinode.base.visibility import Ltr
from palinode.data.config import Split
from palinode.data.source import Source, prepare
from palinode.data.task_store import TaskStore
from palinode.evaluate.embeddings import check_has_embeddings, embedding_geometry
from palinode.evaluate.layer_cut import check_can_be_cut
from palinode.evaluate.losses import Evaluation, evaluating
from palinode.evaluate.tasks import by_slice, levels, own_reading
from palinode.models.base import LanguageModel
from palinode.objectives.probability import Probability
from palinode.results.layer_cut import LAYER_CUT_EVENT
from palinode.results.record import (
    CONTEXT_LENGTHS_EVENT,
    EMBEDDINGS_EVENT,
    METRICS_FILE,
    TASK_EVENT,
    Result,
)
from palinode.results.store import Store
from palinode.run.scoring import cut_split, evaluate_split, refit_for_cuts
from palinode.spec.run_spec import RunSettings, RunSpec
from palinode.train.checkpoint import Saved, delete_checkpoints, is_whole, load_newest, save_checkpoint, weights_sha256
from palinode.train.device import compiled, fingerprint, resolve_device, use_threads
from palinode.train.loop import Counters, DivergedError, StepReport, Training, train
from palinode.train.optim import build_optimizers

CHECKPOINTS = "ckpt"
TIMED = ("train", "evaluate", "checkpoint", "audit")
Event = dict[str, Any]
Scores = Mapping[str, Mapping[str, Mapping[str, float | int | None]]]


def run_one(
    spec: RunSpec,
    store: Store,
    on_event: Callable[[Event], None] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train, evaluate and record one run, or go on with it; a finished run is returned as it stands.

    Args:
        on_event: called with every metrics row as it is written, and with notes (`{"event": "note", ...}`).
        should_stop: asked between steps; at a yes a checkpoint is written and the result is `stopped`, which is not
            recorded: the same call goes on later.
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
    model = settings.model.build(specials.vocab_size, settings.data.window_tokens, seed)
    if settings.evaluation.layer_cut:
        check_can_be_cut(model)
    if settings.evaluation.embeddings:
        check_has_embeddings(model)
    if settings.evaluation.length_factors:
        _check_takes(model, max(settings.evaluation.length_factors) * settings.data.window_tokens)
    return model.to(resolve_device(settings.device)), specials


def _check_takes(model: LanguageModel, slots: int) -> None:
    """Raise BadInput now, not after the training, where a model has a longest row below so many slots."""
    try:
        with evaluating(model):
            model.hidden(torch.zeros(1, slots, dtype=torch.long), Ltr())
    except BadInput as refused:
        raise BadInput(refused.message, field="evaluation.length_factors", hint=refused.hint) from None


class Attempt:
    """One process's work on a run. Every file it writes lies in the run's directory."""

    def __init__(
        self,
        spec: RunSpec,
        store: Store,
        data: Source,
        training: Training,
        emit: Callable[[Event], None],
        runs_together: int = 1,
    ):
        self.spec = spec
        self.store = store
        self.data = data
        self.training = training
        self.emit = emit
        self.directory: Path = store.run_directory(spec.run_id)
        self.number = 1
        self.evaluations = 0
        self.seconds = dict.fromkeys(TIMED, 0.0)
        self.runs_together = runs_together

    @classmethod
    def begin(cls, spec: RunSpec, store: Store, emit: Callable[[Event], None], runs_together: int = 1) -> Attempt:
        """Prepare data, model and optimizer; write the spec.

        Args:
            runs_together: of how many runs the weights are stacked, this one's included; the most of all attempts is recorded.
        """
        use_threads(spec.threads)
        device = resolve_device(spec.device)
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
            device=device,
            objective_state=spec.objective.state(),
        )
        store.write_spec(spec.run_id, encode(spec))
        return cls(spec, store, data, training, emit, runs_together)

    def resume(self) -> None:
        """Go on from the newest good checkpoint; rows that a later attempt will write again are dropped.

        A damaged line among the rows may have been one that is kept: then all of them are computed again.
        """
        fsio.remove_stray_temporaries(self.directory)
        path = self.directory / METRICS_FILE
        rows, damaged = fsio.read_rows(path)
        self.number = 1 + max((int(row["attempt"]) for row in rows), default=0)
        if damaged is not None:
            self.emit({"event": "note", "message": f"{METRICS_FILE}, {damaged} is damaged: trained from the start"})
            delete_checkpoints(self.directory / CHECKPOINTS)
        self._restore()
        kept = [row for row in rows if row["step"] <= self.training.step and not row.get("final")]
        self.evaluations = sum(row["event"] == "eval" for row in kept)
        if kept != rows or damaged is not None:
            fsio.rewrite_lines(path, kept)

    def _restore(self) -> None:
        """What the newest good checkpoint holds, where there is one."""
        saved, passed_over = load_newest(
            self.directory / CHECKPOINTS, self.spec.run_id, self.training.model, self.training.optimizers
        )
        for problem in passed_over:
            self.emit({"event": "note", "message": f"damaged checkpoint passed over: {problem}"})
        if saved is not None:
            self.training.counters = Counters(**saved.counters)  # type: ignore[arg-type]
            self.training.objective_state = dict(saved.objective_state)
            self.training.recipe_state = dict(saved.recipe_state)
            self.seconds = dict.fromkeys(TIMED, 0.0) | saved.seconds
            self.runs_together = max(self.runs_together, saved.runs_together)
            self.emit({"event": "note", "message": f"going on from step {saved.step}"})

    def after_step(self, report: StepReport) -> None:
        """Log, evaluate and save, when their turn has come; the training row is written before the checkpoint."""
        self.seconds["train"] += report.seconds
        recipe, done = self.spec.recipe, self.training.step
        last = self.training.finished
        if done % recipe.log_every_steps == 0 or last or done == 1:
            self._log_training(report)
        if recipe.evaluate_every_steps and done % recipe.evaluate_every_steps == 0 and not last:
            self.evaluate(self.spec.evaluation.split)
        if done % recipe.checkpoint_interval_steps == 0 and not last:
            self.save()

    def stop(self) -> Result:
        """Write a checkpoint for the next attempt to go on from."""
        self.save()
        return self.result("stopped", reason=f"stopped after step {self.training.step}")

    def finish(self) -> Result:
        """What follows the last step: save, measure, audit, record."""
        spec = self.spec
        self.save()
        measured = spec.evaluation.split
        splits: tuple[Split, ...] = (measured, "test") if spec.evaluation.test else (measured,)
        found = {split: self.evaluate(split, final=True) for split in splits}
        scores: Scores = {str(split): evaluation.as_rows() for split, evaluation in found.items()}
        if isinstance(self.data, TaskStore) and measured == "validation":
            self.place_on_task(self.data, found)
        if spec.evaluation.context_lengths:
            self.vary_context(splits)
        if spec.evaluation.layer_cut:
            self.cut_layers(splits)
        if spec.evaluation.embeddings:
            self.measure_embeddings()
        if measured == "validation":  # nothing is claimed from a trial, so it is not audited
            self.audit()
        return self.record("done", scores=scores)

    def evaluate(self, split: Split, *, final: bool = False) -> Evaluation:
        """Score a split and write the row.

        Raises:
            DivergedError: the last update left weights whose loss is not finite.
        """
        training, spec = self.training, self.spec
        with self._timed("evaluate"), self._finite(f"the {split} loss"):
            evaluation = evaluate_split(spec, training.model, self.data, training.specials, split, spec.seed)
        self.evaluations += split == self.spec.evaluation.split
        self._write({"event": "eval", "split": split, "final": final, "scores": evaluation.as_rows()})
        return evaluation

    def vary_context(self, splits: Sequence[Split]) -> None:
        """Score splits in windows of the lengths that were asked for and write their rows."""
        spec, training = self.spec, self.training
        for split in splits:
            scores = {}
            for length in spec.evaluation.context_lengths:
                alone = spec.evaluation.with_(context_lengths=())
                shorter = spec.settings.with_(data=spec.data.with_(window_tokens=length), evaluation=alone)
                with self._timed("evaluate"), self._finite(f"the {split} loss in windows of {length} tokens"):
                    found = evaluate_split(shorter, training.model, self.data, training.specials, split, spec.seed)
                scores[str(length)] = found.as_rows()
            self._write({"event": CONTEXT_LENGTHS_EVENT, "split": split, "final": True, "scores": scores})

    def cut_layers(self, splits: Sequence[Split]) -> None:
        """Score splits with the first 1, 2, .. L blocks alone and write their rows."""
        spec, training = self.spec, self.training
        subject = (spec, training.model, self.data, training.specials)
        with self._timed("evaluate"), self._finite("the loss with fewer blocks"):
            refits = refit_for_cuts(*subject, spec.seed) if spec.evaluation.layer_cut_refit_steps else None
            cuts = {split: cut_split(*subject, split, spec.seed, refits) for split in splits}
        for split, cut in cuts.items():
            self._write({"event": LAYER_CUT_EVENT, "split": split, "final": True, **encode(cut)})

    def place_on_task(self, data: TaskStore, found: Mapping[Split, Evaluation]) -> None:
        """Write what the accuracy on a task stands beside: levels, exact matches, slices, and scores on longer sequences."""
        spec, training = self.spec, self.training
        counted = training.counters
        reading = own_reading(spec.objective, counted.tokens_scored_ltr, counted.tokens_scored_rtl)
        for split, evaluation in found.items():
            held_out = data.held_out(split)
            lengths = {}
            with self._timed("evaluate"):
                for factor in spec.evaluation.length_factors:
                    longer = data.config.longer(factor)
                    settings = spec.settings.with_(data=longer, evaluation=spec.evaluation.with_(length_factors=()))
                    subject = (training.model, prepare(longer), training.specials)
                    try:
                        lengths[str(factor)] = evaluate_split(settings, *subject, split, spec.seed).as_rows()
                    except FloatingPointError:  # what was trained is sound; beyond it anything may happen
                        told = f"at {factor} times its length the {split} loss is not finite: no score there"
                        self.emit({"event": "note", "message": told})
                placed = {
                    "levels": levels(data.config, held_out, reading, spec.evaluation.length_factors),
                    "by_pass": by_slice(evaluation, held_out.slices),
                    "lengths": lengths,
                }
            self._write({"event": TASK_EVENT, "split": split, "final": True, **placed})

    def measure_embeddings(self) -> None:
        """Measure the tables of tokens and positions and write the row."""
        with self._timed("evaluate"):
            geometry = embedding_geometry(self.training.model)
        self._write({"event": EMBEDDINGS_EVENT, "split": "", "final": True, "geometry": geometry})

    def audit(self) -> None:
        """Audit the trained weights and the losses they reached; what it finds is stored, the result does not depend on it."""
        with self._timed("audit"):
            training, rows = self.training, self.store.record(self.spec.run_id).metrics
            subject = (training.model, self.data, training.specials)
            report = audit_trained(self.spec, *subject, rows, self.store)
        self.store.write_run_audit(self.spec.run_id, report)

    def save(self) -> None:
        """Write a checkpoint of this step, unless there is a whole one: a kill may have left part of it."""
        step = self.training.step
        training = self.training
        states = (training.objective_state, training.recipe_state)
        saved = Saved(self.spec.run_id, step, asdict(training.counters), *states, self.seconds, self.runs_together)
        if is_whole(self.directory / CHECKPOINTS / f"step-{step}"):
            return
        with self._timed("checkpoint"):
            root, keep = self.directory / CHECKPOINTS, self.spec.recipe.keep_checkpoints
            save_checkpoint(root, saved, self.training.model, self.training.optimizers, keep)

    def record(self, outcome: RunOutcome, *, scores: Scores | None = None, reason: str | None = None) -> Result:
        """Write the result: the last file of a run."""
        result = self.result(outcome, scores=scores, reason=reason)
        self.store.write_result(result)
        return result

    def result(self, outcome: RunOutcome, *, scores: Scores | None = None, reason: str | None = None) -> Result:
        """What this run came to."""
        training = self.training
        by_role = {role: sum(p.numel() for _, p in named) for role, named in training.model.parameter_groups().items()}
        total = sum(by_role.values())
        outside = sum(by_role.get(role, 0) for role in ("embedding", "position", "head"))
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
        counters = asdict(self.training.counters)
        step = counters.pop("optimizer_steps")
        full = {**row, "attempt": self.number, "step": step, **counters, "seconds": self.seconds["train"]}
        self.store.append_metrics(self.spec.run_id, full)
        self.emit(full)

    @contextmanager
    def _finite(self, what: str) -> Iterator[None]:
        """What an evaluation finds not finite is how a run diverged: the same spec would end the same way again."""
        try:
            yield
        except FloatingPointError:
            raise DivergedError(self.training.step, what) from None

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started
