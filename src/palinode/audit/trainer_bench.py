"""The arm's own trainer and evaluator on a small model of the arm's kind, as the functions that the checks call."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from palinode.audit.palinode_models import small_config
from palinode.base.example import Example, SpecialTokens, Windows
from palinode.base.finding import Finding
from palinode.base.seeds import generator
from palinode.checks.aggregation import (
    COEFFICIENT_FACTOR,
    check_auxiliary,
    check_evaluation_sums,
    check_every_token,
    check_split_bytes,
    hand_sums,
    scored_sources,
)
from palinode.checks.bench import Bench
from palinode.checks.contamination import check_training_stream
from palinode.checks.determinism import state_hashes
from palinode.checks.provenance import check_provenance
from palinode.checks.subject import Subject
from palinode.data.config import TRAIN
from palinode.data.source import Source
from palinode.data.store import TokenStore
from palinode.data.windows import Stream
from palinode.evaluate.losses import Evaluation, Scoring, evaluate, evaluation_passes, window_draws
from palinode.models.base import LanguageModel, ModelConfig
from palinode.models.direction import logits_for
from palinode.objectives import Objective, Progress
from palinode.objectives.label_mask import masked
from palinode.spec.run_spec import RunSettings
from palinode.train.loop import Training, accumulate_gradients, batch_examples, train
from palinode.train.optim import build_optimizers
from palinode.train.schedule import Constant

AUDIT_SEED = 0
# The number of full windows of the validation split, before a short one. The checks evaluate these windows nine times.
EVALUATION_WINDOWS = 12
SMALL_LAYERS, SMALL_WIDTH = 2, 32
MOVED_STEPS, LEAST_STEPS = 3, 8
ROWS_OF_SUMS = 6
MOST_EMPTY_STEPS = 256
# The number of windows to check. A stream that takes one window in a hundred from elsewhere is missed with probability 1e-9.
WINDOWS_FOLLOWED = 2048


def bench_model(model: ModelConfig) -> ModelConfig:
    """The small version of the arm's model on which the checks run the trainer and the evaluator."""
    return small_config(model, SMALL_LAYERS, SMALL_WIDTH)


