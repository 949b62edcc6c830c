"""Trains several runs of one shape together: their weights are stacked, and one pass reads a batch of each run.

At width 64 with a few rows, the calls of a step take longer than its arithmetic, so the processor waits. K models of one shape
make the same calls on tensors K times as large (`torch.func.vmap` of the gradient). Each run keeps its own windows, decisions,
clipping, optimizer, counters and checkpoints. The parameters of a run are views into the stack, so the optimizer, the evaluation
and the files of the run need no change.

Sums are taken in another order than in separate runs: gradients agree to 1e-5 of their size, but bits differ. The bits of a run in
a stack may also depend on its place in the stacked tensors, because a place decides how memory is aligned (seen at width 18). So a
stack that must resume with the same bits has fixed places, see `Places`.
Legend: K runs, B rows, T slots.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from palinode.base.example import Example
from palinode.models.base import AuxiliaryTerm
from palinode.models.direction import AsModule, read_and_terms
from palinode.objectives.loss import every_nats, parameters_read
from palinode.train.device import autocast
from palinode.train.loop import (
    Amounts,
    BatchLoss,
    DivergedError,
    StepReport,
    Training,
    accumulate_gradients,
    batch_denominator,
    batch_examples,
    batch_loss,
    update,
    with_terms,
)

Outcome = bool | DivergedError
Values = dict[str, Tensor]
Returned = TypeVar("Returned")


class Places(NamedTuple):
    """The fixed places of trainings in a stack: the bits of a run then do not depend on which other runs are left in the stack.

    A place without a training is filled with a copy of another training, whose results are dropped. This costs as much as the
    training that was in this place.

    Attributes:
        size: the number of places.
        indexes: the place of each training, from 0.
    """

    size: int
    indexes: tuple[int, ...]

    def of(self, some: Sequence[int]) -> Places:
        """The places of some of the trainings."""
        return Places(self.size, tuple(self.indexes[one] for one in some))


def train_together(
    trainings: Sequence[Training],
    *,
    after_step: Callable[[int, StepReport], None],
    should_stop: Callable[[], bool] = lambda: False,
    places: Places | None = None,
) -> list[Outcome]:
    """Train every run to its end. A run that is further on waits until the other runs have reached its step.

    When the examples of the runs differ in shape at a step, each run takes this step alone. With fixed places, the runs whose
    examples have one shape take the step together.

    Args:
        after_step: a function that gets the index of a training and the report of its step. DivergedError ends the run.
        places: the fixed places of the trainings; None: the trainings that are left are stacked without gaps.

    Returns:
        For each run: True when the run is finished, False when `should_stop` ended it, or the DivergedError of the run.
    """
    ends: list[Outcome] = [training.finished for training in trainings]
    stack = Stack([])
    for training in trainings:
        training.model.train()
    while going := [index for index, end in enumerate(ends) if end is False]:
        if should_stop():
            break
        first = min(trainings[index].step for index in going)
        now = [index for index in going if trainings[index].step == first]
        members = [trainings[index] for index in now]
        if [id(member) for member in members] != [id(member) for member in stack.members]:
            stack = Stack(members, places.of(now) if places is not None else None)
        for index, report in zip(now, stack.step(), strict=True):
            try:
                if isinstance(report, DivergedError):
                    raise report
                after_step(index, report)
                ends[index] = trainings[index].finished
            except DivergedError as problem:
                ends[index] = problem
    return ends


class Stack:
    """Several trainings as one model: the parameters are (K, ...) tensors, and the models' own parameters become views into them.

    Args:
        places: the fixed places of the members; None: the members are stacked without gaps.

    Raises:
        RuntimeError: a model has buffers. Values that a pass writes into buffers would be lost.
    """

    def __init__(self, members: Sequence[Training], places: Places | None = None):
        self.members = list(members)
        self._is_fixed = places is not None
        self._places = places or Places(len(self.members), tuple(range(len(self.members))))
        self._parameters: dict[str, Tensor] = {}
        self._has_gradient: dict[tuple[Any, ...], list[bool]] = {}
        self._head_names: list[str] | None = None
        if self._places.size > 1 and members:
            if buffer := next((name for member in members for name, _ in member.model.named_buffers()), None):
                raise RuntimeError(f"models that have buffers ({buffer}) are not stacked")
            readers = [AsModule(member.model, read_and_terms) for member in members]
            self._reader = readers[0]
            self._head = AsModule(members[0].model, lambda model, hidden: model.logits(hidden))
            named = [dict(reader.named_parameters()) for reader in readers]
            self._parameters = {name: _moved([each[name] for each in named], self._places) for name in named[0]}
            self._own = [[each[name] for name in self._parameters] for each in named]

    def step(self) -> list[StepReport | DivergedError]:
        """Take one optimizer step of every member. Each member gets an equal share of the seconds."""
        began = time.perf_counter()
        examples = [batch_examples(member) for member in self.members]
        reports = [
            loss if isinstance(loss, DivergedError) else _caught(_updated, member, batch, loss)
            for member, batch, loss in zip(self.members, examples, self._losses(examples), strict=True)
        ]
        share = (time.perf_counter() - began) / len(self.members)
        return [one if isinstance(one, DivergedError) else replace(one, seconds=share) for one in reports]

    def _losses(self, examples: Sequence[Sequence[Example]]) -> list[BatchLoss | DivergedError]:
        """Compute the loss and the gradients of every member: together where the shapes of the examples allow it."""
        by_shape: dict[tuple[Any, ...], list[int]] = {}
        for index, batch in enumerate(examples):
            by_shape.setdefault(_shapes(batch), []).append(index)
        if self._places.size == 1 or (len(by_shape) > 1 and not self._is_fixed):
            return [_caught(accumulate_gradients, *pair) for pair in zip(self.members, examples, strict=True)]
        losses: dict[int, BatchLoss | DivergedError] = {}
        for alike in by_shape.values():
            losses |= zip(alike, self.gradients(examples, alike), strict=True)
        return [losses[index] for index in range(len(examples))]

    def gradients(
        self, examples: Sequence[Sequence[Example]], alike: Sequence[int] | None = None
    ) -> list[BatchLoss | DivergedError]:
        """Compute losses of members. The gradients are then in `parameter.grad`, as after `accumulate_gradients`.

        Args:
            examples: the examples of every member.
            alike: the indexes of the members whose losses are computed, and whose examples have one shape; None: all members.
        """
        alike = range(len(self.members)) if alike is None else alike
        at = {self._places.indexes[index]: index for index in alike}
        filled = [at.get(place, alike[0]) for place in range(self._places.size)]
        denominators = [batch_denominator(batch) for batch in examples]
        first = examples[alike[0]]
        rows = sum(len(example.inputs) for example in first)
        gradients: dict[str, Tensor] = {}
        nats: list[Tensor] = []
        terms: list[dict[str, AuxiliaryTerm]] = []
        for micro in zip(*(examples[index] for index in filled), strict=True):
            of_places = [denominators[index] for index in filled]
            new_gradients, row_nats, micro_terms = self._differentiated(micro, of_places, rows)
            gradients = {
                name: gradients[name] + new if name in gradients else new for name, new in new_gradients.items()
            }
            nats.append(row_nats.cpu())
            terms.append(micro_terms)
        reached = self._reached(alike[0], first)
        losses = []
        for place, index in at.items():
            for parameter, gradient, has_one in zip(self._own[index], gradients.values(), reached, strict=True):
                parameter.grad = gradient[place] if has_one else None
            own_nats, own_terms = [each[place] for each in nats], [_of(place, each) for each in terms]
            member, batch = self.members[index], examples[index]
            losses.append(_caught(_member_loss, member, batch, denominators[index], own_nats, own_terms))
        return losses

    def _reached(self, index: int, examples: Sequence[Example]) -> list[bool]:
        """Whether each parameter of the member with this index would get a gradient in a separate run.

        An optimizer does not move or decay the other parameters. The answer is computed once for every list of passes, because a
        pass that starts later in training may reach more parameters.
        """
        passes = tuple((group.name, group.sees) for example in examples for group in example.groups if group.rows)
        if passes not in self._has_gradient:
            for parameter in self._own[index]:
                parameter.grad = None
            with contextlib.suppress(DivergedError):  # the error comes after the gradients are computed
                accumulate_gradients(self.members[index], list(examples))
            self._has_gradient[passes] = [parameter.grad is not None for parameter in self._own[index]]
        return self._has_gradient[passes]

    def _differentiated(
        self, micro: Sequence[Example], denominators: Sequence[float], rows: int
    ) -> tuple[dict[str, Tensor], Tensor, dict[str, AuxiliaryTerm]]:
        """Read one micro-batch of every member: gradients (K, ...), nats of each row (K, B), auxiliary terms with (K,) values."""
        first, terms = self.members[0], dict[str, AuxiliaryTerm]()
        head = {name: self._parameters[name] for name in self._read_by_head(micro[0])}
        reading = partial(autocast, first.device, first.recipe.precision)  # head and loss stay float32

        def gradients_of(
            parameters: dict[str, Tensor], head: dict[str, Tensor], *batch: Tensor
        ) -> tuple[dict[str, Tensor], Tensor, dict[str, dict[str, Tensor]]]:
            inputs, targets, weight, denominator = batch
            example = replace(micro[0], inputs=inputs, targets=targets, loss_weight=weight)

            def read(parameters: dict[str, Tensor]) -> tuple[tuple[Tensor, Values], dict[str, Values]]:
                hidden, added = functional_call(self._reader, parameters, (example,))
                terms.update(added)  # every member has the same coefficients and rows
                values = {name: term.value for name, term in added.items()}
                return (hidden, values), {name: {"": term.value, **term.measured} for name, term in added.items()}

            def loss(head: dict[str, Tensor], hidden: Tensor, values: Values) -> tuple[Tensor, Tensor]:
                nats = every_nats(functional_call(self._head, head, (hidden,)), targets, weight)
                added = [replace(terms[name], value=value) for name, value in values.items()]
                return with_terms(nats.sum() / denominator, added, rows), nats.sum(dim=1)

            with reading():
                made: tuple[Any, ...] = vjp(read, parameters, has_aux=True)
            (hidden, values), back, measurements = made
            (head_gradients, *state_gradients), nats = grad(loss, argnums=(0, 1, 2), has_aux=True)(head, hidden, values)
            with reading():
                (gradients,) = back(tuple(state_gradients))
            gradients |= {name: gradients[name] + part for name, part in head_gradients.items()}
            return gradients, nats, measurements

        batch = [torch.stack([getattr(one, name) for one in micro]) for name in ("inputs", "targets", "loss_weight")]
        batch.append(torch.tensor(denominators, dtype=torch.float32, device=first.device))
        with sdpa_kernel(SDPBackend.MATH):
            gradients, nats, measurements = vmap(gradients_of)(self._parameters, head, *batch)
        stacked = {
            name: replace(term, value=measurements[name].pop(""), measured=measurements[name])
            for name, term in terms.items()
        }
        return gradients, nats, stacked

    def _read_by_head(self, example: Example) -> list[str]:
        """The names of the parameters between states and logits: those of the head, or the tied table of tokens."""
        if self._head_names is None:
            model = self._head.model
            with torch.no_grad():
                states = read_and_terms(model, example)[0][0, :1]
            self._head_names = parameters_read(self._head, model.logits, states)
        return self._head_names


def _moved(parameters: Sequence[nn.Parameter], places: Places) -> Tensor:
    """Stack the parameters of one name into one tensor. Each parameter becomes a view into that tensor, at its place."""
    at = dict(zip(places.indexes, parameters, strict=True))
    together = torch.stack([at.get(place, parameters[0]).detach() for place in range(places.size)])
    for place, parameter in at.items():
        parameter.data = together[place]
    return together


def _updated(member: Training, examples: Sequence[Example], loss: BatchLoss) -> StepReport:
    return update(member, [Amounts.of(member, example) for example in examples], loss)


def _shapes(examples: Sequence[Example]) -> tuple[Any, ...]:
    """The sizes that must be equal for examples to be read together: rows, slots, and the visibility of each pass."""
    return tuple((tuple(example.inputs.shape), example.groups) for example in examples)


def _caught(call: Callable[..., Returned], *arguments: Any) -> Returned | DivergedError:
    """The result of a call, or the DivergedError that it raises, because a run that diverges must not stop the other runs."""
    try:
        return call(*arguments)
    except DivergedError as problem:
        return problem


def _member_loss(
    member: Training,
    examples: Sequence[Example],
    denominator: float,
    row_nats: Sequence[Tensor],
    terms: Sequence[dict[str, AuxiliaryTerm]],
) -> BatchLoss:
    """The loss of one member's batch, computed from the (B,) nats of the rows of each of its micro-batches."""
    nats: dict[str, Tensor] = {}
    scored: dict[str, int] = {}
    for example, micro_nats in zip(examples, row_nats, strict=True):
        for group, part in example.by_group():
            nats[group.name] = nats.get(group.name, torch.zeros(())) + micro_nats[part].sum()
            scored[group.name] = scored.get(group.name, 0) + int(example.loss_weight[part].count_nonzero())
    rows = sum(len(example.inputs) for example in examples)
    return batch_loss(member.step, denominator, rows, nats, scored, terms)


def _of(index: int, terms: dict[str, AuxiliaryTerm]) -> dict[str, AuxiliaryTerm]:
    """The auxiliary terms of one member, out of the stacked ones."""
    return {
        name: replace(
            term,
            value=term.value[index].detach(),
            measured={key: value[index].detach() for key, value in term.measured.items()},
        )
        for name, term in terms.items()
    }
