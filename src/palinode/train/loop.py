"""The training loop: the only place where the parameters of a run change.

A step is a pure function of (parameters, optimizer state, step number). Windows, decisions and dropout come from named random
streams at this step, so an interrupted run goes on with the same bits. Evaluation is a callback that uses none of these streams.
Legend: B rows, T slots.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from palinode.base.example import Draw, Example, SpecialTokens
from palinode.base.seeds import derive, generator
from palinode.base.visibility import Visibility
from palinode.data.windows import Stream
from palinode.models.base import AuxiliaryTerm, LanguageModel, mean_measured
from palinode.models.cost import Cost
from palinode.models.direction import read_and_terms
from palinode.objectives import Objective, Progress
from palinode.objectives.label_mask import Labels, masked
from palinode.objectives.loss import weighted_nats
from palinode.train.cut import whole
from palinode.train.device import autocast
from palinode.train.growth import WINDOWS_DRAWN, Reads
from palinode.train.optim import Optimizers, optimizer_flops, set_learning_rates
from palinode.train.recipe import Recipe

LAST_LOSS = "last_loss_nats"
ACCURACY_REACHED = "accuracy_reached"  # in the recipe state of a run that `stop_at_accuracy` ended


@dataclass
class Counters:
    """The amounts that training has used so far, counted from the batches that were read.

    Attributes:
        train_flops: the FLOPs of the model, forward and backward.
        empty_steps: the number of optimizer steps whose batch had no scored token. Such a step changes no weight.
        optimizer_flops: the FLOPs of the matrix products in the optimizer steps; 0 for AdamW. Steps of a run that an older
            program made are not counted.
    """

    optimizer_steps: int = 0
    window_tokens: int = 0
    tokens_read: int = 0
    tokens_scored: int = 0
    tokens_scored_ltr: int = 0
    tokens_scored_rtl: int = 0
    passes: float = 0.0
    train_flops: float = 0.0
    empty_steps: int = 0
    optimizer_flops: float = 0.0


@dataclass
class Training:
    """The whole state of a run between two steps.

    Attributes:
        costs: (slots, visibility) -> the cost of the model. A cost is kept, because counting takes 2 ms and every step needs it.
    """

    model: LanguageModel
    optimizers: Optimizers
    objective: Objective
    recipe: Recipe
    windows: Stream
    specials: SpecialTokens
    seed: int
    device: torch.device
    labels: Labels = "all"
    counters: Counters = field(default_factory=Counters)
    objective_state: dict[str, float] = field(default_factory=dict)
    recipe_state: dict[str, float] = field(default_factory=dict)
    costs: dict[tuple[int, Visibility], Cost] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """The number of optimizer steps taken so far, which is the index of the next step."""
        return self.counters.optimizer_steps

    @property
    def finished(self) -> bool:
        """Whether all steps of the recipe are taken, or a token limit or the accuracy that ends the run is reached."""
        return self.step >= self.recipe.steps or self._share_of_limits() >= 1 or ACCURACY_REACHED in self.recipe_state

    def note_accuracy(self, accuracy: float | None) -> None:
        """End the run if an evaluation has reached the accuracy that ends it. A checkpoint of this step says so too."""
        goal = self.recipe.stop_at_accuracy
        if goal is not None and accuracy is not None and accuracy >= goal:
            self.recipe_state = {**self.recipe_state, ACCURACY_REACHED: 1.0}

    @property
    def schedule_step(self) -> int:
        """The step at which the schedule is read. A token limit that ends the run early puts this step ahead of `step`."""
        reached = int(self._share_of_limits() * self.recipe.steps)
        return min(self.recipe.steps - 1, max(self.step, reached))

    def _share_of_limits(self) -> float:
        """The used share of the token limit that the run will reach first; 0 when there is no token limit."""
        used = (
            (self.counters.tokens_read, self.recipe.max_tokens_read),
            (self.counters.tokens_scored_ltr, self.recipe.max_ltr_tokens),
        )
        return max((tokens / limit for tokens, limit in used if limit is not None), default=0.0)

    def reads(self) -> Reads:
        """The batch that the next step reads."""
        return self.recipe.reads(self.step, self.recipe_state, self.seed, self.windows.window_tokens)

    def progress(self) -> Progress:
        """The progress of training, as objectives with schedules use it."""
        return Progress(self.step, self.recipe.steps, dict(self.objective_state), self.schedule_step)

    def train_flops(self, rows: int, slots: int, sees: Visibility, scored: int) -> float:
        """The FLOPs of training on B rows of T slots. The head is counted for the scored slots only."""
        if (slots, sees) not in self.costs:
            self.costs[slots, sees] = self.model.cost(slots, sees)
        return self.costs[slots, sees].train_flops(rows * slots, scored)


@dataclass(frozen=True)
class StepReport:
    """The measurements of one optimizer step, taken before the update of the step.

    Attributes:
        auxiliary: the measurements of each auxiliary term of the model (`models.base.AuxiliaryTerm`).
    """

    step: int
    nats_by_group: dict[str, float]
    learning_rate_factor: float
    gradient_norm: float
    seconds: float
    auxiliary: dict[str, dict[str, float]] = field(default_factory=dict)


class DivergedError(Exception):
    """A loss or a gradient norm is not finite at this step. The parameters are those before the step."""

    def __init__(self, step: int, what: str):
        super().__init__(f"{what} is not finite at step {step}")
        self.step = step


def train(
    training: Training,
    *,
    after_step: Callable[[StepReport], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Take steps until training is finished (the result is True) or `should_stop` returns True (the result is False).

    Raises:
        DivergedError: a loss or a gradient norm is not finite. The update of that step is not applied.
    """
    training.model.train()
    while not training.finished:
        if should_stop():
            return False
        after_step(take_step(training))
    return True