class TrainerBench:
    """A trainer and an evaluator so small that six training steps and nine evaluations take a second."""

    def __init__(self, settings: RunSettings, data: Source):
        self.settings = settings
        self.data = data
        self.specials = SpecialTokens(data.vocab_size)
        self.config = bench_model(settings.model)
        window = settings.data.window_tokens
        evaluated = EVALUATION_WINDOWS * window + window // 2
        self.windows = list(data.evaluation("validation", window, batch_windows=1, max_tokens=evaluated))
        self.tokens = torch.cat([one.tokens.flatten() for one in self.windows]).numpy()

    def training(self, config: ModelConfig | None = None) -> Training:
        """A new training of the bench's model (or of another) by the arm's objective and recipe, with two windows a micro-batch."""
        recipe = self.settings.recipe
        recipe = recipe.with_(
            batch_windows=2 * recipe.micro_batches,
            growth=None,  # the bench reads full windows, as the evaluation does; C1 checks other lengths
            accumulation=None,
            max_tokens_read=None,
            max_ltr_tokens=None,
            steps=max(recipe.steps, LEAST_STEPS),
            precision="float32",  # the checks compare sums to 1e-6
            compile=False,
        )
        model = (config or self.config).build(self.specials.vocab_size, self.settings.data.window_tokens, AUDIT_SEED)
        return Training(
            model=model,
            optimizers=build_optimizers(recipe.optimizer, model, model.parameter_groups()),
            objective=self.settings.objective,
            recipe=recipe,
            windows=self.data.training(self.settings.data.window_tokens, AUDIT_SEED),
            labels=self.settings.labels,
            specials=self.specials,
            seed=AUDIT_SEED,
            device=torch.device("cpu"),  # audits compare bits, and every machine has a CPU
            objective_state=self.settings.objective.state(),
        )

    def train(self, steps: int, evaluates: bool) -> dict[str, str]:
        """Hashes of weights, optimizer and next batch after `steps` steps; `evaluates` adds an evaluation after each step."""
        training = self.training()
        passes = evaluation_passes(self.settings.objective, self.settings.evaluation.directions)

        def after_step(report: object) -> None:
            if evaluates:
                self.evaluate(training.model, passes, None, None)

        train(training, after_step=after_step, should_stop=lambda: training.step >= steps)
        hashes = state_hashes(training.model, training.optimizers)
        batch = torch.cat([example.inputs.flatten() for example in batch_examples(training)])
        return {**hashes, "next batch": hashlib.sha256(batch.numpy().tobytes()).hexdigest()}

    def evaluate(
        self, model: LanguageModel, passes: Mapping[str, Objective], batch: int | None, order: Sequence[int] | None
    ) -> Evaluation:
        """The arm's own evaluation of the bench's windows, with `batch` windows in a batch and in the order `order`."""
        windows = [self.windows[index] for index in order] if order is not None else self.windows
        return evaluate(
            model,
            _batches(windows, batch or len(windows)),
            passes,
            Scoring(self.specials, self.data.bytes_per_token, AUDIT_SEED, self.settings.evaluation.labels),
            numbers=order,
        )

    def moved(self) -> Training:
        """A training after a few steps, without dropout. With initial weights, a zero head would give every batch the same loss.

        The steps have no warm-up, in which a low rate leaves the losses of two batches closer than the checks can tell.
        """
        training = self.training()
        training = replace(training, recipe=training.recipe.with_(schedule=Constant()))
        train(training, after_step=lambda report: None, should_stop=lambda: training.step >= MOVED_STEPS)
        training.model.eval()  # the checks compare sums, and dropout would change them
        return training

    def training_loss(self) -> tuple[Example, Tensor, float]:
        """One micro-batch, its logits, and the loss that the trainer reports for this micro-batch."""
        training = self.moved()
        example = _scored_micro_batch(training)
        with torch.no_grad():
            logits = logits_for(training.model, example)
        return example, logits.float(), accumulate_gradients(training, [example]).loss_nats

    def auxiliary(self, passes: Mapping[str, Objective]) -> Finding | None:
        """C9.auxiliary on new weights; None for a model without auxiliary terms."""
        if self.config.with_terms_times(COEFFICIENT_FACTOR) == self.config:
            return None

        def scaled(factor: float) -> Training:
            return self.training(self.config.with_terms_times(factor))

        def evaluation_nats(factor: float) -> float:
            evaluation = self.evaluate(scaled(factor).model, passes, None, None)
            return sum(scores.nats_sum for scores in evaluation.scores.values())

        def training_nats(factor: float) -> float:
            training = scaled(factor)
            loss = accumulate_gradients(training, batch_examples(training)[:1])
            return loss.loss_nats + loss.terms_nats

        return check_auxiliary(evaluation_nats, training_nats)

    def several_rows(self) -> Example:
        """An Example of several rows. One row is not enough, because a row of a task may score only one token."""
        training = self.training()
        recipe = training.recipe.with_(batch_windows=ROWS_OF_SUMS * training.recipe.micro_batches)
        return batch_examples(replace(training, recipe=recipe))[0]

    def loss_and_gradient(self, examples: Sequence[Example]) -> tuple[float, NDArray[np.float64]]:
        """The trainer's loss and gradient of one batch that consists of these micro-batches."""
        training = self.moved()
        loss = accumulate_gradients(training, list(examples)).loss_nats
        gradients = [p.grad.flatten().double() for p in training.model.parameters() if p.grad is not None]
        return loss, torch.cat(gradients).numpy()

    def sums_findings(self, model: LanguageModel, passes: Mapping[str, Objective]) -> list[Finding]:
        """C9 on the evaluator's sums: compare them with sums that are computed here one window at a time, for every pass."""
        reported, table = self.evaluate(model, passes, None, None).scores, self.data.bytes_per_token
        findings = []
        for name, scores in reported.items():
            pairs = self._read_by_hand(model, passes[name])
            findings.append((name, check_evaluation_sums(scores, hand_sums(pairs, self.specials, table))))
            needed = self._tokens_needed(name)
            examples = [example for example, _ in pairs]
            if needed is not None:
                findings.append((name, check_every_token(examples, needed)))
            if table.any():  # the tokens of a task have no bytes, and this table is then zero
                tokens = self._tokens_at(needed or scored_sources(examples))
                findings.append((name, check_split_bytes(scores.bytes_scored, tokens, table)))
        return [finding.with_(message=f"{name}: {finding.message}") for name, finding in findings]

    def pass_findings(self, passes: Mapping[str, Objective]) -> Iterator[Finding]:
        """C1.provenance and C1.identity of every evaluated pass, because training may use another objective than evaluation."""
        window = self.settings.data.window_tokens
        for name, objective in passes.items():
            subject = Subject(
                name=name,
                module=nn.Identity(),
                objective=objective,
                specials=self.specials,
                vocab_size=self.specials.vocab_size,
                window_tokens=window,
                evaluation_tokens=window,
                max_window_tokens=window,
                seed=AUDIT_SEED,
            )
            for one in check_provenance(Bench(subject)):
                yield one.with_(message=f"evaluated as {name}: {one.message}")

    def stream_finding(self) -> Finding | None:
        """C4.training_stream on the windows of the first steps and on later windows; None for a task, whose rows are drawn."""
        if not isinstance(self.data, TokenStore):
            return None
        training = self.training()
        read: list[Tensor] = []
        training = replace(training, windows=RecordedStream(training.windows, read, training.windows.window_tokens))
        batch_examples(training)
        parts = len(read)
        later = sum(map(len, read))
        training.windows.read(later, WINDOWS_FOLLOWED)
        return check_training_stream(
            torch.cat(read).numpy(),
            self.data.tokens(TRAIN),
            parts=[part.numpy() for part in read[:parts]],
            epoch_windows=len(self.data.tokens(TRAIN)) // self.settings.data.window_tokens - 1,
        )

    def _tokens_needed(self, name: str) -> list[tuple[int, int]] | None:
        """The tokens of each window that this pass must score, as (first, end).

        These are all tokens. Without a direction token, the token that is read first is left out, because no slot precedes it. The
        result is None for a pass of another kind, and where a label mask chooses the tokens.
        """
        if name not in ("ltr", "rtl") or self.settings.evaluation.labels != "all":
            return None
        objective, window = self.settings.objective, self.settings.data.window_tokens
        draw = objective.draw(1, window, generator(AUDIT_SEED, "audit", "slots"), Progress())
        slots = objective.example(torch.zeros(1, window, dtype=torch.long), draw, self.specials).inputs.shape[1]
        unread = int(objective.reads_in_a_direction and slots < window)
        lengths = [one.tokens.shape[1] for one in self.windows]
        return [(unread, length) if name == "ltr" else (0, length - unread) for length in lengths if length > unread]

    def _tokens_at(self, places: Sequence[tuple[int, int] | Tensor]) -> NDArray[np.integer]:
        """The ids of the windows at these places. A place is a stretch (first, end) or indices, for each window that has a slot."""
        windows = [one.tokens[0] for one in self.windows][: len(places)]
        chosen = [
            tokens[place] if isinstance(place, Tensor) else tokens[slice(*place)]
            for tokens, place in zip(windows, places, strict=True)
        ]
        return torch.cat(chosen).numpy()

    def _read_by_hand(self, model: LanguageModel, objective: Objective) -> list[tuple[Example, Tensor]]:
        """The (Example, logits) of each window. Each window is read on its own."""
        model.eval()
        pairs = []
        for number, window in enumerate(self.windows):
            draw = window.decisions(window_draws(objective, window.tokens.shape[1], AUDIT_SEED, [number]))
            example = objective.example(window.tokens, draw, self.specials)
            example = masked(example, window, self.settings.evaluation.labels)
            if example.inputs.numel():
                with torch.no_grad():
                    pairs.append((example, logits_for(model, example).float()))
        return pairs


