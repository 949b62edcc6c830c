"""The seconds of settings that were not measured, predicted from those that were. Settings are a grid of arms by scales.

The seconds of a step, an evaluation, a save or an audit are fitted as a sum of a few prices (one for each call, parameter tensor,
parameter and FLOP of the model), times a factor of the arm. No price is below zero. So a prediction for a size between two measured
sizes lies between their seconds, and one for a larger size is larger.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
from scipy.optimize import nnls  # type: ignore[attr-defined]

from palinode.experiment.cells import Cell

ROUNDS = 20  # of fitting the prices, then the factors


@dataclass(frozen=True)
class Work:
    """What a model has that takes seconds.

    Attributes:
        tensors: the number of parameter tensors, which stands for the number of operations in a pass.
        stack_flops, head_flops: forward FLOPs for one slot, of everything before the head and of the head.
        cut: forward FLOPs for one slot of a head after every part of the stack, as in a layer cut.
    """

    tensors: float
    parameters: float
    stack_flops: float
    head_flops: float
    cut: float


@dataclass(frozen=True)
class Setting:
    """One place of the grid."""

    arm: str
    scale: str
    work: Work


def setting_of(cell: Cell) -> Setting:
    """The place of a cell, with the work of its model at the full window."""
    tensors, cost = float(cell.model.parameter_tensors), cell.cost
    return Setting(
        cell.arm.name,
        cell.scale,
        Work(
            tensors=tensors,
            parameters=float(cost.total_parameters),
            stack_flops=cost.executed_flops_per_slot,
            head_flops=cost.head_flops_per_slot,
            cut=tensors * cost.head_flops_per_slot,
        ),
    )


def spanning_order(settings: Sequence[Setting]) -> list[int]:
    """The order in which to measure, so that the first few settings spread over the whole grid.

    The setting with the most FLOPs comes first. The next is always one whose arm and scale were chosen least often so far; among
    several, the one whose FLOPs are farthest from those of all chosen settings.
    """
    flops = [math.log(1.0 + setting.work.stack_flops + setting.work.head_flops) for setting in settings]
    order: list[int] = []
    times: Counter[tuple[str, str]] = Counter()

    def rank(index: int) -> tuple[int, float]:
        setting = settings[index]
        chosen_before = times["arm", setting.arm] + times["scale", setting.scale]
        return chosen_before, -min((abs(flops[index] - flops[other]) for other in order), default=flops[index])

    left = list(range(len(settings)))
    while left:
        chosen = min(left, key=rank)
        left.remove(chosen)
        order.append(chosen)
        times.update((("arm", settings[chosen].arm), ("scale", settings[chosen].scale)))
    return order


def filled_in(settings: Sequence[Setting], measured: Mapping[int, float]) -> list[float]:
    """The seconds of every setting: the measured ones, else from prices fitted to these.

    The fit minimises relative errors. An arm that was never measured has the factor 1.

    Args:
        measured: index of a setting -> its seconds; at least one.
    """
    fitted_to = [index for index, seconds in measured.items() if seconds > 0]
    if not fitted_to:
        return [0.0] * len(settings)
    table = _columns(setting.work for setting in settings)
    seconds = np.array([measured[index] for index in fitted_to])
    arms = [settings[index].arm for index in fitted_to]
    factors = dict.fromkeys(arms, 1.0)
    fitted = np.ones(len(settings))
    for _ in range(ROUNDS):
        of_model = seconds / np.array([factors[arm] for arm in arms])
        prices, _ = nnls(table[fitted_to] / of_model[:, None], np.ones(len(fitted_to)))
        fitted = table @ prices
        above = np.log(seconds / fitted[fitted_to])
        factors = {
            arm: float(np.exp(np.mean([a for a, name in zip(above, arms, strict=True) if name == arm])))
            for arm in factors
        }
    return [
        measured.get(index, float(fitted[index]) * factors.get(setting.arm, 1.0))
        for index, setting in enumerate(settings)
    ]


def _columns(works: Iterable[Work]) -> np.ndarray:
    """A row for each setting: 1, then each kind of work as a share of the largest of its kind."""
    rows = np.array([(1.0, *astuple(work)) for work in works])
    shares: np.ndarray = rows / np.maximum(rows.max(axis=0), 1e-30)
    return shares