def take_step(training: Training) -> StepReport:
    """Take one optimizer step: build the Examples of the batch, add up gradients over micro-batches, clip, update."""
    started = time.perf_counter()
    examples = batch_examples(training)
    loss = accumulate_gradients(training, examples)
    report = update(training, [Amounts.of(training, example) for example in examples], loss)
    return replace(report, seconds=time.perf_counter() - started)


@dataclass(frozen=True)
class Amounts:
    """What the reading of one micro-batch used.

    Attributes:
        rows, slots: the shape (B, T) of the rows that were read.
        train_flops: the FLOPs of the model for each pass, forward and backward.
    """

    rows: int
    slots: int
    train_flops: tuple[float, ...]

    @classmethod
    def of(cls, training: Training, example: Example) -> Amounts:
        """The amounts of one Example."""
        rows, slots = example.inputs.shape
        passes = (
            (group, int(example.loss_weight[part].count_nonzero())) for group, part in example.by_group()
        )  # the head is counted for the scored slots only
        flops = tuple(training.train_flops(group.rows, slots, group.sees, scored) for group, scored in passes)
        return cls(rows, slots, flops)


def update(training: Training, amounts: Sequence[Amounts], loss: BatchLoss) -> StepReport:
    """The part of a step after the gradients: clip them, move the parameters, count. `seconds` in the report stays 0.

    Args:
        amounts: the amounts of every micro-batch of the step, in order.

    When a label mask leaves no scored token in a batch, the step changes nothing: no weight, no momentum, no decay, no schedule
    that depends on the loss. The tokens of the batch count as read, and the step is counted in `empty_steps`.

    Raises:
        DivergedError: the gradient norm is not finite.
    """
    step, recipe, reads = training.step, training.recipe, training.reads()
    scheduled, norm = training.schedule_step, 0.0
    if loss.tokens_scored:
        norm = _move(training, scheduled)
        training.objective_state = training.objective.after_step(training.objective_state, loss.nats_by_group)
        changed: Mapping[str, float] = {LAST_LOSS: loss.nats_per_token}
    else:
        changed = {name: value for name, value in training.recipe_state.items() if name != WINDOWS_DRAWN}
    full, size = training.windows.window_tokens, sum(parameter.numel() for parameter in training.model.parameters())
    after = recipe.after_step(training.recipe_state, step, reads, full, norm, size)
    training.recipe_state = {**after, **changed}
    for optimizer in training.optimizers:
        optimizer.zero_grad(set_to_none=True)
    _count(training, amounts, reads, loss.scored_by_group)
    factor = recipe.schedule.factor(scheduled, recipe.steps)
    return StepReport(step, loss.nats_by_group, factor, norm, 0.0, loss.auxiliary)