@dataclass
class RecordedStream:
    """A stream that records in `windows_read` the windows that the trainer reads from the stream."""

    stream: Stream
    windows_read: list[Tensor]
    window_tokens: int

    def read(self, first: int, count: int) -> Windows:
        windows = self.stream.read(first, count)
        self.windows_read.append(windows.tokens)
        return windows

    def of_length(self, window_tokens: int) -> Stream:
        return RecordedStream(self.stream.of_length(window_tokens), self.windows_read, window_tokens)


def _scored_micro_batch(training: Training) -> Example:
    """The next micro-batch that scores a token. A label mask may leave some micro-batches without a scored token."""
    for _ in range(MOST_EMPTY_STEPS):
        if scored := [example for example in batch_examples(training) if example.denominator]:
            return scored[0]
        training.counters.optimizer_steps += 1
    return batch_examples(training)[0]


def _batches(windows: Sequence[Windows], size: int) -> list[Windows]:
    """Batches of consecutive windows of one length, with at most `size` windows in a batch."""
    batches: list[list[Windows]] = []
    for window in windows:
        if batches and len(batches[-1]) < size and batches[-1][0].tokens.shape == window.tokens.shape:
            batches[-1].append(window)
        else:
            batches.append([window])
    return [Windows.together(batch) for batch in batches]
