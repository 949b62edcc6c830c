"""The scores of a model that keeps only its first k blocks, for every k = 1 .. L, from one reading of the split.

The state after block k does not depend on the blocks above block k, so one pass of the stack gives the states of every shorter
model. The final norm and the head are applied to each state in pieces, so that memory never holds the logits of all depths at
once.

A bad score after k blocks can have two reasons: the state lacks information, or a head trained for L blocks cannot read the
state. `refit` separates the two reasons. It trains a final norm and a head for each number of blocks and each pass, on windows
of the train split, while the blocks stay unchanged. `refit` starts from the trained norm and head and takes a few hundred steps
of AdamW. It changes neither the model's own weights nor the random streams of its training. Legend: B rows, T slots, D width, V
vocabulary, L blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call

from palinode.base.errors import BadInput
from palinode.base.example import Example, Windows
from palinode.base.seeds import generator
from palinode.evaluate.losses import Scoring, Sums, device_of, evaluating
from palinode.models.base import LanguageModel
from palinode.models.direction import AsModule, finished, residuals
from palinode.objectives import Objective, Progress
from palinode.objectives.loss import CHUNK_LOGITS, GPU_FACTOR, parameters_read, weighted_nats
from palinode.results.layer_cut import CutScores, LayerCut

STREAM = "layer cut refit"
REFIT_TOKENS = 2048  # the number of tokens in one step of `refit`
LEARNING_RATE = 2e-3  # the first rate; the rate falls linearly to 0
BETAS = (0.9, 0.99)
# The most memory for readouts (a norm and a head each), their gradients and AdamW's two moments. Readouts are trained in groups
# that fit into it.
BYTES_AT_ONCE = 2**30
BYTES_PER_PARAMETER = 16


@dataclass(frozen=True)
class Readout:
    """The final norm and head of a model, where `parameters` replaces some of the trained parameters."""

    model: LanguageModel
    parameters: Mapping[str, Tensor]

    def finished(self, residual: Tensor) -> Tensor:
        """(B, T, D) residual after some blocks -> the states that `logits` takes."""
        return self._called(lambda model, x: model.finished(x), residual)

    def logits(self, states: Tensor) -> Tensor:
        """(..., D) states -> (..., V) logits."""
        return self._called(lambda model, x: model.logits(x), states)

    def _called(self, function: Callable[[LanguageModel, Tensor], Tensor], x: Tensor) -> Tensor:
        replaced = {f"model.{name}": value for name, value in self.parameters.items()}
        module = AsModule(self.model, function)
        result: Tensor = functional_call(module, replaced, (x,)) if replaced else module(x)
        return result


Refits = Mapping[str, Sequence[Readout]]


def cut_layers(
    model: LanguageModel,
    windows: Iterable[Windows],
    passes: Mapping[str, Objective],
    scoring: Scoring,
    refits: Refits | None = None,
) -> LayerCut:
    """Score every window for every pass and every number of blocks. With all L blocks, the scores are those of `evaluate`.

    Args:
        windows, passes, scoring: the arguments of `evaluate` with these names.
        refits: pass -> a readout for each number of blocks, from `refit`. Each of these readouts is scored in addition to the
            model's own norm and head.

    Raises:
        BadInput: the model cannot be cut.
        FloatingPointError: a loss is not finite.
    """
    check_can_be_cut(model)
    device = device_of(model)
    bytes_of = scoring.bytes_of_ids()
    at_once = max(1, CHUNK_LOGITS * (1 if device.type == "cpu" else GPU_FACTOR) // scoring.specials.vocab_size)
    trained = [Readout(model, {})] * model.depths()
    sums: dict[str, list[Sums]] = {name: [Sums() for _ in trained] for name in passes}
    refitted = {name: [Sums() for _ in readouts] for name, readouts in (refits or {}).items() if name in passes}
    with evaluating(model):
        for name, batch, _, example in scoring.batches(windows, passes):
            here = example.to(device)
            scored = [(sums[name], trained)]
            if refits is not None and name in refitted:
                scored.append((refitted[name], list(refits[name])))
            for depth, residual in enumerate(residuals(model, here)):
                for totals, readouts in scored:
                    states = finished(here, residual, readouts[depth].finished)
                    totals[depth].add(here, states, readouts[depth].logits, bytes_of, at_once, len(batch))
    return LayerCut(scores=_curves(sums), refitted=_curves(refitted))


def check_can_be_cut(model: LanguageModel) -> None:
    """Refuse a model whose blocks cannot be removed one by one.

    Raises:
        BadInput: the model cannot be cut. The error names the setting that asks for the cut.
    """
    if not model.can_be_cut():
        raise BadInput(
            f"a {type(model).__name__} cannot be cut",
            field="evaluation.layer_cut",
            hint="a model that can be cut defines depths, residuals and finished as well as its own hidden",
        )


def _curves(sums: Mapping[str, Sequence[Sums]]) -> dict[str, tuple[CutScores, ...]]:
    return {
        name: tuple(
            CutScores.model_validate({"blocks": blocks, **total.scores().as_row()})
            for blocks, total in enumerate(totals, 1)
        )
        for name, totals in sums.items()
        if totals and totals[0].tokens
    }


def refit(
    model: LanguageModel,
    windows_at: Callable[[int], Windows],
    passes: Mapping[str, Objective],
    scoring: Scoring,
    steps: int,
) -> dict[str, list[Readout]]:
    """Train a readout for each pass and each number of blocks 1, 2, .. L.

    Args:
        windows_at: a function that gives, for a step, windows of the train split with about `REFIT_TOKENS` tokens in all. Every
            number of blocks and every pass is trained on the same windows.
        scoring: the labels to train on, and the seed of the objectives' decisions.
    """
    device = device_of(model)

    def example_at(objective: Objective, step: int) -> Example:
        windows = windows_at(step)
        decisions = generator(scoring.seed, STREAM, step)
        draw = objective.draw(len(windows), windows.tokens.shape[1], decisions, Progress())
        return scoring.example(objective, windows, draw).to(device)

    with evaluating(model):
        return {name: _refit_pass(model, partial(example_at, objective), steps) for name, objective in passes.items()}


def _refit_pass(model: LanguageModel, example_at: Callable[[int], Example], steps: int) -> list[Readout]:
    residual = next(residuals(model, example_at(0)))
    # The parameters between the residual and the logits: the final norm, and the head or the tied embedding.
    names = parameters_read(model, lambda states: model.logits(model.finished(states)[:, :1]), residual)
    trained = dict(model.named_parameters())
    parameters = sum(trained[name].numel() for name in names)
    at_once = max(1, BYTES_AT_ONCE // (BYTES_PER_PARAMETER * max(1, parameters)))
    readouts = [
        Readout(model, {name: trained[name].detach().clone().requires_grad_() for name in names})
        for _ in range(model.depths())
    ]
    for first in range(0, len(readouts) if names else 0, at_once):
        depths = range(first, min(first + at_once, len(readouts)))
        _train(model, readouts[first : depths.stop], depths, example_at, steps)
    return readouts


def _train(
    model: LanguageModel,
    readouts: Sequence[Readout],
    depths: range,
    example_at: Callable[[int], Example],
    steps: int,
) -> None:
    """Train readouts of consecutive depths together. Each step runs the blocks once, up to the largest of these depths."""
    owned = [parameter for readout in readouts for parameter in readout.parameters.values()]
    optimizer = torch.optim.AdamW(owned, lr=LEARNING_RATE, betas=BETAS, weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
        example = example_at(step)
        if not example.denominator:  # the label mask leaves nothing to score
            continue
        for depth, residual in zip(range(depths.stop), residuals(model, example), strict=False):
            if depth in depths:
                readout = readouts[depth - depths.start]
                with torch.enable_grad():
                    states = finished(example, residual, readout.finished)
                    loss = weighted_nats(example, states, readout.logits)
                    torch.autograd.backward(loss.total / example.denominator)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