def _move(training: Training, scheduled: int) -> float:
    """Clip the gradients and let the optimizers step. The result is the gradient norm before clipping."""
    recipe = training.recipe
    norm = _gradient_norm(training.optimizers, recipe.gradient_clip)
    if not math.isfinite(norm):
        raise DivergedError(training.step, "the gradient norm")
    set_learning_rates(training.optimizers, recipe.schedule, scheduled, recipe.steps)
    recipe.optimizer.before_step(training.optimizers, training.recipe_state.get(LAST_LOSS, 0.0))
    training.counters.optimizer_flops += optimizer_flops(training.optimizers)
    for optimizer in training.optimizers:
        optimizer.step()
    return norm


def batch_examples(training: Training, parts: Sequence[int] | None = None) -> list[Example]:
    """The Examples of the next step, one for each micro-batch. The Examples depend only on seed, step and recipe state.

    The micro-batches of a batch share one draw, so their number changes no decision.

    Args:
        parts: the numbers of the micro-batches that are wanted; None: all of the step.
    """
    reads = training.reads()
    stream, count = training.windows.of_length(reads.window_tokens), reads.windows
    draws = draws_of_step(training.objective, reads, training.seed, training.progress())
    examples = []
    for part in range(reads.parts) if parts is None else parts:
        windows = stream.read(reads.first_window + part * count, count)
        batch, place = divmod(part, reads.micro_batches)
        decisions = windows.decisions(draws[batch].of_windows(place * count, count))
        example = training.objective.example(windows.tokens, decisions, training.specials)
        examples.append(masked(example, windows, training.labels).to(training.device))
    return examples


def draws_of_step(objective: Objective, reads: Reads, seed: int, progress: Progress) -> list[Draw]:
    """The decisions for the windows of a step: a Draw for each batch that the step accumulates (one batch by default)."""
    streams = [generator(seed, "objective", progress.step, batch) for batch in range(reads.batches)]
    count = reads.windows * reads.micro_batches
    return [objective.draw(count, reads.window_tokens, stream, progress) for stream in streams]


@dataclass(frozen=True)
class BatchLoss:
    """The loss of a whole batch, and for each pass the nats per token and the number of scored tokens.

    Attributes:
        loss_nats: the weighted mean of the nats. The gradient is the gradient of loss_nats + terms_nats.
        nats_by_group: pass -> nats per token, for each pass that has scored tokens.
        scored_by_group: pass -> the number of scored tokens.
        terms_nats: the sum of coefficient * value over the auxiliary terms.
        auxiliary: the measurements of each auxiliary term.
    """

    loss_nats: float
    nats_by_group: dict[str, float]
    scored_by_group: dict[str, int]
    terms_nats: float = 0.0
    auxiliary: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def tokens_scored(self) -> int:
        """The number of scored tokens in all passes; 0 when a label mask leaves none."""
        return sum(self.scored_by_group.values())

    @property
    def nats_per_token(self) -> float:
        """The mean nats over the scored tokens of all passes."""
        total = sum(nats * self.scored_by_group[name] for name, nats in self.nats_by_group.items())
        return total / max(1, self.tokens_scored)


def accumulate_gradients(training: Training, examples: list[Example]) -> BatchLoss:
    """Compute the gradients of one weighted mean over the whole batch (sum over sum), added up over its micro-batches.

    A model in training mode may add auxiliary terms. Each adds coefficient * the mean of its value over all rows of the batch.

    Raises:
        DivergedError: the loss or an auxiliary term is not finite.
    """
    denominator = batch_denominator(examples)
    rows = sum(len(example.inputs) for example in examples)
    nats: dict[str, Tensor] = {}
    scored: dict[str, int] = {}
    terms: list[dict[str, AuxiliaryTerm]] = []
    for micro, example in enumerate(examples):
        seed_dropout(training, micro)
        with autocast(training.device, training.recipe.precision):
            hidden, added = read_and_terms(training.model, example)
        loss = weighted_nats(example, hidden, training.model.logits_map())
        torch.autograd.backward(with_terms(loss.total / denominator, added.values(), rows))
        terms.append({name: replace(term, value=term.value.detach()) for name, term in added.items()})
        for name, count in loss.scored_by_group.items():
            nats[name] = nats.get(name, torch.zeros((), device=training.device)) + loss.nats_by_group[name]
            scored[name] = scored.get(name, 0) + count
    return batch_loss(training.step, denominator, rows, nats, scored, terms)


