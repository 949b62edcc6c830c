"""The control of the layer cut: a final norm and head trained for each number of blocks, while the blocks stay as they are.

Each starts as a copy of the trained ones and takes a few hundred steps of AdamW on windows of the train split, for one pass at a
time. It shows what that pass can read out of the state after k blocks. The model's own weights and the random streams of its
training are not touched.
Legend: B rows, T slots, D width, V vocabulary, L blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from palinode.base.example import Example, Windows
from palinode.base.seeds import generator
from palinode.evaluate.losses import Scoring, device_of, evaluating
from palinode.models.base import LanguageModel
from palinode.models.direction import finished, residuals
from palinode.objectives import Objective, Progress
from palinode.objectives.loss import weighted_nats

STREAM = "layer cut refit"
REFIT_TOKENS = 2048  # tokens of one step
LEARNING_RATE = 2e-3  # falls to 0 in a straight line
BETAS = (0.9, 0.99)
BYTES_AT_ONCE = 2**30  # of readouts, their gradients and AdamW's two moments; the depths are trained in groups that fit
BYTES_PER_PARAMETER = 16


@dataclass(frozen=True)
class Readout:
    """The final norm and head of a model, with some of the parameters replaced."""

    model: LanguageModel
    parameters: Mapping[str, Tensor]

    def finished(self, residual: Tensor) -> Tensor:
        """(B, T, D) residual after some blocks -> states that `logits` takes."""
        return self._called(residual, "finished")

    def logits(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return self._called(states, "logits")

    def _called(self, x: Tensor, method: str) -> Tensor:
        calling = _Calling(self.model, method)
        replaced = {f"model.{name}": value for name, value in self.parameters.items()}
        made: Tensor = functional_call(calling, replaced, (x,)) if replaced else calling(x)
        return made


Refits = Mapping[str, Sequence[Readout]]


def refit(
    model: LanguageModel,
    windows_at: Callable[[int], Windows],
    passes: Mapping[str, Objective],
    scoring: Scoring,
    steps: int,
) -> dict[str, list[Readout]]:
    """A trained readout for each pass and each number of blocks 1, 2, .. L.

    Args:
        windows_at: step -> windows of the train split, about `REFIT_TOKENS`; every depth and every pass reads the same.
        scoring: its labels are trained on, its seed is that of the objectives' decisions.
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
    names = _readout_names(model, example_at(0))
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
    """Train readouts of consecutive depths together. The blocks run once a step, those above the last depth not at all."""
    owned = [parameter for readout in readouts for parameter in readout.parameters.values()]
    optimizer = torch.optim.AdamW(owned, lr=LEARNING_RATE, betas=BETAS, weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
        example = example_at(step)
        if not example.denominator:  # a label mask left nothing to score
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


def _readout_names(model: LanguageModel, example: Example) -> list[str]:
    """The parameters that the logits depend on, given the residual: final norm, and head or tied embedding."""
    residual = next(residuals(model, example))
    named = dict(model.named_parameters())
    with torch.enable_grad():
        states = model.finished(residual)
        reached = model.logits(states[:1, :1]).sum() + states.sum()
    gradients = torch.autograd.grad(reached, list(named.values()), allow_unused=True)
    return [name for name, gradient in zip(named, gradients, strict=True) if gradient is not None]


class _Calling(nn.Module):
    """A method of a model as a module, because `functional_call` replaces the parameters of modules only."""

    def __init__(self, model: LanguageModel, method: str):
        super().__init__()
        self.model = model
        self.method = method

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = getattr(self.model, self.method)(x)
        return made
