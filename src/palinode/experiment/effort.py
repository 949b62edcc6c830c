"""Seconds of settings that nobody measured, from those that were: an experiment is a grid of arms by scales.

What a step, an evaluation, a save or an audit takes is close to a sum of few prices, each paid for something that the model
has (one for the call itself, its parameter tensors, its parameters, its FLOPs), times a factor of the arm. Prices are never
below zero, so that a prediction between two measured settings lies between what they took, and one beyond them grows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
from scipy.optimize import nnls  # type: ignore[attr-defined]

from palinode.experiment.cells import Cell

ROUNDS = 20  # of prices and factors in turn


@dataclass(frozen=True)
class Work:
    """What a model's seconds are paid for.

    Attributes:
        tensors: how many parameter tensors it has: a stand-in for the operations of one pass, whatever their size.
        cut: forward FLOPs of a head after each part of the stack, for one slot: what a layer cut does.
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
    """The order in which to measure, so that any beginning of it spans the grid.

    First the setting with the most FLOPs. Next is always one whose arm and scale have been met least, and of several the one
    whose FLOPs are farthest from all that were met.
    """
    flops = [math.log(1.0 + setting.work.stack_flops + setting.work.head_flops) for setting in settings]
    order: list[int] = []
    met: Counter[tuple[str, str]] = Counter()

    def rank(index: int) -> tuple[int, float]:
        setting = settings[index]
        times = met["arm", setting.arm] + met["scale", setting.scale]
        return times, -min((abs(flops[index] - flops[other]) for other in order), default=flops[index])

    left = list(range(len(settings)))
    while left:
        chosen = min(left, key=rank)
        left.remove(chosen)
        order.append(chosen)
        met.update((("arm", settings[chosen].arm), ("scale", settings[chosen].scale)))
    return order


def filled_in(settings: Sequence[Setting], measured: Mapping[int, float]) -> list[float]:
    """What every setting takes: as measured (by index, at least one), else from prices fitted to those that were measured.

    An arm that was never measured has the factor 1. Deviations count as shares of what was measured.
    """
    known = [index for index, seconds in measured.items() if seconds > 0]
    if not known:
        return [0.0] * len(settings)
    table = _columns(setting.work for setting in settings)
    seconds = np.array([measured[index] for index in known])
    arms = [settings[index].arm for index in known]
    factors = dict.fromkeys(arms, 1.0)
    fitted = np.ones(len(settings))
    for _ in range(ROUNDS):
        of_model = seconds / np.array([factors[arm] for arm in arms])
        prices, _ = nnls(table[known] / of_model[:, None], np.ones(len(known)))
        fitted = table @ prices
        above = np.log(seconds / fitted[known])
        factors = {
            arm: float(np.exp(np.mean([a for a, name in zip(above, arms, strict=True) if name == arm])))
            for arm in factors
        }
    return [
        measured.get(index, float(fitted[index]) * factors.get(setting.arm, 1.0))
        for index, setting in enumerate(settings)
    ]


def _columns(works: Iterable[Work]) -> np.ndarray:
    """A row per setting: 1 and every kind of work, each as a share of the most of its kind."""
    rows = np.array([(1.0, *astuple(work)) for work in works])
    shares: np.ndarray = rows / np.maximum(rows.max(axis=0), 1e-30)
    return shares