def batch_denominator(examples: Sequence[Example]) -> float:
    """The divisor of the weighted nats of a whole batch. The divisor is 1, and loss and gradient are 0, when no token is scored."""
    return sum(example.denominator for example in examples) or 1.0


def batch_loss(
    step: int,
    denominator: float,
    rows: int,
    nats: Mapping[str, Tensor],
    scored: Mapping[str, int],
    terms: Sequence[Mapping[str, AuxiliaryTerm]],
) -> BatchLoss:
    """The loss of a batch of `rows` rows, computed from the sums of its passes and the auxiliary terms of its micro-batches.

    Raises:
        DivergedError: the loss or an auxiliary term is not finite.
    """
    means = {name: float(total) / scored[name] for name, total in nats.items() if scored[name]}
    if not all(math.isfinite(value) for value in means.values()):
        raise DivergedError(step, "the loss")
    names = dict.fromkeys(name for some in terms for name in some)
    by_name = {name: [some[name] for some in terms if name in some] for name in names}
    total = sum(float(value) for value in nats.values())
    return BatchLoss(total / denominator, means, dict(scored), *_measured_terms(by_name, rows, step))


def with_terms(loss: Tensor, terms: Iterable[AuxiliaryTerm], rows: int) -> Tensor:
    """The loss of one micro-batch plus its auxiliary terms, in a batch of `rows` rows."""
    for term in terms:
        loss = loss + term.coefficient * (term.rows / rows) * term.value
    return loss


def _measured_terms(
    terms: Mapping[str, list[AuxiliaryTerm]], rows: int, step: int
) -> tuple[float, dict[str, dict[str, float]]]:
    """The nats that the terms of all micro-batches add to the loss, and the measurements of each term."""
    added = {name: float(with_terms(torch.zeros(()), some, rows)) for name, some in terms.items()}
    measurements = {
        name: {key: float(value) for key, value in mean_measured(some).items()} for name, some in terms.items()
    }
    for name, nats in added.items():
        if not all(map(math.isfinite, (nats, *measurements[name].values()))):
            raise DivergedError(step, f"the auxiliary term {name}")
    return sum(added.values()), measurements


def seed_dropout(training: Training, micro: int) -> None:
    """Seed torch's global random stream for a micro-batch of the step, and no other stream.

    nn.functional.dropout draws from the global stream.

    On the CPU only one generator is seeded. There torch.manual_seed would also queue a seed, with a stack trace, for every backend
    that was never started. That takes 1 ms a step, and memory that grows.
    """
    seed = derive(training.seed, "dropout", training.step, micro)
    if training.device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _gradient_norm(optimizers: Optimizers, clip: float | None) -> float:
    """The global gradient norm before clipping. When the norm exceeds `clip`, the gradients are scaled in place."""
    owned = (parameter for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"])
    parameters = list(owned)
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if clip is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    return float(whole(norm))


def _count(training: Training, amounts: Sequence[Amounts], reads: Reads, scored: dict[str, int]) -> None:
    counters = training.counters
    windows = reads.windows * reads.parts
    counters.optimizer_steps += 1
    counters.empty_steps += not sum(scored.values())
    counters.window_tokens += windows * reads.window_tokens
    counters.tokens_scored += sum(scored.values())
    counters.tokens_scored_ltr += scored.get("ltr", 0)
    counters.tokens_scored_rtl += scored.get("rtl", 0)
    for part in amounts:
        counters.tokens_read += part.rows * part.slots
        counters.passes += part.rows / windows
        for flops in part.train_flops:
            counters.train_flops += flops
